"""The first message of a stranger: one decision (RFC 2409, section 5).

    repeat of one we answered        -> the same answer
    too many half-open SAs           -> silence, or the oldest one's place
    no connection, no common suite   -> NO-PROPOSAL-CHOSEN, rationed by source
    aggressive mode, unknown identity -> with pre-shared keys an answer like any other; people are told
    a bad public value               -> silence
    else                             -> an SA, and main or aggressive mode begins

IKEv1 has no cookies that prove an address, so an answer is never sent twice unasked, and main mode's is not
larger than half as much again as the question (T8); aggressive mode's has to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cygnet.ike import upkeep
from cygnet.ike.connections import Loaded
from cygnet.ike.effects import SendDatagram
from cygnet.ike.errors import Difference, Drop, IkeError, PeerIncompatible, Reason
from cygnet.ike.events import Dropped, MessageSeen
from cygnet.ike.state import Phase, SaState
from cygnet.ike.steps import Steps
from cygnet.ike.transport import NON_ESP_MARKER, digest
from cygnet.ike.v1 import driver, legality, nat, notifications, phase1, proposals, receiving, session
from cygnet.ike.v1.phase1 import Agreed
from cygnet.ike.v1.sa import IkeV1Sa
from cygnet.ike.v1.steps import Received
from cygnet.ike.world import Path
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Header
from cygnet.wire.v1.message import Message, decode, encode
from cygnet.wire.v1.numbers import Exchange, Protocol
from cygnet.wire.v1.payloads import KePayload, NotifyPayload, SaPayload

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint

ZERO_COOKIE: Final = bytes(8)
AGGRESSIVE_PSK_OFF: Final = (
    "aggressive mode with a pre-shared key is off: whoever asks gets what the key can be guessed from"
)


def receive(gateway: Endpoint, header: Header, datagram: bytes, path: Path) -> None:
    """A message without a responder's cookie."""
    octets = digest(datagram)
    known = gateway.half_open.find(path.remote, header.initiator_spi, octets)
    if isinstance(known, IkeV1Sa):
        first = known.dialogues.get(0)
        if first is not None and first.answered == octets:
            _drop(gateway, Drop.RETRANSMISSION, "answered from the kept octets", path)
            driver.answer_again(known, first)
        else:
            _drop(gateway, Drop.RETRANSMISSION, "its next message has come", path)
        return
    try:
        message = decode(datagram, header)
        legality.judge(message)
        if header.exchange not in (Exchange.MAIN_MODE, Exchange.AGGRESSIVE) or message.encrypted:
            _drop(gateway, Drop.WRONG_EXCHANGE, "no responder cookie", path)
            return
        if header.message_id or header.initiator_spi == ZERO_COOKIE:
            _drop(gateway, Drop.MESSAGE_ID, "a first message with a message id, or without a cookie", path)
            return
        offered = message.one(SaPayload)
    except Malformed as error:
        _drop(gateway, Drop.MALFORMED, str(error), path)
        return
    except IkeError as error:
        _drop(gateway, Drop.ILLEGAL_PAYLOAD, error.detail, path)
        return
    if gateway.observe:
        gateway.event(MessageSeen(False, path, message, 0, "", False))
    options, half_open = gateway.options, gateway.half_open
    crowded = 0 < options.block_threshold <= half_open.of_source(path.remote)
    if (crowded or 0 < options.init_limit_half_open <= len(half_open)) and not _make_room(gateway, path):
        return
    state = SaState(
        phase=Phase.CONNECTING,
        original_initiator=False,
        spi_i=header.initiator_spi,
        spi_r=gateway.obtain_spi(),
        path=path,
        created=gateway.now.monotonic,
        version=1,
    )
    received = Received(message, path)
    try:
        sa, exchange = _admitted(gateway, state, received, offered)
    except Malformed as error:
        _drop(gateway, Drop.MALFORMED, str(error), path)
        return
    except IkeError as error:
        _refuse(gateway, header, path, error)
        return
    gateway.half_open.add(sa, path.remote, header.initiator_spi, octets)
    receiving.serve_first(sa, exchange, header, octets)


def _admitted(
    gateway: Endpoint, state: SaState, received: Received, offered: SaPayload
) -> tuple[IkeV1Sa, Steps[None]]:
    """The SA that answers, and its exchange. Raises `IkeError` when there is none for this request."""
    message, path = received.message, received.path
    aggressive = message.header.exchange == Exchange.AGGRESSIVE
    error: IkeError | None = None
    found = _candidates(gateway, received, aggressive)
    for loaded in (*found, *_decoys(gateway, received, found if aggressive else None)):
        connection = loaded.connection
        sa = IkeV1Sa(gateway, 0, connection, state)
        try:
            methods = phase1.methods(sa, connection)
            choice = proposals.select_phase1(offered, connection.proposals, methods)
            agreed = Agreed(
                choice, message.body_of(offered), state.spi_i, state.spi_r, nat.announced(message)
            )
            if aggressive:
                if not agreed.signs and not gateway.options.aggressive_psk:
                    raise PeerIncompatible(Reason.AUTH_METHOD_MISMATCH, AGGRESSIVE_PSK_OFF)
                if agreed.signs and loaded not in found:
                    raise _nobody(gateway, path, aggressive)
                phase1.check_public_value(choice.group, message.one(KePayload).data)
        except IkeError as refusal:
            error = error or refusal
            continue
        if aggressive and not agreed.signs:
            _tell_of_unknown(sa, received, loaded in found)
        made = gateway.create(IkeV1Sa, connection, state)
        made.peer_fragments = phase1.announces_fragments(agreed.vendor_ids)
        return made, session.respond(made, agreed, received)
    raise error or _nobody(gateway, path, aggressive)


