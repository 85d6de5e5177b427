"""From the TUN to the wire.

    read a batch -> which SA (policy, then the newest SA that fits) -> cut into segments, checksums
    -> seal -> one send per up to 64 packets

A burst (TSO, USO) is one flow: it is cut straight into the rows that are sealed in place. Single
packets are gathered until the TUN has no more, then sealed in runs of one SA and one size. What is
permitted and has no SA yet is held, bounded, and asked for (`Acquire`); nothing here sends in clear.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass, field

import numpy as np

from cygnet.dataplane.engines.singly import Singly
from cygnet.dataplane.engines.state import State
from cygnet.dataplane.engines.transmit import Transmitter
from cygnet.dataplane.messages import Acquire, Selector
from cygnet.dataplane.offload import Burst, burst, finish_checksum, finish_checksums, split
from cygnet.dataplane.path_mtu import MTU_FLOOR
from cygnet.dataplane.ports import Port
from cygnet.dataplane.sad import Outbound
from cygnet.dataplane.tun import MAX_PACKET, NEEDS_CSUM, NO_OFFLOAD, VNET, VNET_HEADER, TunUnavailable
from cygnet.ipsec.checksum import complement, fix_ipv4_header, residue, store, swap
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import IPV4_IN_IP, IPV6_IN_IP
from cygnet.ipsec.fragments import Fragments
from cygnet.ipsec.inner import UDP, FlowKey, Inner, describe, flow_key
from cygnet.ipsec.pieces import cut
from cygnet.ipsec.rows import MAX_ROWS, Rows
from cygnet.ipsec.tunnel import dont_fragment, outer_df, outer_traffic_class, traffic_class
from cygnet.policy.spd import Action

READS = 64
"""Reads from the TUN per turn of the loop; then the wire gets its turn."""
BURSTS = 8
"""Bursts among them: each is worth 45 packets."""
_SMALL = 2048
"""A packet up to this size leaves room in the buffer for further reads."""
_COLUMNS = 6
"""Packets of one size and flow from which on they are treated as columns."""
_FIRST = 6
"""Where a read begins, so that the packet behind its vnet header begins at a multiple of 16."""
# Header octets that packets of one flow and one outer header share: not identification, TTL, checksum.
_SAME_4 = np.frombuffer(bytes.fromhex("ffffffff0000ffff00ff0000") + b"\xff" * 12, "<u4")
_SAME_6 = np.frombuffer(bytes.fromhex("ffffffffffffff00") + b"\xff" * 36, "<u4")

MAX_ROUTES = 8192
HELD_PACKETS, HELD_OCTETS, HELD_SECONDS = 16, 1 << 20, 10.0
"""Per flow and for all flows: what waits for an SA to come; wait longer and it is stale."""
MAX_HELD_FLOWS = 256
ACQUIRE_AGAIN = 1.0

_SEALED, _ICMP, _ICMPV6 = (50, 51), 1, 58


@dataclass(slots=True)
class Held:
    asked: float
    packets: list[tuple[float, bytes]] = field(default_factory=list)


class Outward:
    """Of one port."""

    def __init__(self, state: State, transmitter: Transmitter, singly: Singly, port: Port) -> None:
        self.port = port
        self._state = state
        self._transmitter = transmitter
        self._singly = singly
        # Reads lie one behind the other; the last may be a whole burst, with a segment's room behind it.
        self._read = Rows(MAX_ROWS * _SMALL + 2 * (MAX_PACKET + 1) + 64)
        self._slots: dict[int, tuple[memoryview]] = {}
        """Where a read may go: made once for each place, for it costs as much as the read's own call."""
        self._routes: dict[FlowKey, Outbound | Drop] = {}
        self._fragments = Fragments()
        self._held: dict[int, Held] = {}
        self._held_octets = 0

    def forget_routes(self) -> None:
        self._routes.clear()

    def use(self, transmitter: Transmitter) -> None:
        """Send by another one."""
        self._transmitter = transmitter

    # -- reading -------------------------------------------------------------------------------

    def readable(self) -> None:
        """Take what the TUN has, up to a bound."""
        view, tun, slots = self._read.view, self.port.tun, self._slots
        singles: list[tuple[int, int]] = []
        place, bursts = _FIRST, 0
        for _ in range(READS):
            slot = slots.get(place)
            if slot is None:
                slot = slots[place] = (view[place : place + VNET + MAX_PACKET],)
            try:
                size = os.readv(tun, slot)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EBADFD:
                    raise TunUnavailable("the TUN device was taken away") from error
                break  # it is down: there is nothing to read
            if view[place + 1]:
                if singles:
                    self._seal_singles(singles)
                    singles = []
                self._take_burst(place, size - VNET)
                place = _FIRST
                bursts += 1
                if bursts >= BURSTS:
                    break
                continue
            singles.append((place + VNET, size - VNET))
            if size <= _SMALL - 16:
                place += size + 4 + 15 & ~15  # 4: sums over words write zeros behind the packet
            else:
                self._seal_singles(singles)
                singles, place = [], _FIRST
        if singles:
            self._seal_singles(singles)

    def inject(self, raw: bytes) -> None:
        """A packet with its vnet header that was held: as if it were read now."""
        view = self._read.view
        view[_FIRST : _FIRST + len(raw)] = raw
        length = len(raw) - VNET
        if view[_FIRST + 1]:
            self._take_burst(_FIRST, length)
        else:
            self._seal_each([(_FIRST + VNET, length)])

    # -- sealing -------------------------------------------------------------------------------

    def _take_burst(self, place: int, length: int) -> None:
        read, state = self._read, self._state
        _, gso_type, _, segment, transport, _ = VNET_HEADER.unpack_from(read.view, place)
        at = place + VNET
        what = burst(read, at, length, gso_type, segment, transport)
        if what is None:
            state.drops[Drop.NOT_IP] += 1
            return
        route = self._route(at, length)
        if route is None:
            return
        full = what.header + segment
        if full > max(route.max_inner, MTU_FLOOR[read.view[at] >> 4]):
            self._too_big(route, at, length)
            return
        if route.singly:
            self._send_burst_singly(route, what)
        else:
            self._send_burst(route, what, full <= route.max_inner)

    def _send_burst_singly(self, route: Outbound, what: Burst) -> None:
        sealed, full = self._state.work.sealed, what.header + what.segment
        stride = full + 8
        most = max(1, min(MAX_ROWS, sealed.size // stride - 1))
        for first in range(0, what.count, most):
            count = min(most, what.count - first)
            last = split(self._read, what, first, count, sealed, 0, stride)
            # Sealing uses the same buffer.
            segments = [
                bytes(sealed.view[row * stride : row * stride + (full if row < count - 1 else last)])
                for row in range(count)
            ]
            for segment in segments:
                self._send_singly(route, segment)

    def _send_singly(self, route: Outbound, packet: bytes) -> None:
        failed = self._singly.send(route, packet)
        if failed is not None:
            route.sa.drop(failed)

    def _send_burst(self, route: Outbound, what: Burst, whole: bool) -> None:
        sa, work, view = route.esp, self._state.work, self._read.view
        full = what.header + what.segment
        stride = sa.sealed_length(full)
        most = self._transmitter.rows_per_send(route, stride)
        header = sa.parameters.header
        tos = outer_traffic_class(traffic_class(view, what.at), header)
        df = whole and outer_df(header, dont_fragment(view, what.at))
        next_header = IPV4_IN_IP if view[what.at] >> 4 == 4 else IPV6_IN_IP
        for first in range(0, what.count, most):
            count = min(most, what.count - first)
            last = split(self._read, what, first, count, work.sealed, sa.head, stride)
            if not self._seal_and_send(route, count, full, last, next_header, tos, df):
                return

    def _seal_and_send(
        self, route: Outbound, count: int, length: int, last: int, next_header: int, tos: int, df: bool
    ) -> bool:
        """What lies ready in `work.sealed`; false when the SA is used up."""
        sa, state = route.esp, self._state
        used_up = route.used_up(count)
        if used_up:
            sa.drop(Drop.HARD_LIMIT, count)
            state.expire(route, used_up)
            return False
        end = sa.seal_batch(state.work, 0, count, length, last, next_header)
        sa.last_used = state.now
        stride = sa.sealed_length(length)
        send, view = self._transmitter.send, state.work.sealed.view
        failed = send(route, view, stride, count, end, tos, df)
        if failed is Drop.TOO_BIG and self._transmitter.measure(route):
            # The path became narrower just now: these go in fragments, the next ones fit.
            state.paths_changed()
            failed = send(route, view, stride, count, end, tos, False)
        if failed is not None:
            sa.drop(failed, count)
        if sa.sequence >= route.sequence_alarm or sa.bytes >= route.bytes_alarm:
            state.alarm(route)
        return True

    def _seal_singles(self, packets: list[tuple[int, int]]) -> None:
        """Packets as they were read, one behind the other."""
        index, total = 0, len(packets)
        while index < total:
            at, length = packets[index]
            beyond = index + 1
            while beyond < total and packets[beyond][1] == length:
                beyond += 1
            if beyond - index < _COLUMNS or not self._seal_alike(
                at, packets[index + 1][0] - at, beyond - index, length
            ):
                self._seal_each(packets[index:beyond])
            index = beyond

    def _seal_alike(self, at: int, gap: int, count: int, length: int) -> bool:
        """Equal packets of one known flow, as columns. False: they are not, and nothing was done."""
        read, view = self._read, self._read.view
        key = flow_key(view, at, length)
        route = self._routes.get(key) if key is not None else None
        if not isinstance(route, Outbound) or length > route.max_inner or route.singly:
            return False
        mask = _SAME_4 if view[at] >> 4 == 4 else _SAME_6
        if length < mask.size * 4:
            return False
        vnet = read.matrix(at - VNET, gap, VNET // 2, "<u2")[:count]
        head = read.matrix(at, gap, mask.size, "<u4")[:count]
        if ((head ^ head[0]) & mask).any() or (vnet != vnet[0]).any():
            return False
        if view[at - VNET] & NEEDS_CSUM:
            _, _, _, _, start, offset = VNET_HEADER.unpack_from(view, at - VNET)
            if not finish_checksums(read, at, gap, count, length, start, offset):
                return False
        header = route.sa.parameters.header
        tos = outer_traffic_class(traffic_class(view, at), header)
        self._seal_run(route, at, gap, length, count, tos, outer_df(header, dont_fragment(view, at)))
        return True

    def _seal_each(self, packets: list[tuple[int, int]]) -> None:
        """Packets of one SA, size and outer header, one behind the other in the buffer, go as runs."""
        view = self._read.view
        begin, run = 0, 0
        route: Outbound | None = None
        tos, df = -1, False
        for index, (at, length) in enumerate(packets):
            this = self._route(at, length) if self._finish(at, length) else None
            this_tos, this_df, whole = -1, False, True
            if this is not None:
                header = this.sa.parameters.header
                this_tos = outer_traffic_class(traffic_class(view, at), header)
                this_df = outer_df(header, dont_fragment(view, at))
                whole = length <= this.max_inner
                if length > max(this.max_inner, MTU_FLOOR[view[at] >> 4]) and dont_fragment(view, at):
                    self._too_big(this, at, length)
                    this = None
                elif this.singly:
                    self._send_singly(this, bytes(view[at : at + length]))
                    this = None
                elif not whole and header.fragment_before and not dont_fragment(view, at):
                    self._seal_pieces(this, bytes(view[at : at + length]), this_tos)
                    this = None
            if run and (
                this is not route
                or length != packets[begin][1]
                or this_tos != tos
                or this_df is not df
                or run == MAX_ROWS
                or not whole  # the kernel fragments it outside: it goes alone, with DF off
            ):
                self._seal_packets(route, packets, begin, run, tos, df)
                run = 0
            if this is None:
                continue
            if not run:
                begin, route, tos, df = index, this, this_tos, this_df and whole
            run += 1
        if run:
            self._seal_packets(route, packets, begin, run, tos, df)

    def _seal_pieces(self, route: Outbound, packet: bytes, tos: int) -> None:
        """Cut inside the tunnel (RFC 4301, section 8.2.1): the sealed packets stay whole."""
        sa, sealed = route.esp, self._state.work.sealed
        df = outer_df(sa.parameters.header, False)
        for piece in cut(packet, max(route.max_inner, MTU_FLOOR[4])):
            sealed.buffer[sa.head : sa.head + len(piece)] = piece
            if not self._seal_and_send(route, 1, len(piece), len(piece), IPV4_IN_IP, tos, df):
                return

    def _finish(self, at: int, length: int) -> bool:
        """Do the checksum that the sender left undone."""
        view = self._read.view
        if view[at - VNET] & NEEDS_CSUM:
            _, _, _, _, start, offset = VNET_HEADER.unpack_from(view, at - VNET)
            if not finish_checksum(view, at, length, start, offset):
                self._state.drops[Drop.NOT_IP] += 1
                return False
        return True

    def _seal_packets(
        self,
        route: Outbound | None,
        packets: list[tuple[int, int]],
        begin: int,
        count: int,
        tos: int,
        df: bool,
    ) -> None:
        if route is not None:
            at, length = packets[begin]
            gap = packets[begin + 1][0] - at if count > 1 else 0
            self._seal_run(route, at, gap, length, count, tos, df)

    def _seal_run(
        self, route: Outbound, at: int, gap: int, length: int, count: int, tos: int, df: bool
    ) -> None:
        """Equal packets that lie `gap` apart."""
        sa, read, sealed = route.esp, self._read, self._state.work.sealed
        stride = sa.sealed_length(length)
        next_header = IPV4_IN_IP if read.view[at] >> 4 == 4 else IPV6_IN_IP
        most = self._transmitter.rows_per_send(route, stride)
        while count:
            now = min(count, most)
            if now >= _COLUMNS:
                source = read.matrix(at, gap, length)[:now]
                sealed.matrix(sa.head, stride, length)[:now] = source
            else:
                for row in range(now):
                    here, there = at + row * gap, sa.head + row * stride
                    sealed.buffer[there : there + length] = read.view[here : here + length]
            if not self._seal_and_send(route, now, length, length, next_header, tos, df):
                return
            count -= now
            at += now * gap

    # -- which SA ------------------------------------------------------------------------------

    def _route(self, at: int, length: int) -> Outbound | None:
        """The SA for the packet at `at`, or None: it was dropped or held."""
        key = flow_key(self._read.view, at, length)
        found = self._routes.get(key) if key is not None else None
        if found is None:
            found = self._find_route(at, length, key)
            if found is None:
                return None
        if isinstance(found, Drop):
            self._state.drops[found] += 1
            return None
        return found

    def _find_route(self, at: int, length: int, key: FlowKey | None) -> Outbound | Drop | None:
        packet = describe(self._read.view, at, length)
        if packet is None:
            return Drop.NOT_IP
        packet = self._fragments.whole(packet, 0, self._state.now)
        action, flow = self.port.spd.lookup_outbound(
            packet.protocol,
            packet.source,
            packet.destination,
            packet.source_port,
            packet.destination_port,
            packet.family,
        )
        found: Outbound | Drop
        if action == Action.DISCARD:
            found = Drop.DISCARDED
        elif action != Action.PROTECT:
            # Bypassed flows stay in the kernel; one that gets here all the same must not be looped back.
            found = Drop.NO_POLICY
        else:
            entry = self._state.sad.outbound(flow, packet)
            if entry is None:
                self._hold(flow, packet, at, length)
                return None
            found = Drop.LOOP if _is_own(packet, entry) else entry
        if key is not None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[key] = found
        return found

    # -- waiting for an SA ---------------------------------------------------------------------

    def _hold(self, flow: int, packet: Inner, at: int, length: int) -> None:
        state = self._state
        held = self._held.get(flow)
        if held is None:
            policy = state.policy_of.get(flow)
            if policy is None or not policy.trap or len(self._held) >= MAX_HELD_FLOWS:
                state.drops[Drop.NO_OUTBOUND_SA] += 1
                return
            held = self._held[flow] = Held(state.now - ACQUIRE_AGAIN)
        if state.now - held.asked >= ACQUIRE_AGAIN:
            held.asked = state.now
            state.report(
                Acquire(
                    flow,
                    selector_of(packet, packet.source, packet.source_port),
                    selector_of(packet, packet.destination, packet.destination_port),
                )
            )
        size = VNET + length
        if len(held.packets) >= HELD_PACKETS or self._held_octets + size > HELD_OCTETS:
            state.drops[Drop.NO_OUTBOUND_SA] += 1
            return
        self._held_octets += size
        raw = bytearray(self._read.view[at - VNET : at + length])
        if not raw[1]:
            raw[:VNET] = NO_OFFLOAD  # its checksum is done
        held.packets.append((state.now, bytes(raw)))

    def release(self, flow: int) -> None:
        """An SA for the flow has come: what was held goes now."""
        held = self._held.pop(flow, None)
        if held is not None:
            for _, raw in held.packets:
                self._held_octets -= len(raw)
                self.inject(raw)

    def drop_stale(self) -> None:
        """Called now and then: what waited too long is dropped, and flows nobody asks for are forgotten."""
        state = self._state
        for flow, held in list(self._held.items()):
            fresh = [item for item in held.packets if state.now - item[0] < HELD_SECONDS]
            if len(fresh) < len(held.packets):
                state.drops[Drop.HELD_TOO_LONG] += len(held.packets) - len(fresh)
                self._held_octets -= sum(len(raw) for _, raw in held.packets) - sum(len(r) for _, r in fresh)
                held.packets = fresh
            if not fresh and state.now - held.asked >= HELD_SECONDS:
                del self._held[flow]

    # -- too big -------------------------------------------------------------------------------

    def _too_big(self, route: Outbound, at: int, length: int) -> None:
        """Tell the sender inside what fits (RFC 4301, 8.2.1), as the network beyond would. Less than the
        smallest MTU of its protocol is never said: such packets leave all the same, cut outside."""
        route.sa.drop(Drop.TOO_BIG)
        view = self._read.view
        version = view[at] >> 4
        mtu = max(route.max_inner, MTU_FLOOR[version])
        message = (_too_big_4 if version == 4 else _too_big_6)(view[at : at + length], mtu)
        try:
            os.writev(self.port.tun, (NO_OFFLOAD, message))
        except OSError:
            self._state.drops[Drop.TUN_FULL] += 1


def _is_own(packet: Inner, entry: Outbound) -> bool:
    """A sealed packet of the same tunnel that the routes led back in: sealing it again would never end."""
    parameters = entry.sa.parameters
    if packet.destination != int(parameters.remote) or packet.family != parameters.remote.version:
        return False
    if packet.protocol in _SEALED:
        return True
    ports = parameters.encapsulation
    return (
        ports is not None
        and packet.protocol == UDP
        and (packet.source_port, packet.destination_port) == (ports.local_port, ports.remote_port)
    )


def selector_of(packet: Inner, address: int, port: int | None) -> Selector:
    octets = address.to_bytes(4 if packet.family == 4 else 16, "big")
    first, last = (0, 65535) if port is None else (port, port)
    return Selector(packet.family, packet.protocol, octets, octets, first, last)


def _too_big_4(packet: memoryview, mtu: int) -> bytes:
    """Fragmentation needed (RFC 1191, section 4), from the packet's destination: an address that the
    sender's reverse path filter expects behind the tunnel."""
    quoted = bytes(packet[: min(len(packet), 548)])
    message = bytearray(28 + len(quoted))
    struct.pack_into(">BBHHHBB", message, 0, 0x45, 0xC0, len(message), 0, 0, 64, _ICMP)
    message[12:16], message[16:20] = packet[16:20], packet[12:16]
    fix_ipv4_header(message, 0)
    struct.pack_into(">BBHHH", message, 20, 3, 4, 0, 0, mtu)
    message[28:] = quoted
    store(message, 22, complement(residue(memoryview(message)[20:])))
    return bytes(message)


def _too_big_6(packet: memoryview, mtu: int) -> bytes:
    """Packet Too Big (RFC 4443, section 3.2)."""
    quoted = bytes(packet[: min(len(packet), 1232)])
    message = bytearray(48 + len(quoted))
    struct.pack_into(">IHBB", message, 0, 6 << 28, 8 + len(quoted), _ICMPV6, 64)
    message[8:24], message[24:40] = packet[24:40], packet[8:24]
    struct.pack_into(">BBHI", message, 40, 2, 0, 0, mtu)
    message[48:] = quoted
    pseudo = residue(memoryview(message)[8:40]) + swap(_ICMPV6) + swap(8 + len(quoted))
    store(message, 42, complement(pseudo + residue(memoryview(message)[40:])))
    return bytes(message)
