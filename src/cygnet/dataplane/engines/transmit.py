"""Sealed packets to the wire: source address, traffic class, DF and segmentation as socket options.

One `sendmsg` carries up to 64 equal ESP packets in UDP (UDP_SEGMENT); raw protocol-50 sockets take one
at a time. The kernel keeps path MTUs and judges the ICMP messages about them (it checks what they
quote and bounds them); here they are only asked for.
"""

from __future__ import annotations

import errno
import socket
import struct
from time import monotonic

from cygnet.dataplane.path_mtu import PathMtus
from cygnet.dataplane.sad import Outbound, largest_inner
from cygnet.dataplane.tun import Offloads
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.rows import MAX_ROWS

MAX_DATAGRAM = 65507
"""Octets of UDP payload in one IPv4 datagram, which a segmented send must not exceed either."""

_UDP_SEGMENT = 103
_IP_TOS, _IP_PKTINFO, _IP_MTU_DISCOVER = 1, 8, 10
_IPV6_MTU_DISCOVER, _IPV6_TCLASS = 23, 67
_PMTUDISC_DONT, _PMTUDISC_PROBE, _PMTUDISC_OMIT = 0, 3, 5
"""None of these obeys what ICMP told the kernel, but one: without DF the sender cuts IPv6 to fit the path."""


class Transmitter:
    """Sends for all outbound SAs. Remembers each socket's DF setting, so as to change it only when needed."""

    def __init__(
        self,
        udp4: socket.socket | None,
        udp6: socket.socket | None,
        raw4: socket.socket | None,
        raw6: socket.socket | None,
        offloads: Offloads,
        wire4: socket.socket | None = None,
        wire6: socket.socket | None = None,
    ) -> None:
        self._udp = {4: udp4, 6: udp6}
        self._raw = {4: raw4, 6: raw6}
        self._wire = {4: wire4, 6: wire6}
        self._offloads = offloads
        self.paths = PathMtus()
        self._df: dict[int, bool] = {}

    def attach(self, entry: Outbound) -> None:
        """Choose the socket and learn the path; raises ValueError where there is no such socket."""
        parameters = entry.sa.parameters
        version = parameters.local.version
        if entry.singly and self._wire[version] is None:
            raise ValueError(f"no socket for AH and transport mode over IPv{version}")
        entry.wire = self._wire[version]
        chosen = (self._udp if parameters.encapsulation else self._raw)[version]
        if chosen is None and not entry.singly:
            kind = "UDP-encapsulated" if parameters.encapsulation else "plain"
            raise ValueError(f"no socket for {kind} ESP over IPv{version}")
        entry.socket = chosen
        port = parameters.encapsulation.remote_port if parameters.encapsulation else 0
        entry.address = (str(parameters.remote), port)
        entry.ancillary.clear()
        self.measure(entry)

    def measure(self, entry: Outbound) -> bool:
        """Ask for the path MTU again; whether it changed what fits."""
        parameters = entry.sa.parameters
        before = entry.max_inner
        entry.path_mtu = self.paths.of(parameters.local, parameters.remote, monotonic())
        entry.max_inner = largest_inner(entry)
        return entry.max_inner != before

    def rows_per_send(self, entry: Outbound, stride: int) -> int:
        return max(1, min(MAX_ROWS, MAX_DATAGRAM // stride))

    def send(
        self, entry: Outbound, view: memoryview, stride: int, count: int, last: int, tos: int, df: bool
    ) -> Drop | None:
        """Send `count` ESP packets that stand `stride` apart from the begin of `view`, the last of `last`
        octets. None, or why (some of) it did not leave."""
        chosen = entry.socket
        if self._df.get(chosen.fileno()) is not df:
            self._set_df(chosen, df)
        if count > 1 and (not self._offloads.udp_gso or not entry.address[1]):
            return self._send_each(entry, view, stride, count, last, tos)
        segment = stride if count > 1 else 0
        ancillary = entry.ancillary.get((segment, tos)) or self._ancillary(entry, segment, tos)
        try:
            chosen.sendmsg((view[: (count - 1) * stride + last],), ancillary, 0, entry.address)
        except OSError as error:
            if segment and error.errno in (errno.EIO, errno.EINVAL):
                # EIO: the device cannot segment (no checksum offload): never again. EINVAL: segments larger
                # than the path takes, or something that each packet by itself will tell.
                self._offloads.udp_gso = error.errno != errno.EIO
                return self._send_each(entry, view, stride, count, last, tos)
            return _reason(error)
        return None

    def _send_each(
        self, entry: Outbound, view: memoryview, stride: int, count: int, last: int, tos: int
    ) -> Drop | None:
        ancillary = entry.ancillary.get((0, tos)) or self._ancillary(entry, 0, tos)
        failed: Drop | None = None
        for index in range(count):
            at = index * stride
            size = stride if index < count - 1 else last
            try:
                entry.socket.sendmsg((view[at : at + size],), ancillary, 0, entry.address)
            except OSError as error:
                failed = _reason(error)
        return failed

    def _ancillary(self, entry: Outbound, segment: int, tos: int) -> list[tuple[int, int, bytes]]:
        local = entry.sa.parameters.local
        made: list[tuple[int, int, bytes]] = []
        if local.version == 4:
            made.append((socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, local.packed, bytes(4))))
            made.append((socket.IPPROTO_IP, _IP_TOS, struct.pack("=i", tos)))
        else:
            made.append((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16si", local.packed, 0)))
            made.append((socket.IPPROTO_IPV6, _IPV6_TCLASS, struct.pack("=i", tos)))
        if segment:
            made.append((socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", segment)))
        if len(entry.ancillary) >= 64:
            entry.ancillary.clear()
        entry.ancillary[(segment, tos)] = made
        return made

    def _set_df(self, chosen: socket.socket, df: bool) -> None:
        if chosen.family == socket.AF_INET:
            mode = _PMTUDISC_PROBE if df else _PMTUDISC_OMIT
            chosen.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)
        else:
            mode = _PMTUDISC_PROBE if df else _PMTUDISC_DONT
            chosen.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)
        self._df[chosen.fileno()] = df


def _reason(error: OSError) -> Drop:
    return Drop.TOO_BIG if error.errno == errno.EMSGSIZE else Drop.SEND_FAILED
