"""Where a packet goes: single crafted packets between alice and bob, looked for on the way and at the end.

A packet that arrives and was not seen on the outer link went through the tunnel; one that was seen there
went in clear.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from dataclasses import dataclass, replace
from ipaddress import ip_address

from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import ALICE, BOB, INNER, OUTER, TwoGateways

TCP, UDP, ICMP, ICMPV6, GRE, OSPF = 6, 17, 1, 58, 47, 89
ETH_P_ALL = 3
PATIENCE = 3.0
"""Seconds after which a packet that was not seen counts as lost."""
SILENCE = 0.4
"""The same for those that are expected to be."""


@dataclass(frozen=True)
class Probe:
    """A packet from `source` to `destination`; `port` is the type of an ICMP message."""

    protocol: int
    port: int = 0
    source_port: int = 40000
    source: str = ALICE
    destination: str = BOB
    tos: int = 0
    df: bool = False
    size: int = 0

    def back(self) -> Probe:
        """From the other side, as an answer would go: addresses and ports exchanged."""
        ports = (self.port, self.source_port)
        if self.protocol in (ICMP, ICMPV6):
            ports = ports[::-1]
        return replace(
            self, source=self.destination, destination=self.source, source_port=ports[0], port=ports[1]
        )

    def packet(self, marker: bytes) -> bytes:
        source, destination = ip_address(self.source), ip_address(self.destination)
        payload = marker.ljust(self.size, b".")
        if self.protocol == UDP:
            body = struct.pack("!HHHH", self.source_port, self.port, 8 + len(payload), 0) + payload
            at = 6
        elif self.protocol == TCP:
            # RST: nobody answers it.
            body = struct.pack("!HHIIBBHHH", self.source_port, self.port, 1, 1, 0x50, 4, 0, 0, 0) + payload
            at = 16
        elif self.protocol in (ICMP, ICMPV6):
            body = struct.pack("!BBHHH", self.port, 0, 0, 1, 1) + payload
            at = 2
        else:
            body, at = payload, -1
        if at >= 0:
            pseudo = source.packed + destination.packed + struct.pack("!II", len(body), self.protocol)
            total = checksum((b"" if self.protocol == ICMP else pseudo) + body)
            body = body[:at] + struct.pack("!H", total) + body[at + 2 :]
        if source.version == 6:
            first = 6 << 28 | self.tos << 20
            head = struct.pack("!IHBB", first, len(body), self.protocol, 64)
            return head + source.packed + destination.packed + body
        head = struct.pack(
            "!BBHHHBBH", 0x45, self.tos, 20 + len(body), 7, 0x4000 * self.df, 64, self.protocol, 0
        )
        head += source.packed + destination.packed
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Probes:
    """Sends probes and says of each: `tunnel`, `clear`, `lost`, or `leaked` (seen outside, never arrived)."""

    def __init__(self, net: TwoGateways) -> None:
        self._net = net
        self._count = 0
        # Where gateways hand packets to the hosts: what they send, seen before a host's own filters.
        self._ends = {space: _watch(space, INNER) for space in (net.moon, net.sun)}
        self._outside = _watch(net.sun, OUTER)
        self._senders = {
            (host, version): host.inside(make)
            for host in (net.alice, net.bob)
            for version, make in ((4, _raw4), (6, _raw6))
        }

    def close(self) -> None:
        for sock in (*self._ends.values(), self._outside, *self._senders.values()):
            sock.close()

    def send(self, *probes: Probe, patience: float = PATIENCE) -> list[str]:
        """Send all at once. `patience`: how long they may take, a negotiation included."""
        self._drain()
        marked = {}
        for probe in probes:
            self._count += 1
            marked[f"<probe {self._count}>".encode()] = probe
        for marker, probe in marked.items():
            version = ip_address(probe.source).version
            host = self._net.alice if probe.source.startswith(("10.1.", "fd01:")) else self._net.bob
            packet = probe.packet(marker)
            self._senders[host, version].sendto(packet, (probe.destination, 0))
        arrived: set[bytes] = set()
        outside: set[bytes] = set()
        deadline = time.monotonic() + patience
        while len(arrived) < len(marked) and (left := deadline - time.monotonic()) > 0:
            self._look(marked, arrived, outside, left)
        while self._look(marked, arrived, outside, 0):
            pass
        return [
            ("clear" if marker in outside else "tunnel")
            if marker in arrived
            else ("leaked" if marker in outside else "lost")
            for marker in marked
        ]

    def _look(
        self, marked: dict[bytes, Probe], arrived: set[bytes], outside: set[bytes], wait: float
    ) -> bool:
        """One packet of each socket that has any; whether there was one."""
        ready, _, _ = select.select([*self._ends.values(), self._outside], [], [], wait)
        for sock in ready:
            packet = sock.recv(65535)
            for marker, probe in marked.items():
                if marker not in packet or _ends_of(packet) != (probe.source, probe.destination):
                    continue
                if sock is self._outside:
                    outside.add(marker)
                elif sock is self._ends[self._far(probe)]:
                    arrived.add(marker)
        return bool(ready)

    def _far(self, probe: Probe) -> Namespace:
        return self._net.sun if probe.source.startswith(("10.1.", "fd01:")) else self._net.moon

    def _drain(self) -> None:
        while ready := select.select([*self._ends.values(), self._outside], [], [], 0)[0]:
            for sock in ready:
                sock.recv(65535)


def _ends_of(packet: bytes) -> tuple[str, str]:
    at, length = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    return str(ip_address(packet[at : at + length])), str(ip_address(packet[at + length : at + 2 * length]))


def _watch(space: Namespace, interface: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        made.bind((interface, ETH_P_ALL))
        return made

    return space.inside(make)


def _raw4() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def _raw6() -> socket.socket:
    return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
