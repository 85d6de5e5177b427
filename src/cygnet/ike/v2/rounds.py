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

Which connection it is, the responder learns on the way (`candidates`). It may have several rounds itself,
which go beside (`mutual`). The last answer is left to `ike_auth`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from cygnet.auth.eap.session import Finished, serve
from cygnet.auth.errors import AuthenticationError
from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.auth.proof import Proof, join_rounds, prove_with_secret, verify_eap
from cygnet.crypto.kdf import IkeKeys
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth
from cygnet.ike.connections import Loaded
from cygnet.ike.errors import Difference, IkeError, PeerIncompatible, Reason
from cygnet.ike.steps import Context, Steps, answer, next_request, send
from cygnet.ike.v2 import eap, ppk
from cygnet.ike.v2.announced import taken_by
from cygnet.ike.v2.candidates import (
    Candidate,
    Candidates,
    check_stands_alone,
    claiming,
    ourselves,
    proving,
    unrevoked,
    with_eap,
    with_ppk,
    with_rounds,
)
from cygnet.ike.v2.ike_sa_init import Initial
from cygnet.ike.v2.lookup import is_supported, looked_up
from cygnet.ike.v2.mutual import ANOTHER, OwnRounds, TheirRounds
from cygnet.ike.v2.notifications import error_of, of_authentication
from cygnet.ike.v2.proving import (
    claimed_by,
    identity_of,
    local_of,
    octets_of,
    own_identity,
    prove,
    remote_of,
    unauthenticated,
    wanted_identity,
    whole,
)
from cygnet.ike.v2.stapling import prepare
from cygnet.records import dataclass, replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify
from cygnet.wire.payloads import (
    AuthPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
)

MAX_ROUNDS: Final = 4
EAP_ONLY: Final = NotifyPayload(0, b"", Notify.EAP_ONLY_AUTHENTICATION, b"")
MULTIPLE: Final = NotifyPayload(0, b"", Notify.MULTIPLE_AUTH_SUPPORTED, b"")


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
    theirs = TheirRounds(context)
    several = len(rounds) > 1 or len(theirs.wanted) > 1
    first_id: Identity | None = None
    if several and not initial.multiple:
        raise PeerIncompatible(
            Reason.AUTH_METHOD_MISMATCH, "the peer takes one round of authentication only (RFC 4739)"
        )
    staple = yield from prepare(context, connection, rounds, initial.certificate_requests)
    initial = replace(initial, staple=staple)
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
                *((EAP_ONLY,) if theirs.alone else ()),
                *((MULTIPLE,) if several else ()),
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
            if theirs.lacks(message) or (not theirs.due and message.error() is not None):
                raise _refused(message, local, local_id, remote)
            yield from theirs.judge(initial, local_id, message)
            continue
        message = (yield from send(Exchange.IKE_AUTH, (idi, *opening), whole)).value
        if theirs.lacks(message):
            raise _refused(message, local, local_id, remote)
        # Before any answer that depends on our password (V9).
        yield from theirs.judge(initial, local_id, message)
        theirs.name(message)
        start = message.maybe(EapPayload)
        if start is None or theirs.idr is None:
            raise _refused(message, local, local_id, remote)
        server = local.aaa_id or identity_of(theirs.idr)
        running = eap.client(context, local, local_id, server, None if theirs.proved else theirs.wanted[0])
        beside = partial(theirs.judge, initial, local_id)
        finished = yield from eap.converse(running, start, beside, theirs.trust)
        if not theirs.proved:
            check_stands_alone(finished)
        msk = finished.outcome.msk
        proof = prove_with_secret(msk or basis.keys.sk_pi, initial.suite.prf, octets)
        without = prove_with_secret(msk or plain.keys.sk_pi, initial.suite.prf, octets_plain)
        keyed = _keyed(connection, key, None if connection.ppk_required else without)
        request = (AuthPayload(proof.method, proof.data), *follows, *keyed)
        message = (yield from send(Exchange.IKE_AUTH, request, whole)).value
        if key is not None:
            initial, key = _decided(connection, plain, basis, message), None
        answered = message.maybe(AuthPayload)
        if answered is None:
            raise _refused(message, local, local_id, remote)
        confirmed = _verify_eap(
            initial,
            Proof(answered.method, answered.data),
            theirs.idr,
            theirs.wanted[max(len(theirs.passed) - 1, 0)].id,
            finished,
            octets_of(initial, initial.received, initial.nonce_i, initial.keys.sk_pr, theirs.idr),
            initial.keys.sk_pr,
        )
        yield from theirs.confirm(confirmed)
    if first_id is None:
        raise unauthenticated("no round of authentication is configured")
    message = yield from theirs.rest(initial, first_id, message)
    return Met(theirs.peer, first_id, message, initial.keys)


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


