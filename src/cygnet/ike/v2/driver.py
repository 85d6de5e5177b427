"""The driver of IKEv2: message ids, window 1, retransmission, answers kept, sealing; it runs the exchanges.

Flow of a datagram: cheap checks (roles, SPIs, window, repeats by digest) -> open -> decode -> legality
-> `expect` -> and only then the waiting exchange is resumed. What fails before the ICV is dropped
with a name and changes nothing. What fails behind it is the peer's own doing: a request is answered
with the error's notify, an answer's error is raised in our exchange (RFC 7296, section 2.21).

Flow of an exchange: `run` feeds a generator until it waits for a message or for the world. The
message ids advance in the same commit as the changes that the message makes true.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from cygnet.crypto.errors import IntegrityFailure
from cygnet.ike import steps
from cygnet.ike.effects import Ask, InstallFailed, InstallSa, RemoveSa, SendDatagram, TimedOut
from cygnet.ike.errors import Drop, Failure, IkeError, LocalMisuse, PeerMisbehaved, Reason
from cygnet.ike.events import Dropped, MessageSeen
from cygnet.ike.state import (
    AddChild,
    Change,
    ChangePath,
    ChangePhase,
    CheckLiveness,
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
from cygnet.ike.steps import Exchanged, Received, Refused, Step
from cygnet.ike.v2 import legality, protection
from cygnet.ike.v2.fragments import FragmentRefused, Reassembly
from cygnet.ike.world import Path
from cygnet.policy.sa import SaParameters
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Header, Message, decode, decode_payloads, encode
from cygnet.wire.numbers import Exchange, Flags, Notify
from cygnet.wire.payloads import EncryptedFragmentPayload, NotifyPayload, Payload

if TYPE_CHECKING:
    from cygnet.ike.sa import IkeSa

NON_ESP_MARKER: Final = bytes(4)
"""Before every IKE message on port 4500 (RFC 3948, section 2.2)."""
FATAL: Final = frozenset((Notify.INVALID_SYNTAX, Notify.AUTHENTICATION_FAILED))
"""Both sides forget the IKE SA without a Delete (RFC 7296, section 2.21)."""
INSTALL_PATIENCE: Final = 10.0
"""Seconds that the data plane has to answer."""
LINGER: Final = 10.0
"""Seconds that the answers of a closed SA are kept for repeated requests."""
MAX_TROUBLE: Final = 180.0
"""Seconds of TEMPORARY_FAILURE after which an IKE SA is given up."""
HINT_INTERVAL: Final = 20.0
"""Seconds between liveness checks that unprotected messages may cause (RFC 7296, section 2.21.4)."""
HINTED_RESEND: Final = 1.0
"""Seconds after which an IKE_SA_INIT that was refused in clear is sent again."""
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


def digest(datagram: bytes) -> bytes:
    """How a repeat of a request is recognised."""
    return hashlib.blake2s(datagram, digest_size=16).digest()


# -- receiving --------------------------------------------------------------------------------


def receive(sa: IkeSa, header: Header, datagram: bytes, path: Path) -> None:
    """A datagram that carries this SA's SPI. It may be anything."""
    state = sa.state
    if header.from_initiator == state.original_initiator:
        _drop(sa, Drop.REFLECTED, "our own role in the flags", path)
        return
    theirs = header.responder_spi if state.original_initiator else header.initiator_spi
    if state.remote_spi != theirs and (state.keys is not None or not header.response):
        _drop(sa, Drop.UNKNOWN_SPI, "the other SPI is not the peer's", path)
        return
    if header.response:
        _receive_answer(sa, header, datagram, path)
    else:
        _receive_request(sa, header, datagram, path)


