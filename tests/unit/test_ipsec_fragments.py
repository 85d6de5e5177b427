"""Later fragments are judged by the ports of their first (RFC 4301, section 7.3)."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from cygnet.ipsec.fragments import MAX_PACKETS, SECONDS, Fragments
from cygnet.ipsec.inner import Inner, describe

UDP = 17


def v4(identification: int, offset: int, more: bool, body: bytes, source: str = "10.1.0.10") -> Inner:
    head = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(body), identification, offset // 8 | 0x2000 * more, 64, UDP, 0
    )
    packet = head + ip_address(source).packed + ip_address("10.2.0.10").packed + body
    found = describe(memoryview(packet), 0, len(packet))
    assert found is not None
    return found


def v6(identification: int, offset: int, more: bool, body: bytes, following: int = UDP) -> Inner:
    fragment = struct.pack("!BBHI", following, 0, offset | more, identification)
    head = struct.pack("!IHBB", 6 << 28, 8 + len(body), 44, 64)
    packet = head + ip_address("fd01::1").packed + ip_address("fd02::1").packed + fragment + body
    found = describe(memoryview(packet), 0, len(packet))
    assert found is not None
    return found


FIRST = struct.pack("!HHHH", 4000, 53, 100, 0) + bytes(16)


def test_a_later_fragment_has_the_ports_of_its_first() -> None:
    for make in (v4, v6):
        fragments = Fragments()
        first = fragments.whole(make(7, 0, True, FIRST), 1, 0.0)
        assert (first.source_port, first.destination_port) == (4000, 53)
        alone = make(7, 24, False, bytes(8))
        assert alone.destination_port is None
        later = fragments.whole(alone, 1, SECONDS - 1)
        assert (later.source_port, later.destination_port) == (4000, 53)


def test_no_other_packet_channel_or_time_lends_ports() -> None:
    fragments = Fragments()
    fragments.whole(v4(7, 0, True, FIRST), 1, 0.0)
    for packet, channel, now in (
        (v4(8, 24, False, bytes(8)), 1, 0.0),
        (v4(7, 24, False, bytes(8), source="10.1.0.11"), 1, 0.0),
        (v4(7, 24, False, bytes(8)), 2, 0.0),
        (v4(7, 24, False, bytes(8)), 1, SECONDS),
    ):
        assert fragments.whole(packet, channel, now).destination_port is None


def test_headers_behind_an_ipv6_fragment_header_do_not_separate_a_packet() -> None:
    fragments = Fragments()
    options = bytes((UDP, 0, 1, 4, 0, 0, 0, 0))
    assert fragments.whole(v6(9, 0, True, options + FIRST, following=60), 1, 0.0).protocol == UDP
    later = fragments.whole(v6(9, 32, False, bytes(8), following=60), 1, 0.0)
    assert (later.protocol, later.destination_port) == (UDP, 53)


def test_a_whole_packet_is_no_fragment() -> None:
    fragments = Fragments()
    for packet in (v4(7, 0, False, FIRST), v6(7, 0, False, FIRST)):
        assert packet.fragment is None
        assert fragments.whole(packet, 1, 0.0) is packet
    assert len(fragments) == 0


def test_memory_is_bounded() -> None:
    fragments = Fragments()
    for number in range(MAX_PACKETS + 100):
        fragments.whole(v4(number, 0, True, FIRST), 1, 0.0)
    assert len(fragments) == MAX_PACKETS
    assert fragments.whole(v4(0, 24, False, bytes(8)), 1, 0.0).destination_port is None
