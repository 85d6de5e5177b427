"""IP headers as transport mode and AH see them: what stands before the IPsec header, and what of it lasts.

    IPv4:  header with options | ESP or AH | upper layers
    IPv6:  header, hop-by-hop, [destination options, routing] | ESP or AH | [destination options] upper layers

The order in IPv6 is RFC 4302's (section 3.1.1) and RFC 4303's: destination options that come with a
routing header stand before, others behind. `lasting` is what AH's ICV covers of a head: fields that
change on the way are zero, those that change predictably are what they will be on arrival (RFC 4302,
section 3.3.3.1 and appendix A).
"""

from __future__ import annotations

from typing import NamedTuple

from cygnet.ipsec.checksum import fix_ipv4_header

HOP_BY_HOP, ROUTING, FRAGMENT, ESP, AH, DESTINATION = 0, 43, 44, 50, 51, 60
_WITH_OPTIONS = (HOP_BY_HOP, DESTINATION)
MAX_EXTENSIONS = 8

# RFC 4302, appendix A1: end, no-operation, security, extended security, commercial security, router alert,
# sender-directed multi-destination delivery. All others count as octets of zero.
_IMMUTABLE_OPTIONS = frozenset({0, 1, 130, 133, 134, 148, 149})
_LOOSE_ROUTE, _STRICT_ROUTE = 131, 137
_CHANGES_EN_ROUTE = 0x20
"""Of an IPv6 option's type: its data may change (RFC 8200, section 4.2)."""


class BadHeader(ValueError):
    """A header that cannot be what it says; or one that AH cannot protect."""


class Split(NamedTuple):
    """`head` up to where the IPsec header goes; `names_next` is the offset in it of the octet that says what
    follows; `next_header` is what it says now."""

    head: bytes
    names_next: int
    next_header: int
    payload: bytes


def split(packet: bytes) -> Split:
    """Raises BadHeader. Octets behind the packet's own length are left away."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        length, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        if not 20 <= length <= total <= len(packet):
            raise BadHeader("IPv4 lengths")
        return Split(packet[:length], 9, packet[9], packet[length:total])
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        total = 40 + int.from_bytes(packet[4:6], "big")
        if total > len(packet):
            raise BadHeader("IPv6 lengths")
        end, names_next = _unfragmentable(packet[:total])
        return Split(packet[:end], names_next, packet[names_next], packet[end:total])
    raise BadHeader("no IP packet")


def _unfragmentable(packet: bytes) -> tuple[int, int]:
    """Where the IPsec header goes in an IPv6 packet, and the octet that names what follows."""
    at, names = 40, 6
    end, names_next = at, names
    for _ in range(MAX_EXTENSIONS):
        kind = packet[names]
        if kind not in (HOP_BY_HOP, ROUTING, DESTINATION):
            return end, names_next
        if at + 8 > len(packet):
            raise BadHeader("an IPv6 extension header beyond the packet")
        following = at + (packet[at + 1] + 1) * 8
        if following > len(packet):
            raise BadHeader("an IPv6 extension header beyond the packet")
        names, at = at, following
        if kind != DESTINATION:
            end, names_next = at, names
    raise BadHeader("too many IPv6 extension headers")


def joined(head: bytes, names_next: int, next_header: int, payload: bytes) -> bytes:
    """The packet: `next_header` and `payload` behind `head`, lengths and checksum right. Raises BadHeader."""
    made = bytearray(head)
    made[names_next] = next_header
    total = len(head) + len(payload)
    if made[0] >> 4 == 4:
        if total > 0xFFFF:
            raise BadHeader("longer than an IPv4 packet can be")
        made[2:4] = total.to_bytes(2, "big")
        fix_ipv4_header(made, 0, len(head))
    else:
        if total - 40 > 0xFFFF:
            raise BadHeader("longer than an IPv6 packet can be")
        made[4:6] = (total - 40).to_bytes(2, "big")
    return bytes(made) + payload


def lasting(head: bytes) -> bytes:
    """What AH authenticates of a head, as long as the head. Raises BadHeader."""
    made = bytearray(head)
    if made[0] >> 4 == 4:
        made[1] = 0
        made[6:9] = bytes(3)
        made[10:12] = bytes(2)
        _clear_options_4(made)
    else:
        made[0], made[1:4], made[7] = 0x60, bytes(3), 0
        _clear_extensions(made)
    return bytes(made)


def _clear_options_4(head: bytearray) -> None:
    at = 20
    while at < len(head):
        kind = head[at]
        if kind == 0:
            return
        if kind == 1:
            at += 1
            continue
        length = head[at + 1] if at + 1 < len(head) else 0
        if length < 2 or at + length > len(head):
            raise BadHeader("an IPv4 option beyond the header")
        if kind in (_LOOSE_ROUTE, _STRICT_ROUTE) and length >= 7 and head[at + 2] <= length - 3:
            # Still on its way: on arrival the destination is the route's last address.
            head[16:20] = head[at + length - 4 : at + length]
        if kind not in _IMMUTABLE_OPTIONS:
            head[at : at + length] = bytes(length)
        at += length


def _clear_extensions(head: bytearray) -> None:
    at, kind = 40, head[6]
    for _ in range(MAX_EXTENSIONS):
        if at >= len(head):
            return
        if kind not in (HOP_BY_HOP, ROUTING, DESTINATION):
            raise BadHeader("an IPv6 header that cannot stand before AH")
        length = (head[at + 1] + 1) * 8 if at + 2 <= len(head) else 0
        if not length or at + length > len(head):
            raise BadHeader("an IPv6 extension header beyond the head")
        if kind in _WITH_OPTIONS:
            _clear_options_6(head, at + 2, at + length)
        else:
            _arrive(head, at, length)
        kind, at = head[at], at + length
    raise BadHeader("too many IPv6 extension headers")


def _clear_options_6(head: bytearray, at: int, end: int) -> None:
    """The data of options that may change count as zero; their type and length last."""
    while at < end:
        kind = head[at]
        if kind == 0:
            at += 1
            continue
        length = 2 + head[at + 1] if at + 1 < end else 0
        if not length or at + length > end:
            raise BadHeader("an IPv6 option beyond its header")
        if kind & _CHANGES_EN_ROUTE:
            head[at + 2 : at + length] = bytes(length - 2)
        at += length


def _arrive(head: bytearray, at: int, length: int) -> None:
    """A routing header as it arrives: no segments left, the last address as destination."""
    kind, left, count = head[at + 2], head[at + 3], (length - 8) // 16
    if not left:
        return
    if kind not in (0, 2) or left > count or length != 8 + 16 * count:
        raise BadHeader(f"a routing header of type {kind} with segments left: AH cannot foresee its end")
    first, place = at + 8, at + 8 + 16 * (count - left)
    route = bytes(head[24:40]) + bytes(head[place : first + 16 * count])
    head[place : first + 16 * count] = route[:-16]
    head[24:40] = route[-16:]
    head[at + 3] = 0
