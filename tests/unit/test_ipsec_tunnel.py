"""Inner packets under policy, and what passes between inner and outer header (RFC 4301, 5.1.2; RFC 6040)."""

from __future__ import annotations

import logging
import random
import struct
from ipaddress import ip_address
from typing import Any

import pytest

from cygnet.ipsec.inner import Inner, describe, flow_key, impossible_source, total_length, within
from cygnet.ipsec.tunnel import (
    changes_inner,
    decapsulate,
    dont_fragment,
    outer_traffic_class,
    traffic_class,
)
from cygnet.policy.sa import TunnelHeader
from cygnet.policy.selectors import TrafficSelector, parse_selector

logging.getLogger("scapy").setLevel(logging.ERROR)
inet: Any = pytest.importorskip("scapy.layers.inet")
inet6: Any = pytest.importorskip("scapy.layers.inet6")


def seen(data: bytes) -> Inner | None:
    # Behind other octets, so that a wrong offset shows.
    return describe(memoryview(b"\x45" * 16 + data + b"\xff" * 8), 16, len(data))


def address(text: str) -> int:
    return int(ip_address(text))


def test_packets_are_described_as_the_spd_wants_them() -> None:
    four = inet.IP(src="10.1.0.7", dst="10.2.0.9", flags="DF")
    six = inet6.IPv6(src="2001:db8::1", dst="2001:db8::2")
    source4, destination4 = address("10.1.0.7"), address("10.2.0.9")
    source6, destination6 = address("2001:db8::1"), address("2001:db8::2")
    cases = [
        (four / inet.TCP(sport=5, dport=443), Inner(4, 6, source4, destination4, 5, 443, 40, True)),
        (four / inet.UDP(sport=5, dport=53), Inner(4, 17, source4, destination4, 5, 53, 28, True)),
        (four / inet.ICMP(type=8, code=0), Inner(4, 1, source4, destination4, 2048, 2048, 28, True)),
        (four / inet.ICMP(type=3, code=4), Inner(4, 1, source4, destination4, 772, 772, 28, True)),
        (six / inet.TCP(sport=5, dport=443), Inner(6, 6, source6, destination6, 5, 443, 60, True)),
        (
            six / inet6.IPv6ExtHdrHopByHop() / inet6.IPv6ExtHdrDestOpt() / inet.UDP(sport=5, dport=6),
            Inner(6, 17, source6, destination6, 5, 6, 64, True),
        ),
        (six / inet6.ICMPv6EchoRequest(), Inner(6, 58, source6, destination6, 32768, 32768, 48, True)),
    ]
    for made, expected in cases:
        assert seen(bytes(made)) == expected
    assert seen(bytes(inet.IP(src="10.1.0.7", dst="10.2.0.9", proto=47) / b"gre")) == Inner(
        4, 47, source4, destination4, None, None, 23, False
    )


def test_later_fragments_show_no_ports_and_first_ones_do() -> None:
    for data, ports in (
        (inet.IP(flags="MF", frag=0) / inet.UDP(sport=1, dport=2) / b"x", (1, 2)),
        (inet.IP(flags="MF", frag=3, proto=17) / b"xxxxxxxx", (None, None)),
        (inet.IP(frag=3, proto=1) / b"xxxxxxxx", (None, None)),
        (inet6.IPv6() / inet6.IPv6ExtHdrFragment(m=1, offset=0) / inet.UDP(sport=1, dport=2), (1, 2)),
        (inet6.IPv6() / inet6.IPv6ExtHdrFragment(offset=3, nh=17) / b"xxxxxxxx", (None, None)),
        (inet6.IPv6() / inet6.IPv6ExtHdrFragment(m=0, offset=0) / inet.UDP(sport=1, dport=2), (1, 2)),
    ):
        packet = seen(bytes(data))
        assert packet is not None
        assert (packet.source_port, packet.destination_port) == ports
        assert packet.protocol in (17, 1)
        assert flow_key(memoryview(bytes(data)), 0, len(bytes(data))) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: struct.pack(">BBH16x", 0x45, 0, 0),  # total length 0 (CVE-2026-31472 looped on it)
        lambda: struct.pack(">BBH16x", 0x45, 0, 19),
        lambda: struct.pack(">BBH16x", 0x45, 0, 21),
        lambda: struct.pack(">BBH16x", 0x44, 0, 20),
        lambda: struct.pack(">BBH16x", 0x4F, 0, 20),
        lambda: struct.pack(">BBH16x", 0x05, 0, 20),
        lambda: struct.pack(">BBH16x", 0x55, 0, 20),
        lambda: b"",
        lambda: b"\x45",
        lambda: bytes(inet.IP() / inet.TCP())[:22],
        lambda: bytes(inet.IP(len=22, proto=6) / b"xx"),
        lambda: bytes(inet.IP(len=21, proto=1) / b"x"),
        lambda: struct.pack(">IHBB32x", 0x60000000, 0, 6, 1),  # a jumbogram's payload length
        lambda: struct.pack(">IHBB32x", 0x60000000, 1, 59, 1),
        lambda: bytes(inet6.IPv6(nh=0, plen=8) / bytes((6, 200)) / bytes(6)),
        lambda: bytes(inet6.IPv6(nh=43, plen=4) / bytes(4)),
        lambda: bytes(inet6.IPv6(nh=60) / (bytes((60, 0, 0, 0, 0, 0, 0, 0)) * 20)),  # an endless chain
    ],
)
def test_what_is_no_packet_is_none(make: Any) -> None:
    data = make()
    assert seen(data) is None


