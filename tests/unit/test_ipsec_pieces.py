"""Cutting packets and putting them together: scapy is the judge; what hostile fragments cost is bounded."""

from __future__ import annotations

import contextlib
import logging
import random
from typing import Any

import pytest

from cygnet.ipsec.headers import BadHeader, split
from cygnet.ipsec.pieces import MAX_OCTETS, MAX_PACKETS, SECONDS, Reassembly, cut

logging.getLogger("scapy").setLevel(logging.ERROR)
inet: Any = pytest.importorskip("scapy.layers.inet")
inet6: Any = pytest.importorskip("scapy.layers.inet6")


def v4(size: int, **header: Any) -> bytes:
    return bytes(inet.IP(src="192.0.2.1", dst="192.0.2.2", id=7, **header) / inet.UDP() / (b"q" * size))


def v6(size: int) -> bytes:
    return bytes(
        inet6.IPv6(src="2001:db8::1", dst="2001:db8::2") / inet.UDP() / random.Random(1).randbytes(size)
    )


@pytest.mark.parametrize("mtu", [68, 576, 1280, 1400])
def test_scapy_puts_together_what_we_cut(mtu: int) -> None:
    packet = v4(3000)
    pieces = cut(packet, mtu)
    assert max(map(len, pieces)) <= mtu
    (whole,) = inet.defragment([inet.IP(one) for one in pieces])
    assert bytes(whole[inet.UDP].payload) == b"q" * 3000
    for one in pieces:
        again = inet.IP(one)
        del again.chksum
        assert inet.IP(bytes(again)).chksum == inet.IP(one).chksum


def test_scapy_puts_together_what_we_cut_of_ipv6() -> None:
    packet = v6(4000)
    pieces = cut(packet, 1280)
    assert max(map(len, pieces)) <= 1280
    assert bytes(inet6.defragment6([inet6.IPv6(one) for one in pieces])) == packet


def test_options_that_are_not_copied_are_in_the_first_fragment_alone() -> None:
    options = [inet.IPOption_Router_Alert(), inet.IPOption_RR(length=7, pointer=4, routers=["0.0.0.0"])]
    first, later, *_ = cut(v4(3000, options=options), 1000)
    assert first[20:31] == b"\x94\x04\0\0\x07\x07\x04\0\0\0\0"
    assert (later[0] & 15, later[20:24]) == (6, b"\x94\x04\0\0")


@pytest.mark.parametrize("packet", [v4(5000), v6(5000)])
@pytest.mark.parametrize("seed", range(5))
def test_fragments_in_any_order_give_the_packet_once(packet: bytes, seed: int) -> None:
    pieces = cut(packet, 1280)
    random.Random(seed).shuffle(pieces)
    held = Reassembly()
    given = [held.take(one, 0.0) for one in pieces]
    assert [one for one in given if one is not None] == [packet]
    assert (len(held), held.octets, held.refused) == (0, 0, 0)


def test_a_fragment_of_a_fragment_says_where_it_lies() -> None:
    pieces = [smaller for one in cut(v4(5000), 1500) for smaller in cut(one, 600)]
    held = Reassembly()
    assert [one for one in (held.take(p, 0.0) for p in pieces) if one] == [v4(5000)]


def test_t39_overlapping_fragments_are_given_up_whole() -> None:
    # RFC 5722: whoever sends overlaps wants two readings.
    for packet in (v4(3000), v6(3000)):
        pieces, held = cut(packet, 1280), Reassembly()
        assert held.take(pieces[0], 0.0) is None
        assert held.take(pieces[0], 0.0) is None
        assert (len(held), held.refused, held.octets) == (0, 1, 0)
        assert [held.take(one, 0.0) for one in pieces[1:]] == [None] * (len(pieces) - 1)


def test_t39_a_first_fragment_that_hides_its_transport_header_is_refused() -> None:
    pieces, held = cut(v4(200), 28), Reassembly()
    assert all(held.take(one, 0.0) is None for one in pieces)


def test_t39_an_end_before_what_came_and_a_second_end_are_refused() -> None:
    pieces = cut(v4(3000), 600)
    shorter = cut(v4(700), 600)
    held = Reassembly()
    held.take(pieces[3], 0.0)
    held.take(shorter[-1], 0.0)
    assert (len(held), held.refused) == (0, 1)
    held.take(pieces[-1], 0.0)
    held.take(pieces[-1], 0.0)
    assert (len(held), held.refused) == (0, 2)


def test_t39_memory_for_fragments_is_bounded_and_given_back() -> None:
    held = Reassembly()
    for number in range(4 * MAX_PACKETS):
        packet = bytearray(cut(v4(3000), 1400)[0])
        packet[4:6] = number.to_bytes(2, "big")
        held.take(bytes(packet), float(number) / 1e6)
        assert len(held) <= MAX_PACKETS
        assert held.octets <= MAX_OCTETS
    held.expire(SECONDS + 1)
    assert (len(held), held.octets) == (0, 0)


def test_random_octets_and_lying_headers_never_raise_anything_else() -> None:
    source, held = random.Random(2), Reassembly()
    for _ in range(5000):
        packet = bytearray(source.randbytes(source.randrange(1, 120)))
        packet[0] = source.choice((0x45, 0x46, 0x4F, 0x60, packet[0]))
        if source.random() < 0.5 and len(packet) > 44:
            packet[2:4] = len(packet).to_bytes(2, "big")
            packet[4:6] = (len(packet) - 40).to_bytes(2, "big")
            packet[6] = source.choice((0, 43, 44, 60))
        for work in (lambda p: held.take(p, 0.0), split, lambda p: cut(p, 60)):
            with contextlib.suppress(BadHeader):
                work(bytes(packet))
    assert len(held) <= MAX_PACKETS
