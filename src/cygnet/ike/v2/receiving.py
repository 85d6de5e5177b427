"""What arrives for an IKE SA: the checks that stand before its exchanges, cheap ones first.

Flow of a datagram: roles, SPIs, window, repeats by digest -> open -> decode -> legality -> `expect` ->
and only then the waiting exchange is resumed. What fails before the ICV is dropped with a name and
changes nothing. What fails behind it is the peer's own doing: a request is answered with the error's
notify, an answer's error is raised in our exchange (RFC 7296, section 2.21).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cygnet.crypto.errors import IntegrityFailure
from cygnet.ike.changes import ChangePath
from cygnet.ike.errors import Drop, IkeError
from cygnet.ike.running import Task, enqueue, malformed, resume_error, run
from cygnet.ike.state import Phase, Window
from cygnet.ike.steps import Exchanged, Received, Refused, Steps
from cygnet.ike.transport import digest, drop, seen, transmit
from cygnet.ike.v2 import legality, protection
from cygnet.ike.v2.driver import Outstanding, Serving, fail, forget_fragments
from cygnet.ike.v2.followup import link_of
from cygnet.ike.v2.fragments import FragmentRefused, Reassembly
from cygnet.ike.wanted import CheckLiveness
from cygnet.ike.world import Path
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Header, Message, decode, decode_payloads
from cygnet.wire.numbers import Exchange, Notify
from cygnet.wire.payloads import EncryptedFragmentPayload

if TYPE_CHECKING:
    from cygnet.ike.v2.sa import IkeV2Sa

HINT_INTERVAL: Final = 20.0
"""Seconds between liveness checks that unprotected messages may cause (RFC 7296, section 2.21.4)."""
HINTED_RESEND: Final = 1.0
"""Seconds after which an IKE_SA_INIT that was refused in clear is sent again."""


def receive(sa: IkeV2Sa, header: Header, datagram: bytes, path: Path) -> None:
    """A datagram that carries this SA's SPI. It may be anything."""
    state = sa.state
    if header.from_initiator == state.original_initiator:
        drop(sa, Drop.REFLECTED, "our own role in the flags", path)
        return
    theirs = header.responder_spi if state.original_initiator else header.initiator_spi
    if state.remote_spi != theirs and (state.keys is not None or not header.response):
        drop(sa, Drop.UNKNOWN_SPI, "the other SPI is not the peer's", path)
        return
    if header.response:
        _receive_answer(sa, header, datagram, path)
    else:
        _receive_request(sa, header, datagram, path)


def _receive_answer(sa: IkeV2Sa, header: Header, datagram: bytes, path: Path) -> None:
    request = sa.request
    if request is None or header.message_id != request.message_id:
        # INVALID_IKE_SPI and the like may carry any id; they are hints whatever it is.
        if not _hint(sa, datagram, path):
            drop(sa, Drop.LATE_RESPONSE, "no request with this message id waits", path)
        return
    if header.exchange != request.exchange:
        drop(sa, Drop.WRONG_EXCHANGE, "an answer of another exchange type", path)
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
        resume_error(sa, request.task, malformed(error))
        return
    _accept_answer(sa)
    run(sa, request.task, Exchanged(value, request.datagrams[0], opened))


def _initial_answer(sa: IkeV2Sa, request: Outstanding, datagram: bytes, path: Path) -> None:
    """The answer to IKE_SA_INIT: nothing protects it, so nothing but a good one changes anything."""
    try:
        message = decode(datagram)
        seen(sa, False, path, message)
        legality.judge(message, protected=False)
        received = Received(message, datagram, path)
        value = request.expect(received)
    except Malformed as error:
        drop(sa, Drop.MALFORMED, str(error), path)
    except Refused as refusal:
        _refused(sa, request, refusal.error, path)
    except IkeError as error:
        drop(sa, Drop.ILLEGAL_PAYLOAD, error.detail, path)
    else:
        sa.heard = sa.now.monotonic
        _accept_answer(sa)
        run(sa, request.task, Exchanged(value, request.datagrams[0], received))


def _refused(sa: IkeV2Sa, request: Outstanding, error: IkeError, path: Path) -> None:
    """RFC 7296, section 2.21.1: go on for some time; a refusal counts once for each time that we sent."""
    if request.refused_try == request.tries:
        drop(sa, Drop.UNPROTECTED_HINT, error.detail, path)
        return
    request.refused_try = request.tries
    request.refusals += 1
    request.error = error
    request.due = min(request.due, sa.now.monotonic + HINTED_RESEND)


def _accept_answer(sa: IkeV2Sa) -> None:
    request = sa.request
    if request is not None:
        sa.request = None
        window = sa.window
        sa.window = Window(request.message_id + 1, window.next_in, window.iv, window.answered, window.answer)


