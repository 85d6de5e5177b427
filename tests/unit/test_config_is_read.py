"""Every key that is documented is read: nobody believes in an option that nothing looks at.

By name: a key counts as read where its attribute is loaded, or where a module of `config` that goes through
names (`getattr`, or the list of them) holds it as a string. Two fields of one name are not told apart.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pydantic
import pytest

from cygnet.config import model, requests
from cygnet.ike import configuration

SOURCE = Path(configuration.__file__).parents[1]
MODEL = Path(model.__file__).parent
KEPT = {("Pool", "p_cscf")}
"""Documented to have no effect."""


def names(files: Iterable[Path]) -> frozenset[str]:
    found = set()
    for file in files:
        text = file.read_text()
        by_name = file.parent.name == "config" and ("getattr(" in text or "KEY_DIRECTORIES = " in text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif by_name and isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def sections() -> Iterator[tuple[str, str]]:
    """What may stand in a file: (section, key)."""
    for section in vars(model).values():
        if isinstance(section, type) and issubclass(section, pydantic.BaseModel):
            yield from ((section.__name__, key) for key in section.model_fields)


def requested() -> Iterator[tuple[str, str]]:
    """What `config` makes of it for the other parts."""
    for module in (configuration, requests):
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                yield from ((kind.__name__, one) for one in getattr(kind, "__dataclass_fields__", ()))


def test_every_key_of_a_file_is_read_by_config_or_behind_it() -> None:
    read = names(file for file in SOURCE.rglob("*.py") if file.parent != MODEL)
    assert {one for one in sections() if one[1] not in read} == KEPT


def test_everything_that_config_makes_of_a_file_is_read_by_another_part() -> None:
    aside = {SOURCE / "config", SOURCE / "testing", SOURCE / "lab"}
    defining = Path(configuration.__file__)
    read = names(file for file in SOURCE.rglob("*.py") if file != defining and not aside & set(file.parents))
    assert [one for one in requested() if one[1] not in read] == []


@pytest.mark.parametrize("key", ["life_packets", "keyingtries", "nas_identifier"])
def test_a_key_that_nothing_reads_would_be_found(key: str) -> None:
    everything = [*sections(), *requested()]
    assert any(one == key for _, one in everything)
    assert key not in names(MODEL.glob("*.py"))
