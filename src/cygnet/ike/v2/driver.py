"""The driver of IKEv2 runs the exchanges: one of ours at a time (window 1), the peer's as they come.

Flow of an exchange: `run` feeds a generator until it waits for a message or for the world. The
message ids advance in the same commit as the changes that the message makes true.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from cygnet.ike import steps
from cygnet.ike.effects import Ask, InstallFailed, InstallSa, RemoveSa, TimedOut
from cygnet.ike.errors import Failure, IkeError, PeerMisbehaved, Reason
from cygnet.ike.state import (
    AddChild,
    Change,
    ChangePhase,
    CreateChild,
    DeleteIke,
    DropChild,
    ForgetAttempt,
    Handover,
    NoteAttempt,
    Phase,
    RekeyIke,
    Report,
    Wanted,
    Window,
)
from cygnet.ike.steps import Received, Step
from cygnet.ike.v2.sending import header_of, malformed, seal, seen, transmit
from cygnet.ike.world import Path
from cygnet.policy.sa import SaParameters
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Header, Message
from cygnet.wire.numbers import Exchange, Notify
from cygnet.wire.payloads import NotifyPayload, Payload

if TYPE_CHECKING:
    from cygnet.ike.sa import IkeSa

FATAL: Final = frozenset((Notify.INVALID_SYNTAX, Notify.AUTHENTICATION_FAILED))
"""Both sides forget the IKE SA without a Delete (RFC 7296, section 2.21)."""
INSTALL_PATIENCE: Final = 10.0
"""Seconds that the data plane has to answer."""
LINGER: Final = 10.0
"""Seconds that the answers of a closed SA are kept for repeated requests."""
MAX_TROUBLE: Final = 180.0
"""Seconds of TEMPORARY_FAILURE after which an IKE SA is given up."""
REFUSALS_BELIEVED: Final = 2
"""Refusals in clear to different transmissions until we give up: anyone could have sent one."""


class Serving:
    """The peer's request in hand: where its answer goes."""

    __slots__ = ("digest", "header", "path")

    def __init__(self, header: Header, path: Path, octets_digest: bytes) -> None:
        self.header = header
        self.path = path
        self.digest = octets_digest


class Task:
    """A running exchange and its ledger: what it obtained and has not committed yet."""

    __slots__ = (
        "ask",
        "due",
        "exchange",
        "failure",
        "installing",
        "ledger",
        "operation",
        "serving",
        "wanted",
    )

    def __init__(self, exchange: steps.Steps[Any] | None, wanted: Wanted | None) -> None:
        self.exchange = exchange
        self.wanted = wanted
        self.operation = wanted.operation if wanted is not None else 0
        self.failure: Failure | None = None
        self.serving: Serving | None = None
        self.ledger: list[Held] = []
        self.ask = 0
        self.due = 0.0
        self.installing: SaParameters | None = None


Held = tuple[str, Any]
"""("spi", child SPI), ("policy", number), ("sa", SaParameters), ("attempt", ...), ("successor", number)."""


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


# -- running exchanges ------------------------------------------------------------------------


def enqueue(sa: IkeSa, wanted: Wanted, *, first: bool = False) -> None:
    """Want something of the peer; it begins when nothing else of ours is under way."""
    if sa.queue is None:
        sa.queue = deque()
    if first:
        sa.queue.appendleft(wanted)
    else:
        sa.queue.append(wanted)
    sa.gateway.touch(sa)


def begin_initial(sa: IkeSa, exchange: steps.Steps[Any], wanted: CreateChild | None, operation: int) -> None:
    """We initiate: the exchange that sets this SA up, with the first Child SA if one is wanted."""
    task = Task(exchange, wanted)
    task.operation = operation
    sa.first = wanted
    sa.own = task
    run(sa, task)


def begin_local(sa: IkeSa, exchange: steps.Steps[Any]) -> None:
    """Something that needs the world and no message."""
    task = Task(exchange, None)
    sa.background = (*sa.background, task)
    run(sa, task)


