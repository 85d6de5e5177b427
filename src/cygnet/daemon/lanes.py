"""IKE's UDP sockets: datagrams in batches with their paths, and out from the address they belong to.

A *lane* is one socket of one port. On a port with the non-ESP marker (4500; RFC 3948, section 2.2)
four zero octets precede IKE and are cut off here; one 0xff octet is a NAT keepalive; the rest is ESP
that the kernel handed to the wrong socket of the group, and goes back to the data plane with its
path. Receive GRO may have merged datagrams of one sender: the control message says where to cut.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from cygnet.ike.world import Path
from cygnet.policy.selectors import IpAddress

IP_PKTINFO = 8
UDP_GRO = 104
NON_ESP_MARKER = bytes(4)
BATCH = 32
"""Datagrams per wake-up and lane: timers, the control socket and the other lanes get their turn."""
MAX_DATAGRAM = 65535

_IN_PKTINFO = struct.Struct("=i4s4s")
_IN6_PKTINFO = struct.Struct("=16si")
_ANCILLARY = socket.CMSG_SPACE(_IN6_PKTINFO.size) + 2 * socket.CMSG_SPACE(4)
"""Where to, how merged, and the traffic class, which the data plane's sockets of the group want."""

_MAX_ADDRESSES = 4096
_addresses: dict[str | bytes, IpAddress] = {}


class Lane:
    """One socket, its port, and whether the non-ESP marker is used there."""

    def __init__(self, sock: socket.socket, *, marker: bool) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.family = sock.family
        self.port: int = sock.getsockname()[1]
        self.marker = marker
        if self.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


class Lanes:
    """All lanes of the daemon on one event loop.

    `received(batch)` gets a list of (IKE datagram, path); `foreign(data, path)` an ESP datagram.
    `listen`: local addresses that are answered on; none named: all.
    `counters`: `received sent keepalive foreign runt no-path not-listening send-failed receive-failed`.
    """

    def __init__(
        self,
        lanes: list[Lane],
        received: Callable[[list[tuple[bytes, Path]]], None],
        foreign: Callable[[bytes, Path], None],
        listen: frozenset[IpAddress] = frozenset(),
    ) -> None:
        self._lanes = lanes
        self._listen = listen
        self._received = received
        self._foreign = foreign
        self._buffer = bytearray(MAX_DATAGRAM)
        self._view = memoryview(self._buffer)
        self._out: dict[tuple[int, int], socket.socket] = {}
        for lane in lanes:
            self._out.setdefault((4 if lane.family == socket.AF_INET else 6, lane.port), lane.sock)
        self.counters: Counter[str] = Counter()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        for lane in self._lanes:
            loop.add_reader(lane.sock, self._readable, lane)

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop reading. The sockets stay open: closing one renumbers the others of its group."""
        for lane in self._lanes:
            loop.remove_reader(lane.sock)

    def ports(self, family: int) -> set[int]:
        return {port for version, port in self._out if version == family}

    def send(self, path: Path, data: bytes) -> bool:
        """Send from `path.local` if it is a definite address; False (and counted) when that cannot be."""
        sock = self._out.get((path.local.version, path.local_port))
        if sock is None:
            self.counters["no-path"] += 1
            return False
        local = path.local
        if local.version == 4:
            control = (socket.IPPROTO_IP, IP_PKTINFO, _IN_PKTINFO.pack(0, local.packed, bytes(4)))
        else:
            control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(local.packed, 0))
        try:
            sock.sendmsg((data,), (control,), 0, (str(path.remote), path.remote_port))
        except OSError as error:
            # A full queue or no route is a lost datagram: retransmission is IKE's answer to both.
            self.counters["send-failed"] += 1
            self.counters[f"send-failed-{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1
            return False
        self.counters["sent"] += 1
        return True

    def deliver(self, data: bytes, path: Path) -> None:
        """A datagram of a marker port that came another way (the data plane's socket got it)."""
        batch: list[tuple[bytes, Path]] = []
        self._sort(data, path, True, batch)
        if batch:
            self._received(batch)

    def _readable(self, lane: Lane) -> None:
        batch: list[tuple[bytes, Path]] = []
        receive, buffer, view = lane.sock.recvmsg_into, [self._buffer], self._view
        for _ in range(BATCH):
            try:
                length, ancillary, _, source = receive(buffer, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError:
                self.counters["receive-failed"] += 1
                break
            local: IpAddress | None = None
            cut = 0
            for level, kind, value in ancillary:
                if level == socket.IPPROTO_UDP and kind == UDP_GRO:
                    cut = int.from_bytes(value[:4], "little")
                elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                    local = address(value[8:12])
                elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                    local = address(value[:16])
            if local is None or source[1] == 0:  # port 0 cannot be answered
                self.counters["no-path"] += 1
                continue
            if self._listen and local not in self._listen:
                self.counters["not-listening"] += 1
                continue
            path = Path(local, lane.port, address(source[0]), source[1])
            if 0 < cut < length:
                for start in range(0, length, cut):
                    self._sort(bytes(view[start : min(start + cut, length)]), path, lane.marker, batch)
            else:
                self._sort(bytes(view[:length]), path, lane.marker, batch)
        if batch:
            self._received(batch)

    def _sort(self, data: bytes, path: Path, marker: bool, batch: list[tuple[bytes, Path]]) -> None:
        if marker:
            if data[:4] == NON_ESP_MARKER and len(data) > 4:
                data = data[4:]
            elif len(data) == 1 and data[0] == 0xFF:
                self.counters["keepalive"] += 1
                return
            elif len(data) <= 4:
                self.counters["runt"] += 1
                return
            else:
                self.counters["foreign"] += 1
                self._foreign(data, path)
                return
        self.counters["received"] += 1
        batch.append((data, path))


def address(value: str | bytes) -> IpAddress:
    """An address from its text or octets (4 or 16), kept in a small bounded cache."""
    known = _addresses.get(value)
    if known is None:
        if isinstance(value, bytes):
            known = IPv4Address(value) if len(value) == 4 else IPv6Address(value)
        else:
            known = IPv6Address(value.partition("%")[0]) if ":" in value else IPv4Address(value)
        if len(_addresses) >= _MAX_ADDRESSES:
            _addresses.clear()
        _addresses[value] = known
    return known