def test_an_empty_ipv6_packet_is_one() -> None:
    assert seen(struct.pack(">IHBB32x", 0x60000000, 0, 59, 1)) == Inner(6, 59, 0, 0, None, None, 40, True)


def test_random_octets_never_raise_and_keys_imply_descriptions() -> None:
    source = random.Random(7)
    for _ in range(4000):
        data = bytearray(source.randbytes(source.randrange(0, 90)))
        if data and source.random() < 0.9:
            data[0] = source.choice((0x45, 0x46, 0x60, 0x6F))
            if len(data) > 6 and source.random() < 0.7:
                data[2:4] = len(data).to_bytes(2, "big")
                data[6:8] = b"\0\0"
        view = memoryview(bytes(data))
        packet, key = describe(view, 0, len(data)), flow_key(view, 0, len(data))
        total = total_length(view, 0, len(data))
        assert packet is None or packet.length == total
        if packet is not None and key is not None:
            assert key[0] & 0xFF == packet.protocol
            assert packet.source.to_bytes(4 if packet.family == 4 else 16, "big") in key[1]


def test_padding_for_traffic_flow_confidentiality_is_not_part_of_the_packet() -> None:
    data = bytes(inet.IP() / inet.UDP() / b"xyz")
    assert total_length(memoryview(data + bytes(100)), 0, len(data) + 100) == len(data)
    six = bytes(inet6.IPv6() / inet.UDP() / b"xyz")
    assert total_length(memoryview(six + bytes(100)), 0, len(six) + 100) == len(six)


def selectors(*texts: str) -> tuple[TrafficSelector, ...]:
    made = [parse_selector(text) for text in texts]
    assert all(isinstance(one, TrafficSelector) for one in made)
    return tuple(made)  # type: ignore[arg-type]


THERE = inet.IP(src="10.2.0.1", dst="10.1.0.1")
LATER = inet.IP(src="10.2.0.1", dst="10.1.0.1", frag=8, proto=6)


@pytest.mark.parametrize(
    ("local", "remote", "packet", "expected"),
    [
        ("10.1.0.0/16", "10.2.0.0/16", inet.IP(src="10.2.3.4", dst="10.1.2.3") / inet.TCP(), True),
        ("10.1.0.0/16", "10.2.0.0/16", inet.IP(src="10.3.3.4", dst="10.1.2.3") / inet.TCP(), False),
        ("10.1.0.0/16", "10.2.0.0/16", inet.IP(src="10.2.3.4", dst="10.4.2.3") / inet.TCP(), False),
        ("10.1.0.0/16", "10.2.0.0/16", inet.IP(src="10.1.3.4", dst="10.2.2.3") / inet.TCP(), False),
        ("10.1.0.0/16[tcp/80]", "10.2.0.0/16[tcp]", THERE / inet.TCP(dport=80), True),
        ("10.1.0.0/16[tcp/80]", "10.2.0.0/16[tcp]", THERE / inet.TCP(dport=81), False),
        ("10.1.0.0/16[tcp/80]", "10.2.0.0/16[tcp]", THERE / inet.UDP(dport=80), False),
        ("10.1.0.0/16[tcp/80]", "10.2.0.0/16[tcp]", LATER / b"x", False),
        ("10.1.0.0/16[tcp]", "10.2.0.0/16[tcp]", LATER / b"x", True),
        ("10.1.0.0/16[icmp/2048]", "10.2.0.0/16[icmp/2048]", THERE / inet.ICMP(), True),
        ("10.1.0.0/16[icmp/2048]", "10.2.0.0/16[icmp/2048]", THERE / inet.ICMP(type=0), False),
        ("0.0.0.0/0", "0.0.0.0/0", inet6.IPv6() / inet.TCP(), False),
    ],
)  # fmt: skip
def test_a_decapsulated_packet_must_match_its_sas_selectors(
    local: str, remote: str, packet: Any, expected: bool
) -> None:
    inner = seen(bytes(packet))
    assert inner is not None
    assert within(selectors(local), selectors(remote), inner, outbound=False) is expected
    swapped = Inner(
        inner.family, inner.protocol, inner.destination, inner.source, inner.destination_port,
        inner.source_port, inner.length, inner.dont_fragment,
    )  # fmt: skip
    assert within(selectors(local), selectors(remote), swapped, outbound=True) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("127.0.0.1", True), ("0.1.2.3", True), ("224.0.0.5", True), ("255.255.255.255", True),
        ("10.0.0.1", False), ("::1", True), ("ff02::1", True), ("2001:db8::1", False), ("fe80::1", False),
    ],
)  # fmt: skip
def test_no_other_machine_has_a_loopback_or_multicast_source(source: str, expected: bool) -> None:
    value = ip_address(source)
    packet = Inner(value.version, 17, int(value), 1, 1, 1, 28, True)
    assert impossible_source(packet) is expected


