"""The data plane process: one loop over the TUN, the ESP sockets and the pair to the daemon.

Commands come first in each turn. The daemon may come and go: when its end of the pair closes,
packets go on, and the supervisor brings the next daemon the same pair. Reports that the pair does
not take wait, bounded; foreign datagrams and acquires are dropped instead.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Inherited
from cygnet.dataplane.engines import KERNEL, EngineUnavailable, choose
from cygnet.dataplane.engines.kernel import KernelEngine
from cygnet.dataplane.engines.portable import TUN_MTU_AT_FIRST, Kernel, PortableEngine, Sockets
from cygnet.dataplane.guard import KernelError
from cygnet.dataplane.host import Host
from cygnet.dataplane.resolver import ResolverRefused
from cygnet.dataplane.translate import Refused, address, policy, sa_parameters, traffic_selector
from cygnet.dataplane.tun import Device, Offloads, TunUnavailable
from cygnet.ipsec.drops import Drop
from cygnet.policy.sa import SaParameters, UdpEncapsulation
from cygnet.policy.spd import Action, Policy

TICK = 0.5
"""Seconds between looks at what time alone does."""
COMMANDS = 4096
"""Commands per turn."""
GATHER, GATHER_GAP = 0.3, 0.005
"""Seconds for which policies are gathered at most, and that the next may be late."""
SAS_TOGETHER = 256
"""SAs that go to the kernel in one exchange."""
MAX_WAITING = 1024
"""Reports that wait for the pair."""
PAIR_BUFFER = 4 << 20
FAULTS_TOLD = 10
_SO_SNDBUFFORCE = 32
_EXPENDABLE = (messages.ForeignDatagram, messages.Acquire)


class Process:
    def __init__(self, inherited: Inherited, kernel: Kernel) -> None:
        self._pair = socket.socket(fileno=inherited.pair)
        self._pair.setblocking(False)
        with suppress(OSError):  # room for several of the largest messages; as much as may be had
            self._pair.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, PAIR_BUFFER)
        self._buffer = bytearray(messages.MAX_MESSAGE)
        self._waiting: deque[bytes] = deque()
        self._draining = False
        self._policies: list[tuple[int, Policy | int]] = []
        """Policy changes with their request numbers, that go to the kernel together."""
        self._sas: list[tuple[int, SaParameters]] = []
        """SAs likewise, where they go to the kernel."""
        self._running = True
        self._poll = select.epoll()
        lanes = [socket.socket(fileno=fd) for fd in (*inherited.lanes4, *inherited.lanes6)]
        raws = [socket.socket(fileno=fd) for fd in (inherited.raw4, inherited.raw6) if fd >= 0]
        wires = [socket.socket(fileno=fd) for fd in (inherited.wire4, inherited.wire6) if fd >= 0]

        def first(sockets: list[socket.socket], family: int) -> socket.socket | None:
            return next((s for s in sockets if s.family == family), None)

        sockets = Sockets(
            first(lanes, socket.AF_INET),
            first(lanes, socket.AF_INET6),
            first(raws, socket.AF_INET),
            first(raws, socket.AF_INET6),
            first(wires, socket.AF_INET),
            first(wires, socket.AF_INET6),
        )
        options = inherited.options
        self._why = options.why
        self.engine: PortableEngine | KernelEngine
        if options.engine == KERNEL:
            if inherited.tun >= 0:  # virtual addresses stand on it
                Device(inherited.tun).start(TUN_MTU_AT_FIRST, Offloads(), bursts=False)
            self.engine = KernelEngine(options, self._report)
        else:
            self.engine = choose(options.engine)(
                Device(inherited.tun),
                sockets,
                kernel,
                options,
                self._report,
                self._drain_commands,
                inherited.pair,
            )
        self._host = Host(self.engine.device_name, options.resolver, self.engine.addresses_changed)
        self._ready = self.engine.readers(lanes, [*raws, *wires])
        for fd in self._ready:
            self._poll.register(fd, select.EPOLLIN)
        self._poll.register(self._pair, select.EPOLLIN)
        self.engine.watch = self._watch
        self._carry: dict[type[messages.Command], Callable[..., None]] = {
            messages.InstallSa: lambda m: self.engine.install_sa(sa_parameters(m)),
            messages.UpdateSa: self._update_sa,
            messages.RemoveSa: lambda m: self.engine.remove_sa(
                m.direction, m.spi, m.remote, m.linger, m.pair
            ),
            messages.Configure: self._configure,
            messages.Sweep: lambda m: self.engine.sweep(m.policies, m.pairs),
            messages.ForwardDatagram: self._forwarded,
            messages.Shutdown: self._shutdown,
        }

    def _watch(self, fd: int, work: Callable[[], None] | None) -> None:
        """A descriptor comes while the loop runs, or goes."""
        if work is not None:
            self._ready[fd] = work
            self._poll.register(fd, select.EPOLLIN)
        elif self._ready.pop(fd, None) is not None:
            self._poll.unregister(fd)

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Until told to shut down."""
        left = self._host.recover()
        if left:
            self._report(messages.Warned("resolver", left))
        engine, pair, poll, ready = self.engine, self._pair.fileno(), self._poll.poll, self._ready
        monotonic = time.monotonic
        next_tick = 0.0
        while self._running:
            events = poll(TICK)
            now = engine.state.now = monotonic()
            for fd, _ in events:
                if fd == pair:
                    self._drain_commands()
            for fd, _ in events:
                work = ready.get(fd)
                if work is not None:
                    self._guarded(work)
            if self._waiting:
                self._flush()
            if now >= next_tick:
                next_tick = now + TICK
                self._guarded(engine.tick)
        engine.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        """A fault of ours in the way of one packet costs that packet (and what was read with it), no SA."""
        try:
            work()
        except TunUnavailable:
            raise
        except Exception as fault:  # noqa: BLE001  # the data plane of all tunnels must not end for one packet
            self.engine.state.drops[Drop.FAULT] += 1
            if self.engine.state.drops[Drop.FAULT] <= FAULTS_TOLD:
                text = "".join(traceback.format_exception(fault))
                self._report(messages.Warned("fault", text[-2000:]))

    def stop(self) -> None:
        self._running = False

    def take_back(self) -> None:
        """The end: no packet comes from the virtual addresses any more, no name is asked through a tunnel."""
        with suppress(KernelError, ResolverRefused):
            self._host.clear()

    # -- commands ------------------------------------------------------------------------------

    def _drain_commands(self) -> None:
        """Also called from the middle of a packet's way, when its SPI is not known yet."""
        if self._draining:
            return
        self._draining = True
        self.engine.draining(True)
        gather_until = 0.0
        try:
            for _ in range(COMMANDS):
                try:
                    size = self._pair.recv_into(self._buffer)
                except (BlockingIOError, InterruptedError):
                    # More policies may be on their way: a reload sends thousands. They cost the kernel as
                    # much one at a time as all at once.
                    gather_until = gather_until or time.monotonic() + GATHER
                    if not self._policies or time.monotonic() > gather_until or not self._more():
                        return
                    continue
                except OSError:
                    size = 0
                if not size:
                    self._lost_daemon()
                    return
                self._handle(bytes(memoryview(self._buffer)[:size]))
        finally:
            self._change_policies()
            self._install_sas()
            self._draining = False
            self.engine.draining(False)

    def _more(self) -> bool:
        return bool(select.select([self._pair], [], [], GATHER_GAP)[0])

    def _change_policies(self) -> None:
        if not self._policies:
            return
        changes, self._policies = self._policies, []
        errors = self.engine.change_policies([change for _, change in changes])
        for (request, _), error in zip(changes, errors, strict=True):
            if request:
                self._report(messages.Done(request, error))

    def _lost_daemon(self) -> None:
        """All copies of the other end are closed: the supervisor is gone, nobody will ever write again."""
        self._poll.unregister(self._pair)
        self._running = False

    def _handle(self, data: bytes) -> None:
        try:
            command = messages.decode_command(data)
        except (msgspec.ValidationError, msgspec.DecodeError) as problem:
            self._report(messages.Warned("command_malformed", str(problem)))
            return
        # Every command after those before it; those of a kind together.
        if isinstance(command, messages.InstallPolicy | messages.RemovePolicy):
            self._install_sas()
            self._gather(command)
            return
        self._change_policies()
        if isinstance(command, messages.InstallSa) and isinstance(self.engine, KernelEngine):
            self._gather_sa(command)
            return
        self._install_sas()
        if isinstance(command, messages.ReadCounters):
            answer = messages.Counters(
                command.request,
                self.engine.counters(command.pairs),
                self.engine.drops(),
                self.engine.interfaces(),
                self.engine.offload_flags(),
            )
            self._report(answer)
            return
        if isinstance(command, messages.Dump):
            self._report(self._dumped(command.request))
            return
        error = ""
        try:
            self._carry[type(command)](command)
        except (Refused, KernelError, ResolverRefused, OSError) as problem:
            error = str(problem) or type(problem).__name__
        except Exception as fault:  # noqa: BLE001  # as in _guarded; the daemon is told that it was not done
            self.engine.state.drops[Drop.FAULT] += 1
            error = f"fault: {type(fault).__name__}: {fault}"
        if command.request:
            self._report(messages.Done(command.request, error))

    def _gather(self, command: messages.InstallPolicy | messages.RemovePolicy) -> None:
        if isinstance(command, messages.RemovePolicy):
            self._policies.append((command.request, command.policy))
            return
        try:
            self._policies.append((command.request, policy(command)))
        except Refused as problem:
            if command.request:
                self._report(messages.Done(command.request, str(problem)))

    def _configure(self, message: messages.Configure) -> None:
        self._host.configure(
            [address(one) for one in message.addresses],
            None if message.exact else [address(one) for one in message.gone],
            [address(one) for one in message.servers],
            message.domains,
            [(traffic_selector(one.network), address(one.address)) for one in message.translations],
        )

    def _gather_sa(self, command: messages.InstallSa) -> None:
        try:
            self._sas.append((command.request, sa_parameters(command)))
        except Refused as problem:
            if command.request:
                self._report(messages.Done(command.request, str(problem)))
        if len(self._sas) >= SAS_TOGETHER:
            self._install_sas()

    def _install_sas(self) -> None:
        if not self._sas or not isinstance(self.engine, KernelEngine):
            return
        sas, self._sas = self._sas, []
        try:
            errors = self.engine.install_sas([parameters for _, parameters in sas])
        except Exception as fault:  # noqa: BLE001  # as in _handle
            self.engine.state.drops[Drop.FAULT] += 1
            errors = [f"fault: {type(fault).__name__}: {fault}"] * len(sas)
        for (request, _), error in zip(sas, errors, strict=True):
            if request:
                self._report(messages.Done(request, error))

    def _update_sa(self, message: messages.UpdateSa) -> None:
        ports = None
        if message.local_port or message.remote_port:
            ports = UdpEncapsulation(message.local_port, message.remote_port)
        self.engine.update_sa(message.pair, address(message.local), address(message.remote), ports)

    def _forwarded(self, message: messages.ForwardDatagram) -> None:
        remote = str(address(message.remote))
        self.engine.forwarded(message.data, message.local, message.local_port, (remote, message.remote_port))

    def _shutdown(self, message: messages.Shutdown) -> None:
        if message.clear:
            self.engine.clear()
        self._running = False

    def _dumped(self, request: int) -> messages.Dumped:
        """Who asks has told all policies before."""
        try:
            self.engine.take_precedence()
        except KernelError as problem:
            self._report(messages.Warned("former_in_force", str(problem)))
        policies, pairs, flows = self.engine.held()
        return messages.Dumped(
            request, policies, pairs, self.engine.name, self.engine.offload_flags(), flows, self._why
        )

    # -- reports -------------------------------------------------------------------------------

    def _report(self, report: messages.Report) -> None:
        data = messages.encode(report)
        if not self._waiting:
            try:
                self._pair.send(data)
                return
            except OSError as problem:
                if problem.errno == errno.EMSGSIZE:
                    self._too_long(report)
                    return
                # Full, or the daemon is being restarted.
        if isinstance(report, _EXPENDABLE) or len(self._waiting) >= MAX_WAITING:
            self.engine.state.drops[Drop.REPORT_FULL] += 1
            return
        self._waiting.append(data)

    def _too_long(self, report: messages.Report) -> None:
        """An answer that no message holds must not be waited for."""
        request = getattr(report, "request", 0)
        if request:
            self._report(messages.Done(request, "the answer is too long: ask for fewer pairs"))
        else:
            self.engine.state.drops[Drop.REPORT_FULL] += 1

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._pair.send(self._waiting[0])
            except OSError:
                return
            self._waiting.popleft()


def main(arguments: list[str]) -> int:
    """`python -m cygnet.dataplane INHERITED`: run with what the supervisor opened; the exit status."""
    from cygnet.dataplane.privileges import keep_only
    from cygnet.dataplane.routes import Kernel as RoutesAndGuard

    inherited = msgspec.json.decode(arguments[0], type=Inherited)
    keep_only()
    default = Action.DISCARD if inherited.options.default_discard else Action.BYPASS
    try:
        process = Process(inherited, RoutesAndGuard(inherited.ports, default))
    except EngineUnavailable as problem:
        sys.stderr.write(f"cygnet.dataplane: {problem}\n")
        return os.EX_UNAVAILABLE
    # Nothing on a packet's way makes cycles; the collector need not walk what was there from the start.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop())
    try:
        process.run()
    except TunUnavailable as problem:
        sys.stderr.write(f"cygnet.dataplane: {problem}\n")
        return os.EX_UNAVAILABLE
    finally:
        process.take_back()
    return os.EX_OK
