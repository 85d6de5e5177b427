"""The daemon: the one event loop between the world and the negotiation.

In:   lanes (datagrams), reports of the data plane, timers, the control socket → verbs of `ike.Endpoint`.
Out:  `Endpoint.effects()`, carried out in order after each batch; a question's answer is another input.

Every input runs under the guard: what escapes is counted and costs that input only. Nothing here
waits: the pair to the data plane, the lanes and the control socket take what they can, and names
are looked up in a few threads with a deadline.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cygnet.auth import passwords
from cygnet.auth.ask import AskRadius, CheckPassword, FetchAll
from cygnet.auth.expiry import Expiring, Watch
from cygnet.daemon.accounting import Accounting
from cygnet.daemon.collector import Collector
from cygnet.daemon.fetch import Fetcher
from cygnet.daemon.guard import Guard
from cygnet.daemon.lanes import Lane, Lanes, address
from cygnet.daemon.plane import Plane, selector_from
from cygnet.daemon.radius import Client
from cygnet.daemon.sources import Sources
from cygnet.dataplane import messages
from cygnet.ike import effects, events
from cygnet.ike.errors import IkeError
from cygnet.ike.remote_access import HostConfiguration
from cygnet.ike.world import Instant, Path
from cygnet.policy.sa import Direction
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.policy.spd import Policy
from cygnet.store.leases import Leases

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint

RESOLVERS = 4
MAX_RESOLVING = 64
"""Names in lookup at once; more are answered with nothing, and tried again by whoever wanted them."""
MAX_TURNS = 10_000
"""Effects in one flush: an endpoint that answers each answer with a question would hold the loop for ever."""
TICK = 0.25
LAG_BOUNDS = (0.001, 0.002, 0.005, 0.010, 0.020, 0.050, 0.100, 0.200, 0.500, 1.0)
RENEW_BATCH = 50
TAKE_OVER_AGAIN, TAKE_OVER_FOR = 2.0, 60.0
"""Seconds after a failure until a former daemon's flows are looked at again; how long they are at all."""
"""SAs renewed at a time after a restart, ours or the data plane's."""


def now() -> Instant:
    return Instant(time.monotonic(), time.time())


