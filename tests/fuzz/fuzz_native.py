"""Fuzz target: the crate's parsers: reads from the TUN, datagrams, opened packets, its descriptions.

First octet modulo 5: a TUN read with its vnet header; a datagram, perhaps cut into segments; an authentic
packet of arbitrary contents; a packet to describe, held against the reference's description; plain ESP with
its IPv4 header. The crate runs in this thread, over socket pairs; its own mistakes are counted as `fault`,
and here they are findings.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address
from typing import Any

from cygnet.dataplane.engines import native, native_available
from cygnet.ipsec.esp import OutboundSa, Workspace
from cygnet.ipsec.inner import describe
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol, UdpEncapsulation
from cygnet.policy.selectors import TrafficSelector, parse_selector
from cygnet.testing import fuzzing
from cygnet.wire.numbers import Encr, Integ

LOOPBACK = IPv4Address("127.0.0.1")
ANYWHERE = tuple(
    s for s in map(parse_selector, ("0.0.0.0/0", "::/0")) if isinstance(s, TrafficSelector)
)  # fmt: skip
MAX_INPUT = 20_000


def parameters(direction: Direction, ports: tuple[int, int]) -> SaParameters:
    return SaParameters(
        direction, SaProtocol.ESP, Mode.TUNNEL, 0x1000, 1, 1, LOOPBACK, LOOPBACK, UdpEncapsulation(*ports),
        Encr.AES_GCM_16, 128, Integ.NONE, bytes(20), b"", False, 0, ANYWHERE, ANYWHERE,
    )  # fmt: skip


class Bed:
    """One engine: a stand-in for the TUN, a UDP lane, and the peer's socket."""

    def __init__(self) -> None:
        self.tun, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.lane, self.peer = self._udp(), self._udp()
        self.wire, raw = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (self.tun, theirs, self.wire, raw):
            sock.setblocking(False)
        ports = self.lane.getsockname()[1], self.peer.getsockname()[1]
        crate = native.crate_module()
        sockets = [(self.lane.fileno(), 4, ports[0]), (raw.fileno(), 4, 0)]
        self.engine = crate.Engine(theirs.fileno(), sockets, -1, 2, True, 1.0)
        theirs.close()
        raw.close()
        self.engine.set_tun_offloads(True, True)
        whole = (0, (1 << 32) - 1)
        entry = ((0, 1, 0), 1, 1, whole, whole, (0, 255), (-1, 65535), (-1, 65535))
        self.engine.put_policy(1, "fuzz", False, [1], [(4, True, entry, [(0, 0)])])
        self.inbound = native.NativeInbound(1, parameters(Direction.IN, ports))
        self.outbound = native.NativeOutbound(2, parameters(Direction.OUT, ports))
        self.outbound.crate.set_path(0, LOOPBACK, LOOPBACK, ports, 1400)
        self.engine.install_inbound(self.inbound.crate, LOOPBACK)
        self.engine.install_outbound(self.outbound.crate)
        self.sealer = OutboundSa(parameters(Direction.OUT, ports))

    @staticmethod
    def _udp() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind(("127.0.0.1", 0))
        made.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        made.setsockopt(socket.IPPROTO_UDP, 104, 1)  # UDP_GRO
        return made

    def run(self, direction: int) -> None:
        """A turn; whatever came out is taken away."""
        self.engine.step(direction)
        self.engine.events()
        for sock in (self.tun, self.peer, self.wire):
            while True:
                try:
                    sock.recv(1 << 17)
                except BlockingIOError:
                    break
        if self.engine.drops.get("fault"):
            raise AssertionError("the crate panicked")


_bed: list[Bed] = []
WORK = Workspace()


def one(data: bytes) -> None:
    if not native_available() or len(data) < 4:
        return
    if not _bed:
        _bed.append(Bed())
    bed, kind, octets = _bed[0], data[0] % 5, data[3 : MAX_INPUT + 3]
    if kind == 0:
        bed.tun.send(octets.ljust(1, b"\0"))
        bed.run(0)
    elif kind == 1:
        segment = data[1] << 8 | data[2]
        control: list[Any] = [(17, 103, struct.pack("=H", segment))] if 0 < segment < len(octets) else []
        if control and len(octets) > 60 * segment:
            octets = octets[: 60 * segment]
        try:
            bed.peer.sendmsg([b"\0\0\x10\0" + octets], control, 0, bed.lane.getsockname())
        except OSError:
            return  # segments that the loopback does not take
        bed.run(1)
    elif kind == 2:
        authentic(bed, octets, data[1])
    elif kind == 4:
        bed.wire.send(octets.ljust(1, b"\0"))
        bed.run(1)
    else:
        described(octets)


def authentic(bed: Bed, octets: bytes, tos: int) -> None:
    """Sealed as the peer would, whatever it is."""
    sa, octets = bed.sealer, octets[:9000]
    WORK.sealed.buffer[sa.head : sa.head + len(octets)] = octets
    version = 4 if octets and octets[0] >> 4 == 4 else 41
    end = sa.seal_batch(WORK, 0, 1, len(octets), len(octets), version)
    bed.peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    before = bed.inbound.packets + sum(bed.inbound.drops.values())
    bed.peer.sendto(bytes(WORK.sealed.buffer[:end]), bed.lane.getsockname())
    bed.run(1)
    if bed.inbound.packets + sum(bed.inbound.drops.values()) <= before:
        raise AssertionError("a packet was neither delivered nor counted")


def described(octets: bytes) -> None:
    ours = describe(memoryview(octets), 0, len(octets))
    theirs = native.crate_describe(octets)
    if (ours is None) != (theirs is None):
        raise AssertionError("one sees a packet, the other none")
    if ours is not None:
        ports = [-1 if port is None else port for port in (ours.source_port, ours.destination_port)]
        if theirs != (ours.family, ours.protocol, ours.source, ours.destination, *ports):
            raise AssertionError("the two see different packets")


def seeds() -> list[bytes]:
    ends = bytes.fromhex("0a0100010a020001")
    ends6 = bytes(15) + b"\1" + bytes(15) + b"\2"
    datagram = struct.pack(">HHHH", 1, 53, 16, 9) + bytes(8)
    udp = bytes.fromhex("450000240001400040110000") + ends + datagram
    tcp = bytes.fromhex("45000fc80001000040060000") + ends
    tcp += bytes.fromhex("0001000200000003000000045010ffff00000000") + bytes(4000)
    six = bytes.fromhex("6000000000101140") + ends6 + datagram
    hops = bytes.fromhex("6000000000180040") + ends6 + bytes.fromhex("1100010400000000") + datagram
    burst = struct.pack("=BBHHHH", 1, 1, 40, 1000, 20, 16) + tcp
    usual = bytes(10) + udp
    packets = [udp, six, hops, tcp[:60]]
    found = [b"\0\0\0" + usual, b"\0\0\0" + burst, b"\1\0\x40" + bytes(200), b"\1\0\0" + bytes(77)]
    plain = bytes.fromhex("46000060000000004032000000000000 7f000001 01010101 00001000 00000001") + bytes(68)
    found += [b"\4\0\0" + plain, b"\4\0\0" + plain[:30]]
    return found + [b"\2\1\0" + p for p in packets] + [b"\3\0\0" + p for p in packets]


if __name__ == "__main__":
    fuzzing.run(one, seeds())
