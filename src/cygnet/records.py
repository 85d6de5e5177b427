"""Frozen dataclasses that are cheap to make, for what is made many times in each message.

`from cygnet.records import dataclass` instead of the standard library's: the same decorator, the
same classes, and to the type checker the very same thing. But the standard library writes each
field of a frozen instance through `object.__setattr__`: 22 fields take 5 µs, and a fifth of a
handshake's CPU went there. Here an instance is filled while it still belongs to a twin of its class
that is not frozen, with the same slots; then it is given to its class, and nobody can write to it any more:
0.8 µs.

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

    def dataclass(*, frozen=False, slots=False, **options):
        def decorate(kind):
            made = dataclasses.dataclass(frozen=frozen, slots=slots, **options)(kind)
            return _quick(made) if frozen and slots else made

        return decorate

    def _quick(kind):
        fields = dataclasses.fields(kind)
        if hasattr(kind, "__post_init__") or any(not _plain(field) for field in fields):
            return kind
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

    def _plain(field):
        return field.init and not field.kw_only and field.default_factory is dataclasses.MISSING

    def _reduce(self):
        """Copies and pickles are made by calling the class."""
        values_of, _ = _plan(type(self))
        return type(self), tuple(values_of(self))

    @cache
    def _plan(kind):
        names = [field.name for field in dataclasses.fields(kind) if field.init]
        if len(names) < 2:
            # attrgetter of one name gives no tuple.
            return lambda record: [getattr(record, name) for name in names], {names[0]: 0} if names else {}
        return attrgetter(*names), {name: at for at, name in enumerate(names)}

    def replace(record, /, **changes):
        """`dataclasses.replace`, which asks each field for its name, its flags and its value each time."""
        kind = type(record)
        values_of, places = _plan(kind)
        values = list(values_of(record))
        for name, value in changes.items():
            values[places[name]] = value
        return kind(*values)


__all__ = ["dataclass", "replace"]
