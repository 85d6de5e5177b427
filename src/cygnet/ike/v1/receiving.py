"""What arrives for a phase 1 SA: the checks that stand before its exchanges, cheap ones first.

Flow of a datagram: cookies -> pieces -> repeats by digest -> decrypt with the exchange's IV -> decode ->
legality -> HASH and whatever else `expect` asks -> and only then IV, message id and exchange advance. What
nothing proves is dropped with a name and changes nothing; what HASH proves and we cannot take is answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cygnet.ike import running
from cygnet.ike.changes import ChangePath, NoteContact
from cygnet.ike.errors import Drop, IkeError
from cygnet.ike.running import Task
from cygnet.ike.state import Phase
from cygnet.ike.steps import Refused, Steps
from cygnet.ike.transport import digest, drop, seen
from cygnet.ike.v1 import driver, legality, notifications, phase1, proposals, protection
from cygnet.ike.v1.driver import MAX_OPEN, PROOFS, Dialogue
from cygnet.ike.v1.protection import Reassembly, check_hash, hash_1
from cygnet.ike.v1.steps import Exchanged, Received, Unproven
from cygnet.ike.wanted import CheckLiveness
from cygnet.ike.world import Path
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Header
from cygnet.wire.v1.message import Message, decode
from cygnet.wire.v1.numbers import Exchange, Notify
from cygnet.wire.v1.payloads import DeletePayload, FragmentPayload, NotifyPayload, SaPayload

if TYPE_CHECKING:
    from cygnet.ike.v1.sa import IkeV1Sa

HINT_INTERVAL: Final = 20.0
"""Seconds between liveness checks that messages without proof may cause."""
REFUSED_AGAIN: Final = 0.5
"""Seconds after which the same wrong proof is a repeat of the peer's, not an echo of the network's."""
HINTED_RESEND: Final = 1.0
"""Seconds after which a first message that was refused in clear is sent again."""


def receive(sa: IkeV1Sa, header: Header, datagram: bytes, path: Path) -> None:
    """A datagram that carries this SA's cookie. It may be anything."""
    state = sa.state
    theirs = header.responder_spi if state.original_initiator else header.initiator_spi
    early = state.isakmp is None and state.original_initiator and state.remote_spi == bytes(8)
    if theirs != state.remote_spi and not early:
        drop(sa, Drop.UNKNOWN_SPI, "the other cookie is not the peer's", path)
        return
    dialogue = sa.dialogues.get(header.message_id)
    if dialogue is not None and dialogue.answered and digest(datagram) == dialogue.answered:
        _repeated(sa, dialogue, path)
        return
    try:
        message = decode(datagram, header)
    except Malformed as error:
        drop(sa, Drop.MALFORMED, str(error), path)
        return
    piece = message.payloads[0] if message.payloads else None
    try:
        if isinstance(piece, FragmentPayload):
            whole = _assembled(sa, piece)
            if whole is not None:
                _receive_whole(sa, header, whole, path)
        elif dialogue is not None:
            _next_message(sa, dialogue, message, digest(datagram), path)
        else:
            _new_exchange(sa, message, digest(datagram), path)
    except Unproven as unproven:
        drop(sa, unproven.drop, unproven.detail, path)
    except Malformed as error:
        drop(sa, Drop.MALFORMED, str(error), path)


def _receive_whole(sa: IkeV1Sa, outer: Header, datagram: bytes, path: Path) -> None:
    """What the pieces made must be what their headers said; and it is in no pieces again."""
    message = decode(datagram)
    header = message.header
    same = (outer.initiator_spi, outer.responder_spi, outer.exchange, outer.message_id)
    if same != (header.initiator_spi, header.responder_spi, header.exchange, header.message_id) or any(
        isinstance(payload, FragmentPayload) for payload in message.payloads
    ):
        raise Unproven(Drop.FRAGMENT, "the pieces are of another message than they say")
    receive(sa, header, datagram, path)


def _assembled(sa: IkeV1Sa, piece: FragmentPayload) -> bytes | None:
    """The datagram, if this was the last piece missing. Only from who announced that it sends pieces (T7)."""
    if not sa.takes_fragments:
        raise Unproven(Drop.FRAGMENT, "pieces were not agreed on")
    if sa.reassembly is None:
        sa.reassembly = Reassembly(sa.now.monotonic)
        sa.gateway.touch(sa)
    try:
        whole = sa.reassembly.add(piece)
    finally:
        held = sa.gateway.half_open.hold(sa, sa.reassembly.octets)
    if not held:
        sa.forget_fragments()
        raise Unproven(Drop.FRAGMENT, "pieces of strangers hold too many octets")
    if whole is not None:
        sa.forget_fragments()
    return whole


