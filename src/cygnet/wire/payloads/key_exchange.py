"""Key Exchange and Nonce payloads (RFC 7296, sections 3.4 and 3.9).

Public values stay octets: leading zeros belong to them. Whether a value fits its group is judged
where the group is known (`crypto.key_exchange.check_public`).
"""

from __future__ import annotations

from struct import Struct
from typing import ClassVar, Final

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import PayloadType

MIN_NONCE: Final = 16
MAX_NONCE: Final = 256
"""RFC 7296, section 2.10 and 3.9: 16 to 256 octets."""

_KE: Final = Struct("!HH")


@dataclass(frozen=True, slots=True)
class KePayload:
    payload_type: ClassVar[int] = PayloadType.KE

    group: int
    data: bytes
    reserved: int = 0
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> KePayload:
        group, reserved = body.unpack(_KE)
        return cls(group, body.rest(), reserved, flags)

    def emit(self) -> bytes:
        return _KE.pack(self.group, self.reserved) + self.data


@dataclass(frozen=True, slots=True)
class NoncePayload:
    payload_type: ClassVar[int] = PayloadType.NONCE

    data: bytes
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> NoncePayload:
        data = body.rest()
        if not MIN_NONCE <= len(data) <= MAX_NONCE:
            raise Malformed(f"a nonce of {len(data)} octets; {MIN_NONCE} to {MAX_NONCE} are allowed")
        return cls(data, flags)

    def emit(self) -> bytes:
        return self.data
