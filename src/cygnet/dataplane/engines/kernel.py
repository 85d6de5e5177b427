"""The kernel's own ESP and AH behind the data plane's verbs: this process configures, packets never see it.

    commands → policies (xfrm.policies), states (xfrm.states), routes (xfrm.routes) → netlink, in batches
    events   → Acquire, Expire, PeerMoved, FirstUse; what somebody else removed

Everything is in the kernel and nothing is lost with this process: the next one finds what is there (`adopt`),
takes over what the daemon still wants, and removes the rest when it is told that this was all (`sweep`).
Policies come before SAs and outlive them; a packet that has a policy and no SA is dropped by the kernel.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush

from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.messages import (
    Acquire,
    Expire,
    FirstUse,
    InterfaceCounters,
    PairCounters,
    PeerMoved,
    Report,
    Warned,
)
from cygnet.dataplane.nftables import KernelError
from cygnet.dataplane.ports import interface_counters
from cygnet.dataplane.translate import Refused, selector
from cygnet.dataplane.xfrm import codec, states
from cygnet.dataplane.xfrm.book import Book
from cygnet.dataplane.xfrm.codec import Encapsulation, SaKey, SaSeen
from cygnet.dataplane.xfrm.fragments import Fragments
from cygnet.dataplane.xfrm.interfaces import Interfaces
from cygnet.dataplane.xfrm.leftovers import remove_guard
from cygnet.dataplane.xfrm.netlink import Events, Message, XfrmSocket
from cygnet.dataplane.xfrm.policies import KernelSpd
from cygnet.dataplane.xfrm.routes import KernelRoutes, own_addresses
from cygnet.dataplane.xfrm.rules import of_packet
from cygnet.dataplane.xfrm.sockets import forward_foreign
from cygnet.dataplane.xfrm.states import Entry
from cygnet.dataplane.xfrm.statistics import drops
from cygnet.ipsec.drops import Drop
from cygnet.policy.sa import Direction, SaParameters, SaProtocol, UdpEncapsulation
from cygnet.policy.selectors import IpAddress
from cygnet.policy.spd import Action, Policy

NAME = "kernel"
REFRESH_EVERY = 10.0
"""Seconds between looks at whether everything is still in the kernel."""
SKIP = 1 << 14
"""Sequence numbers left out when an outbound SA moves: more than leave between the look and the move."""
_GROUPS = (
    codec.GROUP_ACQUIRE, codec.GROUP_EXPIRE, codec.GROUP_SA, codec.GROUP_POLICY, codec.GROUP_MAPPING
)  # fmt: skip
_TOLD = (
    codec.ACQUIRE, codec.EXPIRE, codec.MAPPING, codec.NEW_AE, codec.DEL_SA, codec.DEL_POLICY,
    codec.FLUSH_SA, codec.FLUSH_POLICY, codec.UPD_POLICY,
)  # fmt: skip


class Moment:
    """What the loop keeps with an engine: monotonic seconds of this turn, and drops by reason."""

    def __init__(self) -> None:
        self.now = 0.0
        self.drops: Counter[str] = Counter()


class KernelEngine:
    """`report` takes messages upward and never blocks. Raises OSError where there is no XFRM at all."""

    name = NAME

    def __init__(self, options: Options, report: Callable[[Report], None]) -> None:
        self.state = Moment()
        self.watch: Callable[[int, Callable[[], None] | None], None] = lambda fd, work: None
        """As of the portable engine; packets come to no descriptor of ours."""
        self.device_name = options.tun
        self._report = report
        self._socket = XfrmSocket()
        self._events = Events(_GROUPS, _TOLD, self._socket.port)
        default = Action.DISCARD if options.default_discard else Action.BYPASS
        self.spd = KernelSpd(self._socket, default)
        self.book = Book()
        self._routes = KernelRoutes(self._remote_of)
        self._interfaces = Interfaces()
        self._fragments = Fragments()
        self._ends: list[tuple[float, int, Entry]] = []
        self._number = itertools.count()
        self._awaiting: dict[int, Entry] = {}
        """Inbound SAs whose first packet is to be told, by object id."""
        self._refreshed = 0.0
        self._told: Counter[str] = Counter()
        self._contested = ""
        """What was told last of policies that cannot be put back."""
        self._alone = False
        """What another kind of engine left is gone."""
        self.adopt()

    def fileno(self) -> int:
        """Becomes readable when the kernel has something to tell."""
        return self._events.fileno()

    def readers(
        self, lanes: Sequence[socket.socket], raws: Sequence[socket.socket]
    ) -> dict[int, Callable[[], None]]:
        """What the loop is to watch, by descriptor, and what it calls when there is something to read."""
        made: dict[int, Callable[[], None]] = {self.fileno(): self.readable}
        for sock in lanes:
            made[sock.fileno()] = partial(forward_foreign, sock, self._report)
        return made

    def draining(self, yes: bool) -> None:
        """Nothing here waits for commands."""

    def forwarded(self, data: bytes, local: bytes, port: int, source: tuple[str, int]) -> None:
        """ESP that reached a socket of the daemon's: there the kernel has no SA for it."""
        self.state.drops[Drop.NO_SA] += 1

    def held(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Policies, pairs, and flows that have an outbound SA."""
        return tuple(policy.id for policy in self.spd), tuple(self.book.pairs), self.book.flows()

    def interfaces(self) -> tuple[InterfaceCounters, ...]:
        """Of the XFRM interfaces; what the kernel drops, it counts by SA or for the whole namespace."""
        return tuple(interface_counters(name, {}) for name in self._interfaces.names)

    def offload_flags(self) -> dict[str, bool]:
        return {}

    def addresses_changed(self) -> None:
        """Of this machine: routes have sources, and it may speak to itself. Raises KernelError."""
        self._routes.refresh()
        self._find_own()
        self.spd.commit()

    def _find_own(self) -> None:
        self.spd.own_addresses(own_addresses(6))

    def close(self) -> None:
        self._socket.close()
        self._events.close()

    def adopt(self) -> None:
        """What a former process left becomes ours until `sweep`. Raises OSError."""
        self.spd.adopt()
        companions: list[SaSeen] = []
        for seen in reversed(self._dumped()):  # the kernel tells the youngest first
            entry = states.adopted(seen)
            if entry is None:
                continue
            self.spd.know(entry.flow, entry.reqid)
            if seen.key.protocol == codec.IPCOMP:
                companions.append(seen)
            else:
                self.book.add(entry)
        for seen in companions:
            self._adopt_companion(seen)
        around = {entry.flow for entry in self.book if entry.protocol == SaProtocol.AH}
        within = {entry.flow for entry in self.book if entry.protocol == SaProtocol.ESP}
        for entry in self.book:
            if entry.protocol == SaProtocol.ESP or entry.flow not in within:
                shape = states.adopted_shape(entry, bundled=entry.flow in around & within)
                inbound = entry.direction == Direction.IN
                self.spd.remember(entry.flow, inbound=inbound, shape=shape)

    def _adopt_companion(self, seen: SaSeen) -> None:
        ledger = seen.limits.ledger
        for entry in self.book.pairs.get(ledger[1] if ledger else 0, ()):
            if entry.keys[0].destination == seen.key.destination:
                self.book.rekeyed(entry, (entry.keys[0], seen.key))
                entry.mode = seen.mode

    # -- policies ------------------------------------------------------------------------------

    def change_policies(self, changes: Sequence[Policy | int]) -> list[str]:
        """Install (a Policy) and remove (its number) many in one go. One sentence for each change, empty
        where it is in force. Removing what is not there is no error."""
        if not changes:
            return []
        before = [self.spd.get(change.id if isinstance(change, Policy) else change) for change in changes]
        try:
            for change in changes:
                self._propose(change)
            self._commit()
        except KernelError as error:
            for change, former in zip(changes, before, strict=True):
                number = change.id if isinstance(change, Policy) else change
                self._propose(number if former is None else former)
            with suppress(KernelError):  # what is refused again stays to be done with the next commit
                self._commit()
            if len(changes) == 1:
                return [str(error)]
            return [self.change_policies((change,))[0] for change in changes]
        return [""] * len(changes)

    def _propose(self, change: Policy | int) -> None:
        if isinstance(change, Policy):
            change = self._interfaces.numbered(change)
            self.spd.put(change)
            self._routes.put(change)
        else:
            self.spd.remove(change)
            self._routes.remove(change)

    def _commit(self) -> None:
        if not self._alone:
            self._find_own()
        self._interfaces.need(self.spd)
        if self.spd.sees_ports:
            self._fragments.need()
        self.spd.commit()
        self._routes.commit()
        self._interfaces.drop_unneeded()
        if not self.spd.sees_ports:
            self._fragments.drop()
        if not self._alone:
            remove_guard(defragment=self._fragments.standing)
            self._routes.sweep()
            self._alone = True

    def _remote_of(self, flow: int) -> IpAddress | None:
        shape = self.spd.shape_now(flow, inbound=False)
        return shape.remote if shape else None

    # -- SAs -----------------------------------------------------------------------------------

    def install_sa(self, parameters: SaParameters) -> None:
        """Raises Refused."""
        (error,) = self.install_sas([parameters])
        if error:
            raise Refused(error)

    def install_sas(self, several: Sequence[SaParameters]) -> list[str]:
        """Many in one exchange with the kernel. A sentence for each that was refused, else nothing."""
        errors = [""] * len(several)
        # A restarted daemon brings those that were keyed by hand again, under a pair of its own.
        for sa in several:
            old = self.book.find(sa.direction, sa.spi, sa.remote.packed, 0) if sa.manual else None
            if old is not None:
                self._remove([old])
        made: list[list[codec.Sa]] = []
        for place, parameters in enumerate(several):
            try:
                made.append(self._made_of(parameters, states.offload(parameters)))
            except Refused as refused:
                errors[place] = str(refused)
                made.append([])
        if any(one.notify_first_use for one in several) and not self._awaiting:
            self._events.join(codec.GROUP_AEVENTS)
        try:
            outcomes = iter(self._socket.change([codec.sa_message(sa) for group in made for sa in group]))
        except OSError as error:
            return [f"the kernel takes no SAs: {error.strerror}"] * len(several)
        installed = []
        undone: list[Message] = []
        for place, (parameters, group) in enumerate(zip(several, made, strict=True)):
            refusals = [next(outcomes) for _ in group]
            refusal = next((one for one in refusals if one is not None), None)
            if refusal is not None:
                errors[place] = states.refusal(parameters, refusal)
                undone += [
                    codec.sa_removal(sa.key) for sa, one in zip(group, refusals, strict=True) if one is None
                ]
            elif group:
                installed.append((parameters, states.entry(parameters, group)))
        if undone:
            self._socket.change(undone)
        for place, parameters in enumerate(several):
            if errors[place] and parameters.hw_offload == "auto" and made[place]:
                errors[place] = self._without_offload(parameters)
        for parameters, entry in installed:
            self._installed(parameters, entry)
        self._follow(errors)
        return errors

    def _follow(self, errors: list[str]) -> None:
        """Policies and routes follow what SAs look like and where their peers are."""
        try:
            self.spd.commit()
            self._routes.commit()
        except KernelError as error:
            self._report(Warned("policy_lost", f"a policy cannot follow its SA: {error}"))

    def _without_offload(self, parameters: SaParameters) -> str:
        """The device, or the kernel, cannot do it: then it is done as without."""
        (error,) = self.install_sas([replace(parameters, hw_offload="no")])
        return error

    def _made_of(self, parameters: SaParameters, offload: codec.Offload | None) -> list[codec.Sa]:
        if parameters.interface and not parameters.if_id:
            parameters = replace(parameters, if_id=self._interfaces.number(parameters.interface))
        return states.made_of(parameters, self.spd.reqid(parameters.flow), offload)

    def _installed(self, parameters: SaParameters, entry: Entry) -> None:
        self.book.add(entry)
        inbound = entry.direction == Direction.IN
        if entry.awaiting_first:
            self._awaiting[id(entry)] = entry
        if parameters.protocol == SaProtocol.AH and parameters.bundle:
            return  # the flow looks like the ESP SA inside
        outer = next(iter(self.book.pairs.get(parameters.bundle, ())), None) if parameters.bundle else None
        self.spd.shape(entry.flow, inbound=inbound, shape=states.shape(parameters, outer))
        if not inbound:
            self._routes.moved(entry.flow)

    def update_sa(
        self, pair: int, local: IpAddress, remote: IpAddress, ports: UdpEncapsulation | None
    ) -> None:
        """Other ends for a live pair; keys, counters, windows stay. Raises Refused."""
        entries = self.book.pairs.get(pair)
        if not entries:
            raise Refused("no such pair")
        for entry in tuple(entries):
            self._move(entry, local, remote, ports)
            if entry.direction == Direction.OUT and self.book.outbound(entry.flow) is entry:
                shape = self.spd.shape_now(entry.flow, inbound=False)
                if shape is not None:
                    self.spd.shape(
                        entry.flow, inbound=False, shape=replace(shape, local=local, remote=remote)
                    )
                    self._routes.moved(entry.flow)
        try:
            self.spd.commit()
            self._routes.commit()
        except KernelError as error:
            raise Refused(str(error)) from error

    def _move(
        self, entry: Entry, local: IpAddress, remote: IpAddress, ports: UdpEncapsulation | None
    ) -> None:
        outbound = entry.direction == Direction.OUT
        source, destination = (local, remote) if outbound else (remote, local)
        encapsulation = None
        if ports is not None:
            found = ports.local_port, ports.remote_port
            encapsulation = Encapsulation(*(found if outbound else reversed(found)))
        changes: list[Message] = []
        keys = []
        for key, body in zip(
            entry.keys, self._socket.ask([codec.sa_question(key) for key in entry.keys]), strict=True
        ):
            if body is None:
                raise Refused(f"SPI {key.spi:#010x} is not in the kernel any more")
            seen = codec.sa_from(body)
            around = encapsulation if key.protocol == codec.ESP else None
            new = SaKey(destination, key.spi, key.protocol)
            keys.append(new)
            message = codec.moved_sa_message(seen, source, destination, around, SKIP if outbound else 0)
            same_ends = (seen.key.destination, seen.source) == (destination, source)
            if same_ends and (seen.encapsulation is None) == (around is None):
                changes.append(Message(codec.UPD_SA, message.body, message.flags))
            elif new == key:  # the old one is in its place
                changes += [codec.sa_removal(key), message]
            else:
                changes += [message, codec.sa_removal(key)]
        refusal = next((one for one in self._socket.change(changes) if one is not None), None)
        if refusal is not None:
            raise Refused(f"the SA cannot move: {refusal.strerror}")
        self.book.rekeyed(entry, tuple(keys))
        entry.local, entry.remote, entry.encapsulated = local, remote, ports is not None

    def remove_sa(self, direction: int, spi: int, remote: bytes, linger: float, pair: int = 0) -> None:
        """Nothing happens if there is none: it may have expired meanwhile."""
        entry = self.book.find(direction, spi, remote, pair)
        if entry is None:
            return
        if entry.direction == Direction.IN and linger > 0:
            entry.remove_at = time.monotonic() + linger
            heappush(self._ends, (entry.remove_at, next(self._number), entry))
        else:
            self._remove([entry])

    def _remove(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._forget(entry)
        # Refusals mean that they are gone.
        self._socket.change([codec.sa_removal(key) for entry in entries for key in entry.keys])

    def _forget(self, entry: Entry) -> None:
        self.book.remove(entry)
        self._no_longer_awaited(entry)

    def _no_longer_awaited(self, entry: Entry) -> None:
        if self._awaiting.pop(id(entry), None) is not None and not self._awaiting:
            self._events.leave(codec.GROUP_AEVENTS)

    def take_precedence(self) -> None:
        """All policies are here: what a former process left overrides them no more. Raises KernelError."""
        self.spd.take_precedence()

    def sweep(self, policies: tuple[int, ...], pairs: tuple[int, ...]) -> None:
        """Remove every policy and pair not named, and what a former process left.

        Raises Refused, KernelError.
        """
        kept = set(pairs)
        self._remove([entry for entry in self.book if entry.pair not in kept])
        errors = self.change_policies([one.id for one in self.spd if one.id not in set(policies)])
        self.spd.sweep()
        self._routes.sweep()
        if not self.spd.sees_ports:
            self._fragments.drop()
        if any(errors):
            raise Refused(next(filter(None, errors)))

    def clear(self) -> None:
        """The operator wants all undone."""
        self.sweep((), ())
        self.spd.clear()
        self._routes.clear()
        self._interfaces.drop_unneeded()
        self._fragments.drop()

    # -- what the kernel tells -----------------------------------------------------------------

    def readable(self) -> None:
        events, lost = self._events.read()
        for kind, body in events:
            self._handle(kind, body)
        if lost:
            self._compare_policies()
            self._compare_sas()

    def _handle(self, kind: int, body: bytes) -> None:
        match kind:
            case codec.ACQUIRE:
                self._acquired(codec.acquire_from(body))
            case codec.EXPIRE:
                self._expired(*codec.expire_from(body))
            case codec.MAPPING:
                self._moved(codec.mapping_from(body))
            case codec.NEW_AE:
                key = codec.key_from(body)
                entry = self.book.at(key) if key else None
                if entry is not None and entry.awaiting_first:
                    self._first_used(entry)
            case codec.DEL_SA:
                key = codec.key_from(body)
                entry = self.book.at(key) if key else None
                if entry is not None:
                    self._lost(entry)
            case codec.FLUSH_SA:
                self._compare_sas()
            case codec.DEL_POLICY:
                found = codec.deleted_policy_from(body)
                if found is not None and self.spd.lost(found):
                    self._put_back(1)
            case codec.UPD_POLICY:
                if self.spd.altered(codec.policy_from(body)):
                    self._put_back(1)
            case codec.FLUSH_POLICY:
                self._compare_policies()
            case _:
                self._told["unknown"] += 1

    def _acquired(self, asked: codec.Acquired) -> None:
        flow = self.spd.flow(asked.reqid)
        if any(policy.trap for policy in self.spd if any(rule.flow == flow for rule in policy.rules)):
            local, remote = map(selector, of_packet(asked.selector))
            self._report(Acquire(flow, local, remote))

    def _expired(self, seen: SaSeen, hard: bool) -> None:
        entry = self.book.at(seen.key)
        if entry is None:
            return
        if entry.remove_at is not None:  # it lingers, and is replaced already
            if hard:
                self._forget(entry)
            return
        why = states.why(seen, entry, hard=hard)
        if hard:
            self._end(entry, why)
        else:
            self._report(Expire(entry.pair, int(entry.direction), entry.spi, False, why))

    def _end(self, entry: Entry, why: str) -> None:
        if not entry.hard_told:
            entry.hard_told = True
            self._remove([entry])
            self._report(Expire(entry.pair, int(entry.direction), entry.spi, True, why))

    def _lost(self, entry: Entry) -> None:
        """Somebody removed it behind our back: its keys are gone, another must be negotiated."""
        text = f"an SA was removed from the kernel by another program: SPI {entry.spi:#010x}"
        self._report(Warned("sa_lost", text))
        if entry.remove_at is None:
            self._end(entry, "removed")
        else:
            self._forget(entry)

    def _moved(self, moved: codec.Moved) -> None:
        entry = self.book.at(moved.key)
        if entry is not None and entry.encapsulated:
            self._report(PeerMoved(entry.pair, entry.spi, moved.source.packed, moved.port))

    def _first_used(self, entry: Entry) -> None:
        entry.awaiting_first = False
        key = entry.keys[0]
        self._socket.change([codec.event_threshold(key, entry.remote, entry.reqid, 0)])
        self._no_longer_awaited(entry)
        self._report(FirstUse(entry.pair, entry.spi))

    # -- time ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """The end of lingering; what no event tells; drift."""
        now = time.monotonic()
        due = []
        while self._ends and self._ends[0][0] <= now:
            due.append(heappop(self._ends)[2])
        if due:
            self._remove(due)
        self._look_for_first_use()
        if now - self._refreshed >= REFRESH_EVERY:
            self._refreshed = now
            self.readable()  # what the kernel itself has ended is not missed
            self._compare_policies()
            self._compare_sas()
            try:
                self.addresses_changed()
                if self._fragments.refresh():
                    self._report(Warned("policy_restored", "what puts fragments together had been removed"))
            except KernelError as error:
                self._report(Warned("routes_lost", str(error)))

    def _look_for_first_use(self) -> None:
        """Without a replay window there is no event."""
        waiting = list(self._awaiting.values())
        answers = self._socket.ask([codec.sa_question(entry.keys[0]) for entry in waiting])
        for entry, body in zip(waiting, answers, strict=True):
            if body is not None and codec.sa_from(body).packets:
                self._first_used(entry)

    def _compare_policies(self) -> None:
        self._put_back(self.spd.compare())

    def _put_back(self, missing: int) -> None:
        """So many are to be put back, and those that were refused before."""
        try:
            self.spd.commit()
            missing += self.spd.retry()
        except KernelError as error:
            if str(error) != self._contested:
                self._contested = str(error)
                self._report(Warned("policy_lost", f"policies cannot be put back: {error}"))
            return
        self._contested = ""
        if missing:
            text = f"{missing} of the kernel's policies had been removed or changed; they are back"
            self._report(Warned("policy_restored", text))

    def _compare_sas(self) -> None:
        if not len(self.book):
            return
        missing = self.book.keys() - {seen.key for seen in self._dumped()}
        for entry in {id(found): found for key in missing if (found := self.book.at(key))}.values():
            self._lost(entry)

    def _dumped(self) -> list[SaSeen]:
        return [codec.sa_from(body) for _, body in self._socket.dump(codec.GET_SA, b"")]

    # -- looking -------------------------------------------------------------------------------

    def counters(self, pairs: tuple[int, ...]) -> tuple[PairCounters, ...]:
        """Of the pairs named, or of all. SAs of one direction in a pair are summed."""
        chosen = [pair for pair in (pairs or tuple(self.book.pairs)) if pair in self.book.pairs]
        entries = [entry for pair in chosen for entry in self.book.pairs[pair]]
        seen: dict[SaKey, SaSeen] = {}
        if pairs:
            for body in self._socket.ask([codec.sa_question(entry.keys[0]) for entry in entries]):
                if body is not None:
                    one = codec.sa_from(body)
                    seen[one.key] = one
        else:
            seen = {one.key: one for one in self._dumped()}
        return tuple(self._pair_counters(pair, seen) for pair in chosen)

    def _pair_counters(self, pair: int, seen: dict[SaKey, SaSeen]) -> PairCounters:
        now = time.monotonic()
        octets, packets, used, number = [0, 0], [0, 0], [-1.0, -1.0], [0, 0]
        reasons: Counter[str] = Counter()
        for entry in self.book.pairs[pair]:
            one, way = seen.get(entry.keys[0]), int(entry.direction)
            if one is None:
                continue
            if one.packets > entry.packets:
                entry.packets, entry.used = one.packets, now
            octets[way] += one.octets
            packets[way] += one.packets
            number[way] = max(number[way], one.sequence_out if way else one.sequence_in)
            if one.packets:
                age = now - entry.used if entry.used >= 0 else max(0.0, time.time() - one.used_at)
                used[way] = age if used[way] < 0 else min(used[way], age)
            reasons.update({"replay": one.replayed, "bad_icv": one.forged})
        told = {reason: count for reason, count in reasons.items() if count}
        return PairCounters(
            pair, octets[0], packets[0], used[0], octets[1], packets[1], used[1], number[0], number[1], told
        )  # fmt: skip

    def drops(self) -> dict[str, int]:
        """Of the whole network namespace: the kernel counts no finer."""
        return {**self.state.drops, **drops()}