def start_next(sa: IkeSa) -> None:
    """Begin what is next in the queue, if it is its turn."""
    while sa.queue and sa.own is None and not sa.close_at:
        phase = sa.state.phase
        if phase is Phase.CONNECTING:
            return
        if phase is not Phase.ESTABLISHED:
            closing = next((w for w in sa.queue if isinstance(w, DeleteIke | Report)), None)
            for wanted in sa.queue:
                if wanted is not closing:
                    sa.gateway.operation_ended(
                        wanted.operation, Failure(Reason.PEER_CLOSED, "the IKE SA closes")
                    )
            sa.queue = deque([closing] if closing is not None else [])
            if closing is None:
                return
        wanted = sa.queue.popleft()
        exchange = sa.gateway.begin(sa, wanted)
        if exchange is None:
            sa.gateway.operation_ended(wanted.operation, None)
            continue
        task = Task(exchange, wanted)
        sa.own = task
        run(sa, task)
    if not sa.queue:
        sa.queue = None


def run(sa: IkeSa, task: Task, value: Any = None, error: IkeError | None = None) -> None:
    """Feed the exchange until it waits, or ends."""
    sa.gateway.touch(sa)
    exchange = task.exchange
    if exchange is None:
        return
    while True:
        try:
            step = exchange.send(value) if error is None else exchange.throw(error)
        except StopIteration:
            _finished(sa, task)
            return
        except IkeError as failure:
            fail(sa, task, failure)
            return
        except Malformed as failure:
            fail(sa, task, malformed(failure))
            return
        except steps.SaClosed as closed:
            _let_go(sa, task)
            sa.gateway.operation_ended(task.operation, task.failure)
            close(sa, closed.failure, linger=closed.linger)
            return
        error = None
        waits, value = _step(sa, task, step)
        if waits:
            return


def _step(sa: IkeSa, task: Task, step: Step) -> tuple[bool, Any]:
    """Carry out one step: (whether the exchange waits now, else the value to go on with)."""
    gateway = sa.gateway
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
        case steps.Apply(changes):
            _commit(sa, task, changes)
            return False, None
        case steps.Install(parameters, held):
            task.ask = gateway.ask(sa, task)
            task.due = sa.now.monotonic + INSTALL_PATIENCE
            task.installing = parameters
            if held:
                task.ledger.append(("sa", parameters))
            gateway.emit(InstallSa(task.ask, parameters))
            return True, None
        case steps.AskWorld(question, patience):
            task.ask = gateway.ask(sa, task)
            task.due = sa.now.monotonic + patience
            gateway.emit(Ask(task.ask, question, task.due))
            return True, None
        case steps.Pause(seconds):
            task.ask = gateway.ask(sa, task)
            task.due = sa.now.monotonic + seconds
            return True, None
        case steps.ObtainChild():
            spi, pair = gateway.obtain_child()
            task.ledger.append(("spi", spi))
            return False, (spi, pair)
        case steps.ObtainSpi():
            return False, gateway.obtain_spi()
        case steps.CreateSuccessor(original_initiator, keys):
            successor = gateway.create_successor(sa, original_initiator, keys)
            task.ledger.append(("successor", successor))
            return False, successor
        case steps.Dismiss(number, ours):
            task.ledger = [held for held in task.ledger if held != ("successor", number)]
            gateway.dismiss(number, ours=ours)
            return False, None
        case steps.CloseSa(number, reason):
            other = gateway.by_number.get(number)
            if other is not None:
                begin_closing(other, reason)
            return False, None
        case steps.UsePolicy():
            if step.replaced is not None:
                policy, flow = step.replaced.policy, step.replaced.flow
                gateway.policies.use_again(policy)
            else:
                policy, flow = gateway.policies.use(sa, step.loaded, step.index, step.local, step.remote)
            task.ledger.append(("policy", policy))
            return False, (policy, flow)
        case steps.Begin(attempt):
            task.ledger.append(("attempt", attempt))
            sa.commit((NoteAttempt(attempt),))
            return False, None
        case steps.Enqueue(wanted, delay):
            if wanted.operation == task.operation:
                # Who asked for it hears when that one ends.
                task.operation = 0
            if delay > 0:
                postpone(sa, wanted, sa.now.monotonic + delay)
            else:
                enqueue(sa, wanted)
            return False, None
        case steps.Complain(failure, child):
            task.failure = failure.failure
            gateway.complain(sa, task.failure, child, initiator=task is sa.own)
            return False, None


def postpone(sa: IkeSa, wanted: Wanted, at: float) -> None:
    """Want something at a later time."""
    sa.later = tuple(sorted((*sa.later, (at, wanted)), key=lambda one: one[0]))
    sa.gateway.touch(sa)


