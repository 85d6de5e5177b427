"""The one place that slices received bytes (I/O-free, no keys).

Law of the file: nothing is read past `end`, a narrower cursor cannot leave its parent, and every
shortage is `Malformed`. Python's slices never raise: a truncated field would silently be accepted
if each length were not checked here.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

_U16: Final = Struct("!H")
_U32: Final = Struct("!I")
_U64: Final = Struct("!Q")


class Malformed(Exception):
    """The octets cannot be parsed. The text is ours: numbers and fixed words, never octets of the peer."""


class Cursor:
    """A position that moves forward through `data`, up to `end`. All raise `Malformed` when short."""

    __slots__ = ("_data", "end", "position")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = data if type(data) is bytes else bytes(data)
        self.position = 0
        self.end = len(data)

    @property
    def left(self) -> int:
        """Octets not read yet."""
        return self.end - self.position

    def _short(self, wanted: int) -> Malformed:
        return Malformed(f"{wanted} octets wanted, {self.end - self.position} left")

    def u8(self) -> int:
        at = self.position
        if at >= self.end:
            raise self._short(1)
        self.position = at + 1
        return self._data[at]

    def u16(self) -> int:
        value: int = self.unpack(_U16)[0]
        return value

    def u32(self) -> int:
        value: int = self.unpack(_U32)[0]
        return value

    def u64(self) -> int:
        value: int = self.unpack(_U64)[0]
        return value

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """The fields of a fixed layout (one check, one call: parsing must stay cheap)."""
        at = self.position
        after = at + layout.size
        if after > self.end:
            raise self._short(layout.size)
        self.position = after
        return layout.unpack_from(self._data, at)

    def take(self, count: int) -> bytes:
        """The next `count` octets, as a copy that does not hold the datagram."""
        at = self.position
        after = at + count
        if count < 0 or after > self.end:
            raise self._short(count)
        self.position = after
        return self._data[at:after]

    def rest(self) -> bytes:
        """All octets that are left."""
        at = self.position
        self.position = self.end
        return self._data[at : self.end]

    def since(self, start: int) -> bytes:
        """The octets read since the position was `start`."""
        if not 0 <= start <= self.position:
            raise Malformed(f"octet {start} is not read yet")
        return self._data[start : self.position]

    def sub(self, count: int) -> Cursor:
        """A cursor over the next `count` octets only; this one moves behind them."""
        at = self.position
        after = at + count
        if count < 0 or after > self.end:
            raise self._short(count)
        self.position = after
        inner = Cursor.__new__(Cursor)
        inner._data = self._data
        inner.position = at
        inner.end = after
        return inner

    def structure(self, head: Struct) -> tuple[tuple[Any, ...], Cursor]:
        """A head whose last field is the length of head and body together, and a cursor over the body.
        This one moves behind both."""
        at = self.position
        size = head.size
        if at + size > self.end:
            raise self._short(size)
        fields = head.unpack_from(self._data, at)
        length = fields[-1]
        after = at + length
        if length < size or after > self.end:
            raise Malformed(f"a length of {length}, {self.end - at} octets left")
        self.position = after
        inner = Cursor.__new__(Cursor)
        inner._data = self._data
        inner.position = at + size
        inner.end = after
        return fields, inner

    def expect_end(self) -> None:
        """Everything must have been read: octets left over mean that a length lies."""
        if self.position != self.end:
            raise Malformed(f"{self.end - self.position} octets left over")