# RFC 6040, figure 4: inner Not-ECT, ECT(0), ECT(1), CE; columns outer in the same order; None: drop.
FIGURE_4 = {0: (0, 0, 0, None), 2: (2, 2, 1, 3), 1: (1, 1, 1, 3), 3: (3, 3, 3, 3)}
OUTER_ORDER = (0, 2, 1, 3)


@pytest.mark.parametrize("version", [4, 6])
def test_congestion_marks_come_out_as_rfc_6040_figure_4_says(version: int) -> None:
    for inner, row in FIGURE_4.items():
        for outer, expected in zip(OUTER_ORDER, row, strict=True):
            tos = 0xB8 | inner
            made = bytes(inet.IP(tos=tos) / b"x" if version == 4 else inet6.IPv6(tc=tos, fl=0xABCDE) / b"x")
            view = memoryview(bytearray(b"????" + made))
            kept = decapsulate(view, 4, 0x40 | outer, TunnelHeader())
            assert kept is (expected is not None)
            if expected is not None:
                result = bytes(view[4:])
                parsed = inet.IP(result) if version == 4 else inet6.IPv6(result)
                assert (parsed.tos if version == 4 else parsed.tc) == 0xB8 | expected
                again = (
                    inet.IP(tos=0xB8 | expected)
                    if version == 4
                    else inet6.IPv6(tc=0xB8 | expected, fl=0xABCDE)
                )
                assert result == bytes(again / b"x")
                if result != made:
                    assert changes_inner(0x40 | outer, TunnelHeader())


def test_dscp_is_taken_over_inbound_only_where_the_sa_says_so() -> None:
    view = memoryview(bytearray(bytes(inet.IP(tos=0x02) / b"x")))
    header = TunnelHeader(copy_dscp_in=True, copy_ecn=False)
    assert changes_inner(0xB9, header)
    assert decapsulate(view, 0, 0xB9, header)
    assert bytes(view) == bytes(inet.IP(tos=0xBA) / b"x")
    assert not changes_inner(0xB8, TunnelHeader())


@pytest.mark.parametrize("inner", range(0, 256, 7))
def test_the_outer_class_is_the_inner_one_or_what_the_sa_says(inner: int) -> None:
    assert outer_traffic_class(inner, TunnelHeader()) == inner
    assert outer_traffic_class(inner, TunnelHeader(copy_dscp_out=False)) == inner & 3
    assert outer_traffic_class(inner, TunnelHeader(copy_ecn=False)) == inner & 0xFC
    for made in (inet.IP(tos=inner) / b"x", inet6.IPv6(tc=inner, fl=0xFFFFF) / b"x"):
        assert traffic_class(memoryview(bytes(made)), 0) == inner


def test_df_is_read_from_ipv4_and_implied_by_ipv6() -> None:
    assert dont_fragment(memoryview(bytes(inet.IP(flags="DF") / b"x")), 0)
    assert not dont_fragment(memoryview(bytes(inet.IP() / b"x")), 0)
    assert dont_fragment(memoryview(bytes(inet6.IPv6() / b"x")), 0)
