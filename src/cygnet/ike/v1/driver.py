"""The driver of IKEv1: exchanges side by side, each a row of messages of one message id.

Flow: a step that is a message is sealed with the exchange's chain of IVs and sent; who waits for the next
repeats it; the bytes are kept and leave again when the peer repeats what they followed. IVs advance with what
is sent and with what is accepted, never with what merely arrives. Feeding exchanges is `ike.running`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from cygnet.ike import running
from cygnet.ike.changes import EndPhase1, UseIsakmpKeys
from cygnet.ike.errors import IkeError, PeerIncompatible, Reason
from cygnet.ike.running import REFUSALS_BELIEVED, Task, settle
from cygnet.ike.state import Phase
from cygnet.ike.steps import Step
from cygnet.ike.transport import seen, transmit
from cygnet.ike.v1 import deletes, notifications, protection
from cygnet.ike.v1.protection import isakmp_of
from cygnet.ike.v1.steps import NEXT, ClosePhase1, Insist, Listen, Receive, Send
from cygnet.records import replace
from cygnet.wire.message import Header
from cygnet.wire.v1.message import Message, encode_chain, encode_payloads, encode_sealed, prefix_hash
from cygnet.wire.v1.numbers import Exchange, Flags, Protocol
from cygnet.wire.v1.payloads import HashPayload, NotifyPayload, Payload

if TYPE_CHECKING:
    from cygnet.ike.v1.sa import IkeV1Sa

KEPT: Final = 180.0
"""Seconds that an exchange's last message is kept for the peer's repeats: a strongSwan repeats for 165."""
MAX_AT_ONCE: Final = 8
"""Exchanges of ours side by side."""
MAX_OPEN: Final = 64
"""Exchanges side by side that the peer began; and kept ones that are over."""
MAX_USED: Final = 4096
"""Message ids remembered: none begins a second exchange (RFC 2408, section 3.1)."""
PROOFS: Final = (Exchange.MAIN_MODE, Exchange.AGGRESSIVE)


class Dialogue:
    """An exchange as messages: its id, its chain of IVs, what we sent last (`datagrams`) and the digest of
    what that followed (`answered`). `spi`: protocol and SPI that the peer knows its quick mode by. `ours`:
    we began it.
    """

    __slots__ = (
        "answered",
        "datagrams",
        "due",
        "ended",
        "error",
        "exchange",
        "expect",
        "iv",
        "message",
        "message_id",
        "ours",
        "refusals",
        "refused",
        "refused_at",
        "since",
        "spi",
        "task",
        "tries",
    )  # fmt: skip

    def __init__(self, message_id: int, exchange: int, *, ours: bool, since: float) -> None:
        self.message_id = message_id
        self.exchange = exchange
        self.ours = ours
        self.since = since
        self.task: Task | None = None
        self.iv = b""
        self.expect: Callable[[Any], Any] | None = None
        self.message: Message | None = None
        self.datagrams: tuple[bytes, ...] = ()
        self.answered = b""
        self.due = 0.0
        self.tries = 0
        self.refusals = 0
        self.refused: object = None
        self.refused_at = 0.0
        self.error: IkeError | None = None
        self.spi: tuple[int, bytes] = (0, b"")
        self.ended = 0.0


# -- steps --------------------------------------------------------------------------------------


def message_step(sa: IkeV1Sa, task: Task, step: Step) -> tuple[bool, Any]:
    """Carry out a step that is a message: (whether the exchange waits now, else the value to go on with)."""
    match step:
        case Send():
            return _send(sa, task, step)
        case Receive(exchange, expect, patience):
            if exchange == NEXT:
                sa.current[task].expect = expect
                return True, None
            sa.awaiting = (task, step)
            if patience:
                task.ask = sa.gateway.ask(sa, task)
                task.due = sa.now.monotonic + patience
            return True, None
        case Listen(_, patience):
            sa.listening[task] = step
            task.ask = sa.gateway.ask(sa, task)
            task.due = sa.now.monotonic + patience
            return True, None
        case Insist(protocol, ours, theirs):
            deletes.insist(sa, (protocol, theirs), ours)
            return False, None
        case ClosePhase1(changes):
            end_phase_1(sa, task, changes)
            return False, None
        case _:
            raise TypeError(f"{type(step).__name__} is no step of IKEv1")


def end_phase_1(sa: IkeV1Sa, task: Task, changes: tuple[Any, ...]) -> None:
    first = sa.dialogues.get(0)
    isakmp = isakmp_of(sa.state)
    block = first.iv if first is not None and first.iv else isakmp.last_block
    running.commit(sa, task, (EndPhase1(block), *changes))


def open_dialogue(sa: IkeV1Sa, message_id: int, exchange: int, *, ours: bool) -> Dialogue:
    """A new exchange on the books; the oldest of those that are over makes room."""
    dialogue = Dialogue(message_id, exchange, ours=ours, since=sa.now.monotonic)
    if message_id:
        sa.used.append(message_id)
    sa.dialogues[message_id] = dialogue
    over = [known for known in sa.dialogues.values() if known.ended and known.message_id]
    if len(over) > MAX_OPEN:
        del sa.dialogues[over[0].message_id]
    return dialogue


def _begin_dialogue(sa: IkeV1Sa, exchange: int) -> Dialogue:
    if exchange in PROOFS:
        return open_dialogue(sa, 0, exchange, ours=True)
    while True:
        message_id = int.from_bytes(sa.entropy.octets(4), "big")
        if message_id and message_id not in sa.dialogues and message_id not in sa.used:
            return open_dialogue(sa, message_id, exchange, ours=True)


def _send(sa: IkeV1Sa, task: Task, step: Send) -> tuple[bool, Any]:
    begun = step.exchange != NEXT
    dialogue = _begin_dialogue(sa, step.exchange) if begun else sa.current[task]
    if begun:
        leave_dialogue(sa, task)
        dialogue.task = task
        sa.current[task] = dialogue
    state = sa.state
    # A message is protected by the keys that stood before its own changes: main mode's fourth is in clear.
    isakmp = state.isakmp
    flags = 0 if isakmp is None else Flags.ENCRYPTION
    header = Header(state.spi_i, state.spi_r, 0, 1, 0, dialogue.exchange, flags, dialogue.message_id)
    first, octets = encode_payloads(step.payloads)
    shown: tuple[Payload, ...] = tuple(step.payloads)
    if step.hashed is not None:
        value = step.hashed(dialogue.message_id, octets)
        first, octets = prefix_hash(first, octets, value)
        shown = (HashPayload(value), *shown)
    if isakmp is None:
        datagram = encode_chain(header, first, octets)
    else:
        iv = dialogue.iv or protection.first_iv(isakmp, sa.base_iv, dialogue.message_id)
        sealed, dialogue.iv = protection.seal(isakmp, iv, octets)
        datagram = encode_chain(header, first, sealed)
    dialogue.datagrams = (datagram,)
    # Aggressive mode's second message may go in pieces as soon as we know that the peer takes them.
    agreed = any(isinstance(one, UseIsakmpKeys) and one.fragmentation for one in step.changes)
    if state.fragmentation or (agreed and dialogue.exchange == Exchange.AGGRESSIVE):
        # Pieces carry the exchange's header in clear.
        size = sa.fragment_size
        dialogue.datagrams = protection.split(replace(header, flags=0), datagram, size)
    dialogue.message = _told(header, shown) if sa.gateway.observe else None
    seen(sa, True, state.path, dialogue.message)
    sa.commit(step.changes)
    settle(task, step.changes)
    dialogue.expect = step.expect
    dialogue.tries = 0
    dialogue.refusals = 0
    dialogue.refused = None
    dialogue.due = sa.now.monotonic + sa.gateway.retransmit_after(0) if step.expect is not None else 0.0
    if sa.sent < sa.now.monotonic:
        # Else it has left in this same moment.
        repeat_unconfirmed(sa)
    transmit(sa, dialogue.datagrams, sa.state.path)
    if step.unconfirmed:
        sa.unconfirmed = dialogue.datagrams
        sa.unconfirmed_tries = 0
        sa.unconfirmed_due = sa.now.monotonic + sa.gateway.retransmit_after(0)
    if step.expect is None and begun:
        # An exchange of one message.
        leave_dialogue(sa, task)
    return step.expect is not None, None


def _told(header: Header, shown: tuple[Payload, ...]) -> Message:
    """The message as people see it."""
    return Message(header, shown, tuple([b""] * len(shown)))


def leave_dialogue(sa: IkeV1Sa, task: Task) -> None:
    """The task's exchange of messages is over; its last message stays for repeats."""
    dialogue = sa.current.pop(task, None)
    if dialogue is None:
        return
    dialogue.task = None
    dialogue.expect = None
    dialogue.due = 0.0
    dialogue.ended = sa.now.monotonic
    if not dialogue.datagrams and not dialogue.answered and sa.dialogues.get(dialogue.message_id) is dialogue:
        del sa.dialogues[dialogue.message_id]


