"""Encrypted payloads, SK and SKF (RFC 7296, section 3.14; RFC 7383, section 2.5), and unknown ones.

SK and SKF end the payload chain: their "next payload" is the type of the first payload inside.
`body` is IV, ciphertext and ICV together: only the cipher knows where one ends. `offset` is where
the payload begins in the datagram; what the ICV covers besides the body is `datagram[:offset + 4]`
for SK and `datagram[:offset + 8]` for SKF.
"""

from __future__ import annotations

from struct import Struct
from typing import ClassVar, Final

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import PayloadType

SK_HEADER: Final = 4
SKF_HEADER: Final = 8
_SKF: Final = Struct("!HH")


@dataclass(frozen=True, slots=True)
class EncryptedPayload:
    payload_type: ClassVar[int] = PayloadType.SK

    first_inner: int
    body: bytes
    offset: int = 0
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int, first_inner: int) -> EncryptedPayload:
        offset = body.position - SK_HEADER
        return cls(first_inner, body.rest(), offset, flags)

    def emit(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True)
class EncryptedFragmentPayload:
    """Fragment `number` of `total`, both from 1."""

    payload_type: ClassVar[int] = PayloadType.SKF

    first_inner: int
    number: int
    total: int
    body: bytes
    offset: int = 0
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int, first_inner: int) -> EncryptedFragmentPayload:
        offset = body.position - SK_HEADER
        number, total = body.unpack(_SKF)
        if not 1 <= number <= total:
            raise Malformed(f"fragment {number} of {total}")
        return cls(first_inner, number, total, body.rest(), offset, flags)

    def emit(self) -> bytes:
        return _SKF.pack(self.number, self.total) + self.body


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """A payload of a type that this version does not know, octets kept (RFC 7296, section 2.5)."""

    type: int
    critical: bool
    data: bytes
    reserved: int = 0

    @property
    def payload_type(self) -> int:
        return self.type

    @property
    def flags(self) -> int:
        return (0x80 if self.critical else 0) | self.reserved

    @classmethod
    def parse(cls, body: Cursor, flags: int, kind: int) -> UnknownPayload:
        return cls(kind, bool(flags & 0x80), body.rest(), flags & 0x7F)

    def emit(self) -> bytes:
        return self.data
