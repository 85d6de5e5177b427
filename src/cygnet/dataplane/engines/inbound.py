"""From the wire to the TUN.

    receive up to 64 KB at once -> cut where the control message says -> which SA -> open
    -> selectors and policy (RFC 4301, section 5.2) -> ECN (RFC 6040) -> join -> write

What is not ESP goes to its owner, the daemon; an SPI that is not known may be on its way from the
daemon, so commands are drained and it is looked up once more.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from ipaddress import ip_address

from cygnet.dataplane.engines.singly import Head, Singly, arrived_head_6, made_head
from cygnet.dataplane.engines.state import State
from cygnet.dataplane.messages import FirstUse, ForeignDatagram, PeerMoved
from cygnet.dataplane.offload import TCP, Kind, join, joinable, kind_of
from cygnet.dataplane.ports import Port
from cygnet.dataplane.sad import MAX_ADMITTED, Inbound
from cygnet.dataplane.tun import MAX_PACKET, NO_OFFLOAD, VNET
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.fragments import Fragments
from cygnet.ipsec.inner import FlowKey, describe, flow_key, impossible_source, total_length, within
from cygnet.ipsec.rows import MAX_ROWS, Rows, Run
from cygnet.ipsec.tunnel import changes_inner, decapsulate

RECEIVES = 16
"""Receives per socket and turn of the loop."""
_UDP_GRO, _IP_TOS, _IP_PKTINFO, _IPV6_TCLASS = 104, 1, 8, 67
_ANCILLARY_RAW = socket.CMSG_SPACE(20) + socket.CMSG_SPACE(4) + 8 * socket.CMSG_SPACE(256)
"""Extension headers of IPv6 come this way; a packet that has more of them is dropped."""
_EXTENSIONS = {54: 0, 57: 43, 59: 60}
"""IPV6_HOPOPTS, IPV6_RTHDR, IPV6_DSTOPTS, and what the headers' own numbers are."""
_ESP = 50
_ANCILLARY = socket.CMSG_SPACE(20) + 2 * socket.CMSG_SPACE(4)
_JOIN = 4
"""Packets from which on joining costs less than writing each."""
_IPPROTO_UDP, _IPPROTO_IP, _IPPROTO_IPV6 = socket.IPPROTO_UDP, socket.IPPROTO_IP, socket.IPPROTO_IPV6

Address = tuple[str, int]


