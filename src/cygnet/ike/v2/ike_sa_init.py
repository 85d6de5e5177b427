"""IKE_SA_INIT: algorithms, key exchange, nonces; nothing is protected yet (RFC 7296, section 1.2).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SAi1, KEi, Ni  -->
                                 <--  HDR, SAr1, KEr, Nr, [CERTREQ]

The initiator may be sent back with COOKIE or INVALID_KE_PAYLOAD: a bounded loop (section 2.6). The
responder's decision on those two is `endpoint`'s, before an SA exists. Whatever arrives here may be
forged, so `expect` judges everything that can be judged, the public value included.
"""

from __future__ import annotations

from typing import Final

from cygnet.crypto.entropy import Entropy
from cygnet.crypto.errors import InvalidPublicValue
from cygnet.crypto.kdf import IkeKeys, ike_sa_keys
from cygnet.crypto.key_exchange import KeyExchange, Response, generate
from cygnet.crypto.key_exchange import respond as respond_to
from cygnet.crypto.prf import prf
from cygnet.crypto.proposals import has_additional
from cygnet.crypto.suites import suite
from cygnet.ike import proposals
from cygnet.ike.changes import UseKeys
from cygnet.ike.errors import Difference, LocalMisuse, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.proposals import Selected
from cygnet.ike.state import IkeSuite, ike_suite
from cygnet.ike.steps import Context, Received, Refused, Steps, answer, apply, send
from cygnet.ike.v2 import lookup, nat
from cygnet.ike.v2.announced import taken_by
from cygnet.ike.v2.notifications import error_of
from cygnet.ike.world import Path
from cygnet.records import dataclass
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, HashAlgorithm, KeMethod, Notify
from cygnet.wire.payloads import (
    CertReqPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
)

