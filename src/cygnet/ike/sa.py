"""One IKE SA as it lives: its immutable state, what is under way, and what follows from a change.

`commit` is the only place where the state is replaced: changes and window together, all or
nothing; then their consequences (registers, effects, events) in the order of the changes. Messages
are the version's: `v1.sa` and `v2.sa` say how theirs are exchanged; this file knows none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from cygnet.auth.identity import Identity
from cygnet.crypto.entropy import Entropy
from cygnet.ike.changes import (
    AddChild,
    Adopt,
    Change,
    ChangeChild,
    ChangePath,
    DropChild,
    Establish,
    Handover,
    MoveChildren,
    Take,
    Unlend,
    taken_over,
    transition,
)
from cygnet.ike.configuration import Connection, Options
from cygnet.ike.connections import Connections
from cygnet.ike.effects import RemoveSa, ReturnAddresses, UpdateSa
from cygnet.ike.errors import Failure, IkeError, Reason
from cygnet.ike.events import ChildSaDown, ChildSaRekeyed, ChildSaUp, IkeSaUp
from cygnet.ike.remote_access import Lease
from cygnet.ike.state import Around, AttemptKind, ChildPhase, ChildSa, Phase, SaState
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.ike.wanted import CreateChild, Wanted
from cygnet.ike.world import Instant, Path
from cygnet.policy.sa import Direction
from cygnet.policy.selectors import IpAddress
from cygnet.wire.message import Header

if TYPE_CHECKING:
    from cygnet.auth.credentials import Credentials
    from cygnet.ike.endpoint import Endpoint
    from cygnet.ike.running import Task
    from cygnet.ike.steps import Step, Steps


CONFIRM_AFTER: Final = 30.0
"""Seconds until a peer that began and has been silent since IKE_AUTH is asked whether it is there."""


ONE_FOR_BOTH: Final = Failure(Reason.REPLACED, "replaced")


class IkeSa(ABC):
    """`background` are exchanges that have answered and still wait for the world; `queue` what we want
    next, `later` what we want after its time, `first` what is to come up with the SA itself. `parent` is the
    IKE SA that this one may take over from, until it does. `trouble_since`: the peer has been too busy since.
    `looked`: when the traffic was asked whether the peer has to be.
    """

    __slots__ = (
        "background", "close_at", "connection", "first", "gateway", "heard", "later", "looked", "parent",
        "queue", "sent", "state", "trouble_since", "unique_id",
    )  # fmt: skip

    def __init__(self, gateway: Endpoint, unique_id: int, connection: Connection, state: SaState) -> None:
        self.gateway = gateway
        self.unique_id = unique_id
        self.connection = connection
        self.state = state
        self.background: tuple[Task, ...] = ()
        self.queue: deque[Wanted] | None = None
        self.later: tuple[tuple[float, Wanted], ...] = ()
        self.first: CreateChild | None = None
        self.parent = 0
        self.heard = state.created
        self.looked = 0.0
        self.sent = state.created
        self.trouble_since = 0.0
        self.close_at = 0.0

    # -- what its version does -----------------------------------------------------------------

    @abstractmethod
    def receive(self, header: Header, datagram: bytes, path: Path) -> None:
        """A datagram that carries this SA's SPI. It may be anything."""

    @abstractmethod
    def set_up(self, first: CreateChild | None, operation: int) -> None:
        """We initiate: begin what sets this SA up, and its first Child SA if one is wanted."""

    @abstractmethod
    def begin(self, wanted: Wanted) -> Steps[None] | None:
        """The exchange for what we want; None when it is moot by now."""

    @abstractmethod
    def rekey(self, operation: int = 0) -> None:
        """New keys for the SA itself are wanted."""

    @abstractmethod
    def start_next(self) -> None:
        """Begin what is next in the queue, if it is its turn."""

    @abstractmethod
    def tasks(self) -> tuple[Task, ...]:
        """Every exchange under way, each once."""

    @abstractmethod
    def is_ours(self, task: Task) -> bool:
        """Whether we began this exchange."""

    @abstractmethod
    def leave(self, task: Task) -> None:
        """The exchange is over: nothing refers to it any more."""

    @abstractmethod
    def message_step(self, task: Task, step: Step) -> tuple[bool, Any]:
        """Carry out a step that is a message: (whether the exchange waits now, else what it gets)."""

    @abstractmethod
    def exchange_finished(self, task: Task) -> None:
        """The exchange came to its end."""

    @abstractmethod
    def exchange_failed(self, task: Task, error: IkeError) -> None:
        """The exchange ended by an error: the peer is told where it may be, people always."""

    @abstractmethod
    def messages_due(self) -> None:
        """Repeat what is to be repeated now."""

    @abstractmethod
    def message_times(self) -> list[float]:
        """When `messages_due` wants to be called."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Nothing of ours is under way or waits."""

    @property
    @abstractmethod
    def confirmed(self) -> bool:
        """The peer has said something since it was authenticated, or it answered our proof."""

    def dying_children(self, failure: Failure) -> tuple[ChildSa, ...]:
        """The Child SAs that end with this SA."""
        return self.state.children

    def takes_over(self, other: IkeSa, initial_contact: bool) -> bool:
        """We have come up beside `other`, with the same peer: whether its Child SAs are ours now."""
        return False

    # -- what exchanges see (steps.Context) ----------------------------------------------------

    @property
    def connections(self) -> Connections:
        return self.gateway.book

    @property
    def options(self) -> Options:
        return self.gateway.options

    @property
    def credentials(self) -> Credentials:
        return self.gateway.credentials

    @property
    def entropy(self) -> Entropy:
        return self.gateway.entropy

    @property
    def now(self) -> Instant:
        return self.gateway.now

    def nobodies(self) -> int:
        return len(self.gateway.nobodies)

    def has_contact(self, local: Identity, remote: Identity) -> bool:
        return self.gateway.has_contact(local, remote, self)

    def is_carried(self, local: Identity, remote: Identity, flow: int) -> bool:
        return self.gateway.is_carried(local, remote, flow, self)

    def is_calling(self) -> bool:
        return self.gateway.is_calling(self)

    def leases_of(self, local: Identity, user: Identity, connection: str) -> tuple[Lease, ...]:
        here = self.state.path.remote, self.state.path.remote_port
        return tuple(
            [
                lease
                for other in self.gateway.by_peer.get((local, user), ())
                if other is not self
                and other.connection.name == connection
                and (other.state.path.remote, other.state.path.remote_port) == here
                for lease in other.state.leases
            ]
        )

    def addresses_wanted(self) -> tuple[IpAddress, ...]:
        return self.gateway.clients.wanted(self.connection.name, self.connection.vips)

    # -- changes -------------------------------------------------------------------------------

    def commit(self, changes: tuple[Change, ...] = ()) -> None:
        """Replace the state, then let the consequences follow. Raises ImpossibleChange, and then nothing has
        changed."""
        self.become(transition(self.state, changes), changes)

    def become(self, after: SaState, changes: tuple[Change, ...]) -> None:
        """These changes have made this state."""
        before, gateway = self.state, self.gateway
        self.state = after
        for change in changes:
            self._follow(before, change)
        if before.halves:
            for half in before.halves:
                if half not in after.halves and after.owner(half.around.pair) is None:
                    gateway.release_child_spi(half.around.spi_in)

    def _follow(self, before: SaState, change: Change) -> None:
        gateway = self.gateway
        match change:
            case AddChild(child):
                for pair in child.pairs:
                    gateway.by_pair[pair] = self
                self.trouble_since = 0.0
                if child.announced:
                    self._announce(before, child)
            case ChangeChild(child):
                old = before.child(child.pair)
                if child.announced and old is not None and not old.announced:
                    self._announce(before, child)
                elif child.announced and (other := taken_over(before, child)) is not None:
                    # Both were announced, under an IKE SA each: now one stands for both.
                    self.gateway.event(ChildSaDown(self.view(), self.child_view(other), ONE_FOR_BOTH))
            case DropChild(pair, failure):
                gone = before.child(pair)
                if gone is not None:
                    gateway.relieve(self, gone)
                    self.remove_pair(gone, failure)
                    if failure is not None and gone.announced and self.state.phase is Phase.ESTABLISHED:
                        gateway.reconnecting.child_lost(self, gone, failure)
            case ChangePath(path):
                for child in self.state.children:
                    for pair in child.pairs:
                        gateway.emit(UpdateSa(pair, path, child.encapsulated))
            case Handover(successor):
                gateway.handover(self, before, successor)
            case Establish():
                gateway.reassign(self, change.connection)
                gateway.half_open.release(self)
                gateway.event(IkeSaUp(self.view()))
                gateway.established(self, change.initial_contact)
            case MoveChildren(heir):
                taking = gateway.by_number.get(heir)
                if taking is not None:
                    # What is leased goes along with the Child SAs that use it, once if both have it.
                    held = taking.state.leases
                    twice = tuple([one for one in before.leases if one in held])
                    moving = tuple([one for one in before.leases if one not in held])
                    taking.commit((Adopt(before.children, moving),))
                    if twice:
                        gateway.emit(ReturnAddresses(twice))
            case Adopt(children):
                for child in children:
                    for pair in child.pairs:
                        gateway.by_pair[pair] = self
            case Unlend(leases):
                gateway.emit(ReturnAddresses(leases))
            case Take(given):
                gateway.clients.take(self.unique_id, self.connection, given)

    def _announce(self, before: SaState, child: ChildSa) -> None:
        old = taken_over(before, child)
        view = self.view()
        shown = next(one for one in view.children if one.pair == child.pair)
        if old is not None:
            self.gateway.history.forget_rekeys(self.connection.name, child.name)
            self.gateway.event(ChildSaRekeyed(view, self.child_view(old), shown))
        else:
            self.gateway.event(ChildSaUp(view, shown))

    def remove_pair(self, child: ChildSa, failure: Failure | None) -> None:
        """Both directions go; the inbound one still receives for a while, unless its time is up."""
        gateway = self.gateway
        expired = failure is not None and failure.reason is Reason.EXPIRED
        linger = 0.0 if expired else self.options.delete_rekeyed_delay
        remote = self.state.path.remote
        if child.outbound is None:
            gateway.emit(RemoveSa(Direction.OUT, child.spi_out, remote, child.pair, 0.0))
        gateway.emit(RemoveSa(Direction.IN, child.spi_in, remote, child.pair, linger))
        gateway.by_pair.pop(child.pair, None)
        gateway.release_child_spi(child.spi_in)
        if child.around is not None:
            self._remove_around(child.around, linger)
        gateway.policies.unused(child.policy)
        if child.announced:
            failure = failure or Failure(Reason.REPLACED, "replaced")
            gateway.event(ChildSaDown(self.view(), self.child_view(child), failure))

    def _remove_around(self, around: Around, linger: float) -> None:
        """The AH of a bundle, behind its ESP."""
        gateway, remote = self.gateway, self.state.path.remote
        gateway.emit(RemoveSa(Direction.OUT, around.spi_out, remote, around.pair, 0.0))
        gateway.emit(RemoveSa(Direction.IN, around.spi_in, remote, around.pair, linger))
        gateway.by_pair.pop(around.pair, None)
        gateway.release_child_spi(around.spi_in)

    # -- time ----------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """Seconds of silence until we ask whether the peer is there; 0: we do not ask.

        Who has begun and said nothing since is asked soon, whatever is configured: its messages may have
        been meant for somebody else, and it knows of no IKE SA with us (T31).
        """
        delay = self.connection.dpd_delay
        if self.confirmed:
            return delay
        return min(delay, CONFIRM_AFTER) if delay > 0 else CONFIRM_AFTER

    def due(self) -> float | None:
        """The earliest of all that this SA waits for. `handle_timeout` must act on each, or it would be
        called again at once and for ever."""
        if self.close_at:
            return self.close_at
        times = self.message_times()
        state = self.state
        times.extend([task.due for task in self.tasks() if task.due])
        if self.later:
            times.append(self.later[0][0])
        if state.phase is Phase.CONNECTING and not state.original_initiator:
            times.append(state.created + self.options.half_open_timeout)
        if state.phase is Phase.ESTABLISHED:
            reauth_at = state.reauth_at if state.began else 0.0
            times.extend([at for at in (state.rekey_at, reauth_at, state.expires_at, state.ends_at) if at])
            times.extend([half.expires_at for half in state.halves])
            for child in state.children:
                if child.rekey_at and child.phase is ChildPhase.INSTALLED:
                    times.append(child.rekey_at)
                if child.expires_at and child.phase is not ChildPhase.DELETING:
                    times.append(child.expires_at)
            if self.is_idle and (patience := self.patience):
                times.append(max(self.heard, self.looked) + patience)
            if state.nat_local and self.options.keep_alive > 0:
                times.append(self.sent + self.options.keep_alive)
        return min(times) if times else None

    # -- pictures ------------------------------------------------------------------------------

    def phase_name(self) -> str:
        state = self.state
        if state.phase is Phase.ESTABLISHED and any(
            a.ours and a.kind is AttemptKind.REKEY_IKE for a in state.attempts
        ):
            return "REKEYING"
        return state.phase.value

    def view(self) -> IkeSaView:
        state = self.state
        suite = state.suite
        return IkeSaView(
            unique_id=self.unique_id,
            connection=self.connection.name,
            version=state.version,
            state=self.phase_name(),
            initiator=state.original_initiator,
            initiator_spi=int.from_bytes(state.spi_i, "big"),
            responder_spi=int.from_bytes(state.spi_r, "big"),
            path=state.path,
            local_id=state.local_id,
            remote_id=state.peer.identity if state.peer is not None else None,
            nat_local=state.nat_local,
            nat_remote=state.nat_remote,
            nat_fake=state.forced,
            encryption=suite.encryption if suite else 0,
            key_bits=suite.key_bits if suite else 0,
            integrity=suite.integrity if suite else 0,
            prf=suite.prf if suite else 0,
            key_exchange=suite.key_exchange if suite else 0,
            additional_key_exchanges=tuple([method for _, method in suite.additional]) if suite else (),
            established=state.established,
            rekey_at=state.rekey_at,
            expires_at=state.expires_at,
            local_vips=state.given.addresses if state.given is not None else (),
            remote_vips=tuple([lease.address for lease in state.leases]),
            children=tuple([self.child_view(child) for child in state.children]),
            remote_eap_id=state.peer.eap_identity if state.peer is not None else None,
            remote_vendor_ids=state.isakmp.vendor_ids if state.isakmp is not None else (),
            remote_attributes=state.peer.attributes if state.peer is not None else (),
        )

    def child_view(self, child: ChildSa) -> ChildSaView:
        phase = child.phase.value
        if child.phase is ChildPhase.INSTALLED and any(
            a.ours and a.kind is AttemptKind.REKEY_CHILD and a.pair == child.pair for a in self.state.attempts
        ):
            phase = "REKEYING"
        loaded = self.gateway.book.get(self.connection.name)
        config = loaded.child(child.name) if loaded is not None else None
        flows = config.child.flows if config is not None else ()
        return ChildSaView(
            name=child.name,
            rule=flows[child.flow_index].rule if child.flow_index < len(flows) else "",
            pair=child.pair,
            flow=child.flow,
            state=phase,
            mode=child.mode,
            protocol=child.protocol,
            encapsulated=child.encapsulated,
            spi_in=child.spi_in,
            spi_out=child.spi_out,
            encryption=child.suite.encryption,
            key_bits=child.suite.key_bits,
            integrity=child.suite.integrity,
            key_exchange=child.suite.key_exchange,
            additional_key_exchanges=tuple([method for _, method in child.suite.additional]),
            esn=child.suite.esn,
            local_selectors=child.local_selectors,
            remote_selectors=child.remote_selectors,
            installed=child.installed,
            rekey_at=child.rekey_at,
            expires_at=child.expires_at,
            around=child.around,
        )
