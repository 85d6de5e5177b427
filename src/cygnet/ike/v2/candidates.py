"""Which connection a peer is for: all that fit so far, and a list that only ever gets shorter.

What the peer says and proves on its way through IKE_AUTH narrows it: its identity, each proof by each
connection's own rules, how many rounds there are, a pre-shared key, the name and the groups of an EAP user.
No step adds a connection, so whatever remains has had every round that it demands (V9, T25).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cygnet.auth.eap import methods
from cygnet.auth.eap.method import EapFailed, ServerMaker, printable
from cygnet.auth.eap.packet import MUTUAL, name_of
from cygnet.auth.eap.relay import relay
from cygnet.auth.eap.session import Finished, Relay
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity, user_identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.crypto.proposals import ADDITIONAL, Proposal
from cygnet.ike.configuration import AuthClass, RemoteAuth
from cygnet.ike.connections import Loaded, closest
from cygnet.ike.errors import Difference, IkeError, PeerIncompatible, Reason
from cygnet.ike.revocation import check_revocation
from cygnet.ike.state import IkeSuite
from cygnet.ike.steps import Context, Steps
from cygnet.ike.v2 import eap, ppk
from cygnet.ike.v2.ike_sa_init import Initial
from cygnet.ike.v2.mutual import OwnRounds, can_answer
from cygnet.ike.v2.notifications import of_authentication
from cygnet.ike.v2.proving import (
    identity_of,
    local_of,
    own_identity,
    remote_of,
    unauthenticated,
    verify,
)
from cygnet.ike.v2.stapling import stapled
from cygnet.records import dataclass
from cygnet.wire.message import Message
from cygnet.wire.numbers import Notify
from cygnet.wire.payloads import (
    AuthPayload,
    CertReqPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
)

MAX_CANDIDATES: Final = 32
"""Connections that one claimed identity is tried against; each may cost a signature check."""


def check_stands_alone(finished: Finished) -> None:
    """RFC 5998, section 4: the server must have proved itself inside, and a key must have come of it."""
    if finished.method not in MUTUAL or not finished.outcome.mutual or not finished.outcome.msk:
        raise of_authentication(
            EapFailed(f"{name_of(finished.method)} proves no gateway by itself (RFC 5998)")
        )


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
            check_stands_alone(finished)
        outcome = finished.outcome
        try:
            if outcome.identity:
                self._narrow(outcome.identity)
        except EapFailed as error:
            raise of_authentication(error) from None
        if outcome.claimed:
            self._unnamed(finished)
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

    def _unnamed(self, finished: Finished) -> None:
        """Of a user whose name nobody proves, only connections remain that are for every user."""
        open_to_all = [one for one in self.candidates if one.remote is not None and one.remote.eap_id is None]
        if not open_to_all:
            wanted = self.candidates[0].remote
            raise of_authentication(
                AuthenticationError(
                    Kind.PEER_ID_MISMATCH,
                    f"{printable(finished.identity)} is what the user is called outside of the tunnel, and "
                    "the RADIUS server does not say who it is (User-Name): `eap_id` expects "
                    f"{wanted.eap_id if wanted is not None else None}",
                )
            )
        self.candidates = open_to_all

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


def claiming(
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
        if not _accept(connection.proposals, initial.suite) or not can_answer(connection, message):
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


def proving(
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


def with_ppk(
    context: Context, initial: Initial, candidates: list[Candidate], message: Message, auth: AuthPayload
) -> tuple[Initial, list[Candidate], AuthPayload, tuple[NotifyPayload, ...]]:
    """Whether a pre-shared key goes into the keys, by table 1 of RFC 8784: the connections that agree with
    it, the proof to judge, and what our answer says of it."""
    willing = [one for one in candidates if not one.loaded.connection.ppk_required]
    if initial.ppk_name is not None:
        # It is in the keys already; whether it is this peer's shows only now (RFC 9867, section 3.1).
        using = [one for one in candidates if ppk.fits(context, one.loaded.connection, initial.ppk_name)]
        if not using:
            raise ppk.missing("the peer's postquantum pre-shared key is not the one for it")
        return initial, using, auth, ()
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


def unrevoked(context: Context, candidates: list[Candidate], message: Message) -> Steps[list[Candidate]]:
    """Those by whose policy the certificate of the last round may be used; the world is asked once for all
    of them."""
    refusal: IkeError | None = None
    found = []
    for one in candidates:
        remote = one.loaded.connection.remote[len(one.passed) - 1]
        try:
            yield from check_revocation(context, remote, one.passed[-1], stapled(message))
        except IkeError as error:
            refusal = refusal or error
            continue
        found.append(one)
    if not found:
        raise refusal or unauthenticated("no connection has that many rounds")
    return found


def with_rounds(candidates: list[Candidate], *, follows: bool) -> list[Candidate]:
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


def with_eap(candidates: list[Candidate], first: Message) -> list[Candidate]:
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


def ourselves(
    context: Context, candidates: list[Candidate], claimed: Identity, first: Message
) -> tuple[list[Candidate], OwnRounds]:
    """How we prove ourselves. From here on only connections remain by which we are the same."""
    chosen = candidates[0]
    connection = chosen.loaded.connection
    same = [
        one
        for one in candidates
        if one.local_id == chosen.local_id and one.loaded.connection.local == connection.local
    ]
    if local_of(connection).method is AuthClass.EAP and first.maybe(AuthPayload) is not None:
        raise of_authentication(
            AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH, "we prove ourselves by EAP, which the peer leaves out"
            )
        )
    return same, OwnRounds(context, connection, chosen.local_id, claimed, first.all(CertReqPayload))


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
    if claimed.is_nobody:
        return of_authentication(
            AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH, "the peer proves nothing; no connection allows that"
            )
        )
    expected = remote_of(context.connection).id
    return PeerIncompatible(
        Reason.PEER_ID_MISMATCH,
        f"the peer says it is {claimed}, connection {context.connection.name} expects {expected}",
        notify=Notify.AUTHENTICATION_FAILED,
        difference=Difference(str(expected), str(claimed), "identity"),
    )
