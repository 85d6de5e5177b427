"""One proof in IKE_AUTH: ours made, the peer's judged, by what a connection says (RFC 7296, section 2.15).

Here meet the messages, the connection's `local` and `remote`, and `auth.proof`. How many proofs there are
and in which order is `rounds`'.
"""

from __future__ import annotations

from collections.abc import Iterable

from cygnet.auth import raw_keys
from cygnet.auth.credentials import Credentials, OwnKey
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.auth.proof import (
    Proof,
    prove_nothing,
    prove_with_key,
    prove_with_secret,
    signed_octets,
    verify_nothing,
    verify_secret,
    verify_signature,
)
from cygnet.crypto.prf import prf
from cygnet.ike.configuration import AuthClass, Connection, LocalAuth, RemoteAuth, SendCert
from cygnet.ike.errors import PeerMisbehaved, Reason
from cygnet.ike.steps import Context, Received
from cygnet.ike.v2 import lookup, stapling
from cygnet.ike.v2.ike_sa_init import HASHES, Initial
from cygnet.ike.v2.notifications import of_authentication
from cygnet.wire.message import Message
from cygnet.wire.numbers import AuthMethod, CertEncoding, Notify
from cygnet.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertReqPayload,
    IdiPayload,
    IdrPayload,
)


def local_of(connection: Connection) -> LocalAuth:
    return connection.local[0] if connection.local else LocalAuth(AuthClass.PUBKEY)


def remote_of(connection: Connection) -> RemoteAuth:
    return connection.remote[0] if connection.remote else RemoteAuth(AuthClass.PUBKEY)


def whole(received: Received) -> Message:
    return received.message


def identity_of(payload: IdiPayload | IdrPayload) -> Identity:
    try:
        return Identity.from_wire(payload.id_type, payload.data)
    except BadIdentity as error:
        raise unauthenticated(f"the peer's identity: {error}") from None


def claimed_by(payload: IdiPayload | IdrPayload, message: Message) -> Identity:
    """Whom a connection is looked up for. What a peer says that it is counts for nothing where it proves
    nothing (RFC 7619, section 2.2), so that it finds no connection but those for nobody."""
    auth = message.maybe(AuthPayload)
    if auth is not None and auth.method == AuthMethod.NULL:
        return Identity.nobody()
    return identity_of(payload)


def own_identity(context: Context, local: LocalAuth) -> Identity:
    if local.method is AuthClass.NULL:
        return Identity.nobody()
    try:
        return context.credentials.own_identity(local.id, local.certificates, context.state.path.local)
    except CredentialError as error:
        raise of_authentication(AuthenticationError(Kind.CERTIFICATE_INVALID, str(error))) from None


def octets_of(
    initial: Initial, message: bytes, nonce: bytes, sk_p: bytes, identity: IdiPayload | IdrPayload
) -> bytes:
    signed = signed_octets(message, nonce, prf(initial.suite.prf), sk_p, identity.emit())
    return signed + initial.spoken.octets()