def _refused(message: Message, local: LocalAuth, local_id: Identity, remote: RemoteAuth) -> IkeError:
    """Whom a refusal concerns: all that we know of what the peer did not like."""
    error = message.error()
    if error is None:
        return unauthenticated("an answer without IDr, AUTH or EAP")
    said = f"we are {local_id}, by {eap.shown(local)}, and want {remote.id or 'anybody'}"
    return error_of(error, Difference(ours=said))


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


def respond(context: Context, initial: Initial) -> Steps[Admitted]:
    """Let the initiator prove itself in as many rounds as one connection demands, and prove ourselves."""
    first = message = (yield from next_request(Exchange.IKE_AUTH, whole)).value
    initial = replace(initial, taken=taken_by(first), lookup=is_supported(context, first))
    candidates: list[Candidate] = []
    ours: OwnRounds | None = None
    used: tuple[NotifyPayload, ...] | None = None
    for number in range(MAX_ROUNDS):
        idi = message.maybe(IdiPayload)
        if idi is None:
            raise unauthenticated("a request without IDi, or without AUTH")
        octets = octets_of(initial, initial.received, initial.nonce_r, initial.keys.sk_pi, idi)
        claimed = claimed_by(idi, message)
        candidates = claiming(context, initial, message, claimed, candidates, first=not number)
        auth = message.maybe(AuthPayload)
        if auth is not None:
            message = yield from looked_up(context, message)
            if used is None:
                initial, candidates, auth, used = with_ppk(context, initial, candidates, message, auth)
                octets = octets_of(initial, initial.received, initial.nonce_r, initial.keys.sk_pi, idi)
            else:
                used = ()
            candidates = proving(context, initial, candidates, idi, auth, message, octets)
            candidates = yield from unrevoked(context, candidates, message)
            follows = _follows(message)
            candidates = with_rounds(candidates, follows=follows)
            if ours is None:
                candidates, ours = ourselves(context, candidates, claimed, first)
                initial = replace(initial, staple=(yield from ours.prepare()))
            proven = (*ours.next(initial), *used)
        else:
            candidates = with_eap(candidates, first)
            if ours is None:
                candidates, ours = ourselves(context, candidates, claimed, first)
                initial = replace(initial, staple=(yield from ours.prepare()))
            alone = local_of(candidates[0].loaded.connection).method is AuthClass.EAP
            table = Candidates(context, candidates, alone=alone)
            finished = yield from eap.serve(serve(table.choose, context.entropy), partial(ours.next, initial))
            message = (yield from next_request(Exchange.IKE_AUTH, whole)).value
            auth = message.maybe(AuthPayload)
            if auth is None:
                raise unauthenticated("a request without AUTH after EAP")
            if used is None:
                judged = with_ppk(context, initial, table.candidates, message, auth)
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
            candidates = yield from unrevoked(context, candidates, message)
            follows = _follows(message)
            candidates = with_rounds(candidates, follows=follows)
            proof = prove_with_secret(
                finished.outcome.msk or initial.keys.sk_pr,
                initial.suite.prf,
                octets_of(initial, initial.sent, initial.nonce_i, initial.keys.sk_pr, ours.idr),
            )
            proven = (AuthPayload(proof.method, proof.data), *used)
        if not follows:
            while ours.pending:
                yield from answer(proven)
                message = (yield from next_request(Exchange.IKE_AUTH, whole)).value
                if message.maybe(IdiPayload) is not None or message.maybe(AuthPayload) is not None:
                    raise unauthenticated("a round too many")
                proven = ours.next(initial)
            chosen = candidates[0]
            return Admitted(
                chosen.loaded, join_rounds(chosen.passed), chosen.local_id, first, proven, initial.keys
            )
        yield from answer(proven)
        message = (yield from next_request(Exchange.IKE_AUTH, whole)).value
    raise unauthenticated(f"more than {MAX_ROUNDS} rounds of authentication")


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
