"""Notify, Delete and Vendor ID payloads (RFC 7296, sections 3.10 to 3.12)."""

from __future__ import annotations

from struct import Struct
from typing import ClassVar, Final

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import PayloadType

MAX_DELETED_SPIS: Final = 1024
"""In one Delete payload; strongSwan deletes one at a time."""

_NOTIFY: Final = Struct("!BBH")
_DELETE: Final = Struct("!BBH")


@dataclass(frozen=True, slots=True)
class NotifyPayload:
    """`type` as in `numbers.Notify`; `protocol` 0 and an empty `spi` where it concerns no SA."""

    payload_type: ClassVar[int] = PayloadType.NOTIFY

    protocol: int
    spi: bytes
    type: int
    data: bytes
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> NotifyPayload:
        protocol, spi_size, kind = body.unpack(_NOTIFY)
        spi = body.take(spi_size) if spi_size else b""
        return cls(protocol, spi, kind, body.rest(), flags)

    def emit(self) -> bytes:
        return _NOTIFY.pack(self.protocol, len(self.spi), self.type) + self.spi + self.data


@dataclass(frozen=True, slots=True)
class DeletePayload:
    """`spis` is empty for the IKE SA itself. `spi_size` says the size where no SPI shows it."""

    payload_type: ClassVar[int] = PayloadType.DELETE

    protocol: int
    spis: tuple[bytes, ...]
    spi_size: int = 0
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> DeletePayload:
        protocol, size, count = body.unpack(_DELETE)
        if count > MAX_DELETED_SPIS:
            raise Malformed(f"more than {MAX_DELETED_SPIS} SPIs in a Delete")
        if count and not size:
            raise Malformed("a Delete of SPIs that have no octets")
        spis = tuple([body.take(size) for _ in range(count)])
        body.expect_end()
        return cls(protocol, spis, 0 if spis else size, flags)

    def emit(self) -> bytes:
        sizes = set(map(len, self.spis))
        if len(sizes) > 1:
            raise ValueError("SPIs of different sizes in one Delete")
        size = sizes.pop() if sizes else self.spi_size
        return _DELETE.pack(self.protocol, size, len(self.spis)) + b"".join(self.spis)


@dataclass(frozen=True, slots=True)
class VendorIdPayload:
    payload_type: ClassVar[int] = PayloadType.VENDOR_ID

    data: bytes
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> VendorIdPayload:
        return cls(body.rest(), flags)

    def emit(self) -> bytes:
        return self.data
