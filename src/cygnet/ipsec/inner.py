"""What an inner packet is, for policy: addresses, protocol, ports; and whether it fits an SA's selectors.

Lengths in the packet are re-derived and never believed, whoever wrote them. Ports come only from
packets that carry them: a later fragment, or a protocol without ports, matches port selectors that
are ANY or OPAQUE and no others (RFC 4301, sections 4.4.1.1 and 7).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cygnet.policy.selectors import TrafficSelector

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION, _MOBILITY = 0, 43, 44, 51, 60, 135
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION})
_WITH_PORTS = frozenset({TCP, UDP, 33, 132, 136})  # also DCCP, SCTP, UDP-Lite
MAX_EXTENSIONS = 8
"""IPv6 extension headers that are walked; RFC 8200 knows seven and lets one of them come twice."""

# Octets of a packet that, with the protocol, name a flow: addresses, then ports or ICMP type and code.
_KEY_END_4 = {TCP: 24, UDP: 24, 132: 24, 33: 24, 136: 24, ICMP: 22}
_KEY_END_6 = {TCP: 44, UDP: 44, 132: 44, 33: 44, 136: 44, ICMPV6: 42}
_PORT_PROTOCOL_KEYS_6 = frozenset(_KEY_END_6)

FlowKey = tuple[int, bytes]


class Inner(NamedTuple):
    """One packet as the SPD sees it. Ports are None where the packet has none to show; of an ICMP message
    both are type * 256 + code (RFC 4301, section 4.4.1.1). `dont_fragment` is true for IPv6. `fragment`
    is the identification of one that is part of a packet; `later`: another part than the first."""

    family: int
    protocol: int
    source: int
    destination: int
    source_port: int | None
    destination_port: int | None
    length: int
    dont_fragment: bool
    fragment: int | None = None
    later: bool = False


def flow_key(view: memoryview, at: int, length: int) -> FlowKey | None:
    """A cheap name of the packet's flow; None where only `describe` can tell (options, fragments, runts)."""
    if length < 20:
        return None
    first = view[at]
    if first == 0x45:
        if view[at + 6] & 0x3F or view[at + 7]:
            return None
        protocol = view[at + 9]
        end = _KEY_END_4.get(protocol, 20)
        if end > length:
            return None
        return protocol, view[at + 12 : at + end].tobytes()
    if first >> 4 == 6 and length >= 44:
        protocol = view[at + 6]
        if protocol in _PORT_PROTOCOL_KEYS_6:
            return protocol | 256, view[at + 8 : at + _KEY_END_6[protocol]].tobytes()
    return None


def describe(view: memoryview, at: int, length: int) -> Inner | None:
    """The packet in `length` octets at `at`, or None if that is no IP packet."""
    if length < 20:
        return None
    version = view[at] >> 4
    if version == 4:
        return _describe_4(view[at : at + length])
    if version == 6 and length >= 40:
        return _describe_6(view[at : at + length])
    return None


def _describe_4(packet: memoryview) -> Inner | None:
    header = (packet[0] & 15) * 4
    total = packet[2] << 8 | packet[3]
    if header < 20 or total < header or total > len(packet):
        return None
    offset = (packet[6] & 0x1F) << 8 | packet[7]
    ports = None
    if offset == 0:
        ports = _ports(packet[header:total], packet[9])
        if ports is None:
            return None
    source_port, destination_port = ports or (None, None)
    return Inner(
        4,
        packet[9],
        int.from_bytes(packet[12:16], "big"),
        int.from_bytes(packet[16:20], "big"),
        source_port,
        destination_port,
        total,
        bool(packet[6] & 0x40),
        packet[4] << 8 | packet[5] if offset or packet[6] & 0x20 else None,
        offset > 0,
    )