def repeat_unconfirmed(sa: IkeV1Sa) -> None:
    """Aggressive mode's third message has no answer: it leaves before whatever builds on it."""
    if sa.unconfirmed:
        transmit(sa, sa.unconfirmed, sa.state.path)


def answer_again(sa: IkeV1Sa, dialogue: Dialogue) -> None:
    """The peer repeats what our last message followed: it has not come."""
    if dialogue.datagrams:
        seen(sa, True, sa.state.path, dialogue.message, repeat=True)
        transmit(sa, dialogue.datagrams, sa.state.path)


# -- ends ---------------------------------------------------------------------------------------


def finished(sa: IkeV1Sa, task: Task) -> None:
    running.let_go(sa, task)
    sa.gateway.operation_ended(task.operation, task.failure)


def fail(sa: IkeV1Sa, task: Task, error: IkeError) -> None:
    """An exchange ended by an error. The peer hears of it in a message that HASH protects, or not at all;
    what it repeats is answered by the same."""
    failure = error.failure
    dialogue = sa.current.get(task)
    ours = sa.is_ours(task)
    connecting = sa.state.phase is Phase.CONNECTING
    sa.gateway.complain(sa, failure, error.child, initiator=ours)
    notify = notifications.notify_of(error)
    if notify and sa.state.isakmp is not None and dialogue is not None:
        protocol, spi = dialogue.spi
        if not protocol:
            protocol, spi = Protocol.ISAKMP, sa.state.spi_i + sa.state.spi_r
        _tell_error(sa, dialogue, NotifyPayload(protocol, spi, notify, b""))
    running.let_go(sa, task)
    sa.gateway.operation_ended(task.operation, failure)
    if connecting:
        running.close(sa, failure, linger=bool(notify))