def _commit(sa: IkeSa, task: Task, changes: tuple[Change, ...], window: Window | None = None) -> None:
    """Commit, and strike what the changes took over off the ledger."""
    sa.commit(changes, window)
    for change in changes:
        match change:
            case AddChild(child):
                task.ledger = [
                    held
                    for held in task.ledger
                    if held not in (("spi", child.spi_in), ("policy", child.policy))
                    and not (held[0] == "sa" and held[1].pair == child.pair)
                ]
            case Handover(successor):
                task.ledger = [h for h in task.ledger if h != ("successor", successor) and h[0] != "attempt"]
            case NoteAttempt(attempt):
                task.ledger = [h for h in task.ledger if h != ("successor", attempt.result)]
            case ForgetAttempt(attempt):
                task.ledger = [h for h in task.ledger if h != ("attempt", attempt)]


def _send_request(sa: IkeSa, task: Task, step: steps.SendRequest) -> None:
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


def _send_answer(sa: IkeSa, task: Task, payloads: Sequence[Payload], changes: tuple[Change, ...]) -> bytes:
    serving = task.serving
    if serving is None:
        return b""
    header = header_of(sa, serving.header.exchange, serving.header.message_id, response=True)
    if sa.gateway.observe:
        seen(sa, True, serving.path, Message(header, tuple(payloads)))
    datagrams, window = seal(sa, header, payloads, sa.window)
    window = Window(window.next_out, header.message_id + 1, window.iv, serving.digest, datagrams)
    task.serving = None
    sa.serving = None
    sa.background = (*sa.background, task)
    _commit(sa, task, changes, window)
    transmit(sa, datagrams, serving.path)
    return datagrams[0]


def _let_go(sa: IkeSa, task: Task) -> None:
    """The exchange is over: it leaves its place, and what it did not commit is given back."""
    gateway = sa.gateway
    if sa.own is task:
        sa.own = None
    if sa.serving is task:
        sa.serving = None
    if sa.responder is not None and sa.responder[0] is task:
        sa.responder = None
    if sa.request is not None and sa.request.task is task:
        sa.request = None
    sa.background = tuple([t for t in sa.background if t is not task])
    gateway.forget_ask(task.ask)
    ledger, task.ledger = task.ledger, []
    for kind, held in ledger:
        if kind == "spi":
            gateway.release_child_spi(held)
        elif kind == "sa":
            gateway.emit(RemoveSa(held.direction, held.spi, held.remote, held.pair, 0.0))
        elif kind == "attempt":
            sa.commit((ForgetAttempt(held),))
        elif kind == "policy":
            gateway.policies.unused(held)
        elif kind == "successor":
            gateway.abandon(held)


def _finished(sa: IkeSa, task: Task) -> None:
    unanswered = sa.serving is task
    if unanswered:
        _send_answer(sa, task, (), ())
    if sa.own is task:
        sa.first = None
    _let_go(sa, task)
    sa.gateway.operation_ended(task.operation, task.failure)


def fail(sa: IkeSa, task: Task, error: IkeError) -> None:
    """An exchange ended by an error: the peer is told where it may be, people always."""
    failure = error.failure
    gateway = sa.gateway
    serving = sa.serving is task
    connecting = sa.state.phase is Phase.CONNECTING
    ours = sa.own is task
    gateway.complain(sa, failure, error.child, initiator=ours)
    if serving:
        notify = error.notify or Notify.INVALID_SYNTAX
        _send_answer(sa, task, (NotifyPayload(0, b"", notify, error.notify_data),), ())
        _let_go(sa, task)
        if connecting or notify in FATAL:
            close(sa, failure, linger=True)
        return
    _let_go(sa, task)
    gateway.operation_ended(task.operation, failure)
    if connecting:
        if ours and sa.window.next_out > 1 and error.notify:
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


def _busy(sa: IkeSa) -> None:
    """TEMPORARY_FAILURE for several minutes: the two states have parted; start over (RFC 7296, 2.25)."""
    now = sa.now.monotonic
    if not sa.trouble_since:
        sa.trouble_since = now
    elif now >= sa.trouble_since + MAX_TROUBLE:
        begin_closing(sa, Failure(Reason.PEER_BUSY, "the peer was too busy for several minutes"))


def resume_error(sa: IkeSa, task: Task, error: IkeError) -> None:
    """Raise an error in the waiting exchange."""
    run(sa, task, None, error)


def resume(sa: IkeSa, task: Task, result: Any) -> None:
    """The world answered. An SA that could not be installed is nothing to give back."""
    installing, task.installing = task.installing, None
    task.ask = 0
    task.due = 0.0
    if isinstance(result, InstallFailed) and installing is not None:
        task.ledger = [held for held in task.ledger if held != ("sa", installing)]
    run(sa, task, result)


