"""Bursts cut and joined, with scapy's packets and checksums as judge: join after split is identity."""

from __future__ import annotations

import logging
import random
import struct
from typing import Any

import pytest

from cygnet.dataplane.offload import Kind, burst, finish_checksum, join, joinable, kind_of, split
from cygnet.dataplane.tun import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET, VNET_HEADER
from cygnet.ipsec.rows import Rows, Run

logging.getLogger("scapy").setLevel(logging.ERROR)
inet: Any = pytest.importorskip("scapy.layers.inet")
inet6: Any = pytest.importorskip("scapy.layers.inet6")

AT = 16


def packet(version: int, tcp: bool, payload: bytes, **fields: Any) -> bytes:
    """As scapy makes it, checksums right."""
    ip = (
        inet.IP(src="10.1.0.1", dst="10.2.0.1", id=fields.pop("id", 7), flags="DF", tos=fields.pop("tos", 0))
        if version == 4
        else inet6.IPv6(src="2001:db8:1::1", dst="2001:db8:2::1", tc=fields.pop("tos", 0), fl=5)
    )
    if tcp:
        fields.setdefault("options", [("NOP", None), ("NOP", None), ("Timestamp", (10, 20))])
        transport = inet.TCP(sport=1000, dport=2000, **{"seq": 0xFFFFF000, "ack": 9, "flags": "A"} | fields)
    else:
        transport = inet.UDP(sport=1000, dport=2000)
    return bytes(ip / transport / payload)


def segments(version: int, tcp: bool, whole: bytes, segment: int, flags: str = "A") -> list[bytes]:
    """What a network card would make of it, packet by packet."""
    count = -(-len(whole) // segment)
    made = []
    for index in range(count):
        part = whole[index * segment : (index + 1) * segment]
        fields: dict[str, Any] = {"id": 7 + index} if version == 4 else {}
        if tcp:
            drop = set() if index == count - 1 else {"F", "P"}
            drop |= set() if index == 0 else {"C"}
            fields |= {
                "seq": (0xFFFFF000 + index * segment) % (1 << 32),
                "flags": "".join(f for f in flags if f not in drop),
            }
        made.append(packet(version, tcp, part, **fields))
    return made


def read_burst(
    version: int, tcp: bool, whole: bytes, segment: int, flags: str = "A"
) -> tuple[Rows, int, int, int]:
    rows = Rows(1 << 18)
    fields = {"flags": flags} if tcp else {}
    large = packet(version, tcp, whole, **fields)
    # What is in the checksum field does not matter: the kernel leaves a partial sum there.
    rows.buffer[AT : AT + len(large)] = large
    kind = GSO_UDP_L4 if not tcp else GSO_TCPV4 if version == 4 else GSO_TCPV6
    rows.buffer[AT + len(large) : AT + len(large) + 3000] = random.Random(1).randbytes(3000)
    return rows, len(large), kind, 20 if version == 4 else 40


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize(
    ("octets", "segment"),
    [(2696, 1348), (60000, 1348), (1349, 1348), (5000, 1001), (490, 7), (40000, 537), (300, 50)],
)
def test_a_burst_is_cut_as_a_network_card_would(version: int, tcp: bool, octets: int, segment: int) -> None:
    whole = random.Random(octets).randbytes(octets)
    for flags in ("PA", "CPFA") if tcp else ("",):
        rows, length, kind, transport = read_burst(version, tcp, whole, segment, flags)
        what = burst(rows, AT, length, kind | (GSO_ECN if "C" in flags else 0), segment, transport)
        assert what is not None
        expected = segments(version, tcp, whole, segment, flags)
        assert what.count == len(expected)
        stride = what.header + segment + 40
        out = Rows(1 << 17)
        most = min(64, (1 << 16) // stride)
        got = []
        for first in range(0, what.count, most):
            count = min(most, what.count - first)
            last = split(rows, what, first, count, out, 8, stride)
            for index in range(count):
                size = last if index == count - 1 else what.header + segment
                got.append(bytes(out.buffer[8 + index * stride : 8 + index * stride + size]))
        assert got == expected


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False])
def test_what_was_cut_joins_again(version: int, tcp: bool) -> None:
    for octets, segment in ((5392, 1348), (60000, 1348), (4000, 999), (640, 64)):
        whole = random.Random(octets).randbytes(octets)
        made = segments(version, tcp, whole, segment, "PA" if tcp else "")
        rows, run = laid(made)
        kind = kind_of(rows.view, 0, run.length)
        assert kind is not None
        assert joinable(rows, run, 0, kind) == len(made)
        out = Rows(1 << 17)
        end = join(rows, run, 0, len(made), kind, out)
        flags, gso, header, size, start, offset = VNET_HEADER.unpack_from(out.buffer)
        assert (flags, size, header) == (NEEDS_CSUM, segment, kind.header)
        assert gso == (GSO_UDP_L4 if not tcp else GSO_TCPV4 if version == 4 else GSO_TCPV6)
        # The kernel would finish the checksum from the partial sum: then it is what scapy makes.
        assert finish_checksum(out.view, VNET, end - VNET, start, offset)
        fields = {"flags": "PA"} if tcp else {}
        assert bytes(out.buffer[VNET:end]) == packet(version, tcp, whole, **fields)


