"""Who the peer says it is, and the proof: IDi, IDr, CERT, CERTREQ, AUTH, EAP (RFC 7296, 3.5 to 3.8 and 3.16).

The contents are octets here; `auth` gives them meaning. `reserved` is the three octets of ID and
AUTH that are sent as zero, ignored when received, and part of what AUTH signs (RFC 7296, 2.15).
"""

from __future__ import annotations

from typing import ClassVar, Self

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import PayloadType

_ZEROS = bytes(3)


@dataclass(frozen=True, slots=True)
class _IdPayload:
    id_type: int
    data: bytes
    reserved: bytes = _ZEROS
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> Self:
        id_type = body.u8()
        reserved = body.take(3)
        return cls(id_type, body.rest(), reserved, flags)

    def emit(self) -> bytes:
        """Also the octets that AUTH covers, "RestOfInitIDPayload" (RFC 7296, section 2.15)."""
        return bytes((self.id_type,)) + self.reserved + self.data


@dataclass(frozen=True, slots=True)
class IdiPayload(_IdPayload):
    payload_type: ClassVar[int] = PayloadType.IDI


@dataclass(frozen=True, slots=True)
class IdrPayload(_IdPayload):
    payload_type: ClassVar[int] = PayloadType.IDR


@dataclass(frozen=True, slots=True)
class _CertificatePayload:
    encoding: int
    data: bytes
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> Self:
        return cls(body.u8(), body.rest(), flags)

    def emit(self) -> bytes:
        return bytes((self.encoding,)) + self.data


@dataclass(frozen=True, slots=True)
class CertPayload(_CertificatePayload):
    payload_type: ClassVar[int] = PayloadType.CERT


@dataclass(frozen=True, slots=True)
class CertReqPayload(_CertificatePayload):
    """For X.509 `data` is a list of SHA-1 hashes of CAs' public keys, 20 octets each (RFC 7296, 3.7)."""

    payload_type: ClassVar[int] = PayloadType.CERTREQ


@dataclass(frozen=True, slots=True)
class AuthPayload:
    payload_type: ClassVar[int] = PayloadType.AUTH

    method: int
    data: bytes
    reserved: bytes = _ZEROS
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> AuthPayload:
        method = body.u8()
        reserved = body.take(3)
        return cls(method, body.rest(), reserved, flags)

    def emit(self) -> bytes:
        return bytes((self.method,)) + self.reserved + self.data


@dataclass(frozen=True, slots=True)
class EapPayload:
    """One EAP message, its own header included (RFC 3748, section 4)."""

    payload_type: ClassVar[int] = PayloadType.EAP

    data: bytes
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> EapPayload:
        data = body.rest()
        if len(data) < 4:
            raise Malformed(f"an EAP message of {len(data)} octets; its header has 4")
        return cls(data, flags)

    def emit(self) -> bytes:
        return self.data