def _tell_error(sa: IkeV1Sa, dialogue: Dialogue, notify: NotifyPayload) -> None:
    """One message, HASH(1) first; kept as the last of the exchange that failed."""
    isakmp = isakmp_of(sa.state)
    told = _begin_dialogue(sa, Exchange.INFORMATIONAL)
    first, octets = encode_payloads((notify,))
    digest = protection.hash_1(isakmp)(told.message_id, octets)
    first, octets = prefix_hash(first, octets, digest)
    sealed, _ = protection.seal(isakmp, protection.first_iv(isakmp, sa.base_iv, told.message_id), octets)
    state = sa.state
    header = Header(
        state.spi_i, state.spi_r, 0, 1, 0, Exchange.INFORMATIONAL, Flags.ENCRYPTION, told.message_id
    )
    told.datagrams = (encode_sealed(header, first, sealed),)
    told.ended = sa.now.monotonic
    shown: tuple[Payload, ...] = (HashPayload(digest), notify)
    dialogue.message = _told(header, shown) if sa.gateway.observe else None
    dialogue.datagrams = told.datagrams
    seen(sa, True, state.path, dialogue.message)
    transmit(sa, told.datagrams, state.path)


# -- time ---------------------------------------------------------------------------------------


def messages_due(sa: IkeV1Sa) -> None:
    """Repeats, and what is forgotten in time."""
    now = sa.now.monotonic
    for dialogue in tuple(sa.dialogues.values()):
        if dialogue.ended and now >= dialogue.ended + KEPT:
            sa.dialogues.pop(dialogue.message_id, None)
        elif dialogue.expect is not None and dialogue.due and now >= dialogue.due:
            _repeat(sa, dialogue)
            if sa.close_at or sa.gateway.by_number.get(sa.unique_id) is not sa:
                return
    if sa.unconfirmed and sa.unconfirmed_due and now >= sa.unconfirmed_due:
        sa.unconfirmed_tries += 1
        repeat_unconfirmed(sa)
        sa.unconfirmed_due = 0.0
        if sa.unconfirmed_tries < sa.options.retransmission.tries:
            sa.unconfirmed_due = now + sa.gateway.retransmit_after(sa.unconfirmed_tries)
    if sa.reassembly is not None and now >= sa.reassembly.began + sa.options.half_open_timeout:
        sa.forget_fragments()


def _repeat(sa: IkeV1Sa, dialogue: Dialogue) -> None:
    task, now = dialogue.task, sa.now.monotonic
    if task is None:
        return
    believed = dialogue.error is not None and dialogue.refusals >= REFUSALS_BELIEVED
    if believed or dialogue.tries >= sa.options.retransmission.tries:
        _given_up(sa, dialogue, task)
        return
    dialogue.tries += 1
    dialogue.due = now + sa.gateway.retransmit_after(dialogue.tries)
    seen(sa, True, sa.state.path, dialogue.message, repeat=True)
    repeat_unconfirmed(sa)
    transmit(sa, dialogue.datagrams, sa.state.path)


def _given_up(sa: IkeV1Sa, dialogue: Dialogue, task: Task) -> None:
    """No answer that counts. In phase 1 that is the end; later the peer may just dislike this exchange."""
    error = dialogue.error
    if error is None and dialogue.message_id == 0:
        error = sa.silence()
    if error is None and sa.heard <= dialogue.since:
        running.unreachable(sa)
        return
    running.resume_error(
        sa,
        task,
        error
        or PeerIncompatible(
            Reason.PEER_UNREACHABLE,
            f"{sa.state.path.remote} does not answer {Exchange.name_of(dialogue.exchange)}",
        ),
    )