def _receive_answer(sa: IkeSa, header: Header, datagram: bytes, path: Path) -> None:
    request = sa.request
    if request is None or header.message_id != request.message_id:
        # INVALID_IKE_SPI and the like may carry any id; they are hints whatever it is.
        if not _hint(sa, datagram, path):
            _drop(sa, Drop.LATE_RESPONSE, "no request with this message id waits", path)
        return
    if header.exchange != request.exchange:
        _drop(sa, Drop.WRONG_EXCHANGE, "an answer of another exchange type", path)
        return
    if request.exchange == Exchange.IKE_SA_INIT:
        _initial_answer(sa, request, datagram, path)
        return
    opened = _open(sa, datagram, path)
    if opened is None:
        return
    _heard(sa, path)
    try:
        if isinstance(opened, IkeError):
            raise opened
        legality.judge(opened.message, protected=True)
        value = request.expect(opened)
    except IkeError as error:
        _accept_answer(sa)
        resume_error(sa, request.task, error)
        return
    except Malformed as error:
        _accept_answer(sa)
        resume_error(sa, request.task, _syntax(error))
        return
    _accept_answer(sa)
    run(sa, request.task, Exchanged(value, request.datagrams[0], opened))


def _initial_answer(sa: IkeSa, request: Outstanding, datagram: bytes, path: Path) -> None:
    """The answer to IKE_SA_INIT: nothing protects it, so nothing but a good one changes anything."""
    try:
        message = decode(datagram)
        _seen(sa, False, path, message, False)
        legality.judge(message, protected=False)
        received = Received(message, datagram, path)
        value = request.expect(received)
    except Malformed as error:
        _drop(sa, Drop.MALFORMED, str(error), path)
    except Refused as refusal:
        _refused(sa, request, refusal.error, path)
    except IkeError as error:
        _drop(sa, Drop.ILLEGAL_PAYLOAD, error.detail, path)
    else:
        sa.heard = sa.now.monotonic
        _accept_answer(sa)
        run(sa, request.task, Exchanged(value, request.datagrams[0], received))


def _refused(sa: IkeSa, request: Outstanding, error: IkeError, path: Path) -> None:
    """RFC 7296, section 2.21.1: go on for some time; a refusal counts once for each time that we sent."""
    if request.refused_try == request.tries:
        _drop(sa, Drop.UNPROTECTED_HINT, error.detail, path)
        return
    request.refused_try = request.tries
    request.refusals += 1
    request.error = error
    request.due = min(request.due, sa.now.monotonic + HINTED_RESEND)


def _accept_answer(sa: IkeSa) -> None:
    request = sa.request
    if request is not None:
        sa.request = None
        window = sa.window
        sa.window = Window(request.message_id + 1, window.next_in, window.iv, window.answered, window.answer)


def _receive_request(sa: IkeSa, header: Header, datagram: bytes, path: Path) -> None:
    window = sa.window
    if header.message_id == window.next_in - 1:
        if window.answered and digest(datagram) == window.answered:
            resend_answer(sa, path)
        else:
            _drop(sa, Drop.MESSAGE_ID, "another request with an answered message id", path)
        return
    if header.message_id != window.next_in:
        _drop(sa, Drop.MESSAGE_ID, "outside the window", path)
        return
    if sa.close_at:
        _drop(sa, Drop.UNKNOWN_SPI, "the SA is closed", path)
        return
    if sa.serving is not None:
        _drop(sa, Drop.BUSY, "the request in hand is not answered yet", path)
        return
    if sa.state.keys is None or header.exchange == Exchange.IKE_SA_INIT:
        _drop(sa, Drop.WRONG_EXCHANGE, "not at this time", path)
        return
    waiting = sa.responder
    if sa.state.peer is None and (waiting is None or header.exchange != waiting[1].exchange):
        # CVE-2014-2338: before authentication nothing but IKE_AUTH.
        _drop(sa, Drop.NOT_AUTHENTICATED, Exchange.name_of(header.exchange), path)
        return
    opened = _open(sa, datagram, path)
    if opened is None:
        return
    _heard(sa, path)
    if waiting is not None:
        task, awaited = waiting
        sa.responder = None
    else:
        task, awaited = Task(None, None), None
    task.serving = Serving(header, path, sa.first_fragment or digest(datagram))
    sa.first_fragment = b""
    sa.serving = task
    try:
        if isinstance(opened, IkeError):
            raise opened
        legality.judge(opened.message, protected=True)
        if awaited is not None:
            value = Exchanged(awaited.expect(opened), b"", opened)
        else:
            task.exchange = sa.gateway.serve(sa, opened)
            value = None
    except IkeError as error:
        _failed(sa, task, error)
    except Malformed as error:
        _failed(sa, task, _syntax(error))
    else:
        run(sa, task, value)