def _repeated(sa: IkeV1Sa, dialogue: Dialogue, path: Path) -> None:
    """A message that was accepted comes again: one answer for each, and from elsewhere they are rationed."""
    if path.remote != sa.state.path.remote and not sa.gateway.strangers.allows(path.remote, sa.now.monotonic):
        drop(sa, Drop.RATE_LIMIT, "a repeat from another address", path)
        return
    drop(sa, Drop.RETRANSMISSION, "answered from the kept octets", path)
    driver.answer_again(sa, dialogue)


# -- the next message of an exchange --------------------------------------------------------------


def _next_message(sa: IkeV1Sa, dialogue: Dialogue, message: Message, octets: bytes, path: Path) -> None:
    task = dialogue.task
    if message.header.exchange != dialogue.exchange:
        if message.header.exchange == Exchange.INFORMATIONAL and not message.encrypted:
            _hint(sa, message, path)
            return
        raise Unproven(Drop.WRONG_EXCHANGE, "another exchange type under this message id")
    if task is None or dialogue.expect is None:
        raise Unproven(Drop.MESSAGE_ID, "no message of this exchange is waited for")
    try:
        message, iv = _open(sa, dialogue, message)
    except Malformed:
        garbled = sa.silence() if dialogue.exchange in PROOFS and not dialogue.due else None
        if garbled is None or not message.encrypted:
            raise
        # Most likely it was encrypted with another key than ours, made of another secret.
        _refused(sa, dialogue, garbled, message.sealed[-len(sa.base_iv) :], octets, path)
        return
    received = Received(message, path)
    proven = dialogue.message_id != 0
    try:
        legality.judge(message)
        value = dialogue.expect(received)
    except Refused as refusal:
        _refused(sa, dialogue, refusal.error, iv, octets, path)
        return
    except IkeError as error:
        if not proven:
            raise Unproven(Drop.ILLEGAL_PAYLOAD, error.detail) from None
        _accept(sa, dialogue, iv, octets, path)
        seen(sa, False, path, message)
        running.resume_error(sa, task, error)
        return
    _accept(sa, dialogue, iv, octets, path)
    seen(sa, False, path, message)
    running.run(sa, task, Exchanged(value, received))


def _open(sa: IkeV1Sa, dialogue: Dialogue, message: Message) -> tuple[Message, bytes]:
    """(the message in clear, the IV after it). With keys nothing comes in clear, but for aggressive mode's
    third message (RFC 2409, section 5.4)."""
    isakmp = sa.state.isakmp
    if isakmp is None:
        if message.encrypted:
            raise Unproven(Drop.WRONG_EXCHANGE, "encrypted before there are keys")
        return message, b""
    if message.encrypted:
        iv = dialogue.iv or protection.first_iv(isakmp, sa.base_iv, dialogue.message_id)
        return protection.unseal(isakmp, iv, message)
    if dialogue.exchange != Exchange.AGGRESSIVE:
        raise Unproven(Drop.ILLEGAL_PAYLOAD, "in clear where there are keys")
    return message, dialogue.iv


def _accept(sa: IkeV1Sa, dialogue: Dialogue, iv: bytes, octets: bytes, path: Path) -> None:
    """From here on it counts."""
    dialogue.iv = iv
    dialogue.answered = octets
    dialogue.datagrams = ()
    dialogue.expect = None
    dialogue.due = 0.0
    dialogue.error = None
    if dialogue.message_id:
        _proven(sa, path)
    else:
        sa.heard = sa.now.monotonic
        _follow(sa, path, floating=True)
    sa.gateway.touch(sa)


def _proven(sa: IkeV1Sa, path: Path) -> None:
    """A message that HASH proves: the peer lives, and it has what we sent last in phase 1."""
    sa.heard = sa.now.monotonic
    sa.is_used = True
    sa.unconfirmed = ()
    sa.unconfirmed_due = 0.0
    _follow(sa, path, floating=False)


def _follow(sa: IkeV1Sa, path: Path, *, floating: bool) -> None:
    """Where the peer may move, we follow: behind a NAT, and to port 4500 in phase 1 (RFC 3947, section 4)."""
    state = sa.state
    if path == state.path:
        return
    if (state.nat_remote and not state.nat_local) or (floating and not state.original_initiator):
        sa.commit((ChangePath(path),))


