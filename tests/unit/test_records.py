"""Records are frozen dataclasses in every respect, only cheaper to make."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field
from typing import ClassVar, Generic, TypeVar

import pytest

from cygnet.records import dataclass, replace

COLOUR = "colour"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Point:
    """Where."""

    kind: ClassVar[str] = "point"

    x: int
    y: int = 7


@dataclass(frozen=True, slots=True)
class Base:
    a: int
    b: bytes = field(default=b"b", repr=False)

    @property
    def both(self) -> tuple[int, bytes]:
        return self.a, self.b


@dataclass(frozen=True, slots=True)
class Derived(Base):
    kind: ClassVar[int] = 3


@dataclass(frozen=True, slots=True)
class Wider(Base):
    c: str = "c"


@dataclass(frozen=True, slots=True)
class Listed:
    items: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Holding(Generic[T]):
    value: T
    more: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    text: str
    length: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.text))


@dataclass(frozen=True, slots=True)
class Single:
    only: int


@dataclass(frozen=True, slots=True)
class Empty:
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    x: int
    y: int = 7


def test_they_are_made_compared_hashed_and_printed_like_any_dataclass() -> None:
    assert Point(1) == Point(x=1, y=7) == Point(1, y=7)
    assert Point(1) != Point(2)
    assert Point(1) != Standard(1)  # type: ignore[comparison-overlap]
    assert hash(Point(1)) == hash(Point(1))
    assert hash(Point(1)) == hash(Standard(1))
    assert repr(Point(1)) == "Point(x=1, y=7)"
    assert repr(Base(1)) == "Base(a=1)"
    assert type(Point(1)) is Point
    assert dataclasses.astuple(Point(3, 4)) == (3, 4)
    assert [one.name for one in dataclasses.fields(Wider)] == ["a", "b", "c"]
    assert Empty() == Empty()


def test_nobody_can_write_to_them() -> None:
    for record in (Point(1), Derived(1), Wider(1), Single(1)):
        name = dataclasses.fields(record)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, 2)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(record, name)
        with pytest.raises((AttributeError, TypeError)):
            setattr(record, COLOUR, "red")
        assert not hasattr(record, "__dict__")


def test_wrong_arguments_are_refused() -> None:
    for arguments, named in (((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})):
        with pytest.raises(TypeError):
            Point(*arguments, **named)


def test_heirs_keep_what_they_inherit() -> None:
    assert Derived(1).both == (1, b"b")
    assert Wider(1, b"x", "y").both == (1, b"x")
    assert (Derived.kind, Wider(1).c, isinstance(Derived(1), Base)) == (3, "c", True)
    assert Derived(1) != Base(1)


def test_generic_ones_work_too() -> None:
    assert Holding(3) == Holding(3, 0)
    assert Holding("a", 2).value == "a"


def test_what_cannot_be_made_quickly_is_made_as_ever() -> None:
    first, second = Listed(), Listed()
    first.items.append(1)
    assert second.items == []


def test_they_can_be_copied_pickled_and_matched() -> None:
    for record in (Point(1, 2), Wider(1, b"x", "y"), Single(5), Empty()):
        assert copy.copy(record) == copy.deepcopy(record) == pickle.loads(pickle.dumps(record)) == record
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_replacing_gives_what_the_standard_library_gives() -> None:
    record = Wider(1, b"x", "y")
    assert replace(record, b=b"z") == dataclasses.replace(record, b=b"z") == Wider(1, b"z", "y")
    assert replace(Single(1), only=2) == Single(2)
    assert record == Wider(1, b"x", "y")


def test_what_a_record_works_out_for_itself_is_worked_out_anew() -> None:
    assert replace(Counted("ab"), text="abc") == Counted("abc")
    assert replace(Counted("ab"), text="abc").length == 3


def test_replacing_an_unknown_field_is_refused() -> None:
    with pytest.raises((KeyError, TypeError)):
        replace(Point(1), colour="red")  # type: ignore[call-arg]
