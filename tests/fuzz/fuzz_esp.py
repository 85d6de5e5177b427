"""Fuzz target: ESP packets, what comes out of them, and bursts from the TUN.

First octet modulo 3: an ESP run on a live SA; an authentic packet of arbitrary contents; a TUN read.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from cygnet.dataplane.offload import burst, finish_checksum, join, joinable, kind_of, split
from cygnet.dataplane.tun import VNET, VNET_HEADER
from cygnet.ipsec.esp import InboundSa, OutboundSa, Workspace
from cygnet.ipsec.inner import describe, flow_key, total_length
from cygnet.ipsec.rows import MAX_ROWS, Rows
from cygnet.ipsec.tunnel import decapsulate
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol, TunnelHeader
from cygnet.testing import fuzzing
from cygnet.wire.numbers import Encr, Integ

WORK = Workspace()
RECEIVED, BURST, OUT = Rows(1 << 17), Rows(1 << 18), Rows(1 << 18)
MAX_INPUT = 20_000


def parameters(direction: Direction) -> SaParameters:
    end = IPv4Address("192.0.2.1")
    return SaParameters(
        direction, SaProtocol.ESP, Mode.TUNNEL, 0x1000, 1, 1, end, end, None, Encr.AES_GCM_16, 128,
        Integ.NONE, bytes(20), b"", False, 64, (), (),
    )  # fmt: skip


def one(data: bytes) -> None:
    if len(data) < 4:
        return
    kind, size, octets = data[0] % 3, data[1] << 8 | data[2], data[3 : MAX_INPUT + 3]
    if kind == 0:
        opened(octets, size)
    elif kind == 1:
        authentic(octets, size)
    else:
        read(octets)


def opened(octets: bytes, size: int) -> None:
    """Datagrams of `size` octets, forged: nothing may come out but what was sealed by us."""
    stride = max(8, min(size, len(octets)))
    count = min(MAX_ROWS, -(-len(octets) // stride))
    last = len(octets) - (count - 1) * stride if count * stride >= len(octets) else stride
    if len(octets) < 8 or last < 8:
        return
    RECEIVED.buffer[: len(octets)] = octets
    sa = InboundSa(parameters(Direction.IN))
    runs, _ = sa.open_batch(WORK, RECEIVED, 0, stride, count, last)
    if sum(run.count for run in runs) + sum(sa.drops.values()) != count:
        raise AssertionError("a packet was neither delivered nor counted")


def authentic(octets: bytes, tos: int) -> None:
    """A peer with the keys may put anything into its packets."""
    sender, receiver = OutboundSa(parameters(Direction.OUT)), InboundSa(parameters(Direction.IN))
    length = min(len(octets), 4000)
    count = 1 + tos % 8
    stride = sender.sealed_length(length)
    for row in range(count):
        at = row * stride + sender.head
        WORK.sealed.buffer[at : at + length] = octets[:length]
    end = sender.seal_batch(WORK, 0, count, length, length, 4 if octets[0] >> 4 == 4 else 41)
    RECEIVED.buffer[: count * stride] = WORK.sealed.buffer[: count * stride]
    runs, _ = receiver.open_batch(WORK, RECEIVED, 0, stride, count, end)
    view = WORK.opened.view
    for run in runs:
        if bytes(view[run.start : run.start + run.length]) != octets[:length]:
            raise AssertionError("what was sealed did not come out")
        packet, total = describe(view, run.start, run.length), total_length(view, run.start, run.length)
        if packet is not None and packet.length != total:
            raise AssertionError("two lengths of one packet")
        flow_key(view, run.start, run.length)
        kind = kind_of(view, run.start, run.length)
        if kind is not None and run.count > 1:
            together = joinable(WORK.opened, run, 0, kind)
            if together > 1:
                join(WORK.opened, run, 0, together, kind, OUT)
        if total:
            decapsulate(view, run.start, tos & 0xFF, TunnelHeader(copy_dscp_in=True))


def read(octets: bytes) -> None:
    """What a TUN with a broken kernel behind it could give."""
    if len(octets) <= VNET:
        return
    _, gso_type, _, segment, start, offset = VNET_HEADER.unpack_from(octets)
    length = len(octets) - VNET
    BURST.buffer[16 : 16 + length] = octets[VNET:]
    what = burst(BURST, 16, length, gso_type, segment, start)
    if what is None:
        finish_checksum(BURST.view, 16, length, start, offset)
        return
    stride = what.header + what.segment + 40
    most = max(1, min(MAX_ROWS, 65507 // stride))
    left = what.length - what.header
    for first in range(0, min(what.count, 300), most):
        count = min(most, what.count - first)
        last = split(BURST, what, first, count, WORK.sealed, 16, stride)
        left -= (count - 1) * what.segment + last - what.header
    if what.count <= 300 and left:
        raise AssertionError("octets were lost or made up")


def seeds() -> list[bytes]:
    tcp = bytes.fromhex(
        "450000640001400040060000" + "0a0100010a020001" + "03e807d0" + "00" * 8 + "5010" + "00" * 6
    )
    packet = tcp + bytes(60)
    udp6 = bytes.fromhex("6000000000141140") + bytes(32) + bytes.fromhex("00350035001400aa") + bytes(12)
    sealed = struct.pack(">II", 0x1000, 1) + bytes(60)
    return [
        b"\0\0\x44" + sealed * 3,
        b"\0\0\0" + sealed,
        b"\1\0\0" + packet,
        b"\1\0\7" + udp6,
        b"\1\0\0" + packet + bytes(40),
        b"\2\0\0" + VNET_HEADER.pack(1, 1, 40, 100, 20, 16) + tcp + bytes(1000),
        b"\2\0\0" + VNET_HEADER.pack(1, 5, 48, 7, 40, 6) + udp6 + bytes(1000),
        b"\2\0\0" + VNET_HEADER.pack(1, 0, 0, 0, 20, 16) + packet,
    ]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
