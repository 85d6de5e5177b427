"""Exchanges under way, of either version: fed until they wait, what they hold, how an SA ends.

Flow of an exchange: `run` feeds a generator until it waits for a message or for the world. Steps that
are messages belong to the SA's version (`IkeSa.message_step`); all others are carried out here. What an
exchange obtained stands in its ledger until a change takes it over; the rest is given back at its end.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from cygnet.ike import steps
from cygnet.ike.changes import (
    AddChild,
    AddHalf,
    Change,
    ChangePhase,
    DropChild,
    ForgetAttempt,
    Handover,
    NoteAttempt,
    Take,
)
from cygnet.ike.effects import Ask, InstallFailed, InstallSa, RemoveSa, TimedOut
from cygnet.ike.errors import Failure, IkeError, PeerMisbehaved, Reason
from cygnet.ike.state import Phase
from cygnet.ike.steps import Step
from cygnet.ike.wanted import DeleteIke, RekeyIke, Report, Wanted
from cygnet.policy.sa import SaParameters
from cygnet.wire.cursor import Malformed
from cygnet.wire.numbers import Notify

if TYPE_CHECKING:
    from cygnet.ike.sa import IkeSa

INSTALL_PATIENCE: Final = 10.0
"""Seconds that the data plane has to answer."""
LINGER: Final = 10.0
"""Seconds that the answers of a closed SA are kept for repeated requests."""
REFUSALS_BELIEVED: Final = 2
"""Refusals in clear to different transmissions until we give up: anyone could have sent one."""


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
        "wanted",
    )

    def __init__(self, exchange: steps.Steps[Any] | None, wanted: Wanted | None) -> None:
        self.exchange = exchange
        self.wanted = wanted
        self.operation = wanted.operation if wanted is not None else 0
        self.failure: Failure | None = None
        self.ledger: list[Held] = []
        self.ask = 0
        self.due = 0.0
        self.installing: SaParameters | None = None


Held = tuple[str, Any]
"""("spi", child SPI), ("policy", number), ("sa", SaParameters), ("attempt", ...), ("successor", number)."""


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


def next_wanted(sa: IkeSa) -> Wanted | None:
    """What is next in the queue and may begin now. Of an SA that closes, only what closes it."""
    phase = sa.state.phase
    if phase is Phase.CONNECTING or not sa.queue:
        return None
    if phase is not Phase.ESTABLISHED:
        closing = next((w for w in sa.queue if isinstance(w, DeleteIke | Report)), None)
        for wanted in sa.queue:
            if wanted is not closing:
                sa.gateway.operation_ended(wanted.operation, Failure(Reason.PEER_CLOSED, "the IKE SA closes"))
        sa.queue = deque([closing] if closing is not None else [])
        if closing is None:
            return None
    return sa.queue.popleft()


def begin_local(sa: IkeSa, exchange: steps.Steps[Any]) -> None:
    """Something that needs the world and no message."""
    task = Task(exchange, None)
    sa.background = (*sa.background, task)
    run(sa, task)


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
            sa.exchange_finished(task)
            return
        except IkeError as failure:
            sa.exchange_failed(task, failure)
            return
        except Malformed as failure:
            sa.exchange_failed(task, malformed(failure))
            return
        except steps.SaClosed as closed:
            let_go(sa, task)
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
        case steps.Apply(changes):
            commit(sa, task, changes)
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
        case steps.UseGiven(given):
            sa.commit((Take(given),))
            task.ask = gateway.ask(sa, task)
            task.due = sa.now.monotonic + INSTALL_PATIENCE
            gateway.clients.tell(task.ask)
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
            gateway.complain(sa, task.failure, child, initiator=sa.is_ours(task))
            return False, None
        case _:
            return sa.message_step(task, step)


def postpone(sa: IkeSa, wanted: Wanted, at: float) -> None:
    """Want something at a later time."""
    sa.later = tuple(sorted((*sa.later, (at, wanted)), key=lambda one: one[0]))
    sa.gateway.touch(sa)


def commit(sa: IkeSa, task: Task, changes: tuple[Change, ...]) -> None:
    """Commit, and strike what the changes took over off the ledger."""
    sa.commit(changes)
    settle(task, changes)


def settle(task: Task, changes: tuple[Change, ...]) -> None:
    """These changes are true: what they took over is not the exchange's any more."""
    for change in changes:
        match change:
            case AddChild(child):
                task.ledger = [
                    held
                    for held in task.ledger
                    if held not in (("spi", child.spi_in), ("policy", child.policy))
                    and not (held[0] == "sa" and held[1].pair in child.pairs)
                    and not (child.around is not None and held == ("spi", child.around.spi_in))
                ]
            case AddHalf(half):
                task.ledger = [held for held in task.ledger if held != ("spi", half.around.spi_in)]
            case Handover(successor):
                task.ledger = [h for h in task.ledger if h != ("successor", successor) and h[0] != "attempt"]
            case NoteAttempt(attempt):
                task.ledger = [h for h in task.ledger if h != ("successor", attempt.result)]
            case ForgetAttempt(attempt):
                task.ledger = [h for h in task.ledger if h != ("attempt", attempt)]