def serve_initial(
    sa: IkeSa, exchange: steps.Steps[Any], header: Header, octets_digest: bytes, path: Path
) -> None:
    """The first request, judged by `first`: its exchange begins."""
    task = Task(exchange, None)
    task.serving = Serving(header, path, octets_digest)
    sa.serving = task
    run(sa, task)


def resend_answer(sa: IkeSa, path: Path) -> None:
    """A repeat of the request that was answered last: the same octets again (RFC 7296, section 2.1).

    From elsewhere they are rationed: whoever saw the request could have sent it in a third one's name.
    """
    if path.remote != sa.state.path.remote and not sa.gateway.strangers.allows(path.remote, sa.now.monotonic):
        _drop(sa, Drop.RATE_LIMIT, "a repeat from another address", path)
        return
    _drop(sa, Drop.RETRANSMISSION, "answered from the kept octets", path)
    _transmit(sa, sa.window.answer, path)


def _open(sa: IkeSa, datagram: bytes, path: Path) -> Received | IkeError | None:
    """The message inside SK; an error of the authentic sender's; or None: dropped, or not complete."""
    state = sa.state
    if state.keys is None or state.suite is None:
        _drop(sa, Drop.WRONG_EXCHANGE, "no keys yet", path)
        return None
    try:
        outer = decode(datagram)
    except Malformed as error:
        _drop(sa, Drop.MALFORMED, str(error), path)
        return None
    header = outer.header
    sealed = legality.sealed(outer)
    if sealed is None:
        if not _hint(sa, datagram, path):
            _drop(sa, Drop.ILLEGAL_PAYLOAD, "not protected", path)
        return None
    fragment = sealed if isinstance(sealed, EncryptedFragmentPayload) else None
    reassembly = sa.reassembly
    first, content = sealed.first_inner, b""
    try:
        if fragment is not None:
            reassembly = reassembly or Reassembly(sa.now.monotonic)
            reassembly.admit(_fragment_key(header), fragment)
        content = protection.open_sealed(
            datagram, sealed, state.suite, state.keys, not state.original_initiator
        )
        if fragment is not None and reassembly is not None:
            if fragment.number == 1 and not header.response:
                sa.first_fragment = digest(datagram)
            whole = reassembly.store(_fragment_key(header), fragment, content)
            if whole is None:
                _keep_fragments(sa, reassembly)
                return None
            forget_fragments(sa)
            first, content = whole
    except IntegrityFailure as error:
        _drop(sa, Drop.INTEGRITY, str(error), path)
        return None
    except FragmentRefused as error:
        _drop(sa, Drop.FRAGMENT, str(error), path)
        return None
    try:
        message = Message(header, decode_payloads(first, content))
    except Malformed as error:
        return _syntax(error)
    _seen(sa, False, path, message, False)
    return Received(message, datagram, path)


def _keep_fragments(sa: IkeSa, reassembly: Reassembly) -> None:
    """What came is authentic, and not all of it. Raises `FragmentRefused` where strangers hold too much."""
    if not sa.gateway.half_open.hold(sa, reassembly.octets):
        forget_fragments(sa)
        raise FragmentRefused("fragments of strangers hold too many octets")
    sa.reassembly = reassembly
    sa.gateway.touch(sa)


def forget_fragments(sa: IkeSa) -> None:
    sa.reassembly = None
    sa.gateway.half_open.hold(sa, 0)


def _fragment_key(header: Header) -> int:
    """Requests and answers count their message ids apart."""
    return header.message_id * 2 + header.response


def _hint(sa: IkeSa, datagram: bytes, path: Path) -> bool:
    """Whether this is a notification in clear. It may cause a liveness check now and then, nothing more
    (RFC 7296, section 2.21.4)."""
    try:
        message = decode(datagram)
    except Malformed:
        return False
    error = message.error()
    if legality.sealed(message) is not None or error is None:
        return False
    now = sa.now.monotonic
    if sa.state.phase is Phase.ESTABLISHED and now >= sa.hinted + HINT_INTERVAL and sa.own is None:
        sa.hinted = now
        enqueue(sa, CheckLiveness())
    _drop(sa, Drop.UNPROTECTED_HINT, Notify.name_of(error.type), path)
    return True