def _receive_request(sa: IkeV2Sa, header: Header, datagram: bytes, path: Path) -> None:
    window = sa.window
    if header.message_id == window.next_in - 1:
        if window.answered and digest(datagram) == window.answered:
            resend_answer(sa, path)
        else:
            drop(sa, Drop.MESSAGE_ID, "another request with an answered message id", path)
        return
    if header.message_id != window.next_in:
        drop(sa, Drop.MESSAGE_ID, "outside the window", path)
        return
    if sa.close_at:
        drop(sa, Drop.UNKNOWN_SPI, "the SA is closed", path)
        return
    if sa.serving is not None:
        drop(sa, Drop.BUSY, "the request in hand is not answered yet", path)
        return
    if sa.state.keys is None or header.exchange == Exchange.IKE_SA_INIT:
        drop(sa, Drop.WRONG_EXCHANGE, "not at this time", path)
        return
    waiting = sa.responder
    if sa.state.peer is None and (waiting is None or header.exchange != waiting[1].exchange):
        # CVE-2014-2338: before authentication nothing but IKE_AUTH.
        drop(sa, Drop.NOT_AUTHENTICATED, Exchange.name_of(header.exchange), path)
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
    sa.in_hand = Serving(header, path, sa.first_fragment or digest(datagram))
    sa.first_fragment = b""
    sa.serving = task
    try:
        if isinstance(opened, IkeError):
            raise opened
        legality.judge(opened.message, protected=True)
        followup = None
        if header.exchange == Exchange.IKE_FOLLOWUP_KE:
            followup = sa.followup(link_of(opened.message))
        if followup is not None:
            task = sa.serving = followup[0]
            value = Exchanged(followup[1].expect(opened), b"", opened)
        elif awaited is not None:
            value = Exchanged(awaited.expect(opened), b"", opened)
        else:
            task.exchange = sa.serve(opened)
            value = None
    except IkeError as error:
        fail(sa, task, error)
    except Malformed as error:
        fail(sa, task, malformed(error))
    else:
        run(sa, task, value)


def serve_initial(
    sa: IkeV2Sa, exchange: Steps[Any], header: Header, octets_digest: bytes, path: Path
) -> None:
    """The first request, judged by `first`: its exchange begins."""
    task = Task(exchange, None)
    sa.in_hand = Serving(header, path, octets_digest)
    sa.serving = task
    run(sa, task)


def resend_answer(sa: IkeV2Sa, path: Path) -> None:
    """A repeat of the request that was answered last: the same octets again (RFC 7296, section 2.1).

    From elsewhere they are rationed: whoever saw the request could have sent it in a third one's name.
    """
    if path.remote != sa.state.path.remote and not sa.gateway.strangers.allows(path.remote, sa.now.monotonic):
        drop(sa, Drop.RATE_LIMIT, "a repeat from another address", path)
        return
    drop(sa, Drop.RETRANSMISSION, "answered from the kept octets", path)
    transmit(sa, sa.window.answer, path)


def _open(sa: IkeV2Sa, datagram: bytes, path: Path) -> Received | IkeError | None:
    """The message inside SK; an error of the authentic sender's; or None: dropped, or not complete."""
    state = sa.state
    if state.keys is None or state.suite is None:
        drop(sa, Drop.WRONG_EXCHANGE, "no keys yet", path)
        return None
    try:
        outer = decode(datagram)
    except Malformed as error:
        drop(sa, Drop.MALFORMED, str(error), path)
        return None
    header = outer.header
    sealed = legality.sealed(outer)
    if sealed is None:
        if not _hint(sa, datagram, path):
            drop(sa, Drop.ILLEGAL_PAYLOAD, "not protected", path)
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
        drop(sa, Drop.INTEGRITY, str(error), path)
        return None
    except FragmentRefused as error:
        drop(sa, Drop.FRAGMENT, str(error), path)
        return None
    try:
        message = Message(header, decode_payloads(first, content))
    except Malformed as error:
        return malformed(error)
    seen(sa, False, path, message)
    return Received(message, datagram, path)


def _keep_fragments(sa: IkeV2Sa, reassembly: Reassembly) -> None:
    """What came is authentic, and not all of it. Raises `FragmentRefused` where strangers hold too much."""
    if not sa.gateway.half_open.hold(sa, reassembly.octets):
        forget_fragments(sa)
        raise FragmentRefused("fragments of strangers hold too many octets")
    sa.reassembly = reassembly
    sa.gateway.touch(sa)


def _fragment_key(header: Header) -> int:
    """Requests and answers count their message ids apart."""
    return header.message_id * 2 + header.response


def _hint(sa: IkeV2Sa, datagram: bytes, path: Path) -> bool:
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
    drop(sa, Drop.UNPROTECTED_HINT, Notify.name_of(error.type), path)
    return True


def _heard(sa: IkeV2Sa, path: Path) -> None:
    """An authentic, fresh message came on `path`. Where the peer may move, we follow (RFC 7296, 2.23)."""
    sa.heard = sa.now.monotonic
    state = sa.state
    if path == state.path:
        return
    moving = state.nat_remote and not state.nat_local
    floating = state.phase is Phase.CONNECTING and not state.original_initiator
    if moving or floating:
        sa.commit((ChangePath(path),))