def laid(packets: list[bytes]) -> tuple[Rows, Run]:
    """All of one size but the last, with a pad behind each that no checksum may see."""
    rows = Rows(1 << 17)
    length, last = len(packets[0]), len(packets[-1])
    stride = -(-(length + 2) // 4) * 4
    for index, data in enumerate(packets):
        rows.buffer[index * stride : index * stride + stride] = (data + b"\xa5" * stride)[:stride]
    return rows, Run(0, stride, len(packets), length, last)


def changed(packets: list[bytes], index: int, at: int, value: int) -> list[bytes]:
    made = bytearray(packets[index])
    made[at] ^= value
    return [*packets[:index], bytes(made), *packets[index + 1 :]]


def right(version: int, tcp: bool, data: bytes) -> bytes:
    """The same packet with checksums made right again."""
    layer = inet.IP if version == 4 else inet6.IPv6
    parsed = layer(data)
    transport = parsed[inet.TCP if tcp else inet.UDP]
    del transport.chksum
    if version == 4:
        del parsed.chksum
    return bytes(parsed)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False])
def test_one_wrong_octet_anywhere_ends_the_burst_there(version: int, tcp: bool) -> None:
    made = segments(version, tcp, random.Random(3).randbytes(800), 100)
    header = len(made[0]) - 100
    allowed_differences = {4, 5, 10, 11} if version == 4 else set()
    for at in range(header + 4):
        if version == 4 and at in allowed_differences:
            continue
        broken = changed(made, 3, at, 0x01 if at else 0x10)
        rows, run = laid(broken)
        kind = kind_of(rows.view, 0, run.length)
        assert kind is not None
        together = joinable(rows, run, 0, kind)
        # Some octets are wrong by themselves (checksum), others only differ: never across the change.
        assert together <= 4, at
        assert together <= 3 or right(version, tcp, broken[3]) != broken[3] or at == 0, at


def test_the_packet_with_push_is_the_last_of_its_burst() -> None:
    made = segments(4, True, bytes(1000), 100)
    made[4] = packet(4, True, bytes(100), seq=(0xFFFFF000 + 400) % (1 << 32), flags="PA", id=11)
    rows, run = laid(made)
    kind = kind_of(rows.view, 0, run.length)
    assert kind is not None
    assert joinable(rows, run, 0, kind) == 5
    out = Rows(1 << 17)
    end = join(rows, run, 0, 5, kind, out)
    parsed = inet.IP(bytes(out.buffer[VNET:end]))
    assert parsed[inet.TCP].flags == "PA"
    assert parsed.len == 52 + 500


def test_a_gap_and_a_repeat_in_the_sequence_end_the_burst() -> None:
    made = segments(4, True, bytes(1000), 100)
    for order in ([0, 1, 2, 4, 5], [0, 1, 2, 2, 3], [0, 1, 2, 1, 0]):
        rows, run = laid([made[i] for i in order])
        kind = kind_of(rows.view, 0, run.length)
        assert kind is not None
        assert joinable(rows, run, 0, kind) == 3


@pytest.mark.parametrize(
    ("version", "make"),
    [
        (4, lambda: packet(4, True, b"x" * 100, flags="SA")),
        (4, lambda: packet(4, True, b"x" * 100, flags="FA")),
        (4, lambda: packet(4, True, b"x" * 100, flags="UA")),
        (4, lambda: packet(4, True, b"")),
        (4, lambda: bytes(inet.IP(src="1.1.1.1", flags="DF", options=inet.IPOption(b"\x94\x04\0\0"))
                          / inet.TCP(flags="A") / (b"x" * 99))),
        (4, lambda: bytes(inet.IP(src="1.1.1.1", flags="MF") / inet.TCP(flags="A") / (b"x" * 99))),
        (4, lambda: bytes(inet.IP(src="1.1.1.1", frag=5) / inet.TCP(flags="A") / (b"x" * 99))),
        (4, lambda: bytes(inet.IP(src="1.1.1.1", flags="DF") / inet.UDP(chksum=0) / (b"x" * 99))),
        (4, lambda: bytes(inet.IP(src="1.1.1.1", flags="DF") / inet.ICMP() / (b"x" * 99))),
        (6, lambda: bytes(inet6.IPv6(src="::1") / inet6.IPv6ExtHdrHopByHop()
                          / inet.TCP(flags="A") / (b"x" * 99))),
        (6, lambda: packet(6, True, b"x" * 100, flags="R")),
    ],
)  # fmt: skip
def test_what_must_not_be_joined_is_of_no_kind(version: int, make: Any) -> None:
    data = make()
    rows = Rows(4096)
    rows.buffer[: len(data)] = data
    assert kind_of(rows.view, 0, len(data)) is None