NONCE_LENGTH: Final = 32
CHILDLESS: Final = NotifyPayload(0, b"", Notify.CHILDLESS_IKEV2_SUPPORTED, b"")
MULTIPLE_AUTH: Final = NotifyPayload(0, b"", Notify.MULTIPLE_AUTH_SUPPORTED, b"")
MAX_COOKIES: Final = 3
"""Rounds of COOKIE in one exchange; what comes after is taken for forged."""
HASHES: Final = (
    HashAlgorithm.SHA2_256,
    HashAlgorithm.SHA2_384,
    HashAlgorithm.SHA2_512,
    HashAlgorithm.IDENTITY,
)
"""Hash algorithms of signatures that we verify (RFC 7427, section 4; IDENTITY for EdDSA, RFC 8420)."""
_HASHES_DATA: Final = b"".join(number.to_bytes(2, "big") for number in HASHES)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What IKE_INTERMEDIATE adds to what AUTH covers: IntAuth_i, IntAuth_r and how many exchanges there were
    (RFC 9242, section 3.3.2)."""

    initiator: bytes
    responder: bytes
    exchanges: int

    def octets(self) -> bytes:
        """IntAuth; IKE_AUTH comes right behind, so its first message id is known."""
        if not self.exchanges:
            return b""
        return self.initiator + self.responder + (self.exchanges + 1).to_bytes(4, "big")


NOTHING_SPOKEN: Final = Spoken(b"", b"", 0)
USE_PPK_INT: Final = NotifyPayload(0, b"", Notify.USE_PPK_INT, b"")
USE_PPK: Final = NotifyPayload(0, b"", Notify.USE_PPK, b"")
INTERMEDIATE: Final = NotifyPayload(0, b"", Notify.INTERMEDIATE_EXCHANGE_SUPPORTED, b"")


@dataclass(frozen=True, slots=True)
class Initial:
    """What IKE_SA_INIT leaves for IKE_AUTH. `sent` and `received` are whole messages: AUTH covers them.

    `peer_hashes` None: the peer announced none (RFC 7427). `childless`: the responder takes an IKE_AUTH
    without a Child SA (RFC 6023).
    """

    nonce_i: bytes
    nonce_r: bytes
    sent: bytes
    received: bytes
    keys: IkeKeys
    suite: IkeSuite
    peer_hashes: frozenset[int] | None
    certificate_requests: tuple[CertReqPayload, ...]
    childless: bool = False
    multiple: bool = False
    """The responder takes several rounds of authentication (RFC 4739)."""
    spoken: Spoken = NOTHING_SPOKEN
    ppk: bool = False
    """Both ends may mix a pre-shared key in with IKE_AUTH (RFC 8784)."""
    ppk_inside: bool = False
    """Both may do so in IKE_INTERMEDIATE instead (RFC 9867)."""
    ppk_name: bytes | None = None
    """The key that was mixed in there, by name; None: none."""
    taken: frozenset[bytes] = frozenset()
    """AlgorithmIdentifiers of the signatures that the peer says it takes (RFC 9593); empty: it does not."""
    announce: tuple[NotifyPayload, ...] = ()
    """What our last answer in IKE_INTERMEDIATE says of that, where there was no room before."""
    staple: bool = False
    """OCSP answers go along with our certificates (RFC 4806)."""
    lookup: bool = False
    """Our certificates may go as hash and URL (RFC 7296, section 3.6)."""


# -- initiator ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cookie:
    data: bytes


@dataclass(frozen=True, slots=True)
class _OtherGroup:
    group: int


@dataclass(frozen=True, slots=True)
class _Accepted:
    selected: Selected
    shared: bytes
    nonce: bytes


def initiate(context: Context) -> Steps[Initial]:
    """HDR, SAi1, KEi, Ni  -->  <--  HDR, SAr1, KEr, Nr, [CERTREQ]"""
    connection = context.connection
    groups = proposals.groups(connection.proposals)
    nonce = context.entropy.octets(NONCE_LENGTH)
    ours = generate(groups[0], context.entropy)
    tried = {ours.group}
    cookie: tuple[Payload, ...] = ()
    cookies = 0
    with_ppk = _has_ppk(context)
    while True:
        state = context.state
        offer = proposals.offer(connection.proposals, b"", first_group=ours.group)
        request = (
            *cookie,
            offer,
            KePayload(ours.group, ours.public),
            NoncePayload(nonce),
            *nat.notifies(state.spi_i, bytes(8), state.path, pretend=_forced(context)),
            *_announcements(connection.fragmentation),
            *((INTERMEDIATE,) if with_ppk or any(map(has_additional, connection.proposals)) else ()),
            *((USE_PPK_INT, USE_PPK) if with_ppk else ()),
        )
        judge = _Judge(ours, nonce, offer, frozenset(groups) - tried, cookies < MAX_COOKIES, context)
        exchanged = yield from send(Exchange.IKE_SA_INIT, request, judge.expect)
        match exchanged.value:
            case _Cookie(data):
                cookies += 1
                cookie = (NotifyPayload(0, b"", Notify.COOKIE, data),)
            case _OtherGroup(group):
                ours = generate(group, context.entropy)
                tried.add(group)
            case _Accepted() as accepted:
                break
    message = exchanged.received.message
    inside = with_ppk and _does_inside(message)
    if connection.ppk_required and message.notify(Notify.USE_PPK) is None and not inside:
        raise PeerIncompatible(
            Reason.PPK_MISMATCH,
            "the peer uses no postquantum pre-shared keys, and `ppk_required` demands one",
        )
    spi_r = message.header.responder_spi
    chosen, keys = _derive(accepted.selected, nonce, accepted.nonce, state.spi_i, spi_r, accepted.shared)
    behind, peer_behind, pretended = nat.detect(message, exchanged.received.path)
    forced = pretended or _forced(context)
    path = exchanged.received.path
    if behind or peer_behind or forced:
        # RFC 7296, section 2.23: everything from here on travels on port 4500.
        path = _floated(path, context.options.port, context.options.port_nat_t)
    use = UseKeys(
        spi_i=state.spi_i,
        spi_r=spi_r,
        suite=chosen,
        keys=keys,
        nat_local=behind,
        nat_remote=peer_behind,
        forced=forced,
        fragmentation=_fragments(message, connection.fragmentation),
        nonce=min(nonce, accepted.nonce),
        path=path,
    )
    yield from apply(use)
    return Initial(
        nonce,
        accepted.nonce,
        exchanged.sent,
        exchanged.received.octets,
        keys,
        chosen,
        peer_hashes(message),
        message.all(CertReqPayload),
        message.notify(Notify.CHILDLESS_IKEV2_SUPPORTED) is not None,
        message.notify(Notify.MULTIPLE_AUTH_SUPPORTED) is not None,
        # Who answers with both breaks the rule (RFC 9867, section 3.1); the better one counts.
        ppk=with_ppk and not inside and message.notify(Notify.USE_PPK) is not None,
        ppk_inside=inside,
        taken=taken_by(message),
        lookup=lookup.is_supported(context, message),
    )


@dataclass(frozen=True, slots=True)
class _Judge:
    """Everything that can be said about an answer before the exchange goes on with it."""

    ours: KeyExchange
    nonce: bytes
    offer: SaPayload
    other_groups: frozenset[int]
    takes_cookie: bool
    context: Context

    def expect(self, received: Received) -> _Cookie | _OtherGroup | _Accepted:
        message = received.message
        cookie = message.notify(Notify.COOKIE)
        if cookie is not None:
            if not self.takes_cookie:
                raise _wrong("a COOKIE too many")
            return _Cookie(cookie.data)
        other = message.notify(Notify.INVALID_KE_PAYLOAD)
        if other is not None:
            return self._other_group(int.from_bytes(other.data, "big"))
        error = message.error()
        if error is not None:
            raise Refused(error_of(error, proposals.difference(self.context.connection.proposals, None)))
        return self._accepted(message)

    def _other_group(self, group: int) -> _OtherGroup:
        name = KeMethod.name_of(group)
        if group in self.other_groups:
            return _OtherGroup(group)
        if group in proposals.groups(self.context.connection.proposals):
            raise _wrong(f"INVALID_KE_PAYLOAD for {name}, which was tried")
        accepted = ", ".join(map(KeMethod.name_of, proposals.groups(self.context.connection.proposals)))
        raise Refused(
            PeerIncompatible(
                Reason.KEY_EXCHANGE_MISMATCH,
                f"the peer wants {name} for the key exchange, which is not configured here",
                difference=Difference(
                    ours=accepted,
                    theirs=name,
                    first=f"peer wants {name}, you accept {accepted}; first difference: key exchange",
                ),
            )
        )

    def _accepted(self, message: Message) -> _Accepted:
        if message.header.responder_spi == bytes(8):
            raise _wrong("an answer without the responder's SPI")
        selected = proposals.check_answer(self.offer, message.one(SaPayload))
        public = message.one(KePayload)
        if not public.group == self.ours.group == selected.key_exchange:
            raise _wrong("a key exchange value of another group than the one chosen")
        if selected.additional and message.notify(Notify.INTERMEDIATE_EXCHANGE_SUPPORTED) is None:
            raise _wrong("additional key exchanges without IKE_INTERMEDIATE")
        theirs = message.one(NoncePayload).data
        check_nonce(theirs, self.nonce, selected.prf)
        try:
            shared = self.ours.shared(public.data)
        except InvalidPublicValue as error:
            raise _wrong(str(error)) from None
        return _Accepted(selected, shared, theirs)


# -- responder ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """A first request that passed everything that can be judged without state; an SA may be made for it.

    `certificate_requests` and `announced`: what the answer says of proofs that we take; `later`: what an
    answer in IKE_INTERMEDIATE is to say of them, if there is one anyway.
    """

    received: Received
    selected: Selected
    ours: Response
    nonce: bytes
    certificate_requests: tuple[CertReqPayload, ...]
    announced: tuple[NotifyPayload, ...]
    later: tuple[NotifyPayload, ...] = ()


def admit(
    received: Received,
    selected: Selected,
    entropy: Entropy,
    certificate_requests: tuple[CertReqPayload, ...],
    announced: tuple[NotifyPayload, ...],
    later: tuple[NotifyPayload, ...] = (),
) -> Admitted:
    """The stateless part of the responder: its key exchange. Raises `PeerMisbehaved` for a bad value."""
    message = received.message
    public = message.one(KePayload)
    theirs = message.one(NoncePayload).data
    check_nonce(theirs, b"", selected.prf)
    try:
        ours = respond_to(public.group, public.data, entropy)
    except InvalidPublicValue as error:
        raise _wrong(str(error)) from None
    return Admitted(received, selected, ours, theirs, certificate_requests, announced, later)


def respond(context: Context, admitted: Admitted) -> Steps[Initial]:
    """-->  HDR, SAi1, KEi, Ni  <--  HDR, SAr1, KEr, Nr, [CERTREQ]"""
    connection = context.connection
    state = context.state
    received = admitted.received
    message = received.message
    selected = admitted.selected
    nonce = context.entropy.octets(NONCE_LENGTH)
    chosen, keys = _derive(selected, admitted.nonce, nonce, state.spi_i, state.spi_r, admitted.ours.shared)
    behind, peer_behind, pretended = nat.detect(message, received.path)
    asked = nat.asked(message)
    forced = asked and (pretended or _forced(context))
    use = UseKeys(
        spi_i=state.spi_i,
        spi_r=state.spi_r,
        suite=chosen,
        keys=keys,
        nat_local=behind,
        nat_remote=peer_behind,
        forced=forced,
        fragmentation=_fragments(message, connection.fragmentation),
        nonce=min(admitted.nonce, nonce),
        path=received.path,
    )
    hashes = peer_hashes(message)
    inside = context.credentials.has_ppk and _does_inside(message)
    ppk = not inside and message.notify(Notify.USE_PPK) is not None and context.credentials.has_ppk
    announcements = [
        notify
        for notify in _announcements(connection.fragmentation)
        if message.notify(notify.type) is not None
    ]
    sent = yield from answer(
        (
            proposals.answer(selected, b""),
            KePayload(admitted.ours.group, admitted.ours.public),
            NoncePayload(nonce),
            *(nat.notifies(state.spi_i, state.spi_r, received.path, pretend=forced) if asked else ()),
            *admitted.certificate_requests,
            *admitted.announced,
            *lookup.supported(context),
            *announcements,
            *((CHILDLESS,) if connection.childless != "never" else ()),
            MULTIPLE_AUTH,
            *((INTERMEDIATE,) if chosen.additional or inside else ()),
            *((USE_PPK_INT,) if inside else (USE_PPK,) if ppk else ()),
        ),
        use,
    )
    return Initial(
        admitted.nonce,
        nonce,
        sent,
        received.octets,
        keys,
        chosen,
        hashes,
        (),
        ppk=ppk,
        ppk_inside=inside,
        announce=admitted.later,
    )


# -- both ---------------------------------------------------------------------------------------


def _has_ppk(context: Context) -> bool:
    """Whether we mix a pre-shared key in. Raises `LocalMisuse` where one must be and is not loaded."""
    name = context.connection.ppk_id
    found = name is not None and context.credentials.ppk(name.data) is not None
    if context.connection.ppk_required and not found:
        raise LocalMisuse(Reason.PPK_MISMATCH, f"no postquantum pre-shared key is loaded for {name}")
    return found


def _does_inside(message: Message) -> bool:
    """Whether the peer would mix a pre-shared key in before IKE_AUTH (RFC 9867)."""
    return (
        message.notify(Notify.USE_PPK_INT) is not None
        and message.notify(Notify.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None
    )


def _forced(context: Context) -> bool:
    """Do we want encapsulation without a NAT?"""
    encap = context.connection.encap
    return context.options.encapsulate if encap is None else encap


def check_nonce(theirs: bytes, ours: bytes, prf_number: int) -> None:
    """Not our own (a reflection), and at least half of the PRF's key (RFC 7296, section 2.10)."""
    if theirs == ours:
        raise _wrong("our own nonce came back")
    if 2 * len(theirs) < prf(prf_number).key_length:
        raise _wrong(f"a nonce of {len(theirs)} octets is too short for the PRF")


