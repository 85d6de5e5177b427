"""The first message of a stranger: one decision, taken without state (RFC 7296, sections 2.6 and 2.21.1).

    repeat of a request we answered  -> the same answer
    too many half-open SAs           -> COOKIE; with it, the oldest one's place
    no connection, no common suite   -> NO_PROPOSAL_CHOSEN
    another key exchange method      -> INVALID_KE_PAYLOAD
    a bad public value               -> silence
    an answer much larger than it    -> COOKIE
    else                             -> an SA, and its exchange begins

Until an address has shown that it receives, it gets no more than half as much again as it sent, refusals
no more than it sent; and refusals are rationed by source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cygnet.ike import proposals, upkeep
from cygnet.ike.connections import Loaded
from cygnet.ike.errors import Drop, IkeError, PeerIncompatible, Reason
from cygnet.ike.events import Dropped, MessageSeen
from cygnet.ike.proposals import Selected
from cygnet.ike.state import Phase, SaState
from cygnet.ike.steps import Received
from cygnet.ike.transport import digest
from cygnet.ike.v2 import ike_sa_init, initial, legality, proving, receiving
from cygnet.ike.v2.announced import COMES_LATER, announcement
from cygnet.ike.v2.sa import IkeV2Sa
from cygnet.ike.world import Path
from cygnet.wire.cursor import Malformed
from cygnet.wire.message import Header, Message, decode
from cygnet.wire.numbers import KeMethod, Notify
from cygnet.wire.payloads import CertReqPayload, KePayload, NoncePayload, NotifyPayload, SaPayload

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint

MAX_ASKED: Final = 8
"""Connections whose CAs the answer names in CERTREQ."""
ANSWERED_MORE: Final = 16 + 6 + 8 + 8
"""Octets by which our nonce and our list of hashes may exceed the peer's, and what says that we do childless
IKE SAs and several rounds of authentication."""


def receive(gateway: Endpoint, header: Header, datagram: bytes, path: Path) -> None:
    """An IKE_SA_INIT request."""
    octets_digest = digest(datagram)
    known = gateway.half_open.find(path.remote, header.initiator_spi, octets_digest)
    if isinstance(known, IkeV2Sa):
        if known.window.next_in == 1 and known.window.answered == octets_digest:
            receiving.resend_answer(known, path)
        else:
            _drop(gateway, Drop.RETRANSMISSION, "its IKE_AUTH has come", path)
        return
    try:
        message = decode(datagram)
        legality.judge(message, protected=False)
    except Malformed as error:
        _drop(gateway, Drop.MALFORMED, str(error), path)
        return
    except IkeError as error:
        _drop(gateway, Drop.ILLEGAL_PAYLOAD, error.detail, path)
        if error.notify == Notify.UNSUPPORTED_CRITICAL_PAYLOAD and gateway.strangers.allows(
            path.remote, gateway.now.monotonic
        ):
            notify = NotifyPayload(0, b"", error.notify, error.notify_data)
            gateway.answer_in_clear(header, path, (notify,))
        return
    if header.message_id or header.initiator_spi == bytes(8):
        _drop(gateway, Drop.MESSAGE_ID, "a first message with a message id, or without an SPI", path)
        return
    if gateway.observe:
        gateway.event(MessageSeen(False, path, message, 0, "", False))
    if not _passes_door(gateway, message, path):
        return
    candidates: list[Loaded] = []
    try:
        candidates = _candidates(gateway, path)
        selected, loaded = _select(candidates, message)
    except IkeError as error:
        # Where the addresses leave no doubt, people look for it at that connection.
        meant = candidates[0].connection.name if len(candidates) == 1 else ""
        _refuse(gateway, header, path, error, meant)
        return
    group = message.one(KePayload).group
    if selected.key_exchange != group:
        _other_group(gateway, header, path, selected.key_exchange)
        return
    asked = [c.connection for c in candidates[:MAX_ASKED]]
    requests = proving.certificate_requests(gateway.credentials, asked)
    announced = announcement(asked) if len(candidates) <= MAX_ASKED else ()
    later: tuple[NotifyPayload, ...] = ()
    if _is_large((*requests, *announced), datagram):
        # A hint is not worth a round trip; where there is one anyway, it goes with that.
        later, announced = announced if selected.additional else (), ()
        if later and not _is_large((*requests, COMES_LATER), datagram):
            announced = (COMES_LATER,)
    if _is_large(requests, datagram) and not _has_cookie(gateway, message, path):
        _demand_cookie(gateway, message, path)
        return
    if not _make_room(gateway, path):
        return
    try:
        admitted = ike_sa_init.admit(
            Received(message, datagram, path), selected, gateway.entropy, requests, announced, later
        )
    except IkeError as error:
        _drop(gateway, Drop.ILLEGAL_PAYLOAD, error.detail, path)
        return
    state = SaState(
        phase=Phase.CONNECTING,
        original_initiator=False,
        spi_i=header.initiator_spi,
        spi_r=gateway.obtain_spi(),
        path=path,
        created=gateway.now.monotonic,
    )
    sa = gateway.create(IkeV2Sa, loaded.connection, state)
    gateway.half_open.add(sa, path.remote, header.initiator_spi, octets_digest)
    receiving.serve_initial(sa, initial.respond(sa, admitted), header, octets_digest, path)


def _passes_door(gateway: Endpoint, message: Message, path: Path) -> bool:
    """Half-open limits. Where there are too many, only who can receive at its address goes on."""
    options, half_open = gateway.options, gateway.half_open
    of_source, total = half_open.of_source(path.remote), len(half_open)
    wanted = (
        0 < options.cookie_threshold <= total
        or 0 < options.cookie_threshold_per_source <= of_source
        or 0 < options.init_limit_half_open <= total
        or 0 < options.block_threshold <= of_source
    )
    if not wanted or _has_cookie(gateway, message, path):
        return True
    _demand_cookie(gateway, message, path)
    return False


def _make_room(gateway: Endpoint, path: Path) -> bool:
    """Where there are as many half-open SAs as there may be, who receives at its address takes the place
    of the oldest, at a measured pace: so nobody keeps a neighbour out by leaving his own half open (T2)."""
    options, half_open = gateway.options, gateway.half_open
    of_source, total = half_open.of_source(path.remote), len(half_open)
    crowded = 0 < options.block_threshold <= of_source
    if not crowded and not 0 < options.init_limit_half_open <= total:
        return True
    oldest = half_open.oldest(path.remote if crowded else None)
    if oldest is None or not gateway.newcomers.allows(path.remote, gateway.now.monotonic):
        _drop(gateway, Drop.HALF_OPEN_LIMIT, f"{total} half-open SAs, {of_source} of this source", path)
        return False
    upkeep.give_up_half_open(oldest, "it made room for a newer one")
    return True


def _has_cookie(gateway: Endpoint, message: Message, path: Path) -> bool:
    """Whether the sender has shown that it receives at its address."""
    cookie = message.notify(Notify.COOKIE)
    if cookie is None:
        return False
    nonce, spi = message.one(NoncePayload).data, message.header.initiator_spi
    if gateway.cookies.good(cookie.data, nonce, path.remote, spi, gateway.now.monotonic):
        return True
    _drop(gateway, Drop.COOKIE_INVALID, "a cookie that we did not make lately", path)
    return False


def _demand_cookie(gateway: Endpoint, message: Message, path: Path) -> None:
    nonce, spi = message.one(NoncePayload).data, message.header.initiator_spi
    data = gateway.cookies.make(nonce, path.remote, spi, gateway.now.monotonic)
    gateway.answer_in_clear(message.header, path, (NotifyPayload(0, b"", Notify.COOKIE, data),))


def _is_large(saying: tuple[CertReqPayload | NotifyPayload, ...], datagram: bytes) -> bool:
    """Whether the answer would be more than half as large again as the request (T8). All but CERTREQ answers
    something that stands in the request, in `ANSWERED_MORE` octets more at most."""
    asking = sum([4 + (1 if type(one) is CertReqPayload else 4) + len(one.data) for one in saying])
    return asking + ANSWERED_MORE > len(datagram) // 2


def _candidates(gateway: Endpoint, path: Path) -> list[Loaded]:
    """Connections that the addresses allow."""
    found = [
        loaded
        for loaded in gateway.book.for_address(path.local, path.remote)
        if loaded.connection.version in (0, 2)
    ]
    if not found:
        raise PeerIncompatible(
            Reason.NO_CONNECTION,
            f"no connection is configured for {path.remote} at {path.local}",
            notify=Notify.NO_PROPOSAL_CHOSEN,
        )
    return found


def _select(candidates: list[Loaded], message: Message) -> tuple[Selected, Loaded]:
    """The first connection whose proposals meet the offer."""
    offered, group = message.one(SaPayload), message.one(KePayload).group
    further = message.notify(Notify.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None
    first: IkeError | None = None
    tried: set[int] = set()
    for loaded in candidates:
        configured = loaded.connection.proposals
        if id(configured) in tried:
            continue
        tried.add(id(configured))
        try:
            return proposals.select(offered, configured, prefer_group=group, additional=further), loaded
        except PeerIncompatible as error:
            first = first or error
    raise first or PeerIncompatible(Reason.NO_CONNECTION, "no connection", notify=Notify.NO_PROPOSAL_CHOSEN)


def _refuse(gateway: Endpoint, header: Header, path: Path, error: IkeError, meant: str) -> None:
    """Tell people and the stranger, both in measure: anyone can send such a request."""
    drop = Drop.NO_CONNECTION if error.reason is Reason.NO_CONNECTION else Drop.NO_AGREEMENT
    _drop(gateway, drop, error.detail, path)
    if not gateway.strangers.allows(path.remote, gateway.now.monotonic):
        return
    gateway.answer_in_clear(header, path, (NotifyPayload(0, b"", error.notify, b""),))
    gateway.failed(meant, "", False, path, str(path.remote), error.failure)


def _other_group(gateway: Endpoint, header: Header, path: Path, group: int) -> None:
    """RFC 7296, section 1.2: the group that we want, in two octets."""
    if not gateway.strangers.allows(path.remote, gateway.now.monotonic):
        _drop(gateway, Drop.RATE_LIMIT, f"{KeMethod.name_of(group)} wanted", path)
        return
    notify = NotifyPayload(0, b"", Notify.INVALID_KE_PAYLOAD, group.to_bytes(2, "big"))
    gateway.answer_in_clear(header, path, (notify,))


def _drop(gateway: Endpoint, drop: Drop, detail: str, path: Path) -> None:
    gateway.event(Dropped(drop, detail, path, 0))
