"""What this gateway knows of secrets, keys and certificates: a store in memory that never touches a file.

Secrets and private keys go in and come out only to be computed with: no repr, no listing and no message shows
them. The names are those of the control socket's commands (load-shared, load-key, load-cert).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from cygnet.auth import certificate as certificates
from cygnet.auth import x509
from cygnet.auth.certificate import Certificate
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import NO_MATCH, Identity
from cygnet.auth.passwords import Stored, check_hash
from cygnet.auth.revocation import Policy, Revocations
from cygnet.crypto.signatures import PrivateKey, PublicKey, UnsuitableKey, check_public_key
from cygnet.wire.numbers import IdType

# Below this, a shared secret is suspected to be a word (RFC 7296, section 2.15): whoever plays the
# responder once can try words offline.
MIN_SECRET = 16
# Certificates of one CERT chain that are looked at (RFC 7296, section 3.6, demands four).
MAX_SENT = 10
MAX_PARSED = 4096
_PRIVATE_KEYS = (
    rsa.RSAPrivateKey,
    ec.EllipticCurvePrivateKey,
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
)

_OF_USERS = frozenset({"eap", "xauth", "ntlm", "scrypt"})
_NO_CA = "is no CA certificate: its basicConstraints do not say CA"

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared secret, for whom it is (none: for anybody), and its kind: "ike" a PSK, "eap" or "xauth" a
    password, "ntlm" and "scrypt" what is kept of one (`passwords`). `groups`: of which its owners are."""

    name: str
    kind: str
    secret: bytes = field(repr=False)
    owners: tuple[Identity, ...]
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class OwnKey:
    """What we sign with: the key, and the certificates that go with it, the end entity's first."""

    key: PrivateKey = field(repr=False)
    chain: tuple[Certificate, ...]
    raw: bytes = b""
    """Where there is no certificate: the public key (SubjectPublicKeyInfo)."""

    @property
    def certificate(self) -> Certificate:
        return self.chain[0]


@dataclass(frozen=True, slots=True, eq=False)
class TrustedKey:
    """A peer's public key whose certificate is trusted, and vouches for the identity; or one that was
    configured without a certificate (`raw`).

    Not yet a proof of anything: the peer must sign with it (`proof.verify_signature`).
    """

    identity: Identity
    chain: tuple[Certificate, ...]
    raw: PublicKey | None = None

    @property
    def public_key(self) -> PublicKey:
        return self.chain[0].public_key if self.raw is None else self.raw

    @property
    def valid_until(self) -> float:
        return min((certificate.not_after for certificate in self.chain), default=float("inf"))


