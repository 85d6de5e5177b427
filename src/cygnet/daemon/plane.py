"""The daemon's end of the socket pair to the data plane: commands out, reports in, names in between.

Neither side ever blocks: what the pair does not take waits in a bounded queue, and beyond that a
command fails at once (and is counted). A command with an answer to come has a deadline. A data plane that
has said nothing for a while is asked something, and one that goes on saying nothing is told of (`stuck`).

**Names that survive a restart.** The endpoint numbers policies, flows and pairs from one each time
it starts; the data plane outlives it. So policies and flows travel as digests of what they are (the
same configuration gives the same names, and SAs of the former daemon stay with their flows), and
pairs carry this daemon's random epoch (a report about a former daemon's pair is not mistaken for
one of ours). Both fit 62 bits, which the kernel can keep with an SA (dataplane.xfrm.codec.lifetime).
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b

import msgspec

from cygnet.dataplane import messages
from cygnet.ike import effects
from cygnet.ike.remote_access import HostConfiguration
from cygnet.policy.sa import SaParameters
from cygnet.policy.selectors import TrafficSelector
from cygnet.policy.spd import Policy

MAX_QUEUED = 1 << 26
"""Octets of commands that wait for the pair to take more; the policies of the largest gateway fit."""
BATCH = 64
ANSWER_WITHIN = 10.0
"""Seconds in which a data plane that owes answers gives one, or is taken for stopped."""
START_WITHIN = 60.0
"""The same for a data plane that has given none yet: its process starts."""
ASK_AFTER, STUCK_AFTER, STUCK_AT_START = 5.0, 60.0, 240.0
"""Seconds without an answer until it is asked for one; of silence, where it owes one, until it is stuck:
long, for all SAs are renewed then, and the policies of the largest gateway take their time."""
PAIR_BITS = 32

Answer = Callable[[messages.Report | None], None]
"""Called with `Done`, `Counters` or `Dumped`; None: no answer came (gone, full or too late)."""


class Names:
    """The endpoint's numbers and the data plane's, both ways; see the file header."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch << PAIR_BITS
        self._policies: dict[int, int] = {}
        self._holders: dict[int, int] = {}
        self._flows: dict[int, int] = {}
        self._endpoint_flows: dict[int, int] = {}
        self._flows_of: dict[int, list[int]] = {}
        self._users: Counter[int] = Counter()

    def pair(self, pair: int) -> int:
        return self._epoch | pair

    def endpoint_pair(self, name: int) -> int | None:
        """None: a pair of a former daemon."""
        return name & ((1 << PAIR_BITS) - 1) if name >> PAIR_BITS << PAIR_BITS == self._epoch else None

    def flow(self, flow: int) -> int:
        return self._flows.get(flow, flow)

    def endpoint_flow(self, name: int) -> int | None:
        return self._endpoint_flows.get(name)

    def add(self, policy: Policy) -> int:
        """Name a policy and its flows; the policy's name in the data plane.

        A flow keeps the name that it got first: SAs were installed under it.
        """
        former = self._flows_of.pop(policy.id, [])
        name = self._name(policy)
        flows = list(dict.fromkeys(rule.flow for rule in policy.rules if rule.flow))
        for index, flow in enumerate(flows):
            self._users[flow] += 1
            if flow not in self._flows:
                named = self._flows[flow] = self._flow_name(policy, name, index, flow)
                self._endpoint_flows[named] = flow
        self._flows_of[policy.id] = flows
        self._release(former)
        return name

    def _name(self, policy: Policy) -> int:
        """The first of a name has a name that lasts. Policies made for one peer each come later under their
        child's name: theirs lasts as long as this daemon, as their SAs do."""
        name = self._policies.get(policy.id, 0)
        if not name:
            name = _digest(policy.name)
            if self._holders.setdefault(name, policy.id) != policy.id:
                name = _digest(f"{policy.name}\0{self._epoch}\0{policy.id}")
                self._holders[name] = policy.id
            self._policies[policy.id] = name
        return name

    @staticmethod
    def _flow_name(policy: Policy, name: int, index: int, flow: int) -> int:
        if name != _digest(policy.name):
            return _digest(f"{name}\0{index}")
        what = [(rule.local, rule.remote) for rule in policy.rules if rule.flow == flow]
        return _digest(f"{policy.name}\0{index}\0{what}")

    def remove(self, policy: int) -> int | None:
        self._release(self._flows_of.pop(policy, []))
        name = self._policies.pop(policy, None)
        if name is not None:
            self._holders.pop(name, None)
        return name

    def policies(self) -> tuple[int, ...]:
        return tuple(self._policies.values())

    def _release(self, flows: list[int]) -> None:
        for flow in flows:
            self._users[flow] -= 1
            if self._users[flow] <= 0:
                del self._users[flow]
                name = self._flows.pop(flow, 0)
                # A changed child's flows may be what they were, under new numbers: the name is theirs now.
                if self._endpoint_flows.get(name) == flow:
                    del self._endpoint_flows[name]