def _decoys(gateway: Endpoint, received: Received, found: Sequence[Loaded] | None) -> Sequence[Loaded]:
    """Aggressive mode of an identity that no connection takes is answered by the one for its address, and
    fails at the proof: who asks does not learn which identities there are (T12)."""
    path = received.path
    if found is None or found or not gateway.options.aggressive_psk:
        return ()
    return [
        one
        for one in gateway.book.for_address(path.local, path.remote)
        if one.connection.version in (0, 1) and one.connection.aggressive
    ]


def _tell_of_unknown(sa: IkeV1Sa, received: Received, expected: bool) -> None:
    """What the peer does not hear. Its proof cannot be read, so people are told now."""
    gateway, path = sa.gateway, received.path
    try:
        if not expected:
            raise _nobody(gateway, path, True)
        phase1.secret_for(sa, sa.connection, phase1.claimed(received.message))
    except IkeError as error:
        _drop(gateway, Drop.NO_AGREEMENT, error.detail, path)
        if gateway.strangers.allows(path.remote, gateway.now.monotonic):
            _tell_people(gateway, path, error)


def _nobody(gateway: Endpoint, path: Path, aggressive: bool) -> IkeError:
    """Why no connection is meant: there is none, or it is another version's, or the other mode's."""
    loaded = next(iter(gateway.book.for_address(path.local, path.remote)), None)
    if loaded is None:
        return PeerIncompatible(
            Reason.NO_CONNECTION, f"no connection is configured for {path.remote} at {path.local}"
        )
    name = loaded.connection.name
    if loaded.connection.version == 2:
        detail = f"the peer begins with IKEv1, connection {name} is IKEv2"
        return PeerIncompatible(
            Reason.VERSION_MISMATCH, detail, difference=Difference("IKEv2", "IKEv1", "version")
        )
    modes = ("aggressive mode", "main mode") if aggressive else ("main mode", "aggressive mode")
    if loaded.connection.aggressive != aggressive:
        return PeerIncompatible(
            Reason.MODE_MISMATCH,
            f"the peer begins {modes[0]}, connection {name} is for {modes[1]}",
            difference=Difference(modes[1], modes[0], "mode"),
        )
    return PeerIncompatible(Reason.PEER_ID_MISMATCH, f"connection {name} is not for the identity that came")


def _candidates(gateway: Endpoint, received: Received, aggressive: bool) -> list[Loaded]:
    """Connections that the addresses allow; with aggressive mode, that the identity allows."""
    path = received.path
    if aggressive:
        claimed = phase1.claimed(received.message)
        found = gateway.book.for_identity(path.local, path.remote, claimed, 1)
    else:
        found = tuple(gateway.book.for_address(path.local, path.remote))
    return [
        one for one in found if one.connection.version in (0, 1) and one.connection.aggressive == aggressive
    ]


def _make_room(gateway: Endpoint, path: Path) -> bool:
    """Who comes takes the place of the oldest, at a measured pace (T2)."""
    options, half_open = gateway.options, gateway.half_open
    of_source = half_open.of_source(path.remote)
    crowded = 0 < options.block_threshold <= of_source
    oldest = half_open.oldest(path.remote if crowded else None)
    if oldest is None or not gateway.newcomers.allows(path.remote, gateway.now.monotonic):
        detail = f"{len(half_open)} half-open SAs, {of_source} of this source"
        _drop(gateway, Drop.HALF_OPEN_LIMIT, detail, path)
        return False
    upkeep.give_up_half_open(oldest, "it made room for a newer one")
    return True


def _refuse(gateway: Endpoint, header: Header, path: Path, error: IkeError) -> None:
    """Tell people and the stranger, both in measure: anyone can send such a request."""
    drop = Drop.NO_CONNECTION if error.reason is Reason.NO_CONNECTION else Drop.NO_AGREEMENT
    _drop(gateway, drop, error.detail, path)
    if not gateway.strangers.allows(path.remote, gateway.now.monotonic):
        return
    notify = notifications.notify_of(error)
    if notify:
        answer_in_clear(gateway, header, path, notify)
    _tell_people(gateway, path, error)


def _tell_people(gateway: Endpoint, path: Path, error: IkeError) -> None:
    named = next(iter(gateway.book.for_address(path.local, path.remote)), None)
    name = named.connection.name if named is not None else ""
    # Nobody has proved anything: it is worth a line only where no peer has.
    if not gateway.by_connection.get(name):
        gateway.failed(name, "", False, path, str(path.remote), error.failure)


def answer_in_clear(gateway: Endpoint, header: Header, path: Path, notify: int) -> None:
    """A refusal to somebody whom we have no SA with; smaller than any question."""
    message_id = int.from_bytes(gateway.entropy.octets(4), "big")
    out = Header(header.initiator_spi, header.responder_spi, 0, 1, 0, Exchange.INFORMATIONAL, 0, message_id)
    payload = NotifyPayload(Protocol.ISAKMP, b"", notify, b"")
    marker = NON_ESP_MARKER if path.local_port == gateway.options.port_nat_t else b""
    if gateway.observe:
        gateway.event(MessageSeen(True, path, Message(out, (payload,), (b"",)), 0, "", False))
    gateway.emit(SendDatagram(path, marker + encode(out, (payload,))))


def _drop(gateway: Endpoint, drop: Drop, detail: str, path: Path) -> None:
    gateway.event(Dropped(drop, detail, path, 0))