def _refused(sa: IkeV1Sa, dialogue: Dialogue, error: IkeError, iv: bytes, octets: bytes, path: Path) -> None:
    """A proof that is wrong, or a refusal in clear: anyone could have sent it. The initiator believes it when
    it comes to a second transmission; the responder when the peer repeats it."""
    now = sa.now.monotonic
    drop(sa, Drop.UNPROTECTED_HINT, error.detail, path)
    if dialogue.due:
        _refused_transmission(sa, dialogue, error)
    elif dialogue.refused == octets and now >= dialogue.refused_at + REFUSED_AGAIN:
        if dialogue.task is not None:
            # The peer makes the IVs of what follows from this message, and so do we to tell it.
            dialogue.iv = iv
            running.resume_error(sa, dialogue.task, error)
    else:
        dialogue.refused, dialogue.refused_at = octets, now
        dialogue.error = error


def _refused_transmission(sa: IkeV1Sa, dialogue: Dialogue, error: IkeError) -> None:
    if dialogue.refused == dialogue.tries:
        return
    dialogue.refused = dialogue.tries
    dialogue.refusals += 1
    dialogue.error = error
    dialogue.due = min(dialogue.due, sa.now.monotonic + HINTED_RESEND)
    sa.gateway.touch(sa)


# -- the first message of one ---------------------------------------------------------------------


def _new_exchange(sa: IkeV1Sa, message: Message, octets: bytes, path: Path) -> None:
    header, isakmp = message.header, sa.state.isakmp
    if not message.encrypted:
        if header.exchange != Exchange.INFORMATIONAL:
            raise Unproven(Drop.ILLEGAL_PAYLOAD, "in clear where there are keys")
        _hint(sa, message, path)
        return
    if isakmp is None or not header.message_id or header.exchange in PROOFS:
        raise Unproven(Drop.WRONG_EXCHANGE, "not at this time")
    if sa.close_at:
        raise Unproven(Drop.UNKNOWN_SPI, "the SA is closed")
    if header.message_id in sa.used:
        raise Unproven(Drop.MESSAGE_ID, "this message id was used")
    if header.exchange != Exchange.INFORMATIONAL:
        _may_begin(sa, header)
    message, iv = protection.unseal(
        isakmp, protection.first_iv(isakmp, sa.base_iv, header.message_id), message
    )
    received = Received(message, path)
    check_hash(received, hash_1(isakmp))
    # The peer has said this: it has an effect, or an answer, from here on.
    seen(sa, False, path, message)
    dialogue = driver.open_dialogue(sa, header.message_id, header.exchange, ours=False)
    dialogue.iv, dialogue.answered = iv, octets
    _proven(sa, path)
    sa.gateway.touch(sa)
    try:
        legality.judge(message)
    except (IkeError, Malformed) as error:
        dialogue.ended = sa.now.monotonic
        drop(sa, Drop.ILLEGAL_PAYLOAD, str(error), path)
        return
    if header.exchange == Exchange.INFORMATIONAL:
        dialogue.ended = sa.now.monotonic
        _informed(sa, received)
        return
    offered = message.maybe(SaPayload)
    if offered is not None:
        dialogue.spi = (offered.proposals[0].protocol, offered.proposals[0].spi)
    if header.exchange == Exchange.TRANSACTION and sa.awaiting is not None:
        _awaited(sa, dialogue, received)
        return
    task = Task(None, None)
    _attach(sa, dialogue, task)
    try:
        task.exchange = sa.serve(received)
    except IkeError as error:
        driver.fail(sa, task, error)
    else:
        running.run(sa, task)


def _may_begin(sa: IkeV1Sa, header: Header) -> None:
    """Whether the peer may begin an exchange of this type now. Raises `Unproven`."""
    waiting = sa.awaiting is not None and sa.awaiting[1].exchange == header.exchange
    if sa.state.peer is None and not waiting:
        # Nothing but what phase 1 itself waits for, before it has proved the peer (CVE-2014-2338's lesson).
        raise Unproven(Drop.NOT_AUTHENTICATED, Exchange.name_of(header.exchange))
    if header.exchange not in (Exchange.QUICK_MODE, Exchange.TRANSACTION):
        raise Unproven(Drop.WRONG_EXCHANGE, Exchange.name_of(header.exchange))
    if sum(1 for known in sa.dialogues.values() if not known.ours and not known.ended) >= MAX_OPEN:
        raise Unproven(Drop.BUSY, f"{MAX_OPEN} exchanges of the peer are under way")


