"""Fragments: packets cut to a size, and put together again within bounds (RFC 791; RFC 8200, section 4.5).

Transport mode and AH protect whole packets only (RFC 4302, section 3.1.1; RFC 4303, section 3.1.1), so what
the kernel has cut is put together before it is sealed, and what comes out longer than the path is cut anew.

Reassembly takes no overlap at all (RFC 5722, for both versions), no gap in the arithmetic (every part but the
last is a multiple of 8), no first fragment that hides its transport header (RFC 1858), and has bounds in
packets, octets and time. A packet that breaks a rule is forgotten whole.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cygnet.ipsec.checksum import fix_ipv4_header
from cygnet.ipsec.headers import FRAGMENT, BadHeader, split

MAX_PACKETS, MAX_OCTETS, SECONDS = 256, 1 << 20, 30.0
MAX_PARTS = 64
"""Of one packet; 65,535 octets in parts of 1280 are 53."""
_COPIED = 0x80
"""Of an IPv4 option's type: it is in every fragment (RFC 791, section 3.1)."""
_MORE_4, _DONT_4 = 0x2000, 0x4000


# -- cutting -------------------------------------------------------------------------------------


def cut(packet: bytes, mtu: int, random: Callable[[int], bytes] = os.urandom) -> list[bytes]:
    """The packet in fragments of at most `mtu` octets, or as it is if it fits. DF is not looked at.

    Raises BadHeader for what is no packet, or cannot be cut to that size.
    """
    if len(packet) <= mtu:
        return [packet]
    return _cut_4(packet, mtu) if packet[0] >> 4 == 4 else _cut_6(packet, mtu, random)