class Credentials:
    """The store. One gateway has one; the configuration and the control socket fill it."""

    def __init__(self) -> None:
        self._shared: dict[str, Shared] = {}
        # Secrets by kind and exact owner, so that ten thousand peers cost one lookup; the rest is searched.
        self._by_owner: dict[tuple[str, int, bytes], list[Shared]] = {}
        self._patterns: list[Shared] = []
        self._users: dict[bytes, list[Shared]] = {}
        self._answered: tuple[tuple[object, ...], bytes | None] | None = None
        self._certificates: dict[bytes, Certificate] = {}
        self._anchors: dict[bytes, Certificate] = {}
        self._keys: dict[bytes, tuple[str, PrivateKey]] = {}
        self._key_ids: dict[str, bytes] = {}
        # What connections name besides: parsed once.
        self._parsed: dict[bytes, Certificate] = {}
        # The chain that was found last: whoever asks about its revocation need not parse it again.
        self._trusted: tuple[Certificate, ...] = ()
        self.revocations = Revocations()

    def __repr__(self) -> str:
        return (
            f"Credentials({len(self._shared)} secrets, {len(self._keys)} keys, "
            f"{len(self._certificates)} certificates, {len(self._anchors)} CAs)"
        )

    # Secrets

    def add_shared(
        self,
        name: str,
        kind: str,
        secret: bytes,
        owners: Iterable[Identity] = (),
        groups: Iterable[str] = (),
    ) -> tuple[str, ...]:
        """Add or replace a secret. Returns notes for the operator; raises `CredentialError` if empty."""
        if not secret:
            raise CredentialError(f"secret {name}: it is empty")
        if kind == "ntlm" and len(secret) != 16:
            raise CredentialError(f"secret {name}: an NT hash has 16 octets")
        if kind == "scrypt":
            check_hash(secret)
        self.remove_shared(name)
        named = tuple(owner for owner in owners if not owner.is_any)
        entry = Shared(name, kind, bytes(secret), named, frozenset(groups))
        self._shared[name] = entry
        self._index(entry)
        if kind == "ike" and len(secret) < MIN_SECRET:
            return (
                f"secret {name} is {len(secret)} octets long: one of fewer than {MIN_SECRET} can be guessed "
                "offline by anyone who is once taken for the peer; `openssl rand -base64 32` makes one",
            )
        return ()

    def remove_shared(self, name: str) -> bool:
        """Whether there was one."""
        self._answered = None
        entry = self._shared.pop(name, None)
        if entry is None:
            return False
        for owner in entry.owners:
            key = _owner_key(entry.kind, owner)
            rest = [other for other in self._by_owner.get(key, ()) if other is not entry]
            if rest:
                self._by_owner[key] = rest
            else:
                self._by_owner.pop(key, None)
        self._patterns = [other for other in self._patterns if other is not entry]
        if entry.kind in _OF_USERS:
            for user in _user_names(entry):
                others = [other for other in self._users.get(user, ()) if other is not entry]
                if others:
                    self._users[user] = others
                else:
                    self._users.pop(user, None)
        return True

    def shared_names(self) -> tuple[str, ...]:
        return tuple(self._shared)

    def ppk(self, name: bytes) -> bytes | None:
        """The postquantum pre-shared key with this name (RFC 8784), or None."""
        for entry in self._shared.values():
            if entry.kind == "ppk" and any(owner.data == name for owner in entry.owners):
                return entry.secret
        return None

    @property
    def has_ppk(self) -> bool:
        """Whether there is any."""
        return any(entry.kind == "ppk" for entry in self._shared.values())

    def psk(
        self,
        local_id: Identity,
        remote_id: Identity,
        local_address: Address | None = None,
        remote_address: Address | None = None,
    ) -> bytes | None:
        """The pre-shared key between these two, or None; the most specific owner wins, the peer's first.

        An owner is an identity, a pattern of them, or an address, which is asked after the identities. A
        secret without owners fits all. One with owners must name the peer; only one whose single owner is
        ourselves serves towards everybody. (strongSwan takes any secret that names us: with it, whoever
        shares a secret with us can claim to be somebody else.)
        """
        asked = (local_id, remote_id, local_address, remote_address)
        if self._answered is not None and self._answered[0] == asked:
            # A negotiation asks twice: for the peer's proof and for ours.
            return self._answered[1]
        remotes = _claims(remote_id, remote_address)
        locals_ = _claims(local_id, local_address)
        candidates = {id(entry): entry for entry in self._patterns}
        for claim, _ in (*remotes, *locals_):
            for entry in self._by_owner.get(_owner_key("ike", claim), ()):
                candidates[id(entry)] = entry
        best: tuple[int, int] | None = None
        secret = None
        for entry in candidates.values():
            if entry.kind != "ike":
                continue
            theirs, ours = _best_match(entry.owners, remotes), _best_match(entry.owners, locals_)
            if entry.owners and theirs == NO_MATCH and not (ours and len(entry.owners) == 1):
                continue
            rank = (theirs, ours)
            if best is None or rank > best:
                best, secret = rank, entry.secret
        self._answered = asked, secret
        return secret

    def user(self, name: bytes) -> Stored | None:
        """What is kept of the password of the user with this name, in each of its forms; None: nobody is
        called so. Names compare without regard to case; of `DOMAIN\\name`, as Windows sends it, the name
        serves where the whole is unknown. Secrets without owners belong to no user."""
        entries = self._users.get(name.lower()) or self._users.get(name.rpartition(b"\\")[2].lower())
        if not entries:
            return None
        kept = {entry.kind: entry for entry in entries}
        text = kept.get("eap") or kept.get("xauth")
        return Stored(
            name,
            text.secret if text is not None else b"",
            kept["ntlm"].secret if "ntlm" in kept else b"",
            kept["scrypt"].secret.decode() if "scrypt" in kept else "",
            frozenset().union(*(entry.groups for entry in entries)),
        )

    def _index(self, entry: Shared) -> None:
        if entry.kind in _OF_USERS:
            for user in _user_names(entry):
                self._users.setdefault(user, []).append(entry)
        if not entry.owners or any(owner.has_wildcards for owner in entry.owners):
            self._patterns.append(entry)
            return
        for owner in entry.owners:
            self._by_owner.setdefault(_owner_key(entry.kind, owner), []).append(entry)

    # Certificates

    def add_certificate(self, data: bytes, ca: bool = False) -> Certificate:
        """Add a certificate (PEM or DER), as a trust anchor if `ca`. Raises `CredentialError`."""
        parsed = certificates.parse_any(data)
        if ca:
            if not parsed.is_ca:
                raise CredentialError(f"{parsed.title} {_NO_CA}")
            if parsed.fault:
                raise CredentialError(f"{parsed.title}: {parsed.fault}")
            self._anchors[parsed.der] = parsed
        self._certificates[parsed.der] = parsed
        return parsed

    def remove_certificate(self, data: bytes) -> bool:
        """Whether there was one; DER."""
        self._anchors.pop(data, None)
        return self._certificates.pop(data, None) is not None

    def certificates(self) -> tuple[Certificate, ...]:
        return tuple(self._certificates.values())

    def certificate_of(self, data: bytes) -> Certificate:
        """A certificate that is loaded, or that a connection names (DER). Raises `CredentialError`."""
        return self._known(data)

    def anchors(self, ca_certificates: Sequence[bytes] = ()) -> tuple[Certificate, ...]:
        """The CAs with these DER certificates, or all that are loaded. Raises `CredentialError`."""
        if not ca_certificates:
            return tuple(self._anchors.values())
        found = tuple(self._known(data) for data in ca_certificates)
        for anchor in found:
            if not anchor.is_ca:
                raise CredentialError(f"{anchor.title} {_NO_CA}")
        return found

    def certreq_hashes(self, ca_certificates: Sequence[bytes] = ()) -> tuple[bytes, ...]:
        """What a CERTREQ lists: SHA-1 of each CA's public key info (RFC 7296, section 3.7)."""
        return tuple(dict.fromkeys(anchor.key_hash() for anchor in self.anchors(ca_certificates)))

    def ca_names(self, ca_certificates: Sequence[bytes] = ()) -> tuple[bytes, ...]:
        """What IKEv1's CERTREQs name: each CA's subject in DER (RFC 2408, section 3.10). As `anchors`."""
        return tuple(dict.fromkeys(anchor.subject for anchor in self.anchors(ca_certificates)))

    def _known(self, data: bytes) -> Certificate:
        found = self._certificates.get(data) or self._parsed.get(data)
        if found is None:
            if len(self._parsed) >= MAX_PARSED:
                self._parsed.clear()
            found = self._parsed[data] = certificates.parse(data)
        return found

    # Keys

    def add_private_key(self, data: bytes, passphrase: bytes | None = None) -> str:
        """Add a private key (PEM or DER). Its id: SHA-1 of the public key's bits, in hex, as swanctl has it.

        Raises `CredentialError`.
        """
        load = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
        try:
            key = load(data, passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # The library's text may describe the content; ours does not.
            hint = "no private key in PEM or DER, or its passphrase is wrong or missing"
            raise CredentialError(hint) from None
        if not isinstance(key, _PRIVATE_KEYS):
            raise CredentialError(f"a private key of kind {type(key).__name__} cannot sign for IKE")
        try:
            check_public_key(key.public_key())
        except UnsuitableKey as error:
            raise CredentialError(str(error)) from None
        info = _public_info(key.public_key())
        key_id = certificates.key_id_of(info).hex()
        self._keys[info] = (key_id, key)
        self._key_ids[key_id] = info
        return key_id

    def remove_private_key(self, key_id: str) -> bool:
        """Whether there was one with this id (hex)."""
        info = self._key_ids.pop(key_id.lower(), None)
        if info is None:
            return False
        del self._keys[info]
        return True

    def key_ids(self) -> tuple[str, ...]:
        return tuple(self._key_ids)

    def private_key(self, key_id: str) -> PrivateKey | None:
        """The key with this id (hex), or None."""
        info = self._key_ids.get(key_id.lower())
        return None if info is None else self._keys[info][1]

    def key_for(self, certificate_der: bytes) -> PrivateKey | None:
        """The private key that belongs to a certificate, or None. Raises `CredentialError`."""
        return self._key_of(self._known(certificate_der))

    def _key_of(self, certificate: Certificate) -> PrivateKey | None:
        entry = self._keys.get(_public_info(certificate.public_key))
        return None if entry is None else entry[1]

    def clear(self) -> None:
        """Forget everything."""
        for store in (
            self._shared,
            self._by_owner,
            self._users,
            self._certificates,
            self._anchors,
            self._keys,
            self._key_ids,
            self._parsed,
        ):
            store.clear()
        self._patterns = []
        self._answered = None
        self._trusted = ()
        self.revocations.clear()

    # Our own identity

    def own_key(
        self,
        configured: Sequence[bytes] = (),
        identity: Identity | None = None,
        requested: Iterable[bytes] = (),
    ) -> OwnKey:
        """The key and chain to prove ourselves with.

        `configured`: the connection's certificates (DER), the end entity's first; empty: a loaded one that
        vouches for `identity`, preferably under a CA that the peer `requested` (key hashes of its CERTREQs, a
        hint only).
        Raises `AuthenticationError` (CERTIFICATE_MISSING, PRIVATE_KEY_MISSING).
        """
        try:
            mine = [self._known(data) for data in configured]
        except CredentialError as error:
            raise AuthenticationError(Kind.CERTIFICATE_INVALID, f"our own certificate: {error}") from None
        if mine:
            key = self._key_of(mine[0])
            if key is None:
                raise AuthenticationError(
                    Kind.PRIVATE_KEY_MISSING, f"no private key is loaded for the certificate {mine[0].title}"
                )
            return OwnKey(key, self._chain(mine[0], mine[1:]))
        usable = [
            certificate
            for certificate in self._certificates.values()
            if not certificate.is_ca and (identity is None or certificate.vouches_for(identity))
        ]
        if not usable:
            whom = "this gateway" if identity is None else str(identity)
            raise AuthenticationError(
                Kind.CERTIFICATE_MISSING,
                f"no certificate is loaded whose subject or alternative name is {whom}",
            )
        wanted = frozenset(requested)
        found: list[OwnKey] = []
        for certificate in usable:
            key = self._key_of(certificate)
            if key is not None:
                found.append(OwnKey(key, self._chain(certificate, ())))
        if not found:
            raise AuthenticationError(
                Kind.PRIVATE_KEY_MISSING, f"no private key is loaded for the certificate {usable[0].title}"
            )
        for own in found:
            if any(issuer.key_hash() in wanted for issuer in self._issuers(own.chain[-1])):
                return own
        return found[0]

    def own_raw_key(self, configured: Sequence[bytes]) -> OwnKey:
        """The first of these public keys (DER) whose private key is here.

        Raises `AuthenticationError` (PRIVATE_KEY_MISSING).
        """
        for spki in configured:
            if spki in self._keys:
                return OwnKey(self._keys[spki][1], (), spki)
        raise AuthenticationError(
            Kind.PRIVATE_KEY_MISSING, "no private key is loaded for any of our public keys"
        )

    def has_key_of(self, spki: bytes) -> bool:
        """Whether the private key of this public one (DER) is here."""
        return spki in self._keys

    def own_identity(
        self, configured: Identity | None, certificates_der: Sequence[bytes], address: Address
    ) -> Identity:
        """What we call ourselves: the configured identity, else the certificate's subject, else the address.

        A DN goes out in the very octets of the certificate's subject (RFC 4945, section 3.1.5).
        Raises `CredentialError`.
        """
        subject = None
        if certificates_der:
            mine = self._known(certificates_der[0])
            # The subject comes last; where it is empty, the first alternative name serves.
            names = mine.identities()
            subject = next(
                (one for one in names if one.type == IdType.DER_ASN1_DN), names[0] if names else None
            )
        if configured is not None and not configured.is_any:
            if configured.type != IdType.DER_ASN1_DN:
                return configured
            candidates = [subject] if subject else []
            candidates += [
                Identity(IdType.DER_ASN1_DN, one.subject)
                for one in self._certificates.values()
                if not one.is_ca
            ]
            return next((one for one in candidates if one.same_as(configured)), configured)
        return subject or Identity.of_address(address)

    def _issuers(self, certificate: Certificate) -> list[Certificate]:
        return [one for one in self._certificates.values() if one.subject == certificate.issuer and one.is_ca]

    def _chain(self, certificate: Certificate, more: Sequence[Certificate]) -> tuple[Certificate, ...]:
        """The certificate and the CAs between it and its root, which the peer has itself."""
        chain = [certificate]
        known = [*more, *(one for one in self._certificates.values() if one.is_ca)]
        while len(chain) < x509.MAX_PATH:
            last = chain[-1]
            issuer = next((one for one in known if one.subject == last.issuer and one not in chain), None)
            if issuer is None or issuer.is_self_issued:
                break
            chain.append(issuer)
        return tuple(chain)

    # The peer's identity

    def trusted_key(
        self,
        identity: Identity,
        sent: Sequence[bytes],
        *,
        wall: float,
        ca_certificates: Sequence[bytes] = (),
        pinned: Sequence[bytes] = (),
    ) -> TrustedKey:
        """The public key that the peer must sign with to be `identity`.

        `sent`: its CERT payloads' DER, the end entity's first; without any, a loaded certificate serves.
        `wall`: POSIX seconds. `ca_certificates`: its chain must end in one of these, else in any CA loaded.
        `pinned`: it must have one of these certificates, which then needs no CA (unless CAs are named too).
        Raises `AuthenticationError` with a kind of its own for each of: no certificate, unreadable, another
        CA, expired, not yet valid, not for this identity, known to be revoked.
        """
        try:
            anchors = self.anchors(ca_certificates)
            own_pinned = [self._known(data) for data in pinned]
        except CredentialError as error:
            raise AuthenticationError(Kind.CERTIFICATE_UNTRUSTED, f"our own configuration: {error}") from None
        end_entity, intermediates = self._presented(identity, sent, own_pinned)
        if own_pinned and all(end_entity.der != one.der for one in own_pinned):
            raise AuthenticationError(
                Kind.CERTIFICATE_UNTRUSTED,
                f"the certificate {end_entity.title} is not the one configured for this peer",
            )
        if own_pinned and not ca_certificates:
            x509.check_times(end_entity, wall)
            chain: tuple[Certificate, ...] = (end_entity,)
        else:
            known = [one for one in self._certificates.values() if one.is_ca]
            chain = x509.validate(end_entity, (*intermediates, *known), anchors, wall)
        if not end_entity.vouches_for(identity):
            names = ", ".join(map(str, end_entity.identities())) or "nobody"
            raise AuthenticationError(
                Kind.CERTIFICATE_ID_MISMATCH,
                f"the peer says it is {identity}, its certificate is for {names[:500]}",
            )
        self.revocations.check(chain, Policy.RELAXED, wall)
        self._trusted = chain
        return TrustedKey(identity, chain)

    def certificate_base(self, certificate: Certificate) -> str:
        """Where the authority that issued this certificate has it, by its hash; "" if nowhere."""
        for authority, places in self.revocations.places():
            if places.certificate_base and self._known(authority).subject == certificate.issuer:
                return places.certificate_base
        return ""

    def path_of(
        self,
        chain: Sequence[bytes],
        *,
        wall: float,
        ca_certificates: Sequence[bytes] = (),
        pinned: Sequence[bytes] = (),
    ) -> tuple[Certificate, ...]:
        """The path to a CA of an authenticated peer's chain (DER): the very one that `trusted_key` found, or
        found again where only what the peer sent is known (EAP-TLS). A pinned certificate has none but
        itself. Raises `AuthenticationError`."""
        if tuple(one.der for one in self._trusted) == tuple(chain):
            return self._trusted
        try:
            end_entity, *others = [self._certificates.get(data) or certificates.parse(data) for data in chain]
            anchors = self.anchors(ca_certificates)
        except CredentialError as error:
            raise AuthenticationError(Kind.CERTIFICATE_INVALID, f"the peer's chain: {error}") from None
        if end_entity.der in pinned and not ca_certificates:
            return (end_entity,)
        known = [one for one in self._certificates.values() if one.is_ca]
        return x509.validate(end_entity, (*others, *known), anchors, wall)

    def _presented(
        self, identity: Identity, sent: Sequence[bytes], pinned: Sequence[Certificate]
    ) -> tuple[Certificate, list[Certificate]]:
        """The end entity's certificate, and what else the peer sent (unreadable ones are passed over)."""
        if not sent:
            known = pinned or [one for one in self._certificates.values() if not one.is_ca]
            found = next((one for one in known if one.vouches_for(identity)), None)
            if found is None:
                raise AuthenticationError(
                    Kind.CERTIFICATE_MISSING,
                    f"the peer {identity} sent no certificate and none is loaded for it",
                )
            return found, []
        if len(sent) > MAX_SENT:
            raise AuthenticationError(
                Kind.CERTIFICATE_INVALID, f"the peer sent {len(sent)} certificates; {MAX_SENT} are accepted"
            )
        try:
            end_entity = certificates.parse(sent[0])
        except CredentialError as error:
            raise AuthenticationError(Kind.CERTIFICATE_INVALID, f"the peer's certificate: {error}") from None
        intermediates = []
        for data in sent[1:]:
            try:
                intermediates.append(certificates.parse(data))
            except CredentialError:
                continue
        return end_entity, intermediates


def _public_info(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _owner_key(kind: str, owner: Identity) -> tuple[str, int, bytes]:
    folded = owner.folded()
    return kind, folded.type, folded.data


def _user_names(entry: Shared) -> tuple[bytes, ...]:
    """Names as they come over EAP and XAUTH: text, whatever type of identity the owner is."""
    named = (IdType.FQDN, IdType.RFC822_ADDR, IdType.KEY_ID)
    return tuple(
        (owner.data if owner.type in named else str(owner).encode()).lower() for owner in entry.owners
    )


def _claims(identity: Identity, address: Address | None) -> tuple[tuple[Identity, int], ...]:
    """What an owner may match, the identity counting more than the address."""
    claims = [(identity, 2)]
    if address is not None:
        claims.append((Identity.of_address(address), 0))
    return tuple(claims)


def _best_match(owners: Iterable[Identity], claims: Iterable[tuple[Identity, int]]) -> int:
    """0 if no owner matches a claim, else more the closer."""
    best = NO_MATCH
    for owner in owners:
        for claim, weight in claims:
            quality = claim.match_quality(owner)
            if quality > NO_MATCH:
                best = max(best, quality + weight * 100_000)
    return best