def _heard(sa: IkeSa, path: Path) -> None:
    """An authentic, fresh message came on `path`. Where the peer may move, we follow (RFC 7296, 2.23)."""
    sa.heard = sa.now.monotonic
    state = sa.state
    if path == state.path:
        return
    moving = state.nat_remote and not state.nat_local
    floating = state.phase is Phase.CONNECTING and not state.original_initiator
    if moving or floating:
        sa.commit((ChangePath(path),))


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
            _failed(sa, task, failure)
            return
        except Malformed as failure:
            _failed(sa, task, _syntax(failure))
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
            spi, pair = gateway.obtain_child(sa)
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
    header = _header(sa, step.exchange, message_id, response=False)
    message = Message(header, tuple(step.payloads)) if sa.gateway.observe else None
    _seen(sa, True, sa.state.path, message, False)
    datagrams, window = _seal(sa, header, step.payloads, sa.window)
    _commit(sa, task, step.changes, window)
    now = sa.now.monotonic
    due = now + sa.gateway.retransmit_after(0)
    sa.request = Outstanding(step.exchange, message_id, datagrams, step.expect, task, due)
    sa.request.message = message
    _transmit(sa, datagrams, sa.state.path)


def _send_answer(sa: IkeSa, task: Task, payloads: Sequence[Payload], changes: tuple[Change, ...]) -> bytes:
    serving = task.serving
    if serving is None:
        return b""
    header = _header(sa, serving.header.exchange, serving.header.message_id, response=True)
    if sa.gateway.observe:
        _seen(sa, True, serving.path, Message(header, tuple(payloads)), False)
    datagrams, window = _seal(sa, header, payloads, sa.window)
    window = Window(window.next_out, header.message_id + 1, window.iv, serving.digest, datagrams)
    task.serving = None
    sa.serving = None
    sa.background = (*sa.background, task)
    _commit(sa, task, changes, window)
    _transmit(sa, datagrams, serving.path)
    return datagrams[0]


def _header(sa: IkeSa, exchange: int, message_id: int, *, response: bool) -> Header:
    state = sa.state
    flags = (Flags.INITIATOR if state.original_initiator else 0) | (Flags.RESPONSE if response else 0)
    return Header(state.spi_i, state.spi_r, 0, 2, 0, exchange, flags, message_id)


def _seal(
    sa: IkeSa, header: Header, payloads: Sequence[Payload], window: Window
) -> tuple[tuple[bytes, ...], Window]:
    """The datagrams of a message, and the window with the IVs that they took."""
    state = sa.state
    if header.exchange == Exchange.IKE_SA_INIT:
        return (encode(header, payloads),), window
    if state.suite is None or state.keys is None:
        raise LocalMisuse(Reason.INTERNAL, "nothing can be sealed before there are keys")
    limit = None
    if state.fragmentation:
        path = state.path
        limit = protection.Limit(
            sa.options.fragment_size, path.local.version, path.local_port == sa.options.port_nat_t
        )
    datagrams = protection.seal(
        header, payloads, state.suite, state.keys, state.original_initiator, window.iv, sa.entropy, limit
    )
    iv = window.iv + len(datagrams)
    return datagrams, Window(window.next_out, window.next_in, iv, window.answered, window.answer)


def _transmit(sa: IkeSa, datagrams: Sequence[bytes], path: Path) -> None:
    gateway = sa.gateway
    marker = NON_ESP_MARKER if path.local_port == gateway.options.port_nat_t else b""
    for datagram in datagrams:
        gateway.emit(SendDatagram(path, marker + datagram))
    sa.sent = sa.now.monotonic


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


def _failed(sa: IkeSa, task: Task, error: IkeError) -> None:
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
    _seen(sa, True, sa.state.path, request.message, True)
    _transmit(sa, request.datagrams, sa.state.path)


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


# -- telling ----------------------------------------------------------------------------------


def _syntax(error: Malformed) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, str(error), notify=Notify.INVALID_SYNTAX)


def _drop(sa: IkeSa, drop: Drop, detail: str, path: Path) -> None:
    sa.gateway.event(Dropped(drop, detail, path, sa.unique_id))


def _seen(sa: IkeSa, sent: bool, path: Path, message: Message | None, repeat: bool) -> None:
    if sa.gateway.observe and message is not None:
        sa.gateway.event(MessageSeen(sent, path, message, sa.unique_id, sa.connection.name, repeat))