def _derive(
    selected: Selected, ni: bytes, nr: bytes, spi_i: bytes, spi_r: bytes, shared: bytes
) -> tuple[IkeSuite, IkeKeys]:
    chosen = ike_suite(
        selected.encryption,
        selected.key_bits,
        selected.integrity,
        selected.prf,
        selected.key_exchange,
        selected.additional,
    )
    ciphers = suite(chosen.encryption, chosen.key_bits, chosen.integrity)
    return chosen, ike_sa_keys(prf(chosen.prf), ni, nr, spi_i, spi_r, shared, ciphers)


def peer_hashes(message: Message) -> frozenset[int] | None:
    """The hash algorithms that the peer verifies (RFC 7427, section 4); None: it announced none."""
    notify = message.notify(Notify.SIGNATURE_HASH_ALGORITHMS)
    if notify is None:
        return None
    data = notify.data
    return frozenset([int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)])


def _announcements(fragmentation: str) -> tuple[NotifyPayload, ...]:
    hashes = NotifyPayload(0, b"", Notify.SIGNATURE_HASH_ALGORITHMS, _HASHES_DATA)
    if fragmentation == "no":
        return (hashes,)
    return (NotifyPayload(0, b"", Notify.FRAGMENTATION_SUPPORTED, b""), hashes)


def _fragments(message: Message, fragmentation: str) -> bool:
    """Whether we may send fragments: both ends said that they reassemble (RFC 7383, section 2.3)."""
    return fragmentation in ("yes", "force") and message.notify(Notify.FRAGMENTATION_SUPPORTED) is not None


def _floated(path: Path, port: int, port_nat_t: int) -> Path:
    remote_port = port_nat_t if path.remote_port == port else path.remote_port
    return Path(path.local, port_nat_t, path.remote, remote_port)


def _wrong(detail: str) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, detail, notify=Notify.INVALID_SYNTAX)
