"""Frozen dataclasses that are cheap to make, for what is made many times in each message.

`from cygnet.records import dataclass` instead of the standard library's: the same decorator, the
same classes, and to the type checker the very same thing. But the standard library writes each
field of a frozen instance through `object.__setattr__`: 22 fields take 5 µs, and a fifth of a
handshake's CPU went there. Here an instance is filled while it still belongs to a twin of its class
that is not frozen, with the same slots; then it is given to its class, and nobody can write to it any more:
0.8 µs. It also compiles six functions for each class, a fifth of the time that the daemon took to start;
here one is compiled, and what compares, hashes and prints is shared.

Law of the file: a class that is not frozen with slots, or that has factories or a `__post_init__`,
is left exactly as the standard library makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The type checker knows these, fields and all.
    from dataclasses import dataclass, replace
else:
    import dataclasses
    from functools import cache
    from operator import attrgetter
    from reprlib import recursive_repr

    def dataclass(*, frozen=False, slots=False, **options):
        def decorate(kind):
            if not (frozen and slots and _plain(kind)):
                return dataclasses.dataclass(frozen=frozen, slots=slots, **options)(kind)
            if options or "__eq__" in kind.__dict__:
                return _quick(dataclasses.dataclass(frozen=True, slots=True, **options)(kind))
            given = {"__repr__", "__hash__"} & set(kind.__dict__)
            # Or it is made of the signature, which takes long.
            kind.__doc__ = kind.__doc__ or kind.__name__
            made = dataclasses.dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)(kind)
            return _comparable(_quick(made), given)

        return decorate

    def _plain(kind):
        """Whether the constructor is nothing but one parameter for each field, in order."""
        fields = [one for one in vars(kind).values() if isinstance(one, dataclasses.Field)]
        fields.extend(getattr(kind, "__dataclass_fields__", {}).values())
        return not hasattr(kind, "__post_init__") and all(
            field.init and field.kw_only is not True and field.default_factory is dataclasses.MISSING
            for field in fields
        )

    def _comparable(kind, given):
        compared = [field.name for field in dataclasses.fields(kind) if field.compare]
        printed = [field.name for field in dataclasses.fields(kind) if field.repr]
        values_of = _getter(compared)

        def equal(self, other):
            if other.__class__ is not kind:
                return NotImplemented
            return values_of(self) == values_of(other)

        def hashed(self):
            return hash(values_of(self))

        @recursive_repr("...")
        def text(self):
            values = ", ".join([f"{name}={getattr(self, name)!r}" for name in printed])
            return f"{type(self).__qualname__}({values})"

        kind.__eq__ = equal
        if "__hash__" not in given:
            kind.__hash__ = hashed
        if "__repr__" not in given:
            kind.__repr__ = text
        return kind

    def _quick(kind):
        fields = dataclasses.fields(kind)
        namespace = {"__slots__": kind.__dict__["__slots__"], "__setattr__": object.__setattr__}
        if "__orig_bases__" in kind.__dict__:
            namespace["__orig_bases__"] = kind.__orig_bases__
        twin = type(kind)(f"{kind.__name__} in the making", kind.__bases__, namespace)
        known = {"make": object.__new__, "twin": twin}
        parameters, lines = [], []
        for at, field in enumerate(fields):
            default = ""
            if field.default is not dataclasses.MISSING:
                known[f"default_{at}"] = field.default
                default = f"=default_{at}"
            parameters.append(f"{field.name}{default}")
            lines.append(f"    self.{field.name} = {field.name}\n")
        source = (
            f"def __new__(cls, {', '.join(parameters)}):\n"
            f"    self = make(twin)\n{''.join(lines)}    self.__class__ = cls\n    return self\n"
        )
        # The names are those of our own source, which the standard library puts into code as well.
        exec(source, known)  # noqa: S102
        kind.__new__ = known["__new__"]
        kind.__init__ = object.__init__
        kind.__reduce__ = _reduce
        return kind

    def _reduce(self):
        """Copies and pickles are made by calling the class."""
        values_of, _ = _plan(type(self))
        return type(self), tuple(values_of(self))

    @cache
    def _plan(kind):
        names = [field.name for field in dataclasses.fields(kind) if field.init]
        return _getter(names), {name: at for at, name in enumerate(names)}

    def _getter(names):
        if len(names) < 2:
            # attrgetter of one name gives no tuple.
            return lambda record: tuple([getattr(record, name) for name in names])
        return attrgetter(*names)

    def replace(record, /, **changes):
        """`dataclasses.replace`, which asks each field for its name, its flags and its value each time."""
        kind = type(record)
        values_of, places = _plan(kind)
        values = list(values_of(record))
        for name, value in changes.items():
            values[places[name]] = value
        return kind(*values)


__all__ = ["dataclass", "replace"]
