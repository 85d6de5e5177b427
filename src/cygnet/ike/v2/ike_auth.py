"""IKE_AUTH: who the two are, the proof, and the first Child SA (RFC 7296, section 1.2).

    Initiator                         Responder
    -------------------------------------------------------------------
    HDR, SK {IDi, [CERT,] [CERTREQ,]
        [IDr,] AUTH, [CP,] SAi2,
        TSi, TSr}  -->
                                 <--  HDR, SK {IDr, [CERT,] AUTH,
                                          [CP,] SAr2, TSi, TSr}

A verification gives an `AuthenticatedPeer`; only with it can the SA be established and a Child SA be
made. A Child SA that fails leaves the IKE SA standing (section 2.21.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from cygnet.auth.credentials import Credentials, OwnKey
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.auth.proof import (
    Proof,
    prove_with_key,
    prove_with_secret,
    signed_octets,
    verify_secret,
    verify_signature,
)
from cygnet.crypto.prf import prf
from cygnet.crypto.proposals import Proposal
from cygnet.ike import children, proposals
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth, SendCert, Unique
from cygnet.ike.connections import Loaded
from cygnet.ike.effects import Installed, InstallFailed, Leased
from cygnet.ike.errors import Difference, IkeError, LocalMisuse, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.lifetimes import ike_deadlines
from cygnet.ike.remote_access import NetworkSettings
from cygnet.ike.state import AddChild, Attempt, AttemptKind, CreateChild, Establish, IkeSuite
from cygnet.ike.steps import (
    Context,
    Received,
    Steps,
    answer,
    apply,
    begin,
    complain,
    enqueue,
    install,
    lease,
    next_request,
    obtain_child,
    send,
    use_given,
    use_policy,
)
from cygnet.ike.v2 import child as offers
from cygnet.ike.v2 import configuration_payload
from cygnet.ike.v2.ike_sa_init import HASHES, Initial
from cygnet.ike.v2.notifications import error_of, of_authentication
from cygnet.policy.selectors import IpAddress
from cygnet.records import replace
from cygnet.wire.message import Message
from cygnet.wire.numbers import AuthMethod, CertEncoding, Exchange, Notify
from cygnet.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertReqPayload,
    ConfigPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)

INITIAL_CONTACT: Final = NotifyPayload(0, b"", Notify.INITIAL_CONTACT, b"")
MAX_CANDIDATES: Final = 32
"""Connections that one claimed identity is tried against; each may cost a signature check."""


# -- initiator ----------------------------------------------------------------------------------


def initiate(context: Context, initial: Initial, wanted: CreateChild | None) -> Steps[None]:
    """HDR, SK {IDi, ..., AUTH, SAi2, TSi, TSr}  -->  <--  HDR, SK {IDr, ..., AUTH, SAr2, TSi, TSr}"""
    connection = context.connection
    local, remote = _local(connection), _remote(connection)
    local_id = _own_identity(context, local)
    idi = IdiPayload(local_id.type, local_id.data)
    octets = _octets(initial, initial.sent, initial.nonce_r, initial.keys.sk_pi, idi)
    proof, certificates = _prove(
        context, local, local_id, remote.id, octets, initial, initial.certificate_requests
    )
    offer = None
    child_payloads: tuple[Payload, ...] = ()
    asked = context.addresses_wanted()
    later = _comes_later(connection, initial, wanted)
    if wanted is not None and not later:
        loaded = children.connection_children(context, connection).child(wanted.name)
        if loaded is None:
            raise LocalMisuse(Reason.NO_SUCH_OBJECT, f"no child {wanted.name} in {connection.name}")
        spi, pair = yield from obtain_child()
        offer = offers.make_offer(context, loaded, wanted.index, pair, spi, key_exchange=False)
        child_payloads = (offers.NO_TFC, offer.sa, *offer.payloads)
    exchanged = yield from send(
        Exchange.IKE_AUTH,
        (
            idi,
            *certificates,
            *_initial_contact(context, connection, local_id, remote.id),
            *certificate_requests(context.credentials, (connection,)),
            *_wanted_identity(remote),
            AuthPayload(proof.method, proof.data),
            *configuration_payload.request(asked),
            *child_payloads,
        ),
        _whole,
    )
    message = exchanged.value
    their_auth, idr = message.maybe(AuthPayload), message.maybe(IdrPayload)
    if their_auth is None or idr is None:
        error = message.error()
        if error is not None:
            raise error_of(error, Difference(ours=_what_we_said(local, local_id, remote.id)))
        raise _unauthenticated("an answer without IDr or AUTH")
    octets = _octets(initial, initial.received, initial.nonce_i, initial.keys.sk_pr, idr)
    peer = _verify(context, local_id, remote, idr, their_auth, message, octets, initial)
    yield from apply(_establish(context, connection, peer, local_id))
    problem = yield from _take_addresses(message, asked)
    if problem is not None and (offer is None or message.maybe(SaPayload) is not None):
        yield from complain(problem, wanted.name if wanted is not None else "")
        if offer is not None:
            yield from offers.withdraw(offer.spi)
        return
    if wanted is not None and later:
        yield from enqueue(wanted)
    if offer is not None:
        yield from _first_child(context, peer, offer, message, initial)


def _take_addresses(message: Message, asked: tuple[IpAddress, ...]) -> Steps[IkeError | None]:
    """What the peer's CFG_REPLY gives us, in place on this host; or why it is not."""
    if not asked:
        return None
    given = configuration_payload.given(message.maybe(ConfigPayload), asked)
    if not given.addresses:
        return PeerIncompatible(
            Reason.ADDRESS_REFUSED, "the peer gives us none of the addresses that we ask for"
        )
    result = yield from use_given(given)
    if isinstance(result, Installed):
        return None
    detail = result.error if isinstance(result, InstallFailed) else "the data plane does not answer"
    return LocalMisuse(Reason.INSTALL_FAILED, f"the addresses could not be configured: {detail}")