def prove(
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
    if local.method is AuthClass.NULL:
        sk_p = initial.keys.sk_pi if context.state.original_initiator else initial.keys.sk_pr
        return prove_nothing(sk_p, initial.suite.prf, octets), ()
    try:
        if local.method is AuthClass.PSK:
            whom = remote_id
            if whom is None or whom.has_wildcards:
                whom = Identity.of_address(path.remote)
            secret = context.credentials.psk(local_id, whom, path.local, path.remote)
            if secret is None:
                raise AuthenticationError(Kind.PSK_NOT_FOUND, f"no pre-shared key is loaded for {whom}")
            return prove_with_secret(secret, initial.suite.prf, octets), ()
        requests = tuple(requests)
        hashes = [request.data for request in requests if request.encoding == CertEncoding.X509_SIGNATURE]
        wanted = [data[at : at + 20] for data in hashes for at in range(0, len(data), 20)]
        own = (
            context.credentials.own_raw_key(local.public_keys)
            if local.public_keys
            else context.credentials.own_key(local.certificates, local_id, wanted)
        )
        proof = prove_with_key(own, octets, initial.peer_hashes, local.schemes, initial.taken)
    except AuthenticationError as error:
        raise of_authentication(error) from None
    when = context.connection.send_cert
    if own.raw:
        asked = any(request.encoding == CertEncoding.RAW_PUBLIC_KEY for request in requests)
        given = when is SendCert.ALWAYS or (when is SendCert.IFASKED and asked)
        return proof, (CertPayload(CertEncoding.RAW_PUBLIC_KEY, own.raw),) if given else ()
    if when is SendCert.NEVER or (when is SendCert.IFASKED and not hashes):
        return proof, ()
    return proof, _certificates(context, own, initial)


def _certificates(context: Context, own: OwnKey, initial: Initial) -> tuple[CertPayload, ...]:
    """Our chain, each with its status behind it if the peer asks for that (RFC 4806, section 3.2)."""
    status = stapling.beside(context, own) if initial.staple else {}
    found: list[CertPayload] = []
    for one in own.chain:
        pointer = lookup.by_url(context, one) if initial.lookup else None
        found.append(pointer or CertPayload(CertEncoding.X509_SIGNATURE, one.der))
        if one.der in status:
            found.append(status[one.der])
    return tuple(found)


def verify(
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
    claimed = identity_of(id_payload)
    proof = Proof(auth.method, auth.data)
    path, state = context.state.path, context.state
    try:
        if remote.method is AuthClass.NULL:
            sk_p = initial.keys.sk_pr if state.original_initiator else initial.keys.sk_pi
            mark = state.spi_i + state.spi_r
            return verify_nothing(proof, remote.id, mark, sk_p, initial.suite.prf, octets)
        if remote.method is AuthClass.PSK:
            secret = None
            if auth.method == AuthMethod.PSK and claimed.matches(remote.id):
                secret = context.credentials.psk(local_id, claimed, path.local, path.remote)
            return verify_secret(proof, claimed, remote.id, secret, initial.suite.prf, octets)
        if not claimed.matches(remote.id):
            raise AuthenticationError(
                Kind.PEER_ID_MISMATCH, f"the peer says it is {claimed}, expected was {remote.id}"
            )
        if remote.method is not AuthClass.PUBKEY:
            # Whatever certificate it shows: EAP is demanded, and no other proof stands in for it (T25).
            raise AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH,
                f"the peer authenticates with {AuthMethod.name_of(auth.method)}, EAP is expected",
            )
        if auth.method == AuthMethod.PSK:
            raise AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH,
                "the peer authenticates with a pre-shared key, a certificate is expected",
            )
        own_hashes = None if initial.peer_hashes is None else HASHES
        if remote.public_keys:
            shown = [c.data for c in message.all(CertPayload) if c.encoding == CertEncoding.RAW_PUBLIC_KEY]
            raw = raw_keys.trusted_key(claimed, remote.id, shown, remote.public_keys)
            return verify_signature(proof, raw, None, octets, own_hashes, remote.schemes)
        sent = [c.data for c in message.all(CertPayload) if c.encoding == CertEncoding.X509_SIGNATURE]
        trusted = context.credentials.trusted_key(
            claimed,
            sent,
            wall=context.now.wall,
            ca_certificates=remote.ca_certificates,
            pinned=remote.certificates,
        )
        return verify_signature(proof, trusted, remote.id, octets, own_hashes, remote.schemes)
    except AuthenticationError as error:
        raise of_authentication(error) from None


def wanted_identity(remote: RemoteAuth) -> tuple[IdrPayload, ...]:
    if remote.id is None or remote.id.has_wildcards or remote.id.is_nobody:
        return ()
    return (IdrPayload(remote.id.type, remote.id.data),)


def certificate_requests(
    credentials: Credentials, connections: Iterable[Connection]
) -> tuple[CertReqPayload, ...]:
    """Which CAs the peer's certificate may come from (RFC 7296, section 3.7)."""
    wanted: list[bytes] = []
    raw: tuple[CertReqPayload, ...] = ()
    status: tuple[CertReqPayload, ...] = ()
    for connection in connections:
        for remote in connection.remote:
            if stapling.asks(connection, remote):
                status = (stapling.REQUEST,)
            if remote.public_keys and connection.send_certreq:
                raw = (CertReqPayload(CertEncoding.RAW_PUBLIC_KEY, b""),)
            elif remote.method is AuthClass.PUBKEY and connection.send_certreq:
                try:
                    wanted.extend(credentials.certreq_hashes(remote.ca_certificates))
                except CredentialError:
                    # An unusable CA is told when it is needed to judge a certificate.
                    continue
    if not wanted:
        return (*raw, *status)
    hashes = b"".join(dict.fromkeys(wanted))
    return (CertReqPayload(CertEncoding.X509_SIGNATURE, hashes), *raw, *status)


def unauthenticated(detail: str) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.AUTHENTICATION_FAILED, detail, notify=Notify.AUTHENTICATION_FAILED)