class Daemon:
    """Owns the loop's side of everything; `listeners` get every event, `endpoint` does the rest.

    `policies`: what is in force, so that a restarted data plane gets it again before anything else;
    `not_in_force`: those among them that the data plane refused, and why. `host`: how this host is set up
    with what gateways gave it; `swept`: what a former daemon left of that is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        lanes: list[Lane],
        guard: Guard,
        epoch: int,
        sources: Sources,
        listen: frozenset[IpAddress] = frozenset(),
        leases: Leases | None = None,
    ) -> None:
        self.loop = loop
        self.endpoint = endpoint
        self._sources = sources
        self.guard = guard
        self.lanes = Lanes(lanes, self._received, self._foreign, listen)
        self.plane = Plane(loop, self._reported, self.flush, self._plane_lost, epoch)
        self.listeners: list[Callable[[events.Event], None]] = []
        self.policies: dict[int, Policy] = {}
        self.not_in_force: dict[int, str] = {}
        self.leases = leases or Leases(time.time)
        self.host = HostConfiguration()
        self.swept = self.incomplete = False
        self.engine = "", ""
        """The data plane's, and why it is this one."""
        self.leaving = False
        self.counters: Counter[str] = Counter()
        self.lag = Lag()
        self.collector = Collector()
        self.started = now()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._flushing = False
        self._tick: asyncio.TimerHandle | None = None
        self._resolver = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolve")
        self._resolving: set[int] = set()
        self._asking: set[asyncio.Task[object]] = set()
        self.fetcher = Fetcher()
        self.expiry = Watch()
        self.expiring: Callable[[], tuple[Expiring, ...]] = lambda: ()
        """Certificates that end soon; whoever knows them puts it here."""
        self.radius = Client(loop, lambda code, text: self.emit(events.Noted(code, text)))
        self.accounting = Accounting(
            loop,
            self.radius,
            self.plane.read_counters,
            self.plane.names.endpoint_pair,
            lambda number: self.do("disconnect", self.endpoint.terminate, number, 0, False, now()),
        )
        self.accounting.views = lambda: {sa.unique_id: sa for sa in self.endpoint.sas()}
        self.listeners.append(self.accounting.hear)
        self._lost: list[tuple[int, int]] = []
        self._renewing: dict[int, int] = {}
        self._taken_over: list[tuple[int, TrafficSelector, TrafficSelector]] = []
        self._orphaned: list[tuple[int, TrafficSelector, TrafficSelector]] = []
        self._looking_again = False
        self._carry: dict[type, Callable[..., None]] = {
            effects.SendDatagram: self._send,
            effects.InstallSa: self._install_sa,
            effects.UpdateSa: self.plane.update_sa,
            effects.RemoveSa: self.plane.remove_sa,
            effects.InstallPolicy: self._install_policy,
            effects.RemovePolicy: self._remove_policy,
            effects.ReturnAddresses: self._return_addresses,
            effects.Configure: self._configure,
            effects.Ask: self._ask,
            effects.Emit: self._emit,
        }

    # -- life ----------------------------------------------------------------------------------

    def start(self, pair: socket.socket) -> None:
        self.plane.attach(pair)
        self.lanes.start(self.loop)
        self._tick = self.loop.call_later(TICK, self._ticked, self.loop.time() + TICK)
        self.flush()

    def stop(self) -> None:
        """Stop taking input. Policies and SAs of the data plane are left as they are."""
        self.lanes.stop(self.loop)
        self.accounting.close()
        for handle in (self._timer, self._tick):
            if handle is not None:
                handle.cancel()
        self._timer = self._tick = None
        self._resolver.shutdown(wait=False, cancel_futures=True)

    def leave(self) -> None:
        """Delete every IKE SA, as the peers are told; `deserted` says when that is done. No other begins."""
        self.leaving = True
        for sa in tuple(self.endpoint.sas()):
            self.guard.run("leave", self.endpoint.terminate, sa.unique_id, 0, False, now())
        self.flush()

    def deserted(self) -> bool:
        return next(iter(self.endpoint.sas()), None) is None

    def do(self, what: str, verb: Callable[..., object], *arguments: object) -> None:
        """One verb of the endpoint under the guard, and its effects carried out."""
        self.guard.run(what, verb, *arguments)
        self.flush()

    # -- in ------------------------------------------------------------------------------------

    def _received(self, batch: list[tuple[bytes, Path]]) -> None:
        run, receive, instant = self.guard.run, self.endpoint.receive, now()
        self.collector.busy(instant.monotonic)
        for data, path in batch:
            if self.leaving and not any(data[8:16]):
                continue  # no responder SPI: a first message
            run("datagram", receive, data, path, instant)
        self.flush()

    def _foreign(self, data: bytes, path: Path) -> None:
        self.plane.forward(data, path.local.packed, path.local_port, path.remote.packed, path.remote_port)

    def _reported(self, report: messages.Report) -> None:
        self.guard.run("report", self._handle_report, report)

    def _handle_report(self, report: messages.Report) -> None:
        names, endpoint = self.plane.names, self.endpoint
        match report:
            case messages.ForeignDatagram():
                path = Path(
                    address(report.local), report.local_port, address(report.remote), report.remote_port
                )
                self.lanes.deliver(report.data, path)
            case messages.Acquire() if self.leaving:
                pass
            case messages.Acquire():
                flow = names.endpoint_flow(report.flow)
                if flow is None:
                    self.counters["report-unknown-flow"] += 1
                    return
                endpoint.acquire(flow, selector_from(report.local), selector_from(report.remote), now())
            case messages.Expire():
                pair = names.endpoint_pair(report.pair)
                if pair is not None:
                    endpoint.expire(pair, Direction(report.direction), report.hard, report.why, now())
            case messages.FirstUse():
                pair = names.endpoint_pair(report.pair)
                if pair is not None:
                    endpoint.first_use(pair, report.spi, now())
            case messages.PeerMoved():
                pair = names.endpoint_pair(report.pair)
                if pair is not None:
                    endpoint.peer_moved(pair, address(report.remote), report.remote_port, now())
            case messages.Warned():
                self.emit(events.Noted(f"dataplane-{report.code}", report.text))
            case _:
                self.counters["report-unexpected"] += 1

    def _timeout(self) -> None:
        self._timer = None
        instant = now()
        if self._due <= instant.monotonic:
            self.guard.run("timer", self.endpoint.handle_timeout, instant)
        self.flush()

    # -- out -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Carry out what the endpoint wants, until it wants no more, and set the one timer."""
        if self._flushing:
            return
        self._flushing = True
        turns = 0
        try:
            while pending := self.endpoint.effects():
                for effect in pending:
                    self.guard.run("effect", self._carry[type(effect)], effect)
                turns += len(pending)
                if turns > MAX_TURNS:
                    self.counters["flush-cut-short"] += 1
                    self.loop.call_soon(self.flush)
                    break
        finally:
            self._flushing = False
        self._arm()

    def _arm(self) -> None:
        due = self.endpoint.next_timeout()
        if due is None:
            return  # a timer that is set finds nothing due and is not set again
        if self._timer is not None:
            if self._timer.when() <= due:
                self._due = due
                return
            self._timer.cancel()
        self._due = due
        self._timer = self.loop.call_at(due, self._timeout)

    def _send(self, effect: effects.SendDatagram) -> None:
        self.lanes.send(effect.path, effect.data)

    def _install_sa(self, effect: effects.InstallSa) -> None:
        ask = effect.ask_id
        if not ask:
            self.plane.install_sa(effect.sa)
            return
        self.plane.install_sa(effect.sa, lambda report: self._installed(ask, report))

    def _installed(self, ask: int, report: messages.Report | None) -> None:
        if isinstance(report, messages.Done):
            result = effects.InstallFailed(report.error) if report.error else effects.Installed()
        else:
            result = effects.InstallFailed("the data plane does not answer")
            self.loop.call_soon(self.flush)
        self.guard.run("installed", self.endpoint.resume, ask, result, now())

    def _install_policy(self, effect: effects.InstallPolicy) -> None:
        policy = effect.policy
        self.policies[policy.id] = policy
        self.plane.install_policy(policy, lambda report: self._policy_installed(policy, report))

    def _policy_installed(self, policy: Policy, report: messages.Report | None) -> None:
        if isinstance(report, messages.Done) and not report.error:
            self.not_in_force.pop(policy.id, None)
            return
        why = report.error if isinstance(report, messages.Done) else "the data plane does not answer"
        self.not_in_force[policy.id] = f"policy {policy.name} is not in force: {why}"
        self.emit(events.Noted("policy-failed", self.not_in_force[policy.id]))

    def _return_addresses(self, effect: effects.ReturnAddresses) -> None:
        self.leases.give_back(effect.leases)

    def _configure(self, effect: effects.Configure) -> None:
        """Until the sweep a former daemon's addresses stay beside ours: traffic still flows in its SAs."""
        former, self.host = self.host, effect.host
        ask = effect.ask_id
        answer = (lambda report: self._installed(ask, report)) if ask else self._configured
        self.plane.configure(self.host, former, answer, exact=self.swept)

    def _configured(self, report: messages.Report | None) -> None:
        if isinstance(report, messages.Done) and report.error:
            self.emit(events.Noted("host-configuration", report.error))

    def sweep(self, kept: tuple[int, ...] = ()) -> None:
        """What a former daemon left, and nobody has taken over, goes. `kept`: pairs that stay besides those
        that were installed. Of what could not be loaded nobody knows what it would have protected: then all
        of the guard stays, until a configuration has been loaded whole."""
        if self.incomplete:
            self.emit(
                events.Noted("not-swept", "what a former daemon protected stays, for not all was loaded")
            )
            return
        self.swept = True
        self.plane.sweep(kept)
        self.plane.configure(self.host, self.host, self._configured, exact=True)

    def _remove_policy(self, effect: effects.RemovePolicy) -> None:
        self.policies.pop(effect.policy, None)
        self.not_in_force.pop(effect.policy, None)
        self.plane.remove_policy(effect.policy)

    def _emit(self, effect: effects.Emit) -> None:
        self.emit(effect.event)

    def emit(self, event: events.Event) -> None:
        if self._taken_over and isinstance(event, events.NegotiationFailed) and not self._looking_again:
            self._looking_again = True
            self.loop.call_later(TAKE_OVER_AGAIN, self._take_over_again)
        if self._renewing and isinstance(event, events.OperationDone):
            self._renewed(event)
        for listener in self.listeners:
            self.guard.run("listener", listener, event)

    # -- names ---------------------------------------------------------------------------------

    def _ask(self, effect: effects.Ask) -> None:
        question = effect.question
        if isinstance(question, effects.Route):
            source = self._sources.towards(question.remote)
            self._answer(effect.ask_id, () if source is None else (source,))
            return
        if isinstance(question, effects.LeaseAddresses):
            self._answer(effect.ask_id, self.leases.lease(question))
            return
        if isinstance(question, effects.LookAtTraffic):
            counted = functools.partial(self._answer_counted, effect.ask_id)
            self.plane.read_counters(question.pairs, counted)
            return
        if isinstance(question, AskRadius):
            self._wait_for(effect.ask_id, self.radius.access(question))
            return
        if isinstance(question, FetchAll):
            self._wait_for(effect.ask_id, self.fetcher.all(question.fetches))
            return
        if len(self._resolving) >= MAX_RESOLVING:
            self.counters["resolve-refused"] += 1
            self._answer(effect.ask_id, ())
            return
        self._resolving.add(effect.ask_id)
        work: Callable[[], object] = functools.partial(_work_out, question)
        lookup = self.loop.run_in_executor(self._resolver, work)
        late = self.loop.call_at(effect.deadline, self._answer, effect.ask_id, effects.TimedOut())

        def found(future: asyncio.Future[object]) -> None:
            late.cancel()
            if not future.cancelled():
                self._answer(effect.ask_id, future.result())

        lookup.add_done_callback(found)

    def _wait_for(self, ask: int, answer: Coroutine[Any, Any, object]) -> None:
        asked = self.loop.create_task(answer)
        self._asking.add(asked)

        def answered(task: asyncio.Task[object]) -> None:
            self._asking.discard(task)
            if not task.cancelled():
                self._answer(ask, task.result())

        asked.add_done_callback(answered)

    def _answer_counted(self, ask: int, report: messages.Report | None) -> None:
        """When something was carried last, out of the data plane's counters; of none, the question lapses."""
        if isinstance(report, messages.Counters):
            inbound = [one.use_in for one in report.pairs if one.use_in >= 0]
            outbound = [one.use_out for one in report.pairs if one.use_out >= 0]
            never = float("inf")
            self._answer(ask, effects.Traffic(min(inbound, default=never), min(outbound, default=never)))

    def _answer(self, ask: int, result: object) -> None:
        self._resolving.discard(ask)
        self.do("answer", self.endpoint.resume, ask, result, now())

    # -- our own restart -----------------------------------------------------------------------

    def take_over(self, flows: tuple[int, ...]) -> None:
        """Negotiate anew what a former daemon's SAs carry, at once.

        Their keys for rekeying died with it. Traffic flows on in them, until the peer finds nobody who
        answers for them: waiting for that would cost the packets from then on. And no packet asks for
        another SA while there is one, though it leads nowhere any more: so what fails is tried again.
        """
        ours = {flow for name in flows if (flow := self.plane.names.endpoint_flow(name)) is not None}
        self._taken_over = [
            (rule.flow, rule.local, rule.remote)
            for policy in self.policies.values()
            for rule in {rule.flow: rule for rule in policy.rules if rule.flow in ours}.values()
        ]
        if self._taken_over:
            text = f"{len(self._taken_over)} flows of a former daemon are negotiated anew"
            self.emit(events.Noted("taken-over", text))
            self.loop.call_later(TAKE_OVER_FOR, self._taken_over.clear)
        self._orphaned = list(self._taken_over)
        self._acquire_orphaned()

    def look_at_certificates(self, wall: float) -> None:
        """Tell of those that have come nearer to their end."""
        for one in self.expiry.news(self.expiring(), wall):
            self.emit(events.CertificateExpires(one.title, one.ends, one.ca, one.text(wall)))

    def _take_over_again(self) -> None:
        self._looking_again = False
        served = {child.flow for sa in self.endpoint.sas() for child in sa.children}
        self._orphaned = [orphan for orphan in self._taken_over if orphan[0] not in served]
        self._acquire_orphaned()

    def _acquire_orphaned(self) -> None:
        batch, self._orphaned = self._orphaned[:RENEW_BATCH], self._orphaned[RENEW_BATCH:]
        for flow, local, remote in batch:
            self.guard.run("acquire", self.endpoint.acquire, flow, local, remote, now())
        self.flush()
        if self._orphaned:
            self.loop.call_later(TICK, self._acquire_orphaned)

    # -- the data plane's restart --------------------------------------------------------------

    def _plane_lost(self) -> None:
        self.emit(
            events.Noted("dataplane-lost", "the data plane has ended; the kernel guard holds its policies")
        )
        self.flush()

    def plane_restarted(self, pair: socket.socket) -> None:
        """A new data plane gets the policies first; then every SA that it does not hold is renewed.

        Where SAs were in the process, their keys are gone with it (nobody else keeps any), and sequence
        numbers must not repeat under them: so each Child SA is rekeyed, and one that cannot be is expired.
        Where they are in the kernel the new process has found them, and they go on.
        """
        self.plane.attach(pair)
        for policy in self.policies.values():
            self._install_policy(effects.InstallPolicy(policy))
        self._renewing.clear()
        self.plane.dump(self._restarted)

    def _restarted(self, report: messages.Report | None) -> None:
        if not self.plane.attached:
            return  # it has ended too
        if isinstance(report, messages.Dumped):
            self.engine = report.engine, report.why
        found = report.pairs if isinstance(report, messages.Dumped) else ()
        held = {self.plane.names.endpoint_pair(name) for name in found}
        children = [(sa.unique_id, child.pair) for sa in self.endpoint.sas() for child in sa.children]
        # All policies are there again: what the dead one left in the kernel beside them may go.
        self.sweep(tuple(pair for _, pair in children if pair in held))
        self.guard.run("manual", self.endpoint.data_plane_restarted, now())
        self.flush()
        self._lost = [one for one in children if one[1] not in held]
        text = f"the data plane is back; {len(self._lost)} Child SAs are renewed"
        if len(self._lost) < len(children):
            text += f", {len(children) - len(self._lost)} went on"
        self.emit(events.Noted("dataplane-restarted", text))
        self._renew()

    def _renew(self) -> None:
        batch, self._lost = self._lost[:RENEW_BATCH], self._lost[RENEW_BATCH:]
        for ike_sa, pair in batch:
            try:
                self._renewing[self.endpoint.rekey(ike_sa, pair, now())] = pair
            except IkeError:
                self._expire_lost(pair)
        self.flush()
        if self._lost:
            self.loop.call_later(TICK, self._renew)

    def _renewed(self, event: events.OperationDone) -> None:
        pair = self._renewing.pop(event.operation, None)
        if pair is not None and event.failure is not None:
            self._expire_lost(pair)

    def _expire_lost(self, pair: int) -> None:
        self.guard.run("expire", self.endpoint.expire, pair, Direction.IN, True, "data-plane-lost", now())

    # -- looking -------------------------------------------------------------------------------

    def _ticked(self, expected: float) -> None:
        present = self.loop.time()
        self.lag.note(present - expected)
        self.plane.give_up_late(present)
        if self.collector.quiet(present):
            present = self.loop.time()  # what it took was nobody's time
        if self.expiry.is_due(time.time()):
            self.guard.run("expiry", self.look_at_certificates, time.time())
        self._tick = self.loop.call_later(TICK, self._ticked, present + TICK)


class Lag:
    """How late the loop's own tick comes: a histogram by `LAG_BOUNDS` seconds and the worst."""

    def __init__(self) -> None:
        self.counts = [0] * (len(LAG_BOUNDS) + 1)
        self.worst = 0.0

    def note(self, seconds: float) -> None:
        self.worst = max(self.worst, seconds)
        for index, bound in enumerate(LAG_BOUNDS):
            if seconds <= bound:
                self.counts[index] += 1
                return
        self.counts[-1] += 1

    def quantile(self, share: float) -> float:
        """The upper bound, in seconds, that `share` of the ticks kept."""
        total, passed = sum(self.counts), 0
        for count, bound in zip(self.counts, (*LAG_BOUNDS, self.worst), strict=True):
            passed += count
            if passed >= share * total:
                return bound
        return self.worst


def _work_out(question: effects.Resolve | CheckPassword) -> object:
    """In a thread: what waits (a name), or takes long and lets others run meanwhile (a password's hash)."""
    if isinstance(question, CheckPassword):
        return passwords.check(question.stored, question.password)
    return _resolve(question.host)


def _resolve(host: str) -> tuple[IpAddress, ...]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(address(str(entry[4][0])) for entry in found))