def _what_we_said(local: LocalAuth, local_id: Identity, remote_id: Identity | None) -> str:
    """Whom a refusal concerns: all that we know of what the peer did not like."""
    how = "a pre-shared key" if local.method is AuthClass.PSK else "a certificate"
    return f"we are {local_id}, by {how}, and want {remote_id or 'anybody'}"


def _comes_later(connection: Connection, initial: Initial, wanted: CreateChild | None) -> bool:
    """Whether IKE_AUTH goes without a Child SA, which is made by CREATE_CHILD_SA (RFC 6023). Raises
    `PeerIncompatible` where that must be and the peer cannot."""
    if initial.childless and (wanted is None or connection.childless in ("prefer", "force")):
        return True
    if wanted is None or connection.childless == "force":
        raise PeerIncompatible(
            Reason.MODE_MISMATCH, "the peer does not set up IKE SAs without a Child SA (RFC 6023)"
        )
    return False


def _first_child(
    context: Context, peer: AuthenticatedPeer, offer: offers.Offer, message: Message, initial: Initial
) -> Steps[None]:
    """The peer's answer to the Child SA that went along; its failure is not the IKE SA's."""
    error = message.error()
    if message.maybe(SaPayload) is None:
        ours = Difference(children.format_selectors(offer.local, offer.remote))
        if error is not None and error.type == Notify.NO_PROPOSAL_CHOSEN:
            ours = proposals.difference(offer.loaded.child.proposals, None, key_exchange=False)
        failed = (
            error_of(error, ours, child=True)
            if error is not None
            else PeerMisbehaved(Reason.PEER_MISBEHAVED, "the answer has no Child SA and no reason")
        )
        yield from complain(failed, offer.name)
        return
    try:
        agreed = offers.check_accepted(offer, message)
        if context.connection.vips:
            agreed = children.to_given_addresses(context, offer.loaded, offer.index, agreed)
        policy = yield from use_policy(offer.loaded, offer.index, agreed.local, agreed.remote)
        made = offers.make_pair(
            context,
            peer,
            offer.loaded,
            offer.index,
            agreed,
            pair=offer.pair,
            spi_in=offer.spi,
            policy=policy,
            ni=initial.nonce_i,
            nr=initial.nonce_r,
            shared=None,
            initiator=True,
        )
    except IkeError as unacceptable:
        yield from complain(unacceptable, offer.name)
        yield from offers.withdraw(offer.spi)
        return
    yield from begin(Attempt(AttemptKind.CREATE_CHILD, ours=True))
    for parameters in (made.inbound, made.outbound):
        result = yield from install(parameters)
        failure = children.installation_error(result, offer.name)
        if failure is not None:
            yield from complain(failure, offer.name)
            yield from offers.withdraw(offer.spi)
            return
    if made.child.spi_out in context.state.deleted_early:
        yield from complain(children.closed_early(offer.name), offer.name)
        return
    yield from apply(AddChild(made.child))


