"""An IKE SA of version 2: its window, the request in flight, the peer's request in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cygnet.ike import succession
from cygnet.ike.changes import Change, Establish, transition
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import IkeError
from cygnet.ike.running import Task, enqueue
from cygnet.ike.sa import IkeSa
from cygnet.ike.state import SaState, Window
from cygnet.ike.steps import AwaitFollowup, AwaitRequest, Received, Step, Steps
from cygnet.ike.v2 import driver, exchanges, initial, receiving
from cygnet.ike.v2.driver import Outstanding, Serving
from cygnet.ike.v2.fragments import Reassembly
from cygnet.ike.wanted import CreateChild, RekeyIke, Wanted
from cygnet.ike.world import Path
from cygnet.wire.message import Header

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint


class IkeV2Sa(IkeSa):
    """`own` is our exchange under way, `request` its message in flight; `serving` the exchange that answers
    the peer's request `in_hand`; `responder` the one that takes the next. `followups`: exchanges that wait
    for IKE_FOLLOWUP_KE, by link. `met_at`: the message id that the peer was to use next when it had proved
    who it is.
    """

    __slots__ = (
        "first_fragment", "followups", "hinted", "in_hand", "met_at", "own", "reassembly", "request",
        "responder", "serving", "window",
    )  # fmt: skip

    def __init__(self, gateway: Endpoint, unique_id: int, connection: Connection, state: SaState) -> None:
        super().__init__(gateway, unique_id, connection, state)
        self.window = Window()
        self.request: Outstanding | None = None
        self.own: Task | None = None
        self.serving: Task | None = None
        self.in_hand: Serving | None = None
        self.responder: tuple[Task, AwaitRequest] | None = None
        self.followups: dict[bytes, tuple[Task, AwaitFollowup]] = {}
        self.reassembly: Reassembly | None = None
        self.first_fragment = b""
        self.met_at = 0
        self.hinted = 0.0

    def commit(self, changes: tuple[Change, ...] = (), window: Window | None = None) -> None:
        """Replace state and window, then let the consequences follow."""
        after = transition(self.state, changes) if changes else self.state
        if window is not None:
            self.window = window
        if any(isinstance(change, Establish) for change in changes):
            self.met_at = self.window.next_in
        self.become(after, changes)

    def receive(self, header: Header, datagram: bytes, path: Path) -> None:
        receiving.receive(self, header, datagram, path)

    def set_up(self, first: CreateChild | None, operation: int) -> None:
        driver.begin_initial(self, initial.initiate(self, first), first, operation)

    def begin(self, wanted: Wanted) -> Steps[None] | None:
        return exchanges.begin(self, wanted)

    def serve(self, received: Received) -> Steps[Any]:
        """The exchange for a request of the peer's."""
        if self.parent and not exchanges.closes(received):
            succession.adopt_on_use(self.gateway, self)
        return exchanges.serve(self, received)

    def rekey(self, operation: int = 0) -> None:
        enqueue(self, RekeyIke(operation))

    def start_next(self) -> None:
        driver.start_next(self)

    def tasks(self) -> tuple[Task, ...]:
        waiting = self.responder[0] if self.responder is not None else None
        if self.own is self.serving is waiting is None:
            return self.background
        tasks = {id(t): t for t in (self.own, self.serving, *self.background, waiting) if t is not None}
        return tuple(tasks.values())

    def is_ours(self, task: Task) -> bool:
        return task is self.own

    def leave(self, task: Task) -> None:
        if self.own is task:
            self.own = None
        if self.serving is task:
            self.serving = None
        if self.responder is not None and self.responder[0] is task:
            self.responder = None
        if self.request is not None and self.request.task is task:
            self.request = None
        if self.followups:
            self.followups = {link: one for link, one in self.followups.items() if one[0] is not task}

    def followup(self, link: bytes) -> tuple[Task, AwaitFollowup] | None:
        """The exchange that waits for this link; it waits no more."""
        found = self.followups.pop(link, None)
        if found is not None:
            task = found[0]
            self.gateway.forget_ask(task.ask)
            task.ask, task.due = 0, 0.0
            self.background = tuple([other for other in self.background if other is not task])
        return found

    def message_step(self, task: Task, step: Step) -> tuple[bool, Any]:
        return driver.message_step(self, task, step)

    def exchange_finished(self, task: Task) -> None:
        driver.finished(self, task)

    def exchange_failed(self, task: Task, error: IkeError) -> None:
        driver.fail(self, task, error)

    def messages_due(self) -> None:
        driver.messages_due(self)

    def message_times(self) -> list[float]:
        times = []
        if self.request is not None:
            times.append(self.request.due)
        if self.reassembly is not None:
            times.append(self.reassembly.began + self.options.half_open_timeout)
        return times

    @property
    def is_idle(self) -> bool:
        return self.request is None and self.own is None and not self.queue

    @property
    def confirmed(self) -> bool:
        return self.state.original_initiator or self.window.next_in != self.met_at or self.window.next_out > 0
