"""The portable engine: Python over cryptography's AEADs and numpy's checksums; others are tested against it.

The verbs of the data plane as methods. Commands change the databases between turns of the loop;
packets see a whole state or the next one. Policy is in force in the kernel (routes, guard) before
it is in the SPD, and leaves it after.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Protocol

from cygnet.crypto.suites import UnsupportedAlgorithm
from cygnet.dataplane import path_mtu
from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines.inbound import Inward
from cygnet.dataplane.engines.outbound import Outward
from cygnet.dataplane.engines.singly import Singly
from cygnet.dataplane.engines.state import State
from cygnet.dataplane.engines.transmit import MAX_DATAGRAM, Transmitter
from cygnet.dataplane.guard import KernelError
from cygnet.dataplane.messages import InterfaceCounters, PairCounters, Report, Warned
from cygnet.dataplane.ports import RouteBased
from cygnet.dataplane.sad import Inbound, Outbound, is_outer
from cygnet.dataplane.translate import Refused
from cygnet.dataplane.tun import MAX_PACKET, Offloads, TunUnavailable
from cygnet.ipsec.ah import AhInbound, AhOutbound
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import InboundSa, OutboundSa
from cygnet.ipsec.rows import MAX_ROWS
from cygnet.policy.sa import Direction, SaParameters, SaProtocol, UdpEncapsulation
from cygnet.policy.selectors import IpAddress
from cygnet.policy.spd import Action, Policy, Spd

TUN_MTU_FLOOR, TUN_MTU_AT_FIRST = 1280, 1400
"""Below 1280 the kernel takes IPv6 off the device (RFC 8200, section 5); smaller paths get ICMP too-big."""
ICMP_AT_ONCE = 32
"""Messages of the path's that are looked at before packets have their turn."""
MEASURE_EVERY = 30.0
REFRESH_EVERY = 10.0
"""Seconds between looks at whether routes and guard are still in the kernel."""
"""Seconds between looks at the paths' MTUs: the kernel forgets lowered ones after ten minutes."""
MEASURED_AT_ONCE = 200
_TCP_HEADROOM = 321
"""What the kernel takes off a device's burst size for headers (MAX_TCP_HEADER + 1)."""


class Kernel(Protocol):
    """Routes and guard (dataplane.routes): what is put or removed is in force after `commit`."""

    def put(self, policy: Policy) -> None: ...

    def remove(self, policy: int) -> None: ...

    def commit(self, tun: str) -> None: ...

    def refresh(self, tun: str) -> bool: ...

    def take_precedence(self) -> None: ...

    def sweep(self) -> None: ...

    def clear(self) -> None: ...