def _cut_4(packet: bytes, mtu: int) -> list[bytes]:
    header = (packet[0] & 15) * 4
    first, later = packet[:header], packet[:20] + _copied_options(packet[20:header])
    later = bytes((0x40 | len(later) // 4,)) + later[1:]
    field_ = int.from_bytes(packet[6:8], "big")
    offset, more = field_ & 0x1FFF, bool(field_ & _MORE_4)
    made, at, head = [], header, first
    while at < len(packet):
        room = (mtu - len(head)) // 8 * 8
        if room <= 0:
            raise BadHeader("an MTU with no room for a fragment")
        last = len(packet) - at <= mtu - len(head)
        part = packet[at:] if last else packet[at : at + room]
        piece = bytearray(head + part)
        piece[2:4] = len(piece).to_bytes(2, "big")
        flags = (field_ & ~0x1FFF & ~_MORE_4 & ~_DONT_4) | offset | (_MORE_4 if more or not last else 0)
        piece[6:8] = flags.to_bytes(2, "big")
        fix_ipv4_header(piece, 0, len(head))
        made.append(bytes(piece))
        offset += len(part) // 8
        at += len(part)
        head = later
    return made


def _copied_options(options: bytes) -> bytes:
    kept, at = b"", 0
    while at < len(options) and options[at]:
        length = 1 if options[at] == 1 else options[at + 1] if at + 1 < len(options) else 0
        if length < 1 or at + length > len(options):
            raise BadHeader("an IPv4 option beyond the header")
        if options[at] & _COPIED:
            kept += options[at : at + length]
        at += length
    return kept + bytes(-len(kept) % 4)


def _cut_6(packet: bytes, mtu: int, random: Callable[[int], bytes]) -> list[bytes]:
    parts = split(packet)
    head = bytearray(parts.head)
    head[parts.names_next] = FRAGMENT
    room = (mtu - len(head) - 8) // 8 * 8
    if room <= 0:
        raise BadHeader("an MTU with no room for a fragment")
    identity = random(4)
    made = []
    for at in range(0, len(parts.payload), room):
        part = parts.payload[at : at + room]
        more = at + room < len(parts.payload)
        head[4:6] = (len(head) - 40 + 8 + len(part)).to_bytes(2, "big")
        where = (at | more).to_bytes(2, "big")
        made.append(bytes(head) + bytes((parts.next_header, 0)) + where + identity + part)
    return made


# -- putting together ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Packet:
    until: float
    head: bytes = b""
    next_header: int = 0
    names_next: int = 9
    total: int = -1
    """Octets of all parts, once the last has come."""
    octets: int = 0
    parts: dict[int, bytes] = field(default_factory=dict)


class Reassembly:
    """`take` returns a whole packet, or None while parts are missing or the packet was refused.
    `refused` counts the packets that were given up."""

    def __init__(self) -> None:
        self._packets: OrderedDict[tuple[bytes, ...], _Packet] = OrderedDict()
        self._octets = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._packets)

    @property
    def octets(self) -> int:
        return self._octets

    def take(self, packet: bytes, now: float) -> bytes | None:
        """Raises BadHeader for what is no packet. What is no fragment comes back at once."""
        if packet[0] >> 4 == 4:
            field_ = int.from_bytes(packet[6:8], "big")
            if not field_ & 0x3FFF:
                return packet
            parts = split(packet)
            offset, more = (field_ & 0x1FFF) * 8, bool(field_ & _MORE_4)
            key: tuple[bytes, ...] = (packet[12:20], packet[4:6], packet[9:10])
            head, names_next, next_header, payload = parts
        else:
            parts = split(packet)
            if parts.next_header != FRAGMENT:
                return packet
            if len(parts.payload) < 8:
                raise BadHeader("an IPv6 fragment header beyond the packet")
            header, payload = parts.payload[:8], parts.payload[8:]
            field_ = int.from_bytes(header[2:4], "big")
            offset, more = field_ & ~7, bool(field_ & 1)
            key = packet[8:40], header[4:8]
            head, names_next, next_header = parts.head, parts.names_next, header[0]
        return self._add(key, now, head, names_next, next_header, payload, offset, more)

    def _add(
        self,
        key: tuple[bytes, ...],
        now: float,
        head: bytes,
        names_next: int,
        next_header: int,
        payload: bytes,
        offset: int,
        more: bool,
    ) -> bytes | None:
        self.expire(now)
        held = self._packets.get(key)
        if held is None:
            while len(self._packets) >= MAX_PACKETS or self._octets + len(payload) > MAX_OCTETS:
                if not self._packets:
                    self.refused += 1
                    return None
                self._forget(next(iter(self._packets)))
            held = self._packets[key] = _Packet(now + SECONDS)
        end = offset + len(payload)
        if (
            not payload
            or (more and len(payload) % 8)
            or end > 0xFFFF
            or (more and not offset and len(payload) < 16)
            or len(held.parts) >= MAX_PARTS
            or self._octets + len(payload) > MAX_OCTETS
            or (held.total >= 0 and (end > held.total or not more))
            or any(offset < at + len(part) and at < end for at, part in held.parts.items())
        ):
            self._forget(key)
            return None
        held.parts[offset] = payload
        held.octets += len(payload)
        self._octets += len(payload)
        if not offset:
            held.head, held.names_next, held.next_header = head, names_next, next_header
        if not more:
            held.total = end
            if any(at + len(part) > end for at, part in held.parts.items()):
                self._forget(key)
                return None
        if held.total < 0 or held.octets < held.total or 0 not in held.parts:
            return None
        del self._packets[key]
        self._octets -= held.octets
        return _whole(held)

    def expire(self, now: float) -> None:
        """Packets that waited too long are given up."""
        while self._packets:
            key, oldest = next(iter(self._packets.items()))
            if oldest.until > now:
                return
            self._forget(key)

    def _forget(self, key: tuple[bytes, ...]) -> None:
        self._octets -= self._packets.pop(key).octets
        self.refused += 1


def _whole(held: _Packet) -> bytes:
    payload = b"".join(held.parts[at] for at in sorted(held.parts))
    made = bytearray(held.head)
    made[held.names_next] = held.next_header
    total = len(made) + len(payload)
    if made[0] >> 4 == 4:
        made[2:4] = min(total, 0xFFFF).to_bytes(2, "big")
        made[6:8] = bytes(2)
        fix_ipv4_header(made, 0, len(made))
    else:
        made[4:6] = min(total - 40, 0xFFFF).to_bytes(2, "big")
    return bytes(made) + payload