class Inward:
    def __init__(self, state: State, drain_commands: Callable[[], None], singly: Singly) -> None:
        self._state = state
        self._singly = singly
        self._drain_commands = drain_commands
        self._received = Rows(MAX_PACKET + 1 + MAX_ROWS)
        self._out = Rows(VNET + 2 * MAX_PACKET)
        self._fragments = Fragments()

    def udp_readable(self, sock: socket.socket, port: int) -> None:
        """Take what a UDP lane has, up to a bound."""
        receive, buffer, view = sock.recvmsg_into, (self._received.buffer,), self._received.view
        for _ in range(RECEIVES):
            try:
                size, ancillary, _, source = receive(buffer, _ANCILLARY)
            except (BlockingIOError, ConnectionError):
                return
            segment, tos, local = size, 0, b""
            for level, kind, value in ancillary:
                if level == _IPPROTO_UDP and kind == _UDP_GRO:
                    segment = int.from_bytes(value[:4], "little")
                elif level == _IPPROTO_IP:
                    if kind == _IP_PKTINFO:
                        local = value[8:12]
                    elif kind == _IP_TOS:
                        tos = value[0]
                elif level == _IPPROTO_IPV6:
                    if kind == socket.IPV6_PKTINFO:
                        local = value[:16]
                    elif kind == _IPV6_TCLASS:
                        tos = value[0]
            if size < 8:
                if size != 1 or view[0] != 0xFF:  # a NAT keepalive (RFC 3948, section 2.3) says nothing
                    self._state.drops[Drop.RUNT] += 1
                continue
            self._cut(size, min(segment, size), tos, local, port, source[:2])

    def raw_readable(self, sock: socket.socket) -> None:
        """Plain ESP, and AH. IPv4 gives the outer header too, IPv6 its parts."""
        receive, view = sock.recvmsg_into, self._received.view
        buffer = (self._received.buffer,)
        version = 4 if sock.family == socket.AF_INET else 6
        protocol = sock.proto
        for _ in range(RECEIVES):
            try:
                size, ancillary, flags, source = receive(buffer, _ANCILLARY_RAW)
            except (BlockingIOError, ConnectionError):
                return
            start, tos, local = 0, 0, b""
            extensions: list[tuple[int, bytes]] = []
            if version == 4:
                start, tos, local = (view[0] & 15) * 4, view[1], bytes(view[16:20])
            else:
                for level, kind, value in ancillary:
                    if level != _IPPROTO_IPV6:
                        continue
                    if kind == socket.IPV6_PKTINFO:
                        local = value[:16]
                    elif kind == _IPV6_TCLASS:
                        tos = value[0]
                    elif kind in _EXTENSIONS:
                        extensions.append((_EXTENSIONS[kind], value))
            if size - start < 8 or flags & socket.MSG_CTRUNC:
                self._state.drops[Drop.SHORT] += 1
                continue
            head = self._arrived_head(version, start, size, tos, local, source[0], extensions, protocol)
            self._open(start, size - start, 1, size - start, tos, local, (source[0], 0), head, protocol)

    def _arrived_head(
        self,
        version: int,
        start: int,
        size: int,
        tos: int,
        local: bytes,
        source: str,
        extensions: list[tuple[int, bytes]],
        protocol: int,
    ) -> Callable[[], Head]:
        """Few SAs want it, so it is made when it is asked for."""
        if version == 4:
            view = self._received.view
            return lambda: Head(bytes(view[:start]), 9)
        remote = socket.inet_pton(socket.AF_INET6, source.partition("%")[0])
        return lambda: arrived_head_6(remote, local, tos, extensions, size, protocol)

    def forwarded(self, data: bytes, local: bytes, port: int, source: Address, tos: int = 0) -> None:
        """An ESP datagram that somebody else received. One that the kernel handed to a lane of the daemon's
        has lost its traffic class."""
        if 8 <= len(data) <= MAX_PACKET:
            self._received.buffer[: len(data)] = data
            self._cut(len(data), len(data), tos, local, port, source)

    def arrived(
        self,
        data: bytes,
        outer: bytes,
        extensions: list[tuple[int, bytes]],
        tos: int,
        local: bytes,
        source: str,
    ) -> None:
        """Plain ESP that another reader of the raw sockets leaves to this one: `outer` is the IPv4 header."""
        size = len(data)
        self._received.buffer[:size] = data

        def head() -> Head:
            if outer:
                return Head(outer, 9)
            remote = socket.inet_pton(socket.AF_INET6, source.partition("%")[0])
            return arrived_head_6(remote, local, tos, extensions, size, _ESP)

        self._open(0, size, 1, size, tos, local, (source, 0), head)

    # -- opening -------------------------------------------------------------------------------

    def _cut(self, size: int, segment: int, tos: int, local: bytes, port: int, source: Address) -> None:
        """Groups of datagrams with one SPI are opened together; those with SPI 0 are IKE's."""
        rows = self._received
        count = -(-size // segment)
        last = size - (count - 1) * segment
        if count == 1:
            spis = [int.from_bytes(rows.view[:4], "big")]
        elif segment < 8 or count > MAX_ROWS:
            # Keepalives merged, or more than this kernel should: one by one.
            for at in range(0, size, segment):
                length = min(segment, size - at)
                if length >= 8:
                    spi = int.from_bytes(rows.view[at : at + 4], "big")
                    self._group(spi, at, length, 1, length, tos, local, port, source)
            return
        else:
            spis = rows.column(0, segment, ">u4")[: count if last >= 8 else count - 1].tolist()
            if last < 8:
                count, last = count - 1, segment
        first = 0
        while first < count:
            spi = spis[first]
            beyond = count
            if spis.count(spi) != count:
                beyond = first + 1
                while beyond < count and spis[beyond] == spi:
                    beyond += 1
            end = last if beyond == count else segment
            self._group(spi, first * segment, segment, beyond - first, end, tos, local, port, source)
            first = beyond

    def _group(
        self,
        spi: int,
        start: int,
        stride: int,
        count: int,
        last: int,
        tos: int,
        local: bytes,
        port: int,
        source: Address,
    ) -> None:
        if spi:
            self._open(start, stride, count, last, tos, local, source)
            return
        view = self._received.view
        remote = socket.inet_pton(socket.AF_INET if len(local) == 4 else socket.AF_INET6, source[0])
        for index in range(count):
            at = start + index * stride
            end = at + (stride if index < count - 1 else last)
            self._state.report(ForeignDatagram(local, port, remote, source[1], bytes(view[at:end])))

    def _open(
        self,
        start: int,
        stride: int,
        count: int,
        last: int,
        tos: int,
        local: bytes,
        source: Address,
        head: Callable[[], Head] | None = None,
        protocol: int = _ESP,
    ) -> None:
        state, rows = self._state, self._received
        at = start if protocol == _ESP else start + 4
        spi = int.from_bytes(rows.view[at : at + 4], "big")
        entry = state.sad.inbound(spi, local)
        if entry is None:
            self._drain_commands()
            entry = state.sad.inbound(spi, local)
            if entry is None:
                state.drops[Drop.NO_SA] += count
                return
        if entry.sa.parameters.protocol != protocol:
            state.drops[Drop.NO_SA] += count
            return
        if entry.singly:
            for index in range(count):
                at = start + index * stride
                size = stride if index < count - 1 else last
                self._open_singly(entry, bytes(rows.view[at : at + size]), head, tos, local, source)
            return
        sa = entry.esp
        runs, newest = sa.open_batch(state.work, rows, start, stride, count, last)
        if not runs:
            return
        sa.last_used = state.now
        self._authentic(entry, newest, local, source)
        self._deliver(entry, runs, tos)
        if sa.packets >= entry.packets_alarm or sa.bytes >= entry.bytes_alarm:
            state.alarm(entry)

    def _authentic(self, entry: Inbound, newest: bool, local: bytes, source: Address) -> None:
        sa = entry.sa
        if not sa.seen:
            sa.seen = True
            if sa.parameters.notify_first_use:
                self._state.report(FirstUse(sa.parameters.pair, sa.parameters.spi))
        if newest and source != entry.source:
            self._moved(entry, source, local)

    def _open_singly(
        self,
        entry: Inbound,
        data: bytes,
        head: Callable[[], Head] | None,
        tos: int,
        local: bytes,
        source: Address,
    ) -> None:
        """One packet of an SA that is more than an ESP tunnel. Out of UDP its header is made anew."""
        sa, state = entry.sa, self._state
        before = sa.window.top
        made = head() if head is not None else self._head_of_datagram(local, source, tos)
        inner, opened = self._singly.open(entry, made, data)
        for used in {entry, inner}:
            if used.sa.packets and used.sa.last_used == state.now:
                self._authentic(used, sa.window.top > before, local, source)
        if opened.reason is not None:
            inner.sa.drop(opened.reason)
        elif opened.packet:
            size = len(opened.packet)
            self._state.work.opened.buffer[:size] = opened.packet
            if inner.sa.tunnel:
                self._deliver(inner, [Run(0, size, 1, size, size)], tos)
            else:
                self._deliver_one(inner, 0, size)
        for used in {entry, inner}:
            if used.sa.packets >= used.packets_alarm or used.sa.bytes >= used.bytes_alarm:
                state.alarm(used)

    @staticmethod
    def _head_of_datagram(local: bytes, source: Address, tos: int) -> Head:
        return made_head(ip_address(source[0].partition("%")[0]), ip_address(local), tos, 0, False)

    def _moved(self, entry: Inbound, source: Address, local: bytes) -> None:
        """Authentic, newest, from elsewhere (RFC 7296, section 2.23): the daemon decides what that means."""
        parameters = entry.sa.parameters
        if parameters.encapsulation is None or entry.sa.remove_at is not None:
            return
        entry.source = source
        remote = socket.inet_pton(socket.AF_INET if len(local) == 4 else socket.AF_INET6, source[0])
        self._state.report(PeerMoved(parameters.pair, parameters.spi, remote, source[1]))

    # -- delivering ----------------------------------------------------------------------------

    def _deliver(self, entry: Inbound, runs: list[Run], tos: int) -> None:
        sa, view = entry.sa, self._state.work.opened.view
        header = sa.parameters.header
        if changes_inner(tos, header):
            for run in runs:
                for index in range(run.count):
                    at = run.start + index * run.stride
                    length = run.length if index < run.count - 1 else run.last
                    if total_length(view, at, length) and not decapsulate(view, at, tos, header):
                        sa.drop(Drop.ECN)
                        continue
                    self._deliver_one(entry, at, length)
            return
        for run in runs:
            if run.count >= _JOIN and self._state.offloads.tun_tso:
                self._deliver_run(entry, run)
            else:
                for index in range(run.count):
                    at = run.start + index * run.stride
                    self._deliver_one(entry, at, run.length if index < run.count - 1 else run.last)

    def _deliver_run(self, entry: Inbound, run: Run) -> None:
        """Join what is one flow in sequence. Flows that alternate are not worth looking at twice."""
        view = self._state.work.opened.view
        first, looking = 0, True
        while first < run.count:
            at = run.start + first * run.stride
            length = run.length if first < run.count - 1 else run.last
            together = 1
            kind: Kind | None = None
            if looking and run.count - first >= _JOIN:
                kind = kind_of(view, at, length)
                if kind is not None and (kind.protocol == TCP or self._state.offloads.tun_uso):
                    together = joinable(self._state.work.opened, run, first, kind)
                    looking = together >= _JOIN
            if kind is not None and together > 1:
                self._deliver_joined(entry, run, first, together, kind)
            else:
                self._deliver_one(entry, at, length)
            first += together

    def _deliver_joined(self, entry: Inbound, run: Run, first: int, count: int, kind: Kind) -> None:
        at = run.start + first * run.stride
        reason = self._judge(entry, at, run.length)
        if reason is not None:
            entry.sa.drop(reason, count)
            return
        size = join(self._state.work.opened, run, first, count, kind, self._out)
        try:
            os.write(self._port(entry).tun, self._out.view[:size])
        except OSError as error:
            if error.errno == errno.EINVAL:
                # This kernel refuses such bursts after all: from now on packet by packet.
                self._state.offloads.tun_tso = self._state.offloads.tun_uso = False
                for index in range(first, first + count):
                    here = run.start + index * run.stride
                    self._deliver_one(entry, here, run.length if index < run.count - 1 else run.last)
            else:
                self._state.drops[Drop.TUN_FULL] += count

    def _deliver_one(self, entry: Inbound, at: int, length: int) -> None:
        view = self._state.work.opened.view
        total = total_length(view, at, length)
        reason = self._judge(entry, at, total) if total else Drop.BAD_INNER
        if reason is not None:
            entry.sa.drop(reason)
            return
        try:
            os.writev(self._port(entry).tun, (NO_OFFLOAD, view[at : at + total]))
        except OSError:
            self._state.drops[Drop.TUN_FULL] += 1

    def _port(self, entry: Inbound) -> Port:
        """Where what comes out of this SA goes; the policy-based one where its own is gone."""
        ports = self._state.ports
        return ports.get(entry.sa.parameters.interface) or ports.own

    def _judge(self, entry: Inbound, at: int, length: int) -> Drop | None:
        """May this packet come out of this SA? Kept per flow; None: yes."""
        key = flow_key(self._state.work.opened.view, at, length)
        admitted = entry.admitted
        if key is not None and key in admitted:
            return admitted[key]
        reason = self._judge_afresh(entry, at, length)
        if key is not None:
            self._keep(admitted, key, reason)
        return reason

    def _judge_afresh(self, entry: Inbound, at: int, length: int) -> Drop | None:
        packet = describe(self._state.work.opened.view, at, length)
        if packet is None:
            return Drop.BAD_INNER
        parameters = entry.sa.parameters
        packet = self._fragments.whole(packet, parameters.flow, self._state.now)
        if impossible_source(packet) or not within(
            parameters.local_selectors, parameters.remote_selectors, packet, outbound=False
        ):
            return Drop.SELECTOR
        if not self._port(entry).spd.permits_inbound(
            parameters.flow,
            packet.protocol,
            packet.source,
            packet.destination,
            packet.source_port,
            packet.destination_port,
            packet.family,
        ):
            return Drop.CARVED_OUT
        return None

    @staticmethod
    def _keep(admitted: dict[FlowKey, Drop | None], key: FlowKey, reason: Drop | None) -> None:
        if len(admitted) >= MAX_ADMITTED:
            admitted.clear()
        admitted[key] = reason
