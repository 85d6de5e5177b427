"""What main and aggressive mode have in common: agreement, keys, identities and proofs (RFC 2409, section 5).

A mode proves the peer and yields `Proved`; only that makes an established SA, and quick mode takes no other.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from cygnet.auth.credentials import OwnKey
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.isakmp import (
    METHODS,
    prove_signature,
    verify_hash,
    verify_hash_before_login,
    verify_signature,
    verify_signature_before_login,
)
from cygnet.auth.peer import AuthenticatedPeer, Phase1Peer
from cygnet.crypto.errors import InvalidPublicValue
from cygnet.crypto.ikev1 import (
    Phase1Keys,
    Phase1Suite,
    phase1_hash,
    phase1_iv,
    phase1_keys,
    phase1_suite,
    skeyid_of_secret,
    skeyid_of_signatures,
)
from cygnet.crypto.key_exchange import KeyExchange, check_public
from cygnet.ike.changes import Establish, NoteLife, UseIsakmpKeys
from cygnet.ike.configuration import AuthClass, Connection, SendCert, Unique
from cygnet.ike.errors import Difference, IkeError, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.revocation import check_revocation
from cygnet.ike.state import IkeSuite, Isakmp, Phase, ike_suite
from cygnet.ike.steps import Context, Refused, Steps
from cygnet.ike.v1 import lifetimes, nat, proposals
from cygnet.ike.v1.chains import sent_certificates
from cygnet.ike.v1.lifetimes import Lifetime
from cygnet.ike.v1.methods import (
    local_auth,
    local_login,
    method_of,
    needs_key,
    remote_auth,
    remote_login,
)
from cygnet.ike.v1.notifications import wrong
from cygnet.ike.v1.proposals import Phase1Choice
from cygnet.ike.v1.protection import isakmp_of
from cygnet.ike.v1.steps import Received
from cygnet.ike.world import Path
from cygnet.records import dataclass
from cygnet.wire.message import HEADER_LENGTH
from cygnet.wire.numbers import TransformType
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.numbers import Authentication, CertEncoding, Hash, Notify, Protocol
from cygnet.wire.v1.payloads import (
    CertPayload,
    CertReqPayload,
    HashPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    SignaturePayload,
    VendorIdPayload,
)

NONCE_LENGTH: Final = 32
HASH_OF_METHOD: Final = {
    Authentication.ECDSA_256: Hash.SHA2_256,
    Authentication.ECDSA_384: Hash.SHA2_384,
    Authentication.ECDSA_521: Hash.SHA2_512,
}
VENDOR_WORD: Final = 14
"""Octets by which vendor IDs with and without a version are the same."""
GENERIC_HEADER: Final = 4
AMPLIFIED: Final = 1.5
"""An answer to an address that is not proven is at most so many times the question (T8)."""
MAX_CANDIDATES: Final = 32
"""Connections that one claimed identity is tried against; each may cost a signature check."""


# -- what a mode works with and yields ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proved:
    """The peer's proof was good, by the rules of this connection."""

    connection: Connection
    local_id: Identity
    peer: AuthenticatedPeer | Phase1Peer
    initial_contact: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether whatever else the peer holds is about to be closed."""
        unique = self.connection.unique
        return unique is Unique.REPLACE or (self.initial_contact and unique is not Unique.NEVER)


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the SA payloads and the vendor IDs say, before there are keys. `sa_body` is SAi_b, `cky_r` the
    responder's cookie; `secret` the pre-shared key, empty with signatures."""

    choice: Phase1Choice
    sa_body: bytes
    cky_i: bytes
    cky_r: bytes
    vendor_ids: tuple[bytes, ...]

    @property
    def suite(self) -> Phase1Suite:
        return self.choice.suite

    def room(self, answer: SaPayload) -> int:
        """Octets that a main mode's second message may have beside this. The first had at least a header,
        its SA and the vendor IDs."""
        asked = HEADER_LENGTH + GENERIC_HEADER + len(self.sa_body)
        asked += sum([GENERIC_HEADER + len(one) for one in self.vendor_ids])
        return int(AMPLIFIED * asked) - HEADER_LENGTH - GENERIC_HEADER - len(answer.emit())

    @property
    def nat_t(self) -> bytes:
        return nat.choose(self.vendor_ids)

    @property
    def signs(self) -> bool:
        """SKEYID is that of signatures."""
        return METHODS[self.choice.method].signs


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that the proofs cover (RFC 2409, section 5)."""

    agreed: Agreed
    keys: Phase1Keys
    public_i: bytes
    public_r: bytes
    secret: bytes

    def hash_i(self, id_body: bytes) -> bytes:
        """HASH_I = prf(SKEYID, g^xi | g^xr | CKY-I | CKY-R | SAi_b | IDii_b)"""
        agreed = self.agreed
        return phase1_hash(
            self.proof_suite, self.keys.skeyid, self.public_i, self.public_r,
            agreed.cky_i, agreed.cky_r, agreed.sa_body, id_body,
        )  # fmt: skip

    def hash_r(self, id_body: bytes) -> bytes:
        """HASH_R = prf(SKEYID, g^xr | g^xi | CKY-R | CKY-I | SAi_b | IDir_b)"""
        agreed = self.agreed
        return phase1_hash(
            self.proof_suite, self.keys.skeyid, self.public_r, self.public_i,
            agreed.cky_r, agreed.cky_i, agreed.sa_body, id_body,
        )  # fmt: skip

    @property
    def proof_suite(self) -> Phase1Suite:
        """What makes HASH_I and HASH_R: with ECDSA the hash that belongs to the curve, whatever was
        negotiated for the rest (strongSwan's reading of RFC 4754, section 2: the method implies its
        hash)."""
        choice = self.agreed.choice
        implied = HASH_OF_METHOD.get(choice.method)
        return phase1_suite(choice.encryption, choice.key_bits, implied) if implied else choice.suite


# -- first messages -------------------------------------------------------------------------------


def methods(context: Context, connection: Connection) -> tuple[int, ...]:
    """The authentication methods that this connection stands for; of signatures, the one our key can do.
    Raises `IkeError` when we have no key."""
    key = own_key(context, connection, ()).key if needs_key(connection) else None
    return (method_of(connection, context.state.original_initiator, key),)


def announcements(connection: Connection) -> tuple[Payload, ...]:
    """Our vendor IDs."""
    return tuple(map(VendorIdPayload, (*_extensions(connection), *nat.SPOKEN)))


def answers(connection: Connection, theirs: Collection[bytes], room: int) -> tuple[Payload, ...]:
    """Our vendor IDs in an answer: of what the peer announced, as much as `room` octets hold, what a tunnel
    needs first. Of NAT traversals one is said back."""
    sent = []
    for one in (nat.choose(theirs), *_extensions(connection)):
        said = any(other.startswith(one[:VENDOR_WORD]) for other in theirs)
        size = GENERIC_HEADER + len(one)
        if one and said and size <= room:
            sent.append(VendorIdPayload(one))
            room -= size
    return tuple(sent)


def _extensions(connection: Connection) -> Iterator[bytes]:
    yield vendor_ids.DPD
    if local_login(connection) is not None or remote_login(connection) is not None:
        yield vendor_ids.XAUTH
    if connection.vips or connection.pools:
        yield vendor_ids.UNITY
    if connection.fragmentation != "no":
        yield vendor_ids.FRAGMENTATION_CISCO


def announces_fragments(theirs: Iterable[bytes]) -> bool:
    """Whether the peer sends pieces, and puts them together."""
    return any(one.startswith(vendor_ids.FRAGMENTATION) for one in theirs)


def may_fragment(connection: Connection, theirs: Iterable[bytes]) -> bool:
    """Whether the peer puts pieces together, and we may send them."""
    return connection.fragmentation in ("yes", "force") and announces_fragments(theirs)


def nonce(context: Context) -> bytes:
    return context.entropy.octets(NONCE_LENGTH)


def public_of(message: Message, ours: KeyExchange) -> tuple[bytes, bytes]:
    """(the peer's public value, g^xy). Raises `PeerMisbehaved`."""
    public = message.one(KePayload).data
    try:
        return public, ours.shared(public)
    except InvalidPublicValue as error:
        raise wrong(str(error)) from None


def check_public_value(group: int, public: bytes) -> None:
    """A value worth a key of ours: in the large groups that is what costs. Raises `PeerMisbehaved`."""
    try:
        check_public(group, public)
    except InvalidPublicValue as error:
        raise wrong(str(error)) from None


def nonce_of(message: Message, ours: bytes) -> bytes:
    """The peer's nonce; not our own (a reflection)."""
    theirs = message.one(NoncePayload).data
    if theirs == ours:
        raise wrong("our own nonce came back")
    return theirs


# -- keys -----------------------------------------------------------------------------------------


def secret_for(context: Context, connection: Connection, identity: Identity | None = None) -> bytes:
    """The pre-shared key. Main mode needs it before the peer has said who it is: so it is found by the
    identity that is expected, or by the peer's address (RFC 2409, section 5.4)."""
    path, expected = context.state.path, remote_auth(connection).id
    whom = identity or expected
    if whom is None or whom.has_wildcards:
        whom = Identity.of_address(path.remote)
    secret = context.credentials.psk(own_identity(context, connection), whom, path.local, path.remote)
    if secret is None:
        raise PeerIncompatible(Reason.PSK_NOT_FOUND, f"no pre-shared key is loaded for {whom}")
    return secret


def secret_for_anybody(context: Context, connection: Connection, identity: Identity) -> bytes:
    """As the answer to aggressive mode: where there is no key for the identity, a random one, so that nobody
    learns which identities there are (T12). Its proof is that of a wrong key."""
    try:
        return secret_for(context, connection, identity)
    except PeerIncompatible:
        return context.entropy.octets(NONCE_LENGTH)


def derive(
    agreed: Agreed, secret: bytes, ni: bytes, nr: bytes, public_i: bytes, public_r: bytes, shared: bytes
) -> Material:
    """SKEYID and what comes of it (RFC 2409, section 5)."""
    suite = agreed.suite
    if secret:
        skeyid = skeyid_of_secret(suite, secret, ni, nr)
    else:
        skeyid = skeyid_of_signatures(suite, ni, nr, shared)
    keys = phase1_keys(suite, skeyid, shared, agreed.cky_i, agreed.cky_r)
    return Material(agreed, keys, public_i, public_r, secret)


def use_keys(
    context: Context,
    material: Material,
    message: Message,
    path: Path,
    ni: bytes,
    nr: bytes,
    *,
    float_now: bool,
) -> UseIsakmpKeys:
    """From here on everything is encrypted; behind a NAT it travels on port 4500 (RFC 3947, section 4)."""
    agreed, choice = material.agreed, material.agreed.choice
    behind, peer_behind, pretended = nat.detect(message, agreed.suite, agreed.cky_i, agreed.cky_r, path)
    forced = bool(agreed.nat_t) and (pretended or encapsulates(context))
    if float_now and (behind or peer_behind or forced):
        path = nat.floated(path, context.options.port, context.options.port_nat_t)
    return UseIsakmpKeys(
        spi_i=agreed.cky_i,
        spi_r=agreed.cky_r,
        suite=_shown(choice),
        isakmp=Isakmp(
            encryption=choice.encryption,
            key_bits=choice.key_bits,
            hash=choice.hash,
            authentication=choice.method,
            keys=material.keys,
            last_block=phase1_iv(agreed.suite, material.public_i, material.public_r),
            nat_t=agreed.nat_t,
            dpd=any(one.startswith(vendor_ids.DPD[:14]) for one in agreed.vendor_ids),
            vendor_ids=agreed.vendor_ids,
            life=0 if context.state.original_initiator else choice.life.seconds,
            made=context.now.monotonic if context.state.isakmp is None else context.state.isakmp.made,
        ),
        nat_local=behind,
        nat_remote=peer_behind,
        forced=forced,
        fragmentation=may_fragment(context.connection, agreed.vendor_ids),
        nonce=min(ni, nr),
        path=path,
    )


def _shown(choice: Phase1Choice) -> IkeSuite:
    """The suite in IKEv2's numbers, as people see it."""
    numbers = {transform.type: transform for transform in choice.proposal.transforms}
    cipher = numbers[TransformType.ENCR]
    return ike_suite(
        cipher.id,
        cipher.key_bits,
        numbers[TransformType.INTEG].id,
        numbers[TransformType.PRF].id,
        choice.group,
    )


def encapsulates(context: Context) -> bool:
    """Do we want UDP encapsulation without a NAT?"""
    encap = context.connection.encap
    return context.options.encapsulate if encap is None else encap


# -- who we are -----------------------------------------------------------------------------------


def own_identity(context: Context, connection: Connection) -> Identity:
    local = local_auth(connection)
    try:
        return context.credentials.own_identity(local.id, local.certificates, context.state.path.local)
    except CredentialError as error:
        raise PeerIncompatible(Reason.CERTIFICATE_INVALID, str(error)) from None


def own_key(context: Context, connection: Connection, wanted: Sequence[bytes]) -> OwnKey:
    local = local_auth(connection)
    try:
        return context.credentials.own_key(local.certificates, own_identity(context, connection), wanted)
    except AuthenticationError as error:
        raise failed(error) from None


def id_payload(identity: Identity) -> IdPayload:
    """RFC 2407, section 4.6.2: protocol and port are 0 in phase 1."""
    return IdPayload(identity.type, 0, 0, identity.data)


def prove(
    context: Context,
    connection: Connection,
    material: Material,
    digest: bytes,
    asked: tuple[CertReqPayload, ...],
) -> tuple[Payload, ...]:
    """HASH_I or HASH_R itself, or certificates and its signature."""
    if not METHODS[material.agreed.choice.method].sends_signature(context.state.original_initiator):
        return (HashPayload(digest),)
    own = own_key(context, connection, ())
    try:
        signature = prove_signature(own, material.agreed.choice.method, digest)
    except AuthenticationError as error:
        raise failed(error) from None
    when = connection.send_cert
    certificates: tuple[Payload, ...] = ()
    if when is SendCert.ALWAYS or (when is SendCert.IFASKED and asked):
        certificates = tuple([CertPayload(CertEncoding.X509_SIGNATURE, one.der) for one in own.chain])
    return (*certificates, SignaturePayload(signature))


def certificate_requests(context: Context, connection: Connection) -> tuple[CertReqPayload, ...]:
    """One for each CA that the peer's certificate may come from (RFC 2408, section 3.10)."""
    remote = remote_auth(connection)
    if remote.method is not AuthClass.PUBKEY or not connection.send_certreq:
        return ()
    try:
        names = context.credentials.ca_names(remote.ca_certificates)
    except CredentialError:
        # An unusable CA is told when it is needed to judge a certificate.
        names = ()
    return tuple([CertReqPayload(CertEncoding.X509_SIGNATURE, name) for name in names])


def initial_contact(
    context: Context, connection: Connection, local_id: Identity, remote_id: Identity | None
) -> tuple[NotifyPayload, ...]:
    """RFC 2407, section 4.6.3.3: this is our only SA with that peer."""
    if connection.unique is Unique.NEVER or remote_id is None or remote_id.has_wildcards:
        return ()
    if context.has_contact(local_id, remote_id):
        return ()
    spi = context.state.spi_i + context.state.spi_r
    return (NotifyPayload(Protocol.ISAKMP, spi, Notify.INITIAL_CONTACT, b""),)


# -- who the peer is ------------------------------------------------------------------------------


def claimed(message: Message) -> Identity:
    """Who the sender says it is."""
    return identity_of(message.one(IdPayload))


def identity_of(payload: IdPayload) -> Identity:
    try:
        return Identity.from_wire(payload.id_type, payload.data)
    except BadIdentity as error:
        raise wrong(f"the peer's identity: {error}") from None


def verify(
    context: Context,
    connection: Connection,
    material: Material,
    message: Message,
    claimed: Identity,
    digest: bytes,
) -> AuthenticatedPeer | Phase1Peer:
    """The peer's proof, judged by what the connection demands. Who has to log in besides is nobody yet: a
    `Phase1Peer`. Raises `AuthenticationError`."""
    remote = remote_auth(connection)
    method, is_initiator = METHODS[material.agreed.choice.method], not context.state.original_initiator
    must_log_in = method.logs_in(is_initiator)
    if not method.sends_signature(is_initiator):
        value = message.one(HashPayload).data
        if must_log_in:
            return verify_hash_before_login(value, digest, claimed, remote.id)
        return verify_hash(value, digest, claimed, remote.id)
    if not claimed.matches(remote.id):
        raise AuthenticationError(
            Kind.PEER_ID_MISMATCH, f"the peer says it is {claimed}, expected was {remote.id}"
        )
    trusted = context.credentials.trusted_key(
        claimed,
        sent_certificates(message, claimed),
        wall=context.now.wall,
        ca_certificates=remote.ca_certificates,
        pinned=remote.certificates,
    )
    signature = message.one(SignaturePayload).data
    if must_log_in:
        return verify_signature_before_login(
            signature, digest, trusted, remote.id, method.number, remote.schemes
        )
    return verify_signature(signature, digest, trusted, remote.id, method.number, remote.schemes)


def verify_initiator(
    context: Context, material: Material, received: Received, idii: IdPayload, idii_b: bytes
) -> Proved:
    """The connection that the initiator belongs to, by identity and proof together.

    With a pre-shared key the proof shows who knows *that* key: so only a connection counts whose own key for
    the claimed identity is the same one.
    """
    message, path = received.message, context.state.path
    claimed = identity_of(idii)
    digest = material.hash_i(idii_b)
    first_error: IkeError | None = None
    tried = 0
    for loaded in context.connections.for_identity(path.local, path.remote, claimed, 1):
        connection = loaded.connection
        if not suits(context, connection, material.agreed.choice):
            continue
        try:
            if material.secret and not hmac.compare_digest(
                secret_for(context, connection, claimed), material.secret
            ):
                raise PeerIncompatible(
                    Reason.PSK_MISMATCH, f"the pre-shared key of {claimed} is another one than the address's"
                )
            peer = verify(context, connection, material, message, claimed, digest)
        except AuthenticationError as error:
            first_error = first_error or failed(error)
        except IkeError as error:
            first_error = first_error or error
        else:
            return Proved(
                connection,
                own_identity(context, connection),
                peer,
                contacts(message),
            )
        tried += 1
        if tried == MAX_CANDIDATES:
            break
    raise Refused(first_error or _nobody(context, claimed))


def suits(context: Context, connection: Connection, choice: Phase1Choice) -> bool:
    """Whether this connection would have agreed on what was agreed."""
    if connection.aggressive != context.connection.aggressive:
        return False
    try:
        allowed = methods(context, connection)
    except IkeError:
        return False
    try:
        proposals.select_phase1(proposals.answer_phase1(choice), connection.proposals, allowed, choice.group)
    except PeerIncompatible:
        return False
    return True


def _nobody(context: Context, claimed: Identity) -> IkeError:
    """No connection takes this identity: say what the one for its address would take."""
    expected = remote_auth(context.connection).id
    return PeerIncompatible(
        Reason.PEER_ID_MISMATCH,
        f"the peer says it is {claimed}, connection {context.connection.name} expects {expected}",
        difference=Difference(str(expected), str(claimed), "identity"),
    )


def verify_responder(context: Context, material: Material, received: Received) -> Proved:
    """The responder's proof, by the connection that we initiate."""
    connection, message = context.connection, received.message
    idir = message.one(IdPayload)
    digest = material.hash_r(message.body_of(idir))
    try:
        peer = verify(context, connection, material, message, identity_of(idir), digest)
    except AuthenticationError as error:
        raise Refused(failed(error)) from None
    return Proved(connection, own_identity(context, connection), peer, contacts(message))


def contacts(message: Message) -> bool:
    """Whether the peer says that it has no other SA with us. HASH_I and HASH_R do not cover it, so in clear
    anybody may have."""
    return message.encrypted and message.notify(Notify.INITIAL_CONTACT) is not None


def check(context: Context, proved: Proved) -> Steps[None]:
    """That no certificate of the peer was revoked, as its connection wants to know it."""
    yield from check_revocation(context, remote_auth(proved.connection), proved.peer)


def failed(error: AuthenticationError) -> IkeError:
    """What went wrong with a proof."""
    return PeerMisbehaved(Reason(error.kind.value), error.detail)


def established(context: Context, proved: Proved, peer: AuthenticatedPeer) -> Establish:
    now = context.now.monotonic
    rekey_at, reauth_at, expires_at = _deadlines(
        context, proved.connection, now, isakmp_of(context.state).life
    )
    return Establish(
        peer,
        proved.connection,
        proved.local_id,
        now,
        rekey_at,
        reauth_at,
        expires_at,
        proved.initial_contact,
    )


# -- how long it lasts (RFC 2407, section 4.6.3.1) --------------------------------------------------


def shorter_life(context: Context, connection: Connection, choice: Phase1Choice) -> tuple[NotifyPayload, ...]:
    """As responder: RESPONDER-LIFETIME, when we keep the SA for less time than was offered."""
    ours = lifetimes.of_phase_1(connection)
    if not ours.shorter_than(Lifetime(choice.life.seconds)):
        return ()
    spi = context.state.spi_i + context.state.spi_r
    return (lifetimes.responder_lifetime(ours, Protocol.ISAKMP, spi, 1),)


def told_life(context: Context, message: Message) -> tuple[NoteLife, ...]:
    """As initiator: what a RESPONDER-LIFETIME for this SA says, and what it means."""
    state = context.state
    for notify in message.all(NotifyPayload):
        ours = notify.protocol == Protocol.ISAKMP and notify.spi == state.spi_i + state.spi_r
        if notify.type == Notify.RESPONDER_LIFETIME and ours and state.original_initiator:
            told = lifetimes.told(notify, 1)
            if told is not None and told.seconds:
                return (_noted(context, told.seconds),)
    return ()


def _noted(context: Context, life: int) -> NoteLife:
    state = context.state
    if state.phase is not Phase.ESTABLISHED:
        return NoteLife(life, state.rekey_at, state.reauth_at, state.expires_at)
    return NoteLife(life, *_deadlines(context, context.connection, state.established, life))


def _deadlines(
    context: Context, connection: Connection, began: float, life: int
) -> tuple[float, float, float]:
    is_initiator = context.state.original_initiator
    return lifetimes.phase_1_deadlines(connection, life, began, context.entropy, is_initiator=is_initiator)