def let_go(sa: IkeSa, task: Task) -> None:
    """The exchange is over: it leaves its place, and what it did not commit is given back."""
    gateway = sa.gateway
    sa.leave(task)
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
    dying = sa.dying_children(failure)
    sa.gateway.closing(sa, failure, telling=True)
    drops = [DropChild(child.pair, failure) for child in dying]
    sa.commit((ChangePhase(Phase.DELETING), *drops))
    enqueue(sa, DeleteIke(failure, operation), first=True)


def close(sa: IkeSa, failure: Failure, *, linger: bool) -> None:
    """The IKE SA and its children are gone. `linger`: its last answer is kept for repeats, for a while."""
    gateway = sa.gateway
    if sa.close_at:
        return
    for task in sa.tasks():
        if task.exchange is not None:
            task.exchange.close()
        let_go(sa, task)
        wanted = task.wanted
        done = isinstance(wanted, DeleteIke) or (
            isinstance(wanted, RekeyIke) and failure.reason is Reason.REPLACED
        )
        gateway.operation_ended(task.operation, None if done else failure)
    dying = sa.dying_children(failure)
    if sa.state.phase is not Phase.DELETING:
        gateway.closing(sa, failure)
    drops = [DropChild(child.pair, failure) for child in dying]
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
    """Whatever of this SA's exchanges is due."""
    now = sa.now.monotonic
    sa.gateway.touch(sa)
    if sa.close_at:
        if now >= sa.close_at:
            sa.gateway.forget(sa)
        return
    for task in sa.tasks():
        if task.ask and task.due and now >= task.due:
            sa.gateway.forget_ask(task.ask)
            resume(sa, task, TimedOut())
    sa.messages_due()
    while sa.later and now >= sa.later[0][0]:
        wanted = sa.later[0][1]
        sa.later = sa.later[1:]
        enqueue(sa, wanted)


def unreachable(sa: IkeSa) -> None:
    """The peer answers no more: all is gone (RFC 7296, section 2.4)."""
    state = sa.state
    if state.phase in (Phase.DELETING, Phase.REKEYED):
        # Its Delete goes unanswered: the peer may have forgotten it, and it was to go anyway.
        ending = next((w for task in sa.tasks() if isinstance(w := task.wanted, DeleteIke)), None)
        replaced = Failure(Reason.REPLACED, "rekeyed")
        close(sa, ending.failure if ending is not None else replaced, linger=False)
        return
    if state.phase is Phase.CONNECTING:
        detail = f"{state.path.remote} does not answer"
        failure = Failure(Reason.PEER_UNREACHABLE, detail)
        sa.gateway.complain(sa, failure, "", initiator=True)
    else:
        failure = Failure(Reason.PEER_DEAD, f"{state.path.remote} does not answer any more")
    close(sa, failure, linger=False)


def malformed(error: Malformed) -> PeerMisbehaved:
    """What an authentic message is that cannot be parsed."""
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, str(error), notify=Notify.INVALID_SYNTAX)