class Device(Protocol):
    """The TUN device (dataplane.tun)."""

    fd: int
    name: str

    def start(self, mtu: int, offloads: Offloads, *, bursts: bool) -> None: ...

    def set_mtu(self, mtu: int) -> None: ...

    def set_burst_size(self, octets: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Sockets:
    """The data plane's lanes and raw sockets, None where there is none."""

    udp4: socket.socket | None
    udp6: socket.socket | None
    raw4: socket.socket | None
    raw6: socket.socket | None
    wire4: socket.socket | None = None
    wire6: socket.socket | None = None
    """Raw sockets that take whole packets and bring AH."""


class PortableEngine:
    """`report` takes messages upward and never blocks; `drain_commands` handles commands that wait."""

    name = "portable"

    def __init__(
        self,
        device: Device,
        sockets: Sockets,
        kernel: Kernel,
        options: Options,
        report: Callable[[Report], None],
        drain_commands: Callable[[], None],
        pair: int = -1,
    ) -> None:
        """`pair`: the descriptor that commands come from, for engines whose threads look if some wait."""
        self.options = options
        self.offloads = Offloads(udp_gso=options.gso, udp_gro=options.gro)
        default = Action.DISCARD if options.default_discard else Action.BYPASS
        self.state = State(device.fd, self.offloads, Spd(default), report, bursts=options.tun_offload)
        self._device = device
        self._kernel = kernel
        self._mtu = options.tun_mtu or TUN_MTU_AT_FIRST
        self._narrowest = 0
        """The smallest `max_inner` among outbound SAs, 0 without any: what the TUN's MTU follows."""
        self._largest_sealed = 0
        self._measured = 0.0
        self._refreshed = 0.0
        self._to_measure: dict[Outbound, None] = {}
        """In their turn, each once."""
        self._ends: list[tuple[float, int, Outbound | Inbound]] = []
        """A heap of when SAs end by time alone; the number keeps entries from being compared."""
        self._number = itertools.count()
        self._listeners: list[socket.socket] = []
        self._talkative: set[Outbound] = set()
        """Those that send dummy packets in silence."""
        self._transmitter = Transmitter(
            sockets.udp4,
            sockets.udp6,
            sockets.raw4,
            sockets.raw6,
            self.offloads,
            sockets.wire4,
            sockets.wire6,
        )
        self.singly = Singly(self.state)
        self.singly.measure = lambda entry: self._transmitter.measure(entry)
        self.outward = Outward(self.state, self._transmitter, self.singly, self.state.ports.own)
        self._outwards: dict[str, Outward] = {"": self.outward}
        """By the port's name."""
        self.watch: Callable[[int, Callable[[], None] | None], None] = lambda fd, work: None
        """Set by who runs the loop: call `work` when this descriptor can be read; None: no more."""
        self.inward = Inward(self.state, drain_commands, self.singly)
        self.state.forget_routes = self._forget_routes
        self.state.paths_changed = self._fit_all
        device.start(self._mtu, self.offloads, bursts=options.tun_offload)
        if options.tun_offload and not self.offloads.tun_tso:
            report(Warned("tun_offload", "this kernel takes no bursts on a TUN device: packet by packet"))

    @property
    def device_name(self) -> str:
        """The TUN's."""
        return self._device.name

    def readers(
        self, lanes: Sequence[socket.socket], raws: Sequence[socket.socket]
    ) -> dict[int, Callable[[], None]]:
        """What the loop is to watch, by descriptor, and what it calls when there is something to read."""
        made: dict[int, Callable[[], None]] = {self._device.fd: self.outward.readable}
        for sock in lanes:
            made[sock.fileno()] = partial(self.inward.udp_readable, sock, sock.getsockname()[1])
        for sock in raws:
            made[sock.fileno()] = partial(self.inward.raw_readable, sock)
        made.update(self.path_readers())
        return made

    def path_readers(self) -> dict[int, Callable[[], None]]:
        """Who hears what the path says of its MTU."""
        try:
            self._listeners = path_mtu.listeners()
        except OSError as error:
            text = f"what the path says of its MTU is not heard: {error}"
            self.state.report(Warned("path_mtu", text))
        return {sock.fileno(): partial(self.path_said, sock) for sock in self._listeners}

    def path_said(self, sock: socket.socket) -> None:
        """ICMP from outside: believed if it quotes a live SA, which must leave from where it says (T38)."""
        read = path_mtu.read_v4 if sock.family == socket.AF_INET else path_mtu.read_v6
        for _ in range(ICMP_AT_ONCE):
            try:
                told = read(sock.recv(MAX_PACKET))
            except BlockingIOError:
                return
            except OSError as error:
                self.state.report(Warned("path_mtu", f"ICMP cannot be read: {error}"))
                return
            entry = None
            if told is not None:
                entry = self.state.sad.find(Direction.OUT, told.spi, told.remote.packed)
            if told is None or entry is None or entry.sa.parameters.local != told.local:
                self.state.drops[Drop.ICMP_UNPROVEN] += 1
                continue
            if not self._transmitter.paths.believe(told, self.state.now):
                continue  # whoever repeats himself costs nobody else
            alike = (told.local, told.remote)
            for other in self.state.sad.outbound_entries():
                if (other.sa.parameters.local, other.sa.parameters.remote) == alike:
                    self._to_measure[other] = None
            self._measure_some()

    def forwarded(self, data: bytes, local: bytes, port: int, source: tuple[str, int]) -> None:
        """ESP that reached a socket of the daemon's."""
        self.inward.forwarded(data, local, port, source)

    def held(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Policies, pairs, and flows that have an outbound SA."""
        policies = (*self.state.spd, *self.state.ports.policies())
        return tuple(p.id for p in policies), tuple(self.state.sad.pairs), self.state.sad.flows()

    def offload_flags(self) -> dict[str, bool]:
        offloads = self.offloads
        return {
            "tun_tso": offloads.tun_tso,
            "tun_uso": offloads.tun_uso,
            "udp_gso": offloads.udp_gso,
            "udp_gro": offloads.udp_gro,
        }

    def addresses_changed(self) -> None:
        """Of this machine: routes have sources. Raises KernelError."""
        self._kernel.commit(self._device.name)

    def draining(self, yes: bool) -> None:
        """Commands are being carried out from here on, or no more."""

    def close(self) -> None:
        """The loop has ended."""

    # -- policies ------------------------------------------------------------------------------

    def change_policies(self, changes: Sequence[Policy | int]) -> list[str]:
        """Install (a Policy) and remove (its number) many in one go: the kernel takes a thousand in the time
        of a few. The kernel comes first: what is permitted must not leave in clear from here on. One sentence
        for each change, empty where it is in force. Removing what is not there is no error."""
        if not changes:
            return []
        verdicts = [self._route(change) for change in changes]
        own = [change for change, verdict in zip(changes, verdicts, strict=True) if verdict is None]
        errors = iter(self._change_own(own) if own else ())
        self._index_flows()
        return [next(errors) if verdict is None else verdict for verdict in verdicts]

    def _change_own(self, changes: Sequence[Policy | int]) -> list[str]:
        """Of policy-based ones."""
        for change in changes:
            self._propose(change)
        try:
            self._kernel.commit(self._device.name)
        except KernelError as error:
            for change in changes:
                self._withdraw(change)
            if len(changes) == 1:
                return [str(error)]
            return [self._change_own((change,))[0] for change in changes]
        for change in changes:
            if isinstance(change, Policy):
                self.state.spd.put(change)
            else:
                self.state.spd.remove(change)
        return [""] * len(changes)

    def _route(self, change: Policy | int) -> str | None:
        """A route-based policy comes or goes, and its device with the first and the last of them: empty, or
        why not. None: it is policy-based."""
        ports = self.state.ports
        if isinstance(change, Policy):
            if not change.interface:
                if ports.holds(change.id):
                    self._unroute(change.id)
                return None
            if self.state.spd.get(change.id) is not None:
                self._change_own((change.id,))
            try:
                port = ports.put(change, self.options.tun_mtu or TUN_MTU_AT_FIRST)
            except (TunUnavailable, OSError) as error:
                return str(error)
            if change.interface not in self._outwards:
                outward = Outward(self.state, self._transmitter, self.singly, port)
                self._outwards[change.interface] = outward
                self.watch(port.tun, outward.readable)
        elif ports.holds(change):
            self._unroute(change)
        else:
            return None
        return ""

    def _unroute(self, policy: int) -> None:
        port = self.state.ports.remove(policy)
        if port is not None:
            self.watch(port.tun, None)
            del self._outwards[port.name]
            port.close()

    def _forget_routes(self) -> None:
        for outward in self._outwards.values():
            outward.forget_routes()

    def _propose(self, change: Policy | int) -> None:
        if isinstance(change, Policy):
            self._kernel.put(change)
        else:
            self._kernel.remove(change)

    def _withdraw(self, change: Policy | int) -> None:
        """The kernel's idea of a policy becomes what is in force."""
        number = change.id if isinstance(change, Policy) else change
        before = self.state.spd.get(number)
        self._propose(number if before is None else before)

    def _index_flows(self) -> None:
        self.state.policy_of = {
            rule.flow: policy
            for policy in (*self.state.spd, *self.state.ports.policies())
            for rule in policy.rules
            if rule.flow
        }
        self._forget_routes()
        for entry in self.state.sad.entries():
            if isinstance(entry, Inbound):
                entry.admitted.clear()

    # -- SAs -----------------------------------------------------------------------------------

    def install_sa(self, parameters: SaParameters) -> None:
        """Raises Refused."""
        if parameters.hw_offload in ("crypto", "packet"):
            raise Refused(f"hw_offload = {parameters.hw_offload}: only the kernel engine has such devices")
        state = self.state
        if parameters.manual:
            # A restarted daemon brings it again, under a pair of its own.
            for old in state.sad.manual(parameters):
                state.remove(old)
        try:
            if parameters.direction == Direction.IN:
                inbound = state.sad.install_inbound(self.make_inbound(parameters))
                self._end_at(inbound, parameters.hard_seconds)
                return
            outbound = Outbound(self.make_outbound(parameters), self._around(parameters))
            self._transmitter.attach(outbound)
        except (UnsupportedAlgorithm, ValueError) as error:
            raise Refused(str(error)) from error
        state.sad.install_outbound(outbound)
        if parameters.dummy_interval:
            self._talkative.add(outbound)
        self._end_at(outbound, parameters.hard_seconds)
        self._forget_routes()
        self._fit(outbound)
        if is_outer(parameters):
            return  # what waits for the flow waits for the ESP inside
        for outward in tuple(self._outwards.values()):
            outward.release(parameters.flow)

    def _around(self, parameters: SaParameters) -> int:
        """Octets of the AH that goes around an ESP SA of a bundle. Raises ValueError if it is not there."""
        if not parameters.bundle or parameters.protocol == SaProtocol.AH:
            return 0
        outer = self.state.sad.outbound_of_pair(parameters.bundle)
        if outer is None or not isinstance(outer.sa, AhOutbound):
            raise ValueError("the AH SA of the bundle is not installed")
        return outer.sa.header

    def make_inbound(self, parameters: SaParameters) -> AhInbound | InboundSa:
        """Raises UnsupportedAlgorithm, ValueError."""
        receiver = AhInbound if parameters.protocol == SaProtocol.AH else InboundSa
        return receiver(parameters, self.state.now)

    def make_outbound(self, parameters: SaParameters) -> AhOutbound | OutboundSa:
        """Raises UnsupportedAlgorithm, ValueError."""
        sender = AhOutbound if parameters.protocol == SaProtocol.AH else OutboundSa
        return sender(parameters, self.state.now)

    def update_sa(
        self, pair: int, local: IpAddress, remote: IpAddress, ports: UdpEncapsulation | None
    ) -> None:
        """Raises Refused."""
        state = self.state
        if pair not in state.sad.pairs:
            raise Refused("no such pair")
        try:
            state.sad.move(pair, local, remote, ports)
            for entry in state.sad.of_pair(pair):
                if isinstance(entry, Outbound):
                    self._transmitter.attach(entry)
        except ValueError as error:
            raise Refused(str(error)) from error
        self._forget_routes()
        self._fit_all()

    def remove_sa(self, direction: int, spi: int, remote: bytes, linger: float, pair: int = 0) -> None:
        """Nothing happens if there is none: it may have expired meanwhile."""
        entry = self.state.sad.find(direction, spi, remote, pair)
        if entry is None:
            return
        if isinstance(entry, Inbound) and linger > 0:
            entry.sa.remove_at = self.state.now + linger
            self._end_at(entry, linger)
        else:
            self.state.remove(entry)

    def take_precedence(self) -> None:
        """All policies are here: what a former process left overrides them no more. Raises KernelError."""
        self._kernel.take_precedence()

    def sweep(self, policies: tuple[int, ...], pairs: tuple[int, ...]) -> None:
        """Remove every policy and pair not named, and what a former process left in the kernel.

        Raises Refused, KernelError.
        """
        sad = self.state.sad
        for pair in [p for p in sad.pairs if p not in set(pairs)]:
            for entry in list(sad.of_pair(pair)):
                self.state.remove(entry)
        known = (*self.state.spd, *self.state.ports.policies())
        errors = self.change_policies([p.id for p in known if p.id not in set(policies)])
        self._kernel.sweep()
        self.state.ports.sweep()
        if any(errors):
            raise Refused(next(filter(None, errors)))

    def clear(self) -> None:
        """The operator wants all undone."""
        self.sweep((), ())
        self._kernel.clear()

    # -- time ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """What time alone does: hard lifetimes, the end of lingering, stale packets, path MTUs."""
        state = self.state
        while self._ends and self._ends[0][0] <= state.now:
            entry = heappop(self._ends)[2]
            if isinstance(entry, Inbound) and entry.sa.remove_at is not None:
                if entry.sa.remove_at <= state.now:
                    state.remove(entry)
            elif entry in state.sad:
                state.expire(entry, "seconds")
        for outward in self._outwards.values():
            outward.drop_stale()
        self._send_dummies()
        self._measure_some()
        if state.now - self._refreshed >= REFRESH_EVERY and len(state.spd):
            self._refreshed = state.now
            self._refresh()

    def _send_dummies(self) -> None:
        for entry in list(self._talkative):
            if entry not in self.state.sad:
                self._talkative.discard(entry)
                continue
            quiet = self.state.now - max(entry.sa.last_used, entry.sa.installed_at)
            if quiet >= entry.sa.parameters.dummy_interval:
                failed = self.singly.dummy(entry)
                if failed is not None:
                    entry.sa.drop(failed)

    def _refresh(self) -> None:
        """A ruleset may be flushed and a route deleted behind our back; the policy stays in force."""
        try:
            if self._kernel.refresh(self._device.name):
                self.state.report(Warned("policy_restored", "routes or guard were missing; they are back"))
        except KernelError as error:
            self.state.report(Warned("policy_lost", f"routes or guard cannot be put back: {error}"))

    def _end_at(self, entry: Outbound | Inbound, seconds: float) -> None:
        if not seconds:
            return
        if len(self._ends) > 2 * len(self.state.sad) + 64:
            # Most SAs are rekeyed long before their time: they must not live on in here.
            self._ends = [end for end in self._ends if end[2] in self.state.sad]
            heapify(self._ends)
        heappush(self._ends, (self.state.now + seconds, next(self._number), entry))

    def _measure_some(self) -> None:
        """All paths in turn, a few at a time: packets wait meanwhile."""
        if not self._to_measure:
            if self.state.now - self._measured < MEASURE_EVERY:
                return
            self._measured = self.state.now
            self._to_measure.update(dict.fromkeys(self.state.sad.outbound_entries()))
        for entry in tuple(itertools.islice(self._to_measure, MEASURED_AT_ONCE)):
            del self._to_measure[entry]
            self._transmitter.measure(entry)
        if not self._to_measure:
            self._fit_all()

    # -- looking -------------------------------------------------------------------------------

    def counters(self, pairs: tuple[int, ...]) -> tuple[PairCounters, ...]:
        """Of the pairs named, or of all. SAs of one direction in a pair are summed."""
        sad = self.state.sad
        return tuple(self._pair_counters(pair) for pair in (pairs or tuple(sad.pairs)) if pair in sad.pairs)

    def _pair_counters(self, pair: int) -> PairCounters:
        octets, packets, used, number = [0, 0], [0, 0], [-1.0, -1.0], [0, 0]
        drops: dict[str, int] = {}
        for entry in self.state.sad.of_pair(pair):
            sa, way = entry.sa, int(entry.sa.parameters.direction)
            octets[way] += sa.bytes
            packets[way] += sa.packets
            used[way] = max(used[way], sa.last_used)
            number[way] = max(
                number[way], entry.sa.window.top if isinstance(entry, Inbound) else entry.sa.sequence
            )
            for reason, count in sa.drops.items():
                drops[str(reason)] = drops.get(str(reason), 0) + count
        ages = [self.state.now - moment if moment >= 0 else -1.0 for moment in used]
        return PairCounters(
            pair, octets[0], packets[0], ages[0], octets[1], packets[1], ages[1], number[0], number[1], drops
        )

    def interfaces(self) -> tuple[InterfaceCounters, ...]:
        """Of the route-based ports."""
        found = []
        for port in self.state.ports.route_based:
            drops: dict[str, int] = {}
            for entry in self.state.sad.entries():
                if entry.sa.parameters.interface == port.name:
                    for reason, count in entry.sa.drops.items():
                        drops[str(reason)] = drops.get(str(reason), 0) + count
            found.append(port.counters(drops))
        return tuple(found)

    def drops(self) -> dict[str, int]:
        """Of the whole data plane: those of no SA, and those of the SAs there are."""
        total = {str(reason): count for reason, count in self.state.drops.items()}
        for entry in self.state.sad.entries():
            for reason, count in entry.sa.drops.items():
                total[str(reason)] = total.get(str(reason), 0) + count
        return total

    # -- the device ----------------------------------------------------------------------------

    def _fit(self, entry: Outbound) -> None:
        """The TUN's MTU is what fits through the narrowest tunnel in one piece, and a burst is small enough
        to leave in one send when it is sealed."""
        port = self.state.ports.get(entry.sa.parameters.interface)
        if isinstance(port, RouteBased):
            self._fit_port(port)
            return
        if not self._narrowest or entry.max_inner < self._narrowest:
            self._narrowest = entry.max_inner
            mtu = self.options.tun_mtu or max(entry.max_inner, TUN_MTU_FLOOR)
            if mtu != self._mtu:
                self._mtu = mtu
                self._device.set_mtu(mtu)
                self._largest_sealed = 0
        sealed = entry.sa.sealed_length(self._mtu)
        if sealed > self._largest_sealed:
            self._largest_sealed = sealed
            rows = max(1, min(MAX_ROWS, MAX_DATAGRAM // sealed))
            self._device.set_burst_size(min(rows * (self._mtu - 52) + _TCP_HEADROOM, MAX_PACKET + 1))

    def _fit_port(self, port: RouteBased) -> None:
        entries = [e for e in self.state.sad.outbound_entries() if e.sa.parameters.interface == port.name]
        if not entries:
            return
        port.set_mtu(self.options.tun_mtu or max(min(e.max_inner for e in entries), TUN_MTU_FLOOR))
        sealed = max(e.sa.sealed_length(port.mtu) for e in entries)
        rows = max(1, min(MAX_ROWS, MAX_DATAGRAM // sealed))
        port.set_burst_size(min(rows * (port.mtu - 52) + _TCP_HEADROOM, MAX_PACKET + 1))

    def _fit_all(self) -> None:
        self._narrowest = self._largest_sealed = 0
        for entry in sorted(self.state.sad.outbound_entries(), key=lambda one: one.max_inner):
            self._fit(entry)
