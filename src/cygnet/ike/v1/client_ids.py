"""Client identities of quick mode: the two ID payloads that say what an SA pair carries (RFC 2407, 4.6.2).

One pair of an address, a subnet or a range, each with a protocol and one port, 0 for any: that is all that
quick mode can say. Other types of identity name no traffic (V20).
"""

from __future__ import annotations

import ipaddress
from typing import Final

from cygnet.ike.errors import PeerIncompatible, Reason
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.wire.v1.numbers import IdType
from cygnet.wire.v1.payloads import IdPayload

MAX_PORT: Final = 65535
_OCTETS: Final = {4: 4, 6: 16}
_TYPES: Final = {
    4: (IdType.IPV4_ADDR, IdType.IPV4_ADDR_SUBNET, IdType.IPV4_ADDR_RANGE),
    6: (IdType.IPV6_ADDR, IdType.IPV6_ADDR_SUBNET, IdType.IPV6_ADDR_RANGE),
}
_FAMILY: Final = {kind: family for family, kinds in _TYPES.items() for kind in kinds}


def to_wire(selector: TrafficSelector) -> IdPayload:
    """The identity that says this selector. Raises `PeerIncompatible` for ports that are no one port."""
    size = _OCTETS[selector.family]
    bits = 8 * size
    first, last = selector.first.to_bytes(size, "big"), selector.last.to_bytes(size, "big")
    ports = (selector.port_first, selector.port_last)
    if ports[0] != ports[1] and ports != (0, MAX_PORT):
        raise PeerIncompatible(
            Reason.SELECTOR_MISMATCH, f"quick mode can say one port, not {ports[0]} to {ports[1]}"
        )
    port = ports[0] if ports[0] == ports[1] else 0
    address, subnet, span = _TYPES[selector.family]
    if first == last:
        return IdPayload(address, selector.protocol, port, first)
    host = selector.first ^ selector.last
    if host & (host + 1) == 0 and selector.first & host == 0:
        mask = ((1 << bits) - 1) ^ host
        return IdPayload(subnet, selector.protocol, port, first + mask.to_bytes(size, "big"))
    return IdPayload(span, selector.protocol, port, first + last)


def from_wire(payload: IdPayload) -> TrafficSelector:
    """What an identity says. Raises `PeerIncompatible` for one that names no traffic."""
    family = _FAMILY.get(payload.id_type)
    if family is None:
        raise _unusable(f"an identity of type {IdType.name_of(payload.id_type)} names no traffic")
    size = _OCTETS[family]
    address, subnet, _ = _TYPES[family]
    if len(payload.data) != (size if payload.id_type == address else 2 * size):
        raise _unusable(f"{IdType.name_of(payload.id_type)} of {len(payload.data)} octets")
    first = int.from_bytes(payload.data[:size], "big")
    last = first if payload.id_type == address else int.from_bytes(payload.data[size:], "big")
    if payload.id_type == subnet:
        host = ((1 << 8 * size) - 1) ^ last
        if host & (host + 1):
            raise _unusable("a subnet whose mask has holes")
        first &= last
        last = first | host
    if first > last:
        raise _unusable("a range that ends before it begins")
    ports = (payload.port, payload.port) if payload.port else (0, MAX_PORT)
    return TrafficSelector(family, payload.protocol, first, last, *ports)


def of_host(address: IpAddress) -> TrafficSelector:
    """What an end means that sends no identity: itself (RFC 2409, section 5.5)."""
    number = int(address)
    return TrafficSelector(ipaddress.ip_address(address).version, 0, number, number)


def _unusable(detail: str) -> PeerIncompatible:
    return PeerIncompatible(Reason.SELECTOR_MISMATCH, detail)