class Plane:
    """One data plane, as long as its pair lives; `attach` gives a new pair after its restart.

    `report(message)` is called for each report that answers no command, `drained()` after all that came
    at once; `lost()` when the pair ends; `stuck()` once, when it owes answers and says nothing any more.
    `silent`: for how many seconds it has been so.
    `counters`: `sent queued refused reports malformed late`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[messages.Report], None],
        drained: Callable[[], None],
        lost: Callable[[], None],
        epoch: int,
    ) -> None:
        self._loop = loop
        self._report = report
        self._drained = drained
        self._lost = lost
        self._sock: socket.socket | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._answered = 0.0
        self._patience = START_WITHIN
        self.stuck: Callable[[], None] = lambda: None
        self.silent = self._looked = 0.0
        self._owes = self._told = False
        self._writing = False
        self._next = 0
        self._waiting: dict[int, tuple[float, Answer]] = {}
        self._buffer = bytearray(messages.MAX_MESSAGE)
        self._installed: set[int] | None = set()
        self.names = Names(epoch)
        self.counters: Counter[str] = Counter()

    @property
    def attached(self) -> bool:
        return self._sock is not None

    def attach(self, sock: socket.socket) -> None:
        self.detach()
        sock.setblocking(False)
        self._sock = sock
        self._answered = self._loop.time()
        self._patience = START_WITHIN
        self.silent, self._owes, self._told = 0.0, False, False
        self._loop.add_reader(sock, self._readable)

    def detach(self) -> None:
        """Let go of the pair; whoever waits for an answer is told that none comes."""
        if self._sock is None:
            return
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._sock = None
        self._writing = False
        self._queue.clear()
        self._queued = 0
        waiting, self._waiting = self._waiting, {}
        for _, answer in waiting.values():
            answer(None)

    # -- commands ------------------------------------------------------------------------------

    def install_policy(self, policy: Policy, answer: Answer | None = None) -> None:
        name = self.names.add(policy)
        self._command(
            lambda request: messages.InstallPolicy(
                request,
                policy=name,
                name=policy.name,
                # Equal priorities keep the endpoint's order, which the digests would shuffle.
                priority=(policy.priority << PAIR_BITS) | policy.id,
                rules=tuple(
                    messages.Rule(
                        int(rule.action),
                        selector(rule.local),
                        selector(rule.remote),
                        self.names.flow(rule.flow),
                    )
                    for rule in policy.rules
                ),
                trap=policy.trap,
                local=policy.local.packed if policy.local else b"",
                remote=policy.remote.packed if policy.remote else b"",
                mode=policy.mode,
                protocols=policy.protocols,
                ipcomp=policy.ipcomp,
                interface=policy.interface,
                if_id=policy.if_id,
            ),
            answer,
        )

    def remove_policy(self, policy: int, answer: Answer | None = None) -> None:
        name = self.names.remove(policy)
        if name is not None:
            self._command(lambda request: messages.RemovePolicy(request, policy=name), answer)

    def install_sa(self, sa: SaParameters, answer: Answer | None = None) -> None:
        encapsulation = sa.encapsulation
        if self._installed is not None:
            self._installed.add(self.names.pair(sa.pair))
        self._command(
            lambda request: messages.InstallSa(
                request,
                direction=int(sa.direction),
                protocol=sa.protocol,
                mode=sa.mode,
                spi=sa.spi,
                pair=self.names.pair(sa.pair),
                flow=self.names.flow(sa.flow),
                local=sa.local.packed,
                remote=sa.remote.packed,
                local_port=encapsulation.local_port if encapsulation else 0,
                remote_port=encapsulation.remote_port if encapsulation else 0,
                encryption=sa.encryption,
                key_bits=sa.key_bits,
                integrity=sa.integrity,
                encryption_key=sa.encryption_key,
                integrity_key=sa.integrity_key,
                esn=sa.esn,
                replay_window=sa.replay_window,
                local_selectors=tuple(selector(s) for s in sa.local_selectors),
                remote_selectors=tuple(selector(s) for s in sa.remote_selectors),
                soft_bytes=sa.volume.soft_bytes,
                hard_bytes=sa.volume.hard_bytes,
                soft_packets=sa.volume.soft_packets,
                hard_packets=sa.volume.hard_packets,
                hard_seconds=sa.hard_seconds,
                copy_dscp_out=sa.header.copy_dscp_out,
                copy_dscp_in=sa.header.copy_dscp_in,
                copy_ecn=sa.header.copy_ecn,
                copy_df=sa.header.copy_df,
                notify_first_use=sa.notify_first_use,
                set_df=sa.header.set_df,
                fragment_before=sa.header.fragment_before,
                ipcomp=sa.ipcomp,
                tfc_padding=sa.tfc_padding,
                dummy_interval=sa.dummy_interval,
                bundle=self.names.pair(sa.bundle) if sa.bundle else 0,
                manual=sa.manual,
                original_local=sa.original_local.packed if sa.original_local else b"",
                original_remote=sa.original_remote.packed if sa.original_remote else b"",
                interface=sa.interface,
                if_id=sa.if_id,
                mark=sa.mark,
                hw_offload=sa.hw_offload,
            ),
            answer,
        )

    def update_sa(self, update: effects.UpdateSa, answer: Answer | None = None) -> None:
        path, ports = update.path, update.encapsulated
        self._command(
            lambda request: messages.UpdateSa(
                request,
                pair=self.names.pair(update.pair),
                local=path.local.packed,
                remote=path.remote.packed,
                local_port=path.local_port if ports else 0,
                remote_port=path.remote_port if ports else 0,
            ),
            answer,
        )

    def remove_sa(self, removal: effects.RemoveSa, answer: Answer | None = None) -> None:
        self._command(
            lambda request: messages.RemoveSa(
                request,
                direction=removal.direction,
                spi=removal.spi,
                remote=removal.remote.packed,
                linger=removal.linger,
                pair=self.names.pair(removal.pair),
            ),
            answer,
        )

    def configure(
        self,
        host: HostConfiguration,
        former: HostConfiguration,
        answer: Answer | None = None,
        *,
        exact: bool,
    ) -> None:
        """`former` is how it was by our own order; `exact`: what others ordered goes too."""
        gone = set(former.addresses).difference(host.addresses)
        self._command(
            lambda request: messages.Configure(
                request,
                addresses=tuple(address.packed for address in host.addresses),
                gone=tuple(address.packed for address in gone),
                servers=tuple(server.packed for server in host.dns),
                domains=host.domains,
                translations=tuple(
                    messages.Translation(selector(network), address.packed)
                    for network, address in host.translations
                ),
                exact=exact,
            ),
            answer,
        )

    def read_counters(self, pairs: tuple[int, ...], answer: Answer) -> None:
        """Of these pairs (the endpoint's numbers); none named: all, former daemons' too."""
        named = tuple(self.names.pair(pair) for pair in pairs)
        self._command(lambda request: messages.ReadCounters(request, pairs=named), answer)

    def dump(self, answer: Answer) -> None:
        self._command(messages.Dump, answer)

    def sweep(self, kept: tuple[int, ...] = (), answer: Answer | None = None) -> None:
        """Once: remove what a former daemon left, policies and pairs that were not installed through this.

        Those that are being set up or linger count as ours, hence all that ever were, and not who lives.
        Again, after the data plane's restart: all pairs but `kept` (the endpoint's numbers).
        """
        ours = (*(self._installed or ()), *(self.names.pair(pair) for pair in kept))
        self._installed = None
        self._command(
            lambda request: messages.Sweep(request, policies=self.names.policies(), pairs=ours), answer
        )

    def forward(self, data: bytes, local: bytes, local_port: int, remote: bytes, remote_port: int) -> None:
        """An ESP datagram back to its owner. Traffic is lost rather than queued before commands."""
        if self._queue or self._sock is None:
            self.counters["refused"] += 1
            return
        message = messages.ForwardDatagram(0, local, local_port, remote, remote_port, data)
        try:
            self._sock.send(messages.encode(message))
        except OSError:
            self.counters["refused"] += 1

    def shutdown(self, *, clear: bool) -> None:
        self._command(lambda request: messages.Shutdown(request, clear=clear), None)

    # -- the pair ------------------------------------------------------------------------------

    def _command(self, make: Callable[[int], messages.Command], answer: Answer | None) -> None:
        if self._sock is None or self._queued >= MAX_QUEUED:
            self.counters["refused"] += 1
            if answer is not None:
                answer(None)
            return
        request = 0
        if answer is not None:
            self._next = request = (self._next + 1) & 0xFFFFFFFF or 1
            self._waiting[request] = (self._loop.time(), answer)
            self._owes = True
        data = messages.encode(make(request))
        if len(data) > messages.MAX_MESSAGE:
            self.counters["too-large"] += 1
            if answer is not None:
                del self._waiting[request]
                answer(messages.Done(request, f"{len(data)} octets are too much for one command"))
            return
        self.counters["sent"] += 1
        if not self._queue:
            try:
                self._sock.send(data)
                return
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._ended()
                return
        self.counters["queued"] += 1
        self._queue.append(data)
        self._queued += len(data)
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        while self._queue and self._sock is not None:
            try:
                self._sock.send(self._queue[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._ended()
                return
            self._queued -= len(self._queue.popleft())
        if self._sock is not None:
            self._loop.remove_writer(self._sock)
        self._writing = False

    def _readable(self) -> None:
        self._read()
        self._drained()

    def _read(self) -> None:
        for _ in range(BATCH):
            if self._sock is None:
                return
            try:
                length = self._sock.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                length = 0
            if not length:
                self._ended()
                return
            self.counters["reports"] += 1
            self.silent = 0.0
            try:
                report = messages.decode_report(bytes(memoryview(self._buffer)[:length]))
            except (msgspec.ValidationError, msgspec.DecodeError):
                self.counters["malformed"] += 1
                continue
            if isinstance(report, messages.Done | messages.Counters | messages.Dumped):
                waiting = self._waiting.pop(report.request, None)
                self._answered = self._loop.time()
                self._patience = ANSWER_WITHIN
                self._owes = bool(self._waiting)
                if waiting is None:
                    self.counters["late"] += 1
                else:
                    waiting[1](report)
            else:
                self._report(report)

    def _ended(self) -> None:
        self.detach()
        self._lost()

    def give_up_late(self, now: float) -> None:
        """Answer None for the oldest, if the data plane owes it and answers nothing; called now and then."""
        self._look_after(now)
        while self._waiting:
            request, (asked, answer) = next(iter(self._waiting.items()))
            if max(asked, self._answered) + self._patience > now:
                return
            del self._waiting[request]
            self.counters["late"] += 1
            answer(None)

    def _look_after(self, now: float) -> None:
        # At most a second a look: while the whole machine slept, nobody was silent.
        passed, self._looked = min(now - self._looked, 1.0), now
        if self._sock is None:
            return
        if self._owes:
            self.silent += passed
            starts = self._patience == START_WITHIN
            if self.silent > (STUCK_AT_START if starts else STUCK_AFTER) and not self._told:
                self._told = True
                self.stuck()
        elif now - self._answered > ASK_AFTER:
            nothing = (0,)  # no pair has this name: the answer is short
            self._command(lambda request: messages.ReadCounters(request, pairs=nothing), lambda _: None)


def selector(value: TrafficSelector) -> messages.Selector:
    size = 4 if value.family == 4 else 16
    return messages.Selector(
        value.family,
        value.protocol,
        value.first.to_bytes(size, "big"),
        value.last.to_bytes(size, "big"),
        value.port_first,
        value.port_last,
    )


def selector_from(value: messages.Selector) -> TrafficSelector:
    return TrafficSelector(
        value.family,
        value.protocol,
        int.from_bytes(value.first, "big"),
        int.from_bytes(value.last, "big"),
        value.port_first,
        value.port_last,
    )


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 2 or 1
