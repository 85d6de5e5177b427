"""The driver of IKEv2: one exchange of ours at a time (window 1), the peer's as they come.

The message ids advance in the same commit as the changes that the message makes true. Feeding an
exchange, and what both versions do with it, is `ike.running`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from cygnet.ike import steps
from cygnet.ike.changes import Change, ChangePhase
from cygnet.ike.effects import TimedOut
from cygnet.ike.errors import Failure, IkeError, PeerMisbehaved, Reason
from cygnet.ike.events import Noted
from cygnet.ike.running import (
    REFUSALS_BELIEVED,
    Task,
    begin_closing,
    close,
    enqueue,
    let_go,
    next_wanted,
    resume_error,
    run,
    settle,
    unreachable,
)
from cygnet.ike.state import Phase, Window
from cygnet.ike.steps import Received, Step
from cygnet.ike.transport import seen, transmit
from cygnet.ike.v2.sending import header_of, seal
from cygnet.ike.wanted import CreateChild, RekeyChild, RekeyIke, Report
from cygnet.ike.world import Path
from cygnet.records import replace
from cygnet.wire.message import Header, Message
from cygnet.wire.numbers import Exchange, Notify
from cygnet.wire.payloads import NotifyPayload, Payload

if TYPE_CHECKING:
    from cygnet.ike.v2.sa import IkeV2Sa

FATAL: Final = frozenset((Notify.INVALID_SYNTAX, Notify.AUTHENTICATION_FAILED))
"""Both sides forget the IKE SA without a Delete (RFC 7296, section 2.21)."""
FOLLOWUP_PATIENCE: Final = 20.0
"""Seconds that a CREATE_CHILD_SA waits for its next IKE_FOLLOWUP_KE (RFC 9370, section 2.2.4)."""
MAX_FOLLOWUPS: Final = 4
"""CREATE_CHILD_SAs of one IKE SA that may wait so; the peer of one beyond gets STATE_NOT_FOUND."""
MAX_TROUBLE: Final = 180.0
"""Seconds of TEMPORARY_FAILURE after which an IKE SA is given up."""


class Serving:
    """The peer's request in hand: where its answer goes."""

    __slots__ = ("digest", "header", "path")

    def __init__(self, header: Header, path: Path, octets_digest: bytes) -> None:
        self.header = header
        self.path = path
        self.digest = octets_digest


class Outstanding:
    """Our request in flight."""

    __slots__ = (
        "datagrams", "due", "error", "exchange", "expect", "message", "message_id", "refusals", "refused_try",
        "task", "tries",
    )  # fmt: skip

    def __init__(
        self,
        exchange: int,
        message_id: int,
        datagrams: tuple[bytes, ...],
        expect: Callable[[Received], Any],
        task: Task,
        due: float,
    ) -> None:
        self.exchange = exchange
        self.message_id = message_id
        self.datagrams = datagrams
        self.expect = expect
        self.task = task
        self.due = due
        self.tries = 0
        self.refusals = 0
        self.refused_try = -1
        self.error: IkeError | None = None
        self.message: Message | None = None


# -- beginning ----------------------------------------------------------------------------------


def begin_initial(
    sa: IkeV2Sa, exchange: steps.Steps[Any], wanted: CreateChild | None, operation: int
) -> None:
    """We initiate: the exchange that sets this SA up, with the first Child SA if one is wanted."""
    task = Task(exchange, wanted)
    task.operation = operation
    sa.first = wanted
    sa.own = task
    run(sa, task)


def start_next(sa: IkeV2Sa) -> None:
    """Begin what is next in the queue, if it is its turn."""
    while sa.queue and sa.own is None and not sa.close_at:
        wanted = next_wanted(sa)
        if wanted is None:
            return
        exchange = sa.begin(wanted)
        if exchange is None:
            sa.gateway.operation_ended(wanted.operation, None)
            continue
        task = Task(exchange, wanted)
        sa.own = task
        run(sa, task)
    if not sa.queue:
        sa.queue = None


# -- messages -----------------------------------------------------------------------------------


def message_step(sa: IkeV2Sa, task: Task, step: Step) -> tuple[bool, Any]:
    """Carry out a step that is a message: (whether the exchange waits now, else the value to go on with)."""
    match step:
        case steps.SendRequest():
            _send_request(sa, task, step)
            return True, None
        case steps.SendAnswer():
            return False, _send_answer(sa, task, step.payloads, step.changes)
        case steps.AwaitRequest():
            sa.background = tuple([t for t in sa.background if t is not task])
            sa.responder = (task, step)
            return True, None
        case steps.AwaitFollowup(link):
            if len(sa.followups) >= MAX_FOLLOWUPS:
                return False, TimedOut()
            sa.followups = {**sa.followups, link: (task, step)}
            task.ask = sa.gateway.ask(sa, task)
            task.due = sa.now.monotonic + FOLLOWUP_PATIENCE
            return True, None
        case _:
            raise TypeError(f"{type(step).__name__} is no step of IKEv2")


def _commit(sa: IkeV2Sa, task: Task, changes: tuple[Change, ...], window: Window) -> None:
    """Changes and message ids together."""
    sa.commit(changes, window)
    settle(task, changes)


def _send_request(sa: IkeV2Sa, task: Task, step: steps.SendRequest) -> None:
    initial = step.exchange == Exchange.IKE_SA_INIT
    # Retries of IKE_SA_INIT keep message id 0 (RFC 7296, section 2.2).
    message_id = 0 if initial else sa.window.next_out
    header = header_of(sa, step.exchange, message_id, response=False)
    message = Message(header, tuple(step.payloads)) if sa.gateway.observe else None
    seen(sa, True, sa.state.path, message)
    datagrams, window = seal(sa, header, step.payloads, sa.window)
    _commit(sa, task, step.changes, window)
    now = sa.now.monotonic
    due = now + sa.gateway.retransmit_after(0)
    sa.request = Outstanding(step.exchange, message_id, datagrams, step.expect, task, due)
    sa.request.message = message
    transmit(sa, datagrams, sa.state.path)