def _describe_6(packet: memoryview) -> Inner | None:
    # A payload length of 0 announces a jumbogram (RFC 2675): none fits through here.
    total = 40 + (packet[4] << 8 | packet[5])
    if total > len(packet) or (total == 40 and packet[6] != 59):
        return None
    protocol, at = packet[6], 40
    fragment, later = None, False
    for _ in range(MAX_EXTENSIONS + 1):
        if protocol not in _EXTENSIONS:
            break
        if at + 8 > total:
            return None
        following = packet[at]
        if protocol == _FRAGMENT:
            offset = packet[at + 2] << 8 | packet[at + 3]
            if offset & 0xFFF9:  # an atomic fragment is whole (RFC 6946)
                fragment = int.from_bytes(packet[at + 4 : at + 8], "big")
            later = later or offset >= 8
            at += 8
        elif protocol == _AH:
            at += (packet[at + 1] + 2) * 4
        else:
            at += (packet[at + 1] + 1) * 8
        protocol = following
        if later:
            break
    else:
        return None
    ports: tuple[int | None, int | None] | None = (None, None)
    if not later:
        if at > total:
            return None
        ports = _ports(packet[at:total], protocol)
        if ports is None:
            return None
    source_port, destination_port = ports or (None, None)
    return Inner(
        6,
        protocol,
        int.from_bytes(packet[8:24], "big"),
        int.from_bytes(packet[24:40], "big"),
        source_port,
        destination_port,
        total,
        True,
        fragment,
        later,
    )


def _ports(payload: memoryview, protocol: int) -> tuple[int | None, int | None] | None:
    """The two ports; None if the payload is too short to hold what its protocol must hold."""
    if protocol in _WITH_PORTS:
        if len(payload) < 4:
            return None
        return payload[0] << 8 | payload[1], payload[2] << 8 | payload[3]
    if protocol in (ICMP, ICMPV6):
        if len(payload) < 2:
            return None
        value = payload[0] << 8 | payload[1]
        return value, value
    if protocol == _MOBILITY and len(payload) >= 3:
        return payload[2] << 8, payload[2] << 8
    return None, None


def total_length(view: memoryview, at: int, length: int) -> int:
    """The packet's own length within `length` octets, or 0; the rest is TFC padding (RFC 4303, 2.7)."""
    if length >= 20 and view[at] >> 4 == 4:
        total = view[at + 2] << 8 | view[at + 3]
        return total if (view[at] & 15) * 4 <= total <= length and view[at] & 15 >= 5 else 0
    if length >= 40 and view[at] >> 4 == 6:
        total = 40 + (view[at + 4] << 8 | view[at + 5])
        return total if total <= length else 0
    return 0


def _fits(selector: TrafficSelector, family: int, protocol: int, address: int, port: int | None) -> bool:
    if selector.family != family or not selector.first <= address <= selector.last:
        return False
    if selector.protocol not in (0, protocol):
        return False
    if selector.port_first == 0 and selector.port_last == 65535:
        return True
    if port is None:
        return selector.port_first == 65535 and selector.port_last == 0  # OPAQUE
    return selector.port_first <= port <= selector.port_last


def within(
    local: Iterable[TrafficSelector],
    remote: Iterable[TrafficSelector],
    packet: Inner,
    *,
    outbound: bool,
) -> bool:
    """Whether a packet lies within an SA's selectors: some local one and some remote one of its protocol."""
    if outbound:
        ours, our_port = packet.source, packet.source_port
        theirs, their_port = packet.destination, packet.destination_port
    else:
        ours, our_port = packet.destination, packet.destination_port
        theirs, their_port = packet.source, packet.source_port
    family, protocol = packet.family, packet.protocol
    return any(_fits(s, family, protocol, ours, our_port) for s in local) and any(
        _fits(s, family, protocol, theirs, their_port) for s in remote
    )


def impossible_source(packet: Inner) -> bool:
    """A source that no packet from another machine can have: loopback, multicast, 0/8 (RFC 1122, 3.2.1.3)."""
    source = packet.source
    if packet.family == 4:
        return source >> 24 in (0, 127) or source >> 28 == 0xE or source == 0xFFFFFFFF
    return source == 1 or source >> 120 == 0xFF