# -- responder ----------------------------------------------------------------------------------


def respond(context: Context, initial: Initial) -> Steps[None]:
    """-->  HDR, SK {IDi, ..., AUTH, SAi2, TSi, TSr}  <--  HDR, SK {IDr, ..., AUTH, SAr2, TSi, TSr}"""
    exchanged = yield from next_request(Exchange.IKE_AUTH, _whole)
    message = exchanged.value
    idi, auth = message.maybe(IdiPayload), message.maybe(AuthPayload)
    if idi is None or auth is None:
        raise _unauthenticated("a request without IDi or AUTH")
    loaded, peer, local_id = _authenticate(context, initial, idi, auth, message)
    connection = loaded.connection
    local = _local(connection)
    idr = IdrPayload(local_id.type, local_id.data)
    octets = _octets(initial, initial.sent, initial.nonce_i, initial.keys.sk_pr, idr)
    proof, certificates = _prove(
        context, local, local_id, peer.identity, octets, initial, message.all(CertReqPayload)
    )
    initial_contact = message.notify(Notify.INITIAL_CONTACT) is not None
    has_contact = context.has_contact(local_id, peer.identity) and not initial_contact
    if connection.unique is Unique.KEEP and has_contact:
        raise PeerIncompatible(
            Reason.LIMIT_REACHED,
            f"{peer.identity} has an IKE SA already, and `unique = keep` keeps it",
            notify=Notify.AUTHENTICATION_FAILED,
        )
    establish = _establish(
        context,
        connection,
        peer,
        local_id,
        initial_contact=initial_contact,
    )
    proven: tuple[Payload, ...] = (idr, *certificates, AuthPayload(proof.method, proof.data))
    alone = connection.unique is Unique.REPLACE or (initial_contact and connection.unique is not Unique.NEVER)
    given, problem = yield from _give_addresses(context, connection, peer, message, alone=alone)
    proven += given
    if message.maybe(SaPayload) is None:
        if connection.childless == "never":
            raise PeerMisbehaved(
                Reason.MODE_MISMATCH, "the peer wants no Child SA", notify=Notify.INVALID_SYNTAX
            )
        if problem is not None and problem.notify == Notify.INTERNAL_ADDRESS_FAILURE:
            proven += (_refusal(problem),)
        yield from answer(proven, establish)
        return
    try:
        if connection.childless == "force":
            raise PeerIncompatible(
                Reason.MODE_MISMATCH,
                "no Child SA is made in IKE_AUTH here (`childless = force`)",
                notify=Notify.NO_ADDITIONAL_SAS,
            )
        if problem is not None:
            raise problem
        chosen = offers.choose_child(context, loaded, message, key_exchange=False)
        spi, pair = yield from obtain_child()
        agreed = chosen.agreed
        policy = yield from use_policy(chosen.loaded, chosen.index, agreed.local, agreed.remote)
        # A flow that is carried already (the peer authenticates anew) loses nothing by waiting either.
        at_once = context.is_calling() or context.is_carried(local_id, peer.identity, policy[1])
        made = offers.make_pair(
            context,
            peer,
            chosen.loaded,
            chosen.index,
            chosen.agreed,
            pair=pair,
            spi_in=spi,
            policy=policy,
            ni=initial.nonce_i,
            nr=initial.nonce_r,
            shared=None,
            initiator=False,
            at_once=at_once,
        )
    except IkeError as error:
        yield from answer((*proven, _refusal(error)), establish)
        yield from complain(error)
        return
    result = yield from install(made.inbound)
    if not isinstance(result, Installed):
        failed = children.installation_error(result, made.child.name)
        if failed is not None:
            yield from answer((*proven, _refusal(failed)), establish)
            yield from complain(failed, made.child.name)
        return
    tsi = TsiPayload(offers.to_wire(chosen.agreed.remote))
    tsr = TsrPayload(offers.to_wire(chosen.agreed.local))
    yield from answer(
        (
            *proven,
            offers.NO_TFC,
            proposals.answer(chosen.agreed.selected, spi.to_bytes(4, "big")),
            tsi,
            tsr,
            *additional(chosen),
        ),
        establish,
        AddChild(replace(made.child, outbound=made.outbound)),
    )
    yield from offers.activate_new(context, pair, at_once=at_once)