# -- the end ----------------------------------------------------------------------------------


def begin_closing(sa: IkeSa, failure: Failure, operation: int = 0) -> None:
    """Close the IKE SA and tell the peer. Nothing goes through its children from now on, even if the Delete
    has to wait for its turn."""
    if sa.close_at or sa.state.phase in (Phase.DELETING, Phase.REKEYED):
        sa.gateway.operation_ended(operation, None)
        return
    if sa.state.phase is Phase.CONNECTING:
        close(sa, failure, linger=False)
        sa.gateway.operation_ended(operation, None)
        return
    sa.gateway.closing(sa, failure, telling=True)
    drops = [DropChild(child.pair, failure) for child in sa.state.children]
    sa.commit((ChangePhase(Phase.DELETING), *drops))
    enqueue(sa, DeleteIke(failure, operation), first=True)


def close(sa: IkeSa, failure: Failure, *, linger: bool) -> None:
    """The IKE SA and its children are gone. `linger`: its last answer is kept for repeats, for a while."""
    gateway = sa.gateway
    if sa.close_at:
        return
    tasks = {id(t): t for t in (sa.own, sa.serving, *sa.background, sa.responder and sa.responder[0]) if t}
    for task in tasks.values():
        if task.exchange is not None:
            task.exchange.close()
        _let_go(sa, task)
        wanted = task.wanted
        done = isinstance(wanted, DeleteIke) or (
            isinstance(wanted, RekeyIke) and failure.reason is Reason.REPLACED
        )
        gateway.operation_ended(task.operation, None if done else failure)
    if sa.state.phase is not Phase.DELETING:
        gateway.closing(sa, failure)
    drops = [DropChild(child.pair, failure) for child in sa.state.children]
    if sa.state.phase is Phase.ESTABLISHED:
        sa.commit((ChangePhase(Phase.DELETING), *drops))
    else:
        sa.commit(tuple(drops))
    gateway.closed(sa, failure)
    waiting = [*(sa.queue or ()), *[wanted for _, wanted in sa.later]]
    sa.queue, sa.later = None, ()
    for wanted in waiting:
        gateway.operation_ended(wanted.operation, failure)
    if linger:
        sa.close_at = sa.now.monotonic + LINGER
        gateway.touch(sa)
    else:
        gateway.forget(sa)


# -- time -------------------------------------------------------------------------------------


def handle_timeout(sa: IkeSa) -> None:
    """Whatever of this SA is due."""
    now = sa.now.monotonic
    sa.gateway.touch(sa)
    if sa.close_at:
        if now >= sa.close_at:
            sa.gateway.forget(sa)
        return
    for task in (sa.own, sa.serving, *sa.background):
        if task is not None and task.ask and task.due and now >= task.due:
            sa.gateway.forget_ask(task.ask)
            resume(sa, task, TimedOut())
    request = sa.request
    if request is not None and now >= request.due:
        _retransmit(sa, request)
    if sa.reassembly is not None and now >= sa.reassembly.began + sa.options.half_open_timeout:
        forget_fragments(sa)
    while sa.later and now >= sa.later[0][0]:
        wanted = sa.later[0][1]
        sa.later = sa.later[1:]
        enqueue(sa, wanted)


def forget_fragments(sa: IkeSa) -> None:
    sa.reassembly = None
    sa.gateway.half_open.hold(sa, 0)


def _retransmit(sa: IkeSa, request: Outstanding) -> None:
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


def unreachable(sa: IkeSa) -> None:
    """The peer answers no more: all is gone (RFC 7296, section 2.4)."""
    state = sa.state
    if state.phase in (Phase.DELETING, Phase.REKEYED):
        # Its Delete goes unanswered: the peer may have forgotten it, and it was to go anyway.
        wanted = sa.own.wanted if sa.own is not None else None
        replaced = Failure(Reason.REPLACED, "rekeyed")
        close(sa, wanted.failure if isinstance(wanted, DeleteIke) else replaced, linger=False)
        return
    if state.phase is Phase.CONNECTING:
        detail = f"{state.path.remote} does not answer"
        failure = Failure(Reason.PEER_UNREACHABLE, detail)
        sa.gateway.complain(sa, failure, "", initiator=True)
    else:
        failure = Failure(Reason.PEER_DEAD, f"{state.path.remote} does not answer any more")
    close(sa, failure, linger=False)
