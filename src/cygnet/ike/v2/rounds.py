"""Who proves what in IKE_AUTH, and in which order: one proof a side, EAP, several rounds (RFC 7296, sections
1.2 and 2.16; RFC 4739; RFC 5998).

    Initiator                                          Responder
    -----------------------------------------------------------------------------------
    HDR, SK {IDi, [CERT,] AUTH, SAi2, TSi, TSr,
        [N(ANOTHER_AUTH_FOLLOWS)]}  -->
                                                  <--  HDR, SK {IDr, [CERT,] AUTH}
    HDR, SK {IDi}  -->
                                                  <--  HDR, SK {EAP}
    HDR, SK {EAP}  -->                                 ...
                                                  <--  HDR, SK {EAP (success)}
    HDR, SK {AUTH}  -->
                                                  <--  HDR, SK {AUTH, SAr2, TSi, TSr}

Which connection it is, the responder learns on the way: it keeps all that fit so far, and what the peer has
proved towards each. A step narrows them and never adds one, so that whatever connection remains at the end
has had every round that it demands, by its own rules (V9, T25). The last answer is left to `ike_auth`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from cygnet.auth.eap import methods
from cygnet.auth.eap.method import EapFailed, ServerMaker, printable
from cygnet.auth.eap.packet import MUTUAL, name_of
from cygnet.auth.eap.relay import relay
from cygnet.auth.eap.session import Finished, Relay, serve
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity, user_identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.auth.proof import Proof, join_rounds, prove_with_secret, verify_eap
from cygnet.crypto.kdf import IkeKeys
from cygnet.crypto.proposals import ADDITIONAL, Proposal
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth
from cygnet.ike.connections import Loaded, closest
from cygnet.ike.errors import Difference, IkeError, PeerIncompatible, Reason
from cygnet.ike.revocation import check_revocation
from cygnet.ike.state import IkeSuite
from cygnet.ike.steps import Context, Steps, answer, next_request, send
from cygnet.ike.v2 import eap, ppk
from cygnet.ike.v2.ike_sa_init import Initial
from cygnet.ike.v2.notifications import error_of, of_authentication
from cygnet.ike.v2.proving import (
    identity_of,
    local_of,
    octets_of,
    own_identity,
    prove,
    remote_of,
    unauthenticated,
    verify,
    wanted_identity,
    whole,
)
from cygnet.records import dataclass
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify
from cygnet.wire.payloads import (
    AuthPayload,
    CertReqPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
)

MAX_CANDIDATES: Final = 32
"""Connections that one claimed identity is tried against; each may cost a signature check."""
MAX_ROUNDS: Final = 4
EAP_ONLY: Final = NotifyPayload(0, b"", Notify.EAP_ONLY_AUTHENTICATION, b"")
MULTIPLE: Final = NotifyPayload(0, b"", Notify.MULTIPLE_AUTH_SUPPORTED, b"")
ANOTHER: Final = NotifyPayload(0, b"", Notify.ANOTHER_AUTH_FOLLOWS, b"")


# -- initiator ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Met:
    """The responder has proved who it is. `last`: its last answer, with what it says of the Child SA.
    `local_id`: what we called ourselves first. `keys`: with the pre-shared key mixed in, if one is used."""

    peer: AuthenticatedPeer
    local_id: Identity
    last: Message
    keys: IkeKeys


def initiate(
    context: Context, initial: Initial, along: Callable[[Identity], tuple[Payload, ...]]
) -> Steps[Met]:
    """Prove ourselves in each of our rounds, and judge the responder. `along`: what goes with the first
    request besides, given our identity."""
    connection = context.connection
    rounds = connection.local or (local_of(connection),)
    remote = remote_of(connection)
    alone = remote.method is AuthClass.EAP
    peer: AuthenticatedPeer | None = None
    idr: IdrPayload | None = None
    first_id: Identity | None = None
    if len(rounds) > 1 and not initial.multiple:
        raise PeerIncompatible(
            Reason.AUTH_METHOD_MISMATCH, "the peer takes one round of authentication only (RFC 4739)"
        )
    key = context.credentials.ppk(connection.ppk_id.data) if initial.ppk and connection.ppk_id else None
    for number, local in enumerate(rounds):
        local_id = own_identity(context, local)
        idi = IdiPayload(local_id.type, local_id.data)
        plain, basis = initial, initial if key is None else ppk.mixed(initial, key)
        octets = octets_of(basis, basis.sent, basis.nonce_r, basis.keys.sk_pi, idi)
        octets_plain = octets
        if key is not None:
            octets_plain = octets_of(plain, plain.sent, plain.nonce_r, plain.keys.sk_pi, idi)
        follows = (ANOTHER,) if number + 1 < len(rounds) else ()
        opening: tuple[Payload, ...] = ()
        if first_id is None:
            first_id = local_id
            opening = (
                *along(local_id),
                *wanted_identity(remote),
                *((EAP_ONLY,) if alone else ()),
                *((MULTIPLE,) if len(rounds) > 1 else ()),
            )
        if local.method is not AuthClass.EAP:
            requests = initial.certificate_requests
            proof, certificates = prove(context, local, local_id, remote.id, octets, basis, requests)
            without = None
            if key is not None and not connection.ppk_required:
                without, _ = prove(context, local, local_id, remote.id, octets_plain, plain, requests)
            auth = AuthPayload(proof.method, proof.data)
            keyed = _keyed(connection, key, without)
            request: tuple[Payload, ...] = (idi, *certificates, auth, *follows, *keyed, *opening)
            message = (yield from send(Exchange.IKE_AUTH, request, whole)).value
            if key is not None:
                initial, key = _decided(connection, plain, basis, message), None
            if peer is None:
                peer, idr = _judge(context, initial, local, local_id, remote, message)
                yield from check_revocation(context, remote, peer)
            elif message.error() is not None:
                raise _refused(message, local, local_id, remote)
            continue
        message = (yield from send(Exchange.IKE_AUTH, (idi, *opening), whole)).value
        if peer is None and not alone:
            # Before any answer that depends on our password (V9).
            peer, idr = _judge(context, initial, local, local_id, remote, message)
            yield from check_revocation(context, remote, peer)
        elif idr is None:
            idr = message.maybe(IdrPayload)
        start = message.maybe(EapPayload)
        if start is None or idr is None:
            raise _refused(message, local, local_id, remote)
        server = local.aaa_id or identity_of(idr)
        running = eap.client(context, local, local_id, server, alone=alone and peer is None)
        finished = yield from eap.converse(running, start)
        if peer is None:
            _check_stands_alone(finished)
        msk = finished.outcome.msk
        proof = prove_with_secret(msk or basis.keys.sk_pi, initial.suite.prf, octets)
        without = prove_with_secret(msk or plain.keys.sk_pi, initial.suite.prf, octets_plain)
        keyed = _keyed(connection, key, None if connection.ppk_required else without)
        request = (AuthPayload(proof.method, proof.data), *follows, *keyed)
        message = (yield from send(Exchange.IKE_AUTH, request, whole)).value
        if key is not None:
            initial, key = _decided(connection, plain, basis, message), None
        theirs = message.maybe(AuthPayload)
        if theirs is None:
            raise _refused(message, local, local_id, remote)
        confirmed = _verify_eap(
            initial,
            Proof(theirs.method, theirs.data),
            idr,
            remote.id,
            finished,
            octets_of(initial, initial.received, initial.nonce_i, initial.keys.sk_pr, idr),
            initial.keys.sk_pr,
        )
        if peer is None:
            yield from check_revocation(context, remote, confirmed)
            peer = confirmed
    if peer is None or first_id is None:
        raise unauthenticated("no round of authentication is configured")
    return Met(peer, first_id, message, initial.keys)


def _keyed(connection: Connection, key: bytes | None, without: Proof | None) -> tuple[NotifyPayload, ...]:
    """What says that a pre-shared key went into the proof that goes along, and the proof without it."""
    if key is None:
        return ()
    if without is None:
        return (ppk.named(connection),)
    return ppk.named(connection), NotifyPayload(0, b"", Notify.NO_PPK_AUTH, without.data)


def _decided(connection: Connection, plain: Initial, mixed: Initial, message: Message) -> Initial:
    """With the pre-shared key if the responder says so (RFC 8784, section 3)."""
    if message.notify(Notify.PPK_IDENTITY) is not None:
        return mixed
    if connection.ppk_required and message.error() is None:
        raise ppk.missing("the peer went on without the postquantum pre-shared key, which is required")
    return plain


def _judge(
    context: Context,
    initial: Initial,
    local: LocalAuth,
    local_id: Identity,
    remote: RemoteAuth,
    message: Message,
) -> tuple[AuthenticatedPeer, IdrPayload]:
    auth, idr = message.maybe(AuthPayload), message.maybe(IdrPayload)
    if auth is None or idr is None:
        raise _refused(message, local, local_id, remote)
    octets = octets_of(initial, initial.received, initial.nonce_i, initial.keys.sk_pr, idr)
    return verify(context, local_id, remote, idr, auth, message, octets, initial), idr


def _refused(message: Message, local: LocalAuth, local_id: Identity, remote: RemoteAuth) -> IkeError:
    """Whom a refusal concerns: all that we know of what the peer did not like."""
    error = message.error()
    if error is None:
        return unauthenticated("an answer without IDr, AUTH or EAP")
    said = f"we are {local_id}, by {eap.shown(local)}, and want {remote.id or 'anybody'}"
    return error_of(error, Difference(ours=said))


def _check_stands_alone(finished: Finished) -> None:
    """RFC 5998, section 4: the server must have proved itself inside, and a key must have come of it."""
    if finished.method not in MUTUAL or not finished.outcome.mutual or not finished.outcome.msk:
        raise of_authentication(
            EapFailed(f"{name_of(finished.method)} proves no gateway by itself (RFC 5998)")
        )


# -- responder ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """The peer has passed every round of `loaded`'s. `request`: its first message, with what it wants of the
    Child SA. `proven`: what of our own proof the last answer must carry. `keys`: with the pre-shared key
    mixed in, if one is used."""

    loaded: Loaded
    peer: AuthenticatedPeer
    local_id: Identity
    request: Message
    proven: tuple[Payload, ...]
    keys: IkeKeys


@dataclass(frozen=True, slots=True)
class Candidate:
    """A connection that fits so far, and the rounds that the peer has passed by its rules."""

    loaded: Loaded
    local_id: Identity
    passed: tuple[AuthenticatedPeer, ...] = ()

    @property
    def remote(self) -> RemoteAuth | None:
        """What its next round demands; None: there is none left."""
        rounds = self.loaded.connection.remote
        return rounds[len(self.passed)] if len(self.passed) < len(rounds) else None

    def passing(self, peer: AuthenticatedPeer) -> Candidate:
        return Candidate(self.loaded, self.local_id, (*self.passed, peer))


def respond(context: Context, initial: Initial) -> Steps[Admitted]:
    """Let the initiator prove itself in as many rounds as one connection demands, and prove ourselves."""
    first = message = (yield from next_request(Exchange.IKE_AUTH, whole)).value
    candidates: list[Candidate] = []
    proven: tuple[Payload, ...] = ()
    ours: IdrPayload | None = None
    used: tuple[NotifyPayload, ...] | None = None
    for number in range(MAX_ROUNDS):
        idi = message.maybe(IdiPayload)
        if idi is None:
            raise unauthenticated("a request without IDi, or without AUTH")
        octets = octets_of(initial, initial.received, initial.nonce_r, initial.keys.sk_pi, idi)
        claimed = identity_of(idi)
        candidates = _claiming(context, initial, message, claimed, candidates, first=not number)
        auth = message.maybe(AuthPayload)
        if auth is not None:
            if used is None:
                initial, candidates, auth, used = _with_ppk(context, initial, candidates, message, auth)
                octets = octets_of(initial, initial.received, initial.nonce_r, initial.keys.sk_pi, idi)
            else:
                used = ()
            candidates = _proving(context, initial, candidates, idi, auth, message, octets)
            candidates = yield from _unrevoked(context, candidates)
            follows = _follows(message)
            candidates = _with_rounds(candidates, follows=follows)
            if ours is None:
                candidates, ours, proven = _prove_ourselves(context, initial, candidates, claimed, first)
            proven += used
        else:
            candidates = _with_eap(candidates, first)
            if ours is None:
                candidates, ours, proven = _prove_ourselves(context, initial, candidates, claimed, first)
            alone = local_of(candidates[0].loaded.connection).method is AuthClass.EAP
            table = Candidates(context, candidates, alone=alone)
            finished = yield from eap.serve(serve(table.choose, context.entropy), proven)
            message = (yield from next_request(Exchange.IKE_AUTH, whole)).value
            auth = message.maybe(AuthPayload)
            if auth is None:
                raise unauthenticated("a request without AUTH after EAP")
            if used is None:
                judged = _with_ppk(context, initial, table.candidates, message, auth)
                initial, table.candidates, auth, used = judged
                octets = octets_of(initial, initial.received, initial.nonce_r, initial.keys.sk_pi, idi)
            else:
                used = ()
            table.check(finished)
            candidates = [
                one.passing(
                    _verify_eap(
                        initial, Proof(auth.method, auth.data), idi, one.remote.id, finished, octets,
                        initial.keys.sk_pi,
                    )
                )
                for one in table.candidates
                if one.remote is not None
            ]  # fmt: skip
            candidates = yield from _unrevoked(context, candidates)
            follows = _follows(message)
            candidates = _with_rounds(candidates, follows=follows)
            proof = prove_with_secret(
                finished.outcome.msk or initial.keys.sk_pr,
                initial.suite.prf,
                octets_of(initial, initial.sent, initial.nonce_i, initial.keys.sk_pr, ours),
            )
            proven = (AuthPayload(proof.method, proof.data), *used)
        if not follows:
            chosen = candidates[0]
            return Admitted(
                chosen.loaded, join_rounds(chosen.passed), chosen.local_id, first, proven, initial.keys
            )
        yield from answer(proven)
        proven = ()
        message = (yield from next_request(Exchange.IKE_AUTH, whole)).value
    raise unauthenticated(f"more than {MAX_ROUNDS} rounds of authentication")


class Candidates:
    """The connections that an EAP conversation may turn out to be for; it narrows them as it goes."""

    def __init__(self, context: Context, candidates: list[Candidate], *, alone: bool) -> None:
        self.context = context
        self.candidates = candidates
        self.alone = alone

    def choose(self, name: bytes) -> tuple[ServerMaker, ...] | Relay:
        """The methods for a user with this name: those of the connections that name it most closely."""
        self._narrow(name)
        remote = self.candidates[0].remote or RemoteAuth(AuthClass.EAP)
        self.candidates = [
            one for one in self.candidates if one.remote is not None and eap.same_way(remote, one.remote)
        ]
        local = local_of(self.candidates[0].loaded.connection)
        context = self.context
        if remote.radius:
            return relay(context.state.path.local, context.state.path.remote, context.unique_id)
        kinds = tuple(kind for kind in remote.eap_methods if kind in MUTUAL or not self.alone)
        tls = methods.Tls(
            local.certificates,
            self.candidates[0].local_id,
            None,
            wall=context.now.wall,
            ca_certificates=remote.ca_certificates,
            pinned=remote.certificates,
        )
        return methods.server_makers(kinds, context.credentials, tls)

    def check(self, finished: Finished) -> None:
        """That the user who was authenticated, perhaps inside a tunnel, is one for these connections."""
        if self.alone:
            _check_stands_alone(finished)
        outcome = finished.outcome
        try:
            if outcome.identity:
                self._narrow(outcome.identity)
        except EapFailed as error:
            raise of_authentication(error) from None
        allowed = [
            one
            for one in self.candidates
            if one.remote is not None
            and (not one.remote.groups or not outcome.groups.isdisjoint(one.remote.groups))
        ]
        if not allowed:
            wanted = self.candidates[0].remote
            groups = ", ".join(wanted.groups) if wanted is not None else ""
            who = printable(outcome.identity or finished.identity)
            raise of_authentication(
                AuthenticationError(Kind.PEER_ID_MISMATCH, f"{who} is in none of the groups {groups}")
            )
        self.candidates = allowed

    def _narrow(self, name: bytes) -> None:
        user = user_identity(name)
        found = closest(self.candidates, user, lambda one: one.remote.eap_id if one.remote else None)
        if not found:
            expected = self.candidates[0].remote
            pattern = expected.eap_id if expected is not None else None
            raise EapFailed(
                f"the user calls itself {printable(name)}, {pattern} is expected", Kind.PEER_ID_MISMATCH
            )
        self.candidates = found


def _claiming(
    context: Context,
    initial: Initial,
    message: Message,
    claimed: Identity,
    candidates: list[Candidate],
    *,
    first: bool,
) -> list[Candidate]:
    """The connections whose next round is for this identity: of those for many only where none names it."""
    if not first:
        found = closest(candidates, claimed, lambda one: one.remote.id if one.remote else None)
        if not found:
            raise _nobody(context, claimed)
        return found
    path = context.state.path
    idr = message.maybe(IdrPayload)
    asked = identity_of(idr) if idr is not None else None
    refusal: IkeError | None = None
    found = []
    for loaded in context.connections.for_identity(path.local, path.remote, claimed, 2):
        connection = loaded.connection
        if not _accept(connection.proposals, initial.suite) or len(connection.local) > 1:
            continue
        try:
            local_id = own_identity(context, local_of(connection))
        except IkeError as error:
            refusal = refusal or error
            continue
        if asked is None or _is_asked(local_id, asked):
            found.append(Candidate(loaded, local_id))
        else:
            refusal = refusal or PeerIncompatible(
                Reason.LOCAL_ID_REFUSED,
                f"the peer asks for {asked}, we are {local_id}",
                notify=Notify.AUTHENTICATION_FAILED,
            )
    if not found:
        raise refusal or _nobody(context, claimed)
    return found[:MAX_CANDIDATES]


def _proving(
    context: Context,
    initial: Initial,
    candidates: list[Candidate],
    idi: IdiPayload,
    auth: AuthPayload,
    message: Message,
    octets: bytes,
) -> list[Candidate]:
    """Those by whose rules the proof holds; each judges for itself."""
    refusal: IkeError | None = None
    proved = []
    for one in candidates:
        remote = one.remote
        if remote is None:
            continue
        try:
            peer = verify(context, one.local_id, remote, idi, auth, message, octets, initial)
        except IkeError as error:
            refusal = refusal or error
            continue
        proved.append(one.passing(peer))
    if not proved:
        raise refusal or unauthenticated("no connection has that many rounds")
    return proved


def _with_ppk(
    context: Context, initial: Initial, candidates: list[Candidate], message: Message, auth: AuthPayload
) -> tuple[Initial, list[Candidate], AuthPayload, tuple[NotifyPayload, ...]]:
    """Whether a pre-shared key goes into the keys, by table 1 of RFC 8784: the connections that agree with
    it, the proof to judge, and what our answer says of it."""
    willing = [one for one in candidates if not one.loaded.connection.ppk_required]
    if not initial.ppk:
        if not willing:
            raise ppk.missing("the peer uses no postquantum pre-shared key, and `ppk_required` demands one")
        return initial, willing, auth, ()
    if message.notify(Notify.PPK_IDENTITY) is None:
        raise unauthenticated("the peer was to name a postquantum pre-shared key, and does not")
    name = ppk.named_by(message)
    using = [one for one in candidates if ppk.fits(context, one.loaded.connection, name)]
    secret = context.credentials.ppk(name) if name is not None else None
    if using and secret is not None:
        return ppk.mixed(initial, secret), using, auth, (ppk.USED,)
    without = message.notify(Notify.NO_PPK_AUTH)
    if without is None or not willing:
        raise ppk.missing(f"no postquantum pre-shared key {printable(name or b'')} is loaded for the peer")
    return initial, willing, AuthPayload(auth.method, without.data), ()


def _unrevoked(context: Context, candidates: list[Candidate]) -> Steps[list[Candidate]]:
    """Those by whose policy the certificate of the last round may be used; the world is asked once for all
    of them."""
    refusal: IkeError | None = None
    found = []
    for one in candidates:
        remote = one.loaded.connection.remote[len(one.passed) - 1]
        try:
            yield from check_revocation(context, remote, one.passed[-1])
        except IkeError as error:
            refusal = refusal or error
            continue
        found.append(one)
    if not found:
        raise refusal or unauthenticated("no connection has that many rounds")
    return found


def _with_rounds(candidates: list[Candidate], *, follows: bool) -> list[Candidate]:
    """Those that have a further round if one follows, and none left if not: no round is ever skipped."""
    found = [one for one in candidates if (one.remote is not None) == follows]
    if not found:
        raise of_authentication(
            AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH,
                "the peer begins a round too many"
                if follows
                else "the peer leaves out a round of authentication",
            )
        )
    return found


def _with_eap(candidates: list[Candidate], first: Message) -> list[Candidate]:
    """Those whose next round is EAP, for a peer that sends no AUTH."""
    alone = first.notify(Notify.EAP_ONLY_AUTHENTICATION) is not None
    found = [
        one
        for one in candidates
        if one.remote is not None
        and one.remote.method is AuthClass.EAP
        and (alone or local_of(one.loaded.connection).method is not AuthClass.EAP)
    ]
    if not found:
        raise of_authentication(
            AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH,
                "the peer wants to authenticate with EAP, which is not configured for it",
            )
        )
    return found


def _prove_ourselves(
    context: Context, initial: Initial, candidates: list[Candidate], claimed: Identity, first: Message
) -> tuple[list[Candidate], IdrPayload, tuple[Payload, ...]]:
    """IDr, and our certificates and AUTH unless EAP alone proves us. From here on only connections remain by
    which we are the same."""
    chosen = candidates[0]
    local = local_of(chosen.loaded.connection)
    same = [
        one
        for one in candidates
        if one.local_id == chosen.local_id and local_of(one.loaded.connection) == local
    ]
    idr = IdrPayload(chosen.local_id.type, chosen.local_id.data)
    if local.method is AuthClass.EAP:
        if first.maybe(AuthPayload) is not None:
            raise of_authentication(
                AuthenticationError(
                    Kind.AUTH_METHOD_MISMATCH, "we prove ourselves by EAP, which the peer leaves out"
                )
            )
        return same, idr, (idr,)
    octets = octets_of(initial, initial.sent, initial.nonce_i, initial.keys.sk_pr, idr)
    proof, certificates = prove(
        context, local, chosen.local_id, claimed, octets, initial, first.all(CertReqPayload)
    )
    return same, idr, (idr, *certificates, AuthPayload(proof.method, proof.data))


def _follows(message: Message) -> bool:
    return message.notify(Notify.ANOTHER_AUTH_FOLLOWS) is not None


def _verify_eap(
    initial: Initial,
    proof: Proof,
    payload: IdiPayload | IdrPayload,
    expected: Identity | None,
    finished: Finished,
    octets: bytes,
    sk_p: bytes,
) -> AuthenticatedPeer:
    try:
        return verify_eap(proof, identity_of(payload), expected, finished, sk_p, initial.suite.prf, octets)
    except AuthenticationError as error:
        raise of_authentication(error) from None


@lru_cache(maxsize=256)
def _accept(proposals: tuple[Proposal, ...], chosen: IkeSuite) -> bool:
    """Whether the suite that IKE_SA_INIT agreed on is one that these allow."""
    return any(
        any((t.id, t.key_bits) == (chosen.encryption, chosen.key_bits) for t in proposal.of_type(1))
        and any(t.id == chosen.prf for t in proposal.of_type(2))
        and (not chosen.integrity or any(t.id == chosen.integrity for t in proposal.of_type(3)))
        and any(t.id == chosen.key_exchange for t in proposal.of_type(4))
        and all(
            dict(chosen.additional).get(kind, 0) in ([t.id for t in proposal.of_type(kind)] or [0])
            for kind in ADDITIONAL
        )
        for proposal in proposals
    )


def _is_asked(local_id: Identity, asked: Identity) -> bool:
    return local_id.matches(asked) or asked.matches(local_id)


def _nobody(context: Context, claimed: Identity) -> IkeError:
    """No connection takes this identity: say what the one for its address would take."""
    expected = remote_of(context.connection).id
    return PeerIncompatible(
        Reason.PEER_ID_MISMATCH,
        f"the peer says it is {claimed}, connection {context.connection.name} expects {expected}",
        notify=Notify.AUTHENTICATION_FAILED,
        difference=Difference(str(expected), str(claimed), "identity"),
    )