def _give_addresses(
    context: Context, connection: Connection, peer: AuthenticatedPeer, message: Message, *, alone: bool
) -> Steps[tuple[tuple[ConfigPayload, ...], IkeError | None]]:
    """Our CFG_REPLY, with addresses leased to the peer; or why there can be no Child SA (section 2.19)."""
    request = message.maybe(ConfigPayload)
    asked = configuration_payload.wanted(request)
    leased = Leased((), NetworkSettings(), "no pools are configured")
    if request is not None and connection.pools:
        leased = yield from lease(peer, connection.pools, asked, context.state.path.remote, alone=alone)
    problem: IkeError | None = None
    if asked and not leased.leases:
        problem = PeerIncompatible(
            Reason.ADDRESS_REFUSED,
            f"there is no address for {peer.identity}: {leased.refused}",
            notify=Notify.INTERNAL_ADDRESS_FAILURE,
        )
    elif connection.pools and not asked:
        problem = PeerIncompatible(
            Reason.ADDRESS_REFUSED,
            f"{peer.identity} asks for no address, and `pools` says that it must have one",
            notify=Notify.FAILED_CP_REQUIRED,
        )
    if asked and not leased.leases:
        return (), problem
    return configuration_payload.reply(request, leased.leases, leased.settings), problem


def additional(chosen: offers.Chosen) -> tuple[NotifyPayload, ...]:
    """RFC 7296, section 2.9: other parts of the offer may be asked for separately."""
    if not chosen.additional:
        return ()
    return (NotifyPayload(0, b"", Notify.ADDITIONAL_TS_POSSIBLE, b""),)


def _refusal(error: IkeError) -> NotifyPayload:
    return NotifyPayload(0, b"", error.notify or Notify.NO_PROPOSAL_CHOSEN, error.notify_data)


def _authenticate(
    context: Context, initial: Initial, idi: IdiPayload, auth: AuthPayload, message: Message
) -> tuple[Loaded, AuthenticatedPeer, Identity]:
    """The connection that the peer belongs to, by identity and proof together (RFC 7296, section 2.21.2)."""
    claimed = _identity(idi)
    path = context.state.path
    octets = _octets(initial, initial.received, initial.nonce_r, initial.keys.sk_pi, idi)
    idr = message.maybe(IdrPayload)
    asked = _identity(idr) if idr is not None else None
    first_error: IkeError | None = None
    tried = 0
    for loaded in context.connections.for_identity(path.local, path.remote, claimed, 2):
        connection = loaded.connection
        if not _accept(connection.proposals, initial.suite):
            continue
        try:
            remote = _remote(connection)
            local_id = _own_identity(context, _local(connection))
            if asked is not None and not _is_asked(local_id, asked):
                raise PeerIncompatible(
                    Reason.LOCAL_ID_REFUSED,
                    f"the peer asks for {asked}, we are {local_id}",
                    notify=Notify.AUTHENTICATION_FAILED,
                )
            peer = _verify(context, local_id, remote, idi, auth, message, octets, initial)
        except IkeError as error:
            first_error = first_error or error
            tried += 1
            if tried == MAX_CANDIDATES:
                break
            continue
        return loaded, peer, local_id
    raise first_error or _nobody(context, claimed)


