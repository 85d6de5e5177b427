"""The payloads of IKEv1 (RFC 2408, section 3; RFC 2409; RFC 3947; mode config; Cisco's fragments).

Frozen values with `parse(cursor, reserved)` and `emit()`, as in IKEv2's `wire.payloads`. `reserved` is the
generic header's second octet, kept so that decode and encode give the same octets. `emit()` is the body
that HASH_I, HASH_R cover as SAi_b, IDii_b, IDir_b: everything but the generic header (RFC 2409, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import ClassVar, Final, Self

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.v1.numbers import DOI_IPSEC, PayloadType
from cygnet.wire.v1.security_association import (
    MAX_ATTRIBUTES,
    MAX_NUMBER,
    MAX_PROPOSALS,
    MAX_TRANSFORMS,
    Attribute,
    Proposal,
    SaPayload,
    Transform,
    emit_attributes,
    parse_attributes,
)

MIN_NONCE: Final = 8
MAX_NONCE: Final = 256
"""RFC 2409, section 5: 8 to 256 octets."""
MAX_DELETED_SPIS: Final = 1024
"""In one Delete payload; most send one at a time."""
MAX_CONFIG_ATTRIBUTES: Final = 256
"""In one Attributes payload."""
MAX_FRAGMENT_NUMBER: Final = 255
"""The field is one octet."""

_ID: Final = Struct("!BBH")
_NOTIFY: Final = Struct("!IBBH")
_DELETE: Final = Struct("!IBBH")
_ATTRIBUTES: Final = Struct("!BBH")
_NAT_OA: Final = Struct("!B3s")
_FRAGMENT: Final = Struct("!HBB")


@dataclass(frozen=True, slots=True)
class _Octets:
    """A payload that is nothing but its octets."""

    data: bytes
    reserved: int = 0

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> Self:
        return cls(body.rest(), reserved)

    def emit(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class KePayload(_Octets):
    """The public value; its group is the one that was chosen (RFC 2409, section 5)."""

    payload_type: ClassVar[int] = PayloadType.KE


@dataclass(frozen=True, slots=True)
class HashPayload(_Octets):
    payload_type: ClassVar[int] = PayloadType.HASH


@dataclass(frozen=True, slots=True)
class SignaturePayload(_Octets):
    payload_type: ClassVar[int] = PayloadType.SIG


@dataclass(frozen=True, slots=True)
class VendorIdPayload(_Octets):
    payload_type: ClassVar[int] = PayloadType.VENDOR_ID


@dataclass(frozen=True, slots=True)
class NoncePayload(_Octets):
    payload_type: ClassVar[int] = PayloadType.NONCE

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> Self:
        data = body.rest()
        if not MIN_NONCE <= len(data) <= MAX_NONCE:
            raise Malformed(f"a nonce of {len(data)} octets; {MIN_NONCE} to {MAX_NONCE} are allowed")
        return cls(data, reserved)


@dataclass(frozen=True, slots=True)
class IdPayload:
    """RFC 2407, section 4.6.2. `data` as `id_type` says: an address, address and mask, two addresses,
    text, DER."""

    payload_type: ClassVar[int] = PayloadType.ID

    id_type: int
    protocol: int
    port: int
    data: bytes
    reserved: int = 0

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> IdPayload:
        id_type, protocol, port = body.unpack(_ID)
        return cls(id_type, protocol, port, body.rest(), reserved)

    def emit(self) -> bytes:
        return _ID.pack(self.id_type, self.protocol, self.port) + self.data


@dataclass(frozen=True, slots=True)
class _Certificate:
    encoding: int
    data: bytes
    reserved: int = 0

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> Self:
        return cls(body.u8(), body.rest(), reserved)

    def emit(self) -> bytes:
        return bytes((self.encoding,)) + self.data


@dataclass(frozen=True, slots=True)
class CertPayload(_Certificate):
    payload_type: ClassVar[int] = PayloadType.CERT


@dataclass(frozen=True, slots=True)
class CertReqPayload(_Certificate):
    """For X.509 `data` is the DER name of one CA, or empty for any: one payload a CA (RFC 2408, 3.10)."""

    payload_type: ClassVar[int] = PayloadType.CERTREQ


@dataclass(frozen=True, slots=True)
class NotifyPayload:
    """`type` as in `numbers.Notify`. For an ISAKMP SA `spi` is both cookies, or empty."""

    payload_type: ClassVar[int] = PayloadType.NOTIFY

    protocol: int
    spi: bytes
    type: int
    data: bytes
    doi: int = DOI_IPSEC
    reserved: int = 0

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> NotifyPayload:
        doi, protocol, spi_size, kind = body.unpack(_NOTIFY)
        spi = body.take(spi_size)
        return cls(protocol, spi, kind, body.rest(), doi, reserved)

    def emit(self) -> bytes:
        return _NOTIFY.pack(self.doi, self.protocol, len(self.spi), self.type) + self.spi + self.data


@dataclass(frozen=True, slots=True)
class DeletePayload:
    """For an ISAKMP SA an SPI is both cookies, 16 octets (RFC 2408, section 3.15)."""

    payload_type: ClassVar[int] = PayloadType.DELETE

    protocol: int
    spis: tuple[bytes, ...]
    doi: int = DOI_IPSEC
    reserved: int = 0

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> DeletePayload:
        doi, protocol, size, count = body.unpack(_DELETE)
        if not 0 < count <= MAX_DELETED_SPIS:
            raise Malformed(f"a Delete of {count} SPIs; 1 to {MAX_DELETED_SPIS} are allowed")
        if not size:
            raise Malformed("a Delete of SPIs that have no octets")
        spis = tuple([body.take(size) for _ in range(count)])
        body.expect_end()
        return cls(protocol, spis, doi, reserved)

    def emit(self) -> bytes:
        sizes = set(map(len, self.spis))
        if len(sizes) != 1:
            raise ValueError("a Delete needs SPIs, all of one size")
        return _DELETE.pack(self.doi, self.protocol, sizes.pop(), len(self.spis)) + b"".join(self.spis)


@dataclass(frozen=True, slots=True)
class AttributesPayload:
    """Mode config and XAUTH (draft-dukes-ike-mode-cfg-02, section 3.2). `cfg_type` as in `numbers.CfgType`.
    Attributes keep their form: XAUTH_TYPE and XAUTH_STATUS come fixed, everything else variable."""

    payload_type: ClassVar[int] = PayloadType.ATTRIBUTES

    cfg_type: int
    identifier: int
    attributes: tuple[Attribute, ...]
    reserved2: int = 0
    reserved: int = 0

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> AttributesPayload:
        cfg_type, reserved2, identifier = body.unpack(_ATTRIBUTES)
        attributes = parse_attributes(body, MAX_CONFIG_ATTRIBUTES)
        return cls(cfg_type, identifier, attributes, reserved2, reserved)

    def emit(self) -> bytes:
        return _ATTRIBUTES.pack(self.cfg_type, self.reserved2, self.identifier) + emit_attributes(
            self.attributes
        )


@dataclass(frozen=True, slots=True)
class NatDPayload:
    """HASH(cookies | address | port) (RFC 3947, section 3.2). `draft`: numbered as in drafts 02 and 03."""

    data: bytes
    draft: bool = False
    reserved: int = 0

    @property
    def payload_type(self) -> int:
        return PayloadType.NAT_D_DRAFT if self.draft else PayloadType.NAT_D

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> NatDPayload:
        return cls(body.rest(), False, reserved)

    @classmethod
    def parse_draft(cls, body: Cursor, reserved: int) -> NatDPayload:
        return cls(body.rest(), True, reserved)

    def emit(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class NatOaPayload:
    """An original address (RFC 3947, section 5.2): `id_type` IPV4_ADDR or IPV6_ADDR, `data` the address."""

    id_type: int
    data: bytes
    draft: bool = False
    reserved2: bytes = bytes(3)
    reserved: int = 0

    @property
    def payload_type(self) -> int:
        return PayloadType.NAT_OA_DRAFT if self.draft else PayloadType.NAT_OA

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> NatOaPayload:
        id_type, reserved2 = body.unpack(_NAT_OA)
        return cls(id_type, body.rest(), False, reserved2, reserved)

    @classmethod
    def parse_draft(cls, body: Cursor, reserved: int) -> NatOaPayload:
        id_type, reserved2 = body.unpack(_NAT_OA)
        return cls(id_type, body.rest(), True, reserved2, reserved)

    def emit(self) -> bytes:
        return _NAT_OA.pack(self.id_type, self.reserved2) + self.data


@dataclass(frozen=True, slots=True)
class FragmentPayload:
    """A piece of a whole ISAKMP message, its header included (Cisco, Microsoft: [MS-IKEE], section 2.2.7).

    `id` is common to the pieces of a message; `number` counts from 1; bit 1 of `flags` marks the last piece.
    """

    payload_type: ClassVar[int] = PayloadType.FRAGMENT

    id: int
    number: int
    data: bytes
    flags: int = 0
    reserved: int = 0

    @property
    def last(self) -> bool:
        return bool(self.flags & 1)

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> FragmentPayload:
        ident, number, flags = body.unpack(_FRAGMENT)
        if not number:
            raise Malformed("fragment 0; they are counted from 1")
        if not body.left:
            raise Malformed("a fragment without octets")
        return cls(ident, number, body.rest(), flags, reserved)

    def emit(self) -> bytes:
        return _FRAGMENT.pack(self.id, self.number, self.flags) + self.data


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """A payload of a type that this version does not know, octets kept."""

    type: int
    data: bytes
    reserved: int = 0

    @property
    def payload_type(self) -> int:
        return self.type

    @classmethod
    def parse(cls, body: Cursor, reserved: int, kind: int) -> UnknownPayload:
        return cls(kind, body.rest(), reserved)

    def emit(self) -> bytes:
        return self.data


Payload = (
    SaPayload | KePayload | IdPayload | CertPayload | CertReqPayload | HashPayload | SignaturePayload
    | NoncePayload | NotifyPayload | DeletePayload | VendorIdPayload | AttributesPayload | NatDPayload
    | NatOaPayload | FragmentPayload | UnknownPayload
)  # fmt: skip

PARSERS: Final[dict[int, Callable[[Cursor, int], Payload]]] = {
    kind.payload_type: kind.parse
    for kind in (
        SaPayload, KePayload, IdPayload, CertPayload, CertReqPayload, HashPayload, SignaturePayload,
        NoncePayload, NotifyPayload, DeletePayload, VendorIdPayload, AttributesPayload, FragmentPayload,
    )
} | {
    PayloadType.NAT_D: NatDPayload.parse,
    PayloadType.NAT_D_DRAFT: NatDPayload.parse_draft,
    PayloadType.NAT_OA: NatOaPayload.parse,
    PayloadType.NAT_OA_DRAFT: NatOaPayload.parse_draft,
}  # fmt: skip

__all__ = [
    "MAX_ATTRIBUTES", "MAX_CONFIG_ATTRIBUTES", "MAX_DELETED_SPIS", "MAX_FRAGMENT_NUMBER", "MAX_NONCE",
    "MAX_NUMBER", "MAX_PROPOSALS", "MAX_TRANSFORMS", "MIN_NONCE", "PARSERS", "Attribute",
    "AttributesPayload", "CertPayload", "CertReqPayload", "DeletePayload", "FragmentPayload",
    "HashPayload", "IdPayload", "KePayload", "NatDPayload", "NatOaPayload", "NoncePayload",
    "NotifyPayload", "Payload", "Proposal", "SaPayload", "SignaturePayload", "Transform",
    "UnknownPayload", "VendorIdPayload",
]  # fmt: skip
