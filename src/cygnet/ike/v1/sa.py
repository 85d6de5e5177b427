"""A phase 1 SA (ISAKMP SA) of IKEv1: its exchanges side by side, and what it remembers of messages."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from cygnet.ike import collisions, reconnect, running
from cygnet.ike.changes import ChangeChild, DropChild, MoveChildren, Postpone, PostponeReauthentication
from cygnet.ike.children import REDUNDANT, REPLACED
from cygnet.ike.configuration import AuthClass, Connection, Unique
from cygnet.ike.errors import Failure, IkeError, PeerIncompatible, Reason
from cygnet.ike.running import Task
from cygnet.ike.sa import IkeSa
from cygnet.ike.state import AttemptKind, ChildPhase, ChildSa, Phase, SaState
from cygnet.ike.steps import Step, Steps
from cygnet.ike.v1 import deletes, driver, exchanges, lifetimes, quick_mode, receiving, session
from cygnet.ike.v1.deletes import Unheard
from cygnet.ike.v1.driver import Dialogue
from cygnet.ike.v1.halves import Half, halves, payloads
from cygnet.ike.v1.methods import remote_login
from cygnet.ike.v1.protection import Reassembly, isakmp_of
from cygnet.ike.v1.steps import Listen, Receive, Received
from cygnet.ike.wanted import CheckLiveness, CloseOther, CreateChild, DeleteChild, Wanted
from cygnet.ike.world import Path
from cygnet.policy.sa import Direction, SaProtocol
from cygnet.records import replace
from cygnet.wire.message import Header
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.numbers import Exchange, Protocol
from cygnet.wire.v1.payloads import DeletePayload

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint

_OUTSIDE: Final = {4: 28, 6: 48}
"""IP and UDP header of a datagram."""
_MARKER: Final = 4
GRACE: Final = 10.0
"""Seconds that a phase 1 which another has taken over from stays, if nobody closes it."""
CLIENTS_COME: Final = "the peer is a client: it logs in anew by itself, from where it is"
BEGUN: Final = Failure(Reason.OPERATOR, "its end was begun under another phase 1")
SURVIVED: Final = frozenset({Reason.PEER_CLOSED, Reason.EXPIRED, Reason.REPLACED})
"""Ends of a phase 1 that its Child SAs survive, where there is another one."""


class IkeV1Sa(IkeSa):
    """`dialogues` are exchanges by message id, those that are over for a while; `current` says in which one a
    running exchange is, `active` which run and whether we began them. `awaiting` waits for the peer to
    begin an exchange, `listening` for what it tells. `unconfirmed` is aggressive mode's third message until
    the peer is known to have it. `used`: message ids that never begin an exchange again. `unheard`: Deletes
    that the peer has not shown to have; `buried`: what its Deletes have closed, to show it again.
    `peer_fragments`: the first message of the peer announced that it sends pieces.
    """

    __slots__ = (
        "active",
        "awaiting",
        "buried",
        "current",
        "dialogues",
        "dpd_heard",
        "dpd_sent",
        "farewell",
        "heir",
        "hinted",
        "is_used",
        "listening",
        "peer_fragments",
        "reassembly",
        "unconfirmed",
        "unconfirmed_due",
        "unconfirmed_tries",
        "unheard",
        "used",
    )  # fmt: skip

    def __init__(self, gateway: Endpoint, unique_id: int, connection: Connection, state: SaState) -> None:
        super().__init__(gateway, unique_id, connection, state)
        self.dialogues: dict[int, Dialogue] = {}
        self.current: dict[Task, Dialogue] = {}
        self.active: dict[Task, bool] = {}
        self.awaiting: tuple[Task, Receive] | None = None
        self.listening: dict[Task, Listen] = {}
        self.used: deque[int] = deque(maxlen=driver.MAX_USED)
        self.unconfirmed: tuple[bytes, ...] = ()
        self.unconfirmed_due = 0.0
        self.unconfirmed_tries = 0
        self.peer_fragments = False
        self.reassembly: Reassembly | None = None
        self.hinted = 0.0
        self.is_used = False
        self.dpd_sent = -1
        self.dpd_heard = -1
        self.farewell: tuple[DeletePayload, ...] = ()
        self.heir = 0
        self.unheard: tuple[Unheard, ...] = ()
        self.buried: dict[Half, tuple[bytes, int]] = {}

    # -- of messages ----------------------------------------------------------------------------

    @property
    def base_iv(self) -> bytes:
        """The block that the IVs of new exchanges are made from: phase 1's last, as far as it has come."""
        isakmp = self.state.isakmp
        first = self.dialogues.get(0)
        if (
            self.state.phase is Phase.CONNECTING
            and self.state.peer is None
            and first is not None
            and first.iv
        ):
            return first.iv
        return isakmp.last_block if isakmp is not None else b""

    @property
    def fragment_size(self) -> int:
        """Octets of a UDP payload that needs no pieces."""
        path = self.state.path
        marker = _MARKER if path.local_port == self.options.port_nat_t else 0
        return self.options.fragment_size - _OUTSIDE[path.local.version] - marker

    @property
    def takes_fragments(self) -> bool:
        """Whether the peer announced that it sends messages in pieces, and we take them (T7)."""
        isakmp = self.state.isakmp
        if self.connection.fragmentation == "no":
            return False
        if isakmp is None:
            # The initiator has announced it itself, and aggressive mode's answer holds the peer's
            # certificate. To the responder main mode's third message may come so. Its cookie shows that the
            # sender is where it says; what is held of strangers is bounded, each and in all (T7).
            return self.state.original_initiator or self.peer_fragments
        return any(one.startswith(vendor_ids.FRAGMENTATION) for one in isakmp.vendor_ids)

    def forget_fragments(self) -> None:
        self.reassembly = None
        self.gateway.half_open.hold(self, 0)

    def receive(self, header: Header, datagram: bytes, path: Path) -> None:
        receiving.receive(self, header, datagram, path)

    def message_step(self, task: Task, step: Step) -> tuple[bool, Any]:
        return driver.message_step(self, task, step)

    def messages_due(self) -> None:
        driver.messages_due(self)
        deletes.due(self)

    def message_times(self) -> list[float]:
        times = [one.due for one in self.dialogues.values() if one.expect is not None and one.due]
        times.extend([one.ended + driver.KEPT for one in self.dialogues.values() if one.ended])
        if self.unconfirmed_due:
            times.append(self.unconfirmed_due)
        times.extend([one.due for one in self.unheard])
        if self.reassembly is not None:
            times.append(self.reassembly.began + self.options.half_open_timeout)
        return times

    def silence(self) -> IkeError | None:
        """What it may mean that phase 1 gets no answer: None, nobody is there."""
        if self.state.isakmp is None:
            return None
        local = self.connection.local[0].method if self.connection.local else AuthClass.PUBKEY
        if local is not AuthClass.PSK:
            return PeerIncompatible(
                Reason.PEER_REFUSED_AUTHENTICATION,
                "the peer does not answer to our proof: it may not take our identity or our certificate",
            )
        return PeerIncompatible(
            Reason.PSK_MISMATCH,
            "what is encrypted with the pre-shared key is not understood: the ends may have different ones",
        )

    # -- of exchanges ---------------------------------------------------------------------------

    def set_up(self, first: CreateChild | None, operation: int) -> None:
        task = Task(session.initiate(self), None)
        if first is not None:
            # Phase 1 makes no Child SA: quick mode does, once there is a phase 1.
            queue = self.queue or deque()
            queue.appendleft(first)
            self.queue = queue
        else:
            task.operation = operation
        self.active[task] = True
        running.run(self, task)

    def begin(self, wanted: Wanted) -> Steps[None] | None:
        return exchanges.begin(self, wanted)

    def serve(self, received: Received) -> Steps[None]:
        """The exchange for what the peer begins."""
        return exchanges.serve(self, received)

    def rekey(self, operation: int = 0) -> None:
        """IKEv1 has no rekeying of phase 1: there is a new one, and the Child SAs move."""
        if not lifetimes.may_renew(self.connection, is_initiator=self.state.original_initiator):
            failure = Failure(Reason.NO_SUCH_OBJECT, CLIENTS_COME)
            self.gateway.operation_ended(operation, failure)
            return
        reconnect.reauthenticate(self.gateway, self, operation)

    def start_next(self) -> None:
        if self.heir and self.state.phase is Phase.ESTABLISHED:
            self._move()
        while self.queue and not self.close_at and sum(self.active.values()) < driver.MAX_AT_ONCE:
            wanted = running.next_wanted(self)
            if wanted is None:
                break
            exchange = self.begin(wanted)
            if exchange is None:
                self.gateway.operation_ended(wanted.operation, None)
                continue
            task = Task(exchange, wanted)
            self.active[task] = True
            running.run(self, task)
        if not self.queue:
            self.queue = None
        if self.state.phase is Phase.ESTABLISHED and not self.close_at:
            self._see_to_leftovers()

    def _see_to_leftovers(self) -> None:
        """What was replaced, or whose end was begun, goes in the end, whatever has become of who was to see
        to it."""
        doomed = [one for one in self.state.children if one.phase is not ChildPhase.INSTALLED]
        if not doomed:
            return
        wishes = [*(self.queue or ()), *[one for _, one in self.later], *[t.wanted for t in self.tasks()]]
        wished = {one.pair for one in wishes if isinstance(one, DeleteChild)}
        wished |= {a.pair for a in self.state.attempts if a.ours and a.kind is AttemptKind.DELETE_CHILD}
        for child in doomed:
            if child.pair not in wished:
                why = REPLACED if child.phase is ChildPhase.REKEYED else BEGUN
                at = self.now.monotonic + quick_mode.LEFT_OVER
                running.postpone(self, DeleteChild(child.pair, why), at)

    def tasks(self) -> tuple[Task, ...]:
        return (*self.active, *self.background)

    def is_ours(self, task: Task) -> bool:
        return self.active.get(task, False)

    def leave(self, task: Task) -> None:
        self._disown(task)
        driver.leave_dialogue(self, task)
        self.active.pop(task, None)
        self.listening.pop(task, None)
        if self.awaiting is not None and self.awaiting[0] is task:
            self.awaiting = None

    def _disown(self, task: Task) -> None:
        """A quick mode of the peer's that comes to nothing here may have come to a pair there."""
        dialogue = self.current.get(task)
        if dialogue is None or dialogue.ours or dialogue.exchange != Exchange.QUICK_MODE:
            return
        for kind, held in task.ledger:
            named = kind == "sa" and dialogue.spi[0] == (
                Protocol.AH if held.protocol == SaProtocol.AH else Protocol.ESP
            )
            if named and held.direction is Direction.IN:
                deletes.insist(self, dialogue.spi, held.spi.to_bytes(4, "big"))

    def exchange_finished(self, task: Task) -> None:
        driver.finished(self, task)

    def exchange_failed(self, task: Task, error: IkeError) -> None:
        driver.fail(self, task, error)

    # -- of Child SAs, which outlive their phase 1 ------------------------------------------------

    def siblings(self) -> list[IkeV1Sa]:
        """The other phase 1 SAs with the same peer, of the same connection, the newest last. Of clients one
        user may have several, each at a place of its own; any other peer is where it says that it is."""
        everywhere = self._of_user()
        if not (self.connection.pools or remote_login(self.connection)):
            return everywhere
        here = self.state.path.remote, self.state.path.remote_port
        return [one for one in everywhere if (one.state.path.remote, one.state.path.remote_port) == here]

    def _of_user(self) -> list[IkeV1Sa]:
        """Wherever they come from."""
        peer = self.state.peer
        return [
            other
            for other in self.gateway.others_of_peer(self)
            if isinstance(other, IkeV1Sa)
            and not other.close_at
            and other.connection.name == self.connection.name
            and other.state.peer is not None
            and peer is not None
            and other.state.peer.user == peer.user
        ]

    def takes_over(self, other: IkeSa, initial_contact: bool) -> bool:
        """A new phase 1 of the same peer: the Child SAs go on under it. Of two that were begun at once the
        one with the lowest nonce is closed by who began it, as in IKEv2."""
        if not isinstance(other, IkeV1Sa) or other not in self.siblings():
            return False
        initial_contact = initial_contact and self.connection.unique is not Unique.NEVER
        if initial_contact:
            self._forget_before(other)
        crossed = self.state.began != other.state.began and other.state.established >= self.state.created
        if initial_contact and other.state.established < isakmp_of(self.state).made:
            # The peer has forgotten the other one, and its Child SAs.
            return False
        winner, loser = self, other
        if crossed and collisions.loses(self.state.nonce, other.state.nonce):
            winner, loser = other, self
        loser.hand_over(winner)
        if not reconnect.replaces(winner, loser):
            failure = Failure(Reason.REPLACED, "another one of the same peer serves")
            # Who began it closes it, sooner or later; unless the winner goes first.
            pause = 0.0 if crossed else GRACE
            if not loser.state.original_initiator:
                # Nobody may, if the ends saw the two come in another order: then chance decides.
                pause = GRACE * (3.0 + 3.0 * self.entropy.uniform())
            running.postpone(winner, CloseOther(loser.unique_id, failure), self.now.monotonic + pause)
        return True

    def peer_has_no_other(self) -> None:
        """INITIAL-CONTACT behind aggressive mode: what is older than this phase 1 the peer has forgotten. By
        now its Child SAs may have come over."""
        if self.connection.unique is Unique.NEVER:
            return
        failure = Failure(Reason.PEER_RESTARTED, "the peer has no other phase 1 SA with us")
        for other in self._of_user():
            self._forget_before(other)
            if other.state.established < isakmp_of(self.state).made:
                other.give(self)
                running.close(other, failure, linger=False)
        self._forget_before(self)

    def _forget_before(self, other: IkeV1Sa) -> None:
        """The peer had no SA with us when it proved itself: Child SAs that are older are gone there,
        whichever phase 1 has taken them over since."""
        failure = Failure(Reason.PEER_RESTARTED, "the peer has forgotten it")
        stale = [child for child in other.state.children if child.installed < isakmp_of(self.state).made]
        other.commit(tuple([DropChild(child.pair, failure) for child in stale]))

    def hand_over(self, heir: IkeV1Sa) -> None:
        """The heir gets the Child SAs when no quick mode is under way here; new ones begin there."""
        heir = heir.serving()
        if heir is self:
            # What was to serve in this one's place had left its own place to this one before.
            return
        self.heir = heir.unique_id
        self.commit((Postpone(0, 0.0), PostponeReauthentication(0.0)))
        for wanted in self.queue or ():
            running.enqueue(heir, wanted)
        self.queue = None
        deletes.move(self, heir)
        self._move()

    def serving(self) -> IkeV1Sa:
        """The phase 1 SA that serves in this one's place in the end; itself, if it was not taken over from.
        `hand_over` makes no circles, which would have the Child SAs go round for ever."""
        heir = self.gateway.by_number.get(self.heir)
        if isinstance(heir, IkeV1Sa) and not heir.close_at and heir.state.phase is Phase.ESTABLISHED:
            return heir.serving()
        return self

    def _move(self) -> None:
        heir = self.serving()
        if heir is self:
            return
        if any(not isinstance(task.wanted, CheckLiveness) for task in self.active):
            return
        self.give(heir)

    def give(self, heir: IkeV1Sa) -> None:
        """All Child SAs are the heir's from now on, with what is still to be done about them."""
        for at, wanted in self.later:
            if isinstance(wanted, DeleteChild):
                running.postpone(heir, wanted, at)
        self.later = tuple([one for one in self.later if not isinstance(one[1], DeleteChild)])
        deletes.move(self, heir)
        moving = self.state.children
        if not moving:
            return
        self.commit((MoveChildren(heir.unique_id),))
        for child in moving:
            if child.phase is ChildPhase.DELETING:
                running.enqueue(heir, DeleteChild(child.pair, BEGUN))
            elif child.outbound is not None:
                running.begin_local(heir, quick_mode.send_soon(heir, child.pair))
        for loser in quick_mode.surplus(heir.state):
            heir.commit((ChangeChild(replace(loser, redundant=True, phase=ChildPhase.REKEYED)),))
            pause = 0.0 if loser.initiator else GRACE
            running.postpone(heir, DeleteChild(loser.pair, REDUNDANT), self.now.monotonic + pause)

    def dying_children(self, failure: Failure) -> tuple[ChildSa, ...]:
        """None that another phase 1 can take, unless it is for the sake of the Child SAs that this one
        ends."""
        siblings = self.siblings()
        if siblings:
            deletes.move(self, siblings[-1])
        if failure.reason in SURVIVED:
            heir = self.serving()
            siblings = siblings if heir is self else [heir]
            if siblings:
                # Whoever has left its place to this one is first again.
                self.heir, heir = 0, siblings[-1]
                if heir.serving() is self:
                    heir.heir = 0
                self.heir = heir.serving().unique_id
                self.give(heir.serving())
        dying = self.state.children
        for sibling in self.siblings()[-1:] if dying else ():
            # If it hears of this phase 1's end alone, the peer takes them over.
            for child in dying:
                for half, ours in halves(child):
                    deletes.insist(sibling, half, ours)
        self.farewell = payloads(dying)
        return dying

    @property
    def is_idle(self) -> bool:
        return not any(self.active.values()) and not self.queue

    @property
    def confirmed(self) -> bool:
        """Whether the peer is known to hold it: who sent phase 1's last message learns it later."""
        if self.tells or any(isinstance(one, CheckLiveness) for _, one in self.later):
            # It may not have heard that either; but what it has begun here counts.
            return not all(self.active.values())
        return self.is_used or self.state.original_initiator != self.connection.aggressive

    @property
    def tells(self) -> bool:
        """Whether the peer is not known yet to have heard that this is our only SA with it."""
        return any(isinstance(task.wanted, CheckLiveness) and task.wanted.contact for task in self.tasks())

    @property
    def patience(self) -> float:
        """Seconds of silence until we ask whether the peer is there (RFC 3706); 0: we do not ask."""
        isakmp = self.state.isakmp
        return self.connection.dpd_delay if isakmp is not None and isakmp.dpd else 0.0