@lru_cache(maxsize=256)
def _accept(proposals: tuple[Proposal, ...], chosen: IkeSuite) -> bool:
    """Whether the suite that IKE_SA_INIT agreed on is one that these allow."""
    return any(
        any((t.id, t.key_bits) == (chosen.encryption, chosen.key_bits) for t in proposal.of_type(1))
        and any(t.id == chosen.prf for t in proposal.of_type(2))
        and (not chosen.integrity or any(t.id == chosen.integrity for t in proposal.of_type(3)))
        and any(t.id == chosen.key_exchange for t in proposal.of_type(4))
        for proposal in proposals
    )


def _is_asked(local_id: Identity, asked: Identity) -> bool:
    return local_id.matches(asked) or asked.matches(local_id)


def _nobody(context: Context, claimed: Identity) -> IkeError:
    """No connection takes this identity: say what the one for its address would take."""
    expected = context.connection.remote[0].id if context.connection.remote else None
    return PeerIncompatible(
        Reason.PEER_ID_MISMATCH,
        f"the peer says it is {claimed}, connection {context.connection.name} expects {expected}",
        notify=Notify.AUTHENTICATION_FAILED,
        difference=Difference(str(expected), str(claimed), "identity"),
    )


# -- both ---------------------------------------------------------------------------------------


def _local(connection: Connection) -> LocalAuth:
    return connection.local[0] if connection.local else LocalAuth(AuthClass.PUBKEY)


def _remote(connection: Connection) -> RemoteAuth:
    return connection.remote[0] if connection.remote else RemoteAuth(AuthClass.PUBKEY)


def _whole(received: Received) -> Message:
    return received.message


def _identity(payload: IdiPayload | IdrPayload) -> Identity:
    try:
        return Identity.from_wire(payload.id_type, payload.data)
    except BadIdentity as error:
        raise _unauthenticated(f"the peer's identity: {error}") from None


def _own_identity(context: Context, local: LocalAuth) -> Identity:
    try:
        return context.credentials.own_identity(local.id, local.certificates, context.state.path.local)
    except CredentialError as error:
        raise of_authentication(AuthenticationError(Kind.CERTIFICATE_INVALID, str(error))) from None


def _octets(
    initial: Initial, message: bytes, nonce: bytes, sk_p: bytes, identity: IdiPayload | IdrPayload
) -> bytes:
    return signed_octets(message, nonce, prf(initial.suite.prf), sk_p, identity.emit())


def _prove(
    context: Context,
    local: LocalAuth,
    local_id: Identity,
    remote_id: Identity | None,
    octets: bytes,
    initial: Initial,
    requests: Iterable[CertReqPayload],
) -> tuple[Proof, tuple[CertPayload, ...]]:
    """Our AUTH, and the certificates that go with it."""
    path = context.state.path
    try:
        if local.method is AuthClass.PSK:
            whom = remote_id
            if whom is None or whom.has_wildcards:
                whom = Identity.of_address(path.remote)
            secret = context.credentials.psk(local_id, whom, path.local, path.remote)
            if secret is None:
                raise AuthenticationError(Kind.PSK_NOT_FOUND, f"no pre-shared key is loaded for {whom}")
            return prove_with_secret(secret, initial.suite.prf, octets), ()
        hashes = [request.data for request in requests]
        wanted = [data[at : at + 20] for data in hashes for at in range(0, len(data), 20)]
        own = context.credentials.own_key(local.certificates, local_id, wanted)
        proof = prove_with_key(own, octets, initial.peer_hashes, local.schemes)
    except AuthenticationError as error:
        raise of_authentication(error) from None
    return proof, _certificates(own, context.connection.send_cert, asked=bool(hashes))