def _attach(sa: IkeV1Sa, dialogue: Dialogue, task: Task) -> None:
    dialogue.task = task
    sa.current[task] = dialogue
    sa.active.setdefault(task, False)


def _awaited(sa: IkeV1Sa, dialogue: Dialogue, received: Received) -> None:
    """A transaction exchange that XAUTH or mode config waits for."""
    if sa.awaiting is None:
        return
    task, awaited = sa.awaiting
    sa.gateway.forget_ask(task.ask)
    task.ask, task.due = 0, 0.0
    try:
        value = awaited.expect(received)
    except IkeError as error:
        sa.awaiting = None
        driver.leave_dialogue(sa, task)
        _attach(sa, dialogue, task)
        running.resume_error(sa, task, error)
        return
    sa.awaiting = None
    driver.leave_dialogue(sa, task)
    _attach(sa, dialogue, task)
    running.run(sa, task, Exchanged(value, received))


def _informed(sa: IkeV1Sa, received: Received) -> None:
    """An informational message that HASH proves: for whom it is."""
    # The peer may answer over another of its phase 1 SAs with us.
    for one in (sa, *(sa.siblings() if received.message.all(DeletePayload) else ())):
        for task, listening in tuple(one.listening.items()):
            try:
                value = listening.expect(received)
            except (IkeError, Unproven):
                continue
            one.listening.pop(task, None)
            one.gateway.forget_ask(task.ask)
            task.ask, task.due = 0, 0.0
            running.run(one, task, Exchanged(value, received))
            return
    for notify in received.message.all(NotifyPayload):
        if Notify.is_error(notify.type) and _refuses_ours(sa, notify):
            return
    if not sa.heir:
        sa.commit(phase1.told_life(sa, received.message))
    if sa.state.peer is None:
        # Only the keys of phase 1 prove it so far: it counts when the peer has come in.
        if phase1.contacts(received.message):
            sa.commit((NoteContact(),))
        return
    running.begin_local(sa, sa.serve(received))


def _refuses_ours(sa: IkeV1Sa, notify: NotifyPayload) -> bool:
    """Whether an error of the peer's ends an exchange of ours: phase 1, or the quick mode whose SPI it
    names."""
    waiting = [d for d in sa.dialogues.values() if d.expect is not None and d.task is not None and d.ours]
    quick = [d for d in waiting if d.exchange == Exchange.QUICK_MODE]
    meant = [d for d in waiting if d.exchange in PROOFS]
    if not meant:
        spi = int.from_bytes(notify.spi, "big") if len(notify.spi) == 4 else 0
        meant = [d for d in quick if spi and d.task is not None and ("spi", spi) in d.task.ledger]
        if not meant and not spi and len(quick) == 1:
            meant = quick
    for dialogue in meant[:1]:
        task: Task | None = dialogue.task
        if task is not None:
            error = notifications.error_of(notify, child=dialogue.exchange == Exchange.QUICK_MODE)
            dialogue.expect = None
            dialogue.due = 0.0
            running.resume_error(sa, task, error)
            return True
    return False


# -- hints ----------------------------------------------------------------------------------------


def _hint(sa: IkeV1Sa, message: Message, path: Path) -> None:
    """A notification in clear. While nothing can be protected, an error counts as a refusal that has to be
    said twice; later it may cause a liveness check now and then, nothing more (T10)."""
    error = next((n for n in message.all(NotifyPayload) if Notify.is_error(n.type)), None)
    drop(sa, Drop.UNPROTECTED_HINT, Notify.name_of(error.type) if error else "in clear", path)
    first = sa.dialogues.get(0)
    if error is None:
        return
    if sa.state.isakmp is None or sa.state.phase is Phase.CONNECTING:
        if first is not None and first.ours and first.due:
            offered = proposals.phase1_difference(sa.connection.proposals, (), None)
            _refused_transmission(sa, first, notifications.error_of(error, offered=offered))
        return
    now = sa.now.monotonic
    if sa.state.phase is Phase.ESTABLISHED and now >= sa.hinted + HINT_INTERVAL:
        sa.hinted = now
        running.enqueue(sa, CheckLiveness())


def serve_first(
    sa: IkeV1Sa, exchange: Steps[Any], header: Header, octets: bytes, task: Task | None = None
) -> None:
    """The first message of phase 1, judged by `first`: its exchange begins."""
    task = task or Task(exchange, None)
    dialogue = driver.open_dialogue(sa, 0, header.exchange, ours=False)
    dialogue.answered = octets
    _attach(sa, dialogue, task)
    running.run(sa, task)
