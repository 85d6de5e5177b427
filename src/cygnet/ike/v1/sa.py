"""A phase 1 SA (ISAKMP SA) of IKEv1: its exchanges side by side, and what it remembers of messages."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from cygnet.ike import reconnect, running
from cygnet.ike.configuration import AuthClass, Connection
from cygnet.ike.errors import IkeError, PeerIncompatible, Reason
from cygnet.ike.running import Task
from cygnet.ike.sa import IkeSa
from cygnet.ike.state import CreateChild, Phase, SaState, Wanted
from cygnet.ike.steps import Step, Steps
from cygnet.ike.v1 import driver, exchanges, receiving, session
from cygnet.ike.v1.driver import Dialogue
from cygnet.ike.v1.protection import Reassembly
from cygnet.ike.v1.steps import Listen, Receive, Received
from cygnet.ike.world import Path
from cygnet.wire.message import Header
from cygnet.wire.v1 import vendor_ids

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint

_OUTSIDE: Final = {4: 28, 6: 48}
"""IP and UDP header of a datagram."""
_MARKER: Final = 4


class IkeV1Sa(IkeSa):
    """`dialogues` are exchanges by message id, those that are over for a while; `current` says in which one a
    running exchange is, `active` which run and whether we began them. `awaiting` waits for the peer to
    begin an exchange, `listening` for what it tells. `unconfirmed` is aggressive mode's third message until
    the peer is known to have it. `used`: message ids that never begin an exchange again.
    """

    __slots__ = (
        "active", "awaiting", "current", "dialogues", "dpd_heard", "dpd_sent", "farewell", "heir", "hinted",
        "listening", "reassembly", "unconfirmed", "unconfirmed_due", "unconfirmed_tries",
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
        self.reassembly: Reassembly | None = None
        self.hinted = 0.0
        self.dpd_sent = -1
        self.dpd_heard = -1
        self.farewell: tuple[bytes, ...] = ()
        self.heir = 0

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
        return (
            self.connection.fragmentation != "no"
            and isakmp is not None
            and any(one.startswith(vendor_ids.FRAGMENTATION) for one in isakmp.vendor_ids)
        )

    def forget_fragments(self) -> None:
        self.reassembly = None
        self.gateway.half_open.hold(self, 0)

    def receive(self, header: Header, datagram: bytes, path: Path) -> None:
        receiving.receive(self, header, datagram, path)

    def message_step(self, task: Task, step: Step) -> tuple[bool, Any]:
        return driver.message_step(self, task, step)

    def messages_due(self) -> None:
        driver.messages_due(self)

    def message_times(self) -> list[float]:
        times = [one.due for one in self.dialogues.values() if one.expect is not None and one.due]
        times.extend([one.ended + driver.KEPT for one in self.dialogues.values() if one.ended])
        if self.unconfirmed_due:
            times.append(self.unconfirmed_due)
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
            "the peer does not answer what is encrypted with the pre-shared key: it may have another one",
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
        reconnect.reauthenticate(self.gateway, self, operation)

    def start_next(self) -> None:
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

    def tasks(self) -> tuple[Task, ...]:
        return (*self.active, *self.background)

    def is_ours(self, task: Task) -> bool:
        return self.active.get(task, False)

    def leave(self, task: Task) -> None:
        driver.leave_dialogue(self, task)
        self.active.pop(task, None)
        self.listening.pop(task, None)
        if self.awaiting is not None and self.awaiting[0] is task:
            self.awaiting = None

    def exchange_finished(self, task: Task) -> None:
        driver.finished(self, task)

    def exchange_failed(self, task: Task, error: IkeError) -> None:
        driver.fail(self, task, error)

    @property
    def is_idle(self) -> bool:
        return not any(self.active.values()) and not self.queue

    @property
    def confirmed(self) -> bool:
        return True

    @property
    def patience(self) -> float:
        """Seconds of silence until we ask whether the peer is there (RFC 3706); 0: we do not ask."""
        isakmp = self.state.isakmp
        return self.connection.dpd_delay if isakmp is not None and isakmp.dpd else 0.0