def _send_answer(sa: IkeV2Sa, task: Task, payloads: Sequence[Payload], changes: tuple[Change, ...]) -> bytes:
    serving = sa.in_hand
    if serving is None or sa.serving is not task:
        return b""
    header = header_of(sa, serving.header.exchange, serving.header.message_id, response=True)
    if sa.gateway.observe:
        seen(sa, True, serving.path, Message(header, tuple(payloads)))
    datagrams, window = seal(sa, header, payloads, sa.window)
    window = Window(window.next_out, header.message_id + 1, window.iv, serving.digest, datagrams)
    sa.in_hand = None
    sa.serving = None
    sa.background = (*sa.background, task)
    _commit(sa, task, changes, window)
    transmit(sa, datagrams, serving.path)
    return datagrams[0]


def finished(sa: IkeV2Sa, task: Task) -> None:
    unanswered = sa.serving is task
    if unanswered:
        _send_answer(sa, task, (), ())
    if sa.own is task:
        sa.first = None
    let_go(sa, task)
    sa.gateway.operation_ended(task.operation, task.failure)


def fail(sa: IkeV2Sa, task: Task, error: IkeError) -> None:
    """An exchange ended by an error: the peer is told where it may be, people always."""
    failure = _told(sa, task, error)
    rekey = isinstance(task.wanted, RekeyChild | RekeyIke)
    gateway = sa.gateway
    serving = sa.serving is task
    connecting = sa.state.phase is Phase.CONNECTING
    ours = sa.own is task
    if ours and _crossed(task, error):
        gateway.event(Noted("rekey-postponed", failure.detail, sa.connection.name, sa.unique_id))
    else:
        gateway.complain(sa, failure, error.child, initiator=ours, rekey=rekey)
    if serving:
        notify = error.notify or Notify.INVALID_SYNTAX
        refusal = NotifyPayload(0, b"", notify, error.notify_data)
        _send_answer(sa, task, (*error.companions, refusal), ())
        let_go(sa, task)
        if connecting or notify in FATAL:
            close(sa, failure, linger=True)
        return
    let_go(sa, task)
    gateway.operation_ended(task.operation, failure)
    if connecting:
        further = len(sa.state.suite.additional) if sa.state.suite is not None else 0
        if ours and sa.window.next_out > 1 + further and error.notify:
            # RFC 7296, section 2.21.2: the peer may think that the SA stands; it is told in another exchange.
            sa.commit((ChangePhase(Phase.DELETING),))
            gateway.connecting_failed(sa, failure)
            enqueue(sa, Report(error.notify, failure), first=True)
        else:
            close(sa, failure, linger=False)
    elif isinstance(error, PeerMisbehaved) and ours:
        begin_closing(sa, failure)
    elif error.reason is Reason.PEER_BUSY:
        _busy(sa)


def _told(sa: IkeV2Sa, task: Task, error: IkeError) -> Failure:
    """Of a rekey it is said that it was one, and of what: the tunnel is up all the same."""
    failure, wanted = error.failure, task.wanted
    if not isinstance(wanted, RekeyChild | RekeyIke):
        return failure
    what = f"IKE_SA #{sa.unique_id}" if isinstance(wanted, RekeyIke) else "the Child SA"
    again = "; it is tried again" if error.reason is Reason.PEER_BUSY else ""
    return replace(failure, detail=f"rekey of {what}: {failure.detail}{again}")


def _crossed(task: Task, error: IkeError) -> bool:
    """A rekey that nobody waits for met the peer's: it is tried again, nothing failed (RFC 7296, 2.25)."""
    rekey = isinstance(task.wanted, RekeyChild | RekeyIke)
    return rekey and not task.operation and error.reason is Reason.PEER_BUSY


def _busy(sa: IkeV2Sa) -> None:
    """TEMPORARY_FAILURE for several minutes: the two states have parted; start over (RFC 7296, 2.25)."""
    now = sa.now.monotonic
    if not sa.trouble_since:
        sa.trouble_since = now
    elif now >= sa.trouble_since + MAX_TROUBLE:
        begin_closing(sa, Failure(Reason.PEER_BUSY, "the peer was too busy for several minutes"))


# -- time -------------------------------------------------------------------------------------


def messages_due(sa: IkeV2Sa) -> None:
    """Retransmission, and fragments that nobody completed."""
    now = sa.now.monotonic
    request = sa.request
    if request is not None and now >= request.due:
        _retransmit(sa, request)
    if sa.reassembly is not None and now >= sa.reassembly.began + sa.options.half_open_timeout:
        forget_fragments(sa)


def forget_fragments(sa: IkeV2Sa) -> None:
    sa.reassembly = None
    sa.gateway.half_open.hold(sa, 0)


def _retransmit(sa: IkeV2Sa, request: Outstanding) -> None:
    now = sa.now.monotonic
    if request.error is not None and request.refusals >= REFUSALS_BELIEVED:
        resume_error(sa, request.task, request.error)
        return
    if request.tries >= sa.options.retransmission.tries:
        if request.error is not None:
            resume_error(sa, request.task, request.error)
        else:
            unreachable(sa)
        return
    request.tries += 1
    request.due = now + sa.gateway.retransmit_after(request.tries)
    seen(sa, True, sa.state.path, request.message, repeat=True)
    transmit(sa, request.datagrams, sa.state.path)
