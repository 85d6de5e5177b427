"""The Configuration payload (RFC 7296, section 3.15)."""

from __future__ import annotations

from struct import Struct
from typing import ClassVar, Final

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import CfgAttribute, PayloadType

MAX_CONFIG_ATTRIBUTES: Final = 256

_HEAD: Final = Struct("!B3s")
_ATTRIBUTE: Final = Struct("!HH")

_LENGTHS: Final[dict[int, tuple[int, ...]]] = {
    CfgAttribute.INTERNAL_IP4_ADDRESS: (0, 4),
    CfgAttribute.INTERNAL_IP4_NETMASK: (0, 4),
    CfgAttribute.INTERNAL_IP4_DNS: (0, 4),
    CfgAttribute.INTERNAL_IP4_NBNS: (0, 4),
    CfgAttribute.INTERNAL_IP4_DHCP: (0, 4),
    CfgAttribute.INTERNAL_IP6_ADDRESS: (0, 17),
    CfgAttribute.INTERNAL_IP6_DNS: (0, 16),
    CfgAttribute.INTERNAL_IP6_DHCP: (0, 16),
    CfgAttribute.INTERNAL_IP4_SUBNET: (0, 8),
    CfgAttribute.INTERNAL_IP6_SUBNET: (0, 17),
}
"""RFC 7296, section 3.15.1: the only lengths that these may have."""


@dataclass(frozen=True, slots=True)
class ConfigAttribute:
    """`type` as in `numbers.CfgAttribute`; `reserved` is the type field's top bit."""

    type: int
    value: bytes
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class ConfigPayload:
    payload_type: ClassVar[int] = PayloadType.CP

    cfg_type: int
    attributes: tuple[ConfigAttribute, ...]
    reserved: bytes = bytes(3)
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> ConfigPayload:
        cfg_type, reserved = body.unpack(_HEAD)
        attributes: list[ConfigAttribute] = []
        while body.position != body.end:
            if len(attributes) == MAX_CONFIG_ATTRIBUTES:
                raise Malformed(f"more than {MAX_CONFIG_ATTRIBUTES} attributes")
            kind, length = body.unpack(_ATTRIBUTE)
            number = kind & 0x7FFF
            allowed = _LENGTHS.get(number)
            if allowed and length not in allowed:
                raise Malformed(f"{CfgAttribute.name_of(number)} of {length} octets")
            attributes.append(ConfigAttribute(number, body.take(length), bool(kind & 0x8000)))
        return cls(cfg_type, tuple(attributes), reserved, flags)

    def emit(self) -> bytes:
        return _HEAD.pack(self.cfg_type, self.reserved) + b"".join(
            [
                _ATTRIBUTE.pack(a.type | (0x8000 if a.reserved else 0), len(a.value)) + a.value
                for a in self.attributes
            ]
        )