def _certificates(own: OwnKey, when: SendCert, *, asked: bool) -> tuple[CertPayload, ...]:
    if when is SendCert.NEVER or (when is SendCert.IFASKED and not asked):
        return ()
    return tuple([CertPayload(CertEncoding.X509_SIGNATURE, one.der) for one in own.chain])


def _verify(
    context: Context,
    local_id: Identity,
    remote: RemoteAuth,
    id_payload: IdiPayload | IdrPayload,
    auth: AuthPayload,
    message: Message,
    octets: bytes,
    initial: Initial,
) -> AuthenticatedPeer:
    """The peer's AUTH, judged by what the connection demands."""
    claimed = _identity(id_payload)
    proof = Proof(auth.method, auth.data)
    path = context.state.path
    try:
        if remote.method is AuthClass.PSK:
            secret = None
            if auth.method == AuthMethod.PSK and claimed.matches(remote.id):
                secret = context.credentials.psk(local_id, claimed, path.local, path.remote)
            return verify_secret(proof, claimed, remote.id, secret, initial.suite.prf, octets)
        if not claimed.matches(remote.id):
            raise AuthenticationError(
                Kind.PEER_ID_MISMATCH, f"the peer says it is {claimed}, expected was {remote.id}"
            )
        if auth.method == AuthMethod.PSK:
            raise AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH,
                "the peer authenticates with a pre-shared key, a certificate is expected",
            )
        sent = [c.data for c in message.all(CertPayload) if c.encoding == CertEncoding.X509_SIGNATURE]
        trusted = context.credentials.trusted_key(
            claimed,
            sent,
            wall=context.now.wall,
            ca_certificates=remote.ca_certificates,
            pinned=remote.certificates,
        )
        own_hashes = None if initial.peer_hashes is None else HASHES
        return verify_signature(proof, trusted, remote.id, octets, own_hashes, remote.schemes)
    except AuthenticationError as error:
        raise of_authentication(error) from None


def _establish(
    context: Context,
    connection: Connection,
    peer: AuthenticatedPeer,
    local_id: Identity,
    *,
    initial_contact: bool = False,
) -> Establish:
    now = context.now.monotonic
    rekey_at, reauth_at, expires_at = ike_deadlines(connection, now, context.entropy)
    return Establish(peer, connection, local_id, now, rekey_at, reauth_at, expires_at, initial_contact)


def _initial_contact(
    context: Context, connection: Connection, local_id: Identity, remote_id: Identity | None
) -> tuple[NotifyPayload, ...]:
    """RFC 7296, section 2.4: this is our only IKE SA with that peer."""
    if connection.unique is Unique.NEVER or remote_id is None or remote_id.has_wildcards:
        return ()
    return () if context.has_contact(local_id, remote_id) else (INITIAL_CONTACT,)


def _wanted_identity(remote: RemoteAuth) -> tuple[IdrPayload, ...]:
    if remote.id is None or remote.id.has_wildcards:
        return ()
    return (IdrPayload(remote.id.type, remote.id.data),)


def certificate_requests(
    credentials: Credentials, connections: Iterable[Connection]
) -> tuple[CertReqPayload, ...]:
    """Which CAs the peer's certificate may come from (RFC 7296, section 3.7)."""
    wanted: list[bytes] = []
    for connection in connections:
        for remote in connection.remote:
            if remote.method is AuthClass.PUBKEY and connection.send_certreq:
                try:
                    wanted.extend(credentials.certreq_hashes(remote.ca_certificates))
                except CredentialError:
                    # An unusable CA is told when it is needed to judge a certificate.
                    continue
    if not wanted:
        return ()
    return (CertReqPayload(CertEncoding.X509_SIGNATURE, b"".join(dict.fromkeys(wanted))),)


def _unauthenticated(detail: str) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.AUTHENTICATION_FAILED, detail, notify=Notify.AUTHENTICATION_FAILED)