def test_lengths_that_lie_are_of_no_kind() -> None:
    good = packet(4, True, b"x" * 100)
    rows = Rows(4096)
    for cut in range(1, len(good)):
        rows.buffer[:cut] = good[:cut]
        assert kind_of(rows.view, 0, cut) is None
    for at, value in ((2, 1), (3, 1), (32, 0x10), (32, 0x40)):
        broken = bytearray(good)
        broken[at] = value
        rows.buffer[: len(broken)] = broken
        assert kind_of(rows.view, 0, len(broken)) is None


def test_a_burst_that_makes_no_sense_is_refused() -> None:
    rows, length, kind, transport = read_burst(4, True, bytes(5000), 1000)
    for gso, segment, start in (
        (kind, 0, transport),
        (kind, 1000, 19),
        (kind, 1000, 24),
        (kind, 1000, length),
        (0x40, 1000, transport),
        (3, 1000, transport),
    ):
        assert burst(rows, AT, length, gso, segment, start) is None
    assert burst(rows, AT, 52, kind, 1000, transport) is None
    rows.buffer[AT + 32] = 0x10  # a TCP header of 4 octets
    assert burst(rows, AT, length, kind, 1000, transport) is None


def test_random_rows_never_join_beyond_what_a_slow_reader_finds_equal() -> None:
    source = random.Random(5)
    made = segments(4, True, source.randbytes(6400), 100)
    for _ in range(80):
        picked: list[bytes] = []
        at = source.randrange(len(made) - 10)
        while len(picked) < 12:
            picked.append(made[at % len(made)])
            at += source.choice((1, 1, 1, 1, 2, 0))
        if source.random() < 0.5:
            index = source.randrange(12)
            picked = changed(picked, index, source.randrange(20, 140), 1 << source.randrange(8))
        rows, run = laid(picked)
        kind = kind_of(rows.view, 0, run.length)
        if kind is None:
            continue
        together = joinable(rows, run, 0, kind)
        expected = slow_joinable(picked)
        assert together <= expected
        assert together == expected or right(4, True, picked[together]) != picked[together]


def slow_joinable(packets: list[bytes]) -> int:
    count = 1
    if right(4, True, packets[0]) != packets[0]:
        return 1
    while count < len(packets):
        before, this = (inet.IP(data)[inet.TCP] for data in packets[count - 1 : count + 1])
        if right(4, True, packets[count]) != packets[count]:
            break
        if this.seq != (before.seq + 100) % (1 << 32) or packets[count][40:52] != packets[0][40:52]:
            break
        if packets[count][20:24] != packets[0][20:24] or packets[count][28:36] != packets[0][28:36]:
            break
        count += 1
    return count


def test_kinds_say_what_they_are() -> None:
    data = packet(6, False, b"x" * 100)
    rows = Rows(4096)
    rows.buffer[: len(data)] = data
    assert kind_of(rows.view, 0, len(data)) == Kind(6, 17, 40, 48)


def test_an_unfinished_checksum_outside_the_packet_is_refused() -> None:
    view = memoryview(bytearray(100))
    assert not finish_checksum(view, 0, 60, 50, 16)
    assert finish_checksum(view, 0, 60, 20, 16)


def test_the_finished_checksum_of_udp_is_never_zero() -> None:
    data = bytearray(packet(4, False, b"\0\0"))
    pseudo = (sum(struct.unpack(">4H", data[12:20])) + 17 + 10) % 0xFFFF
    data[26:28] = pseudo.to_bytes(2, "big")
    # The payload that makes the sum come out as 0xFFFF, whose complement would say "no checksum".
    total = sum(struct.unpack(">4H", data[20:28]))
    data[28:30] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
    assert finish_checksum(memoryview(data), 0, len(data), 20, 6)
    assert data[26:28] == b"\xff\xff"
