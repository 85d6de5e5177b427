"""Phase 1's proofs of IKEv1: HASH_I and HASH_R, and their signatures (RFC 2409, section 5; RFC 4754; hybrid).

    pre-shared key   HASH, made of a SKEYID that only who has the key can make
    signature        SIG, the HASH signed; RSA pads it as it is, without the name of a hash (RFC 2409, 5.1)
    hybrid           the gateway sends SIG, its client HASH, which proves nothing: the login that follows does
    XAUTH            either of the first two, and then a login of the initiator or the responder as well

What a HASH covers is `crypto.ikev1`'s. A verification returns a value or raises, as in `auth.proof`: an
`AuthenticatedPeer`, or where a login must follow a `Phase1Peer`, which authenticates nobody until
`logged_in` makes an `AuthenticatedPeer` of it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection
from typing import Any, Final

from cygnet.auth.credentials import OwnKey, TrustedKey
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer, Phase1Peer, attest, attest_phase1
from cygnet.auth.proof import check_identity
from cygnet.crypto import signatures
from cygnet.crypto.errors import SignatureInvalid, UnsuitableKey
from cygnet.crypto.signatures import PrivateKey, PublicKey, SignatureScheme
from cygnet.records import dataclass
from cygnet.wire.numbers import AuthMethod
from cygnet.wire.v1.numbers import Authentication

RSA: Final = "rsa"
ECDSA: Final = "ecdsa"
PSK: Final = "psk"


@dataclass(frozen=True, slots=True)
class Method:
    """What an authentication method of phase 1 means.

    `kind`: PSK, RSA or ECDSA. `login`: who must log in afterwards, "initiator", "responder" or nobody ("").
    `hybrid`: whoever logs in proves nothing in phase 1.
    """

    number: int
    kind: str
    login: str = ""
    hybrid: bool = False

    @property
    def signs(self) -> bool:
        """SKEYID is that of signatures; in hybrid methods as well."""
        return self.kind != PSK

    def sends_signature(self, initiator: bool) -> bool:
        """Whether this side sends SIG, not HASH."""
        return self.signs and not (self.hybrid and self.logs_in(initiator))

    def logs_in(self, initiator: bool) -> bool:
        return self.login == ("initiator" if initiator else "responder")


METHODS: Final[dict[int, Method]] = {
    method.number: method
    for method in (
        Method(Authentication.PSK, PSK),
        Method(Authentication.RSA_SIGNATURE, RSA),
        Method(Authentication.ECDSA_256, ECDSA),
        Method(Authentication.ECDSA_384, ECDSA),
        Method(Authentication.ECDSA_521, ECDSA),
        Method(Authentication.HYBRID_INIT_RSA, RSA, "initiator", hybrid=True),
        Method(Authentication.HYBRID_RESP_RSA, RSA, "responder", hybrid=True),
        Method(Authentication.XAUTH_INIT_PSK, PSK, "initiator"),
        Method(Authentication.XAUTH_RESP_PSK, PSK, "responder"),
        Method(Authentication.XAUTH_INIT_RSA, RSA, "initiator"),
        Method(Authentication.XAUTH_RESP_RSA, RSA, "responder"),
    )
}
"""All that are built. RSA encryption (4, 5 and their XAUTH forms) is not, because of Bleichenbacher's oracle
(CVE-2018-0131 and its like); DSS because nobody has such certificates."""

_ECDSA_OF_CURVE: Final = {
    "secp256r1": Authentication.ECDSA_256,
    "secp384r1": Authentication.ECDSA_384,
    "secp521r1": Authentication.ECDSA_521,
}
_AUTH_METHOD: Final = {PSK: AuthMethod.PSK, RSA: AuthMethod.RSA}
"""What an `AuthenticatedPeer` calls them; ECDSA's numbers are the same in both versions."""


def method_for_key(key: PrivateKey | PublicKey) -> int:
    """The method that signs with this key. Raises `AuthenticationError` (AUTH_METHOD_MISMATCH): IKEv1 knows
    RSA and ECDSA on the NIST curves, nothing else."""
    classic = signatures.classic_scheme_for(key)
    if classic is None:
        raise AuthenticationError(
            Kind.AUTH_METHOD_MISMATCH,
            "our key can sign in IKEv2 only: IKEv1 knows RSA, and ECDSA on P-256, P-384 and P-521",
        )
    return _ECDSA_OF_CURVE[classic.curve] if classic.curve else Authentication.RSA_SIGNATURE


# -- our proof ----------------------------------------------------------------------------------


def prove_signature(own: OwnKey, method: int, digest: bytes) -> bytes:
    """The content of our SIG payload over HASH_I or HASH_R. Raises `AuthenticationError`: a key that does not
    fit the method."""
    try:
        if METHODS[method].kind == RSA:
            return signatures.sign_bare_hash(own.key, digest)
        return signatures.sign_prehashed(own.key, signatures.scheme_by_method(method), digest)
    except UnsuitableKey as error:
        raise AuthenticationError(Kind.AUTH_METHOD_MISMATCH, f"our own key: {error}") from None


# -- the peer's proof ---------------------------------------------------------------------------


def verify_hash(
    value: bytes, expected: bytes, claimed: Identity, pattern: Identity | None
) -> AuthenticatedPeer:
    """The peer `claimed` knows the pre-shared key that SKEYID was made of: its HASH is the `expected` one.

    `pattern`: whom we expect; None: anybody. Raises `AuthenticationError`: PSK_MISMATCH, PEER_ID_MISMATCH.
    """
    _judge_hash(value, expected, claimed)
    check_identity(claimed, pattern)
    return attest(claimed, AuthMethod.PSK, PSK)


def verify_hash_before_login(
    value: bytes, expected: bytes, claimed: Identity, pattern: Identity | None
) -> Phase1Peer:
    """As `verify_hash`, of a peer who must log in. In hybrid methods the same HASH shows no more than that
    both ends talk about the same keys."""
    _judge_hash(value, expected, claimed)
    check_identity(claimed, pattern)
    return attest_phase1(claimed, AuthMethod.PSK, PSK)


def verify_signature(
    signature: bytes,
    digest: bytes,
    trusted: TrustedKey,
    pattern: Identity | None,
    method: int,
    schemes: Collection[str] = (),
) -> AuthenticatedPeer:
    """The peer holds the private key of the certificate that vouches for its identity.

    `digest`: the HASH that we computed; `schemes`: names that the connection allows, of which only the kind
    of key counts here; empty: any. Raises `AuthenticationError`: PEER_ID_MISMATCH, AUTH_METHOD_MISMATCH,
    SIGNATURE_INVALID.
    """
    scheme = _judge_signature(signature, digest, trusted, pattern, method, schemes)
    return attest(
        trusted.identity,
        _AUTH_METHOD.get(METHODS[method].kind, method),
        scheme,
        chain=tuple(certificate.der for certificate in trusted.chain),
        valid_until=trusted.valid_until,
    )


def verify_signature_before_login(
    signature: bytes,
    digest: bytes,
    trusted: TrustedKey,
    pattern: Identity | None,
    method: int,
    schemes: Collection[str] = (),
) -> Phase1Peer:
    """As `verify_signature`, of a peer who must log in."""
    scheme = _judge_signature(signature, digest, trusted, pattern, method, schemes)
    return attest_phase1(
        trusted.identity,
        _AUTH_METHOD.get(METHODS[method].kind, method),
        scheme,
        chain=tuple(certificate.der for certificate in trusted.chain),
        valid_until=trusted.valid_until,
    )


def logged_in(
    peer: Phase1Peer,
    user: Identity,
    *,
    groups: frozenset[str] = frozenset(),
    attributes: tuple[tuple[str, Any], ...] = (),
) -> AuthenticatedPeer:
    """The peer's login as `user` was good, and is the whole proof together with phase 1's. `groups` and
    `attributes` as in `AuthenticatedPeer`.

    For who has just judged that login, and for nobody else.
    """
    return attest(
        peer.identity,
        peer.method,
        f"{peer.scheme}+xauth",
        chain=peer.chain,
        valid_until=peer.valid_until,
        eap_identity=user,
        groups=groups,
        attributes=attributes,
    )


def _judge_hash(value: bytes, expected: bytes, claimed: Identity) -> None:
    # Compared in constant time; `is not True`, so that no odd result can pass (CVE-2020-16088).
    outcome: object = hmac.compare_digest(value, expected)
    if outcome is not True:
        raise AuthenticationError(
            Kind.PSK_MISMATCH, f"the pre-shared key of {claimed} is not the one that is loaded here"
        )


def _judge_signature(
    signature: bytes,
    digest: bytes,
    trusted: TrustedKey,
    pattern: Identity | None,
    method: int,
    schemes: Collection[str],
) -> str:
    """The name of the scheme; raises."""
    check_identity(trusted.identity, pattern)
    kind = METHODS[method].kind
    if kind == RSA:
        name = "rsa-bare-hash"
        check: Callable[[PublicKey, bytes, bytes], object] = signatures.verify_bare_hash
    elif kind == ECDSA:
        scheme = signatures.scheme_by_method(method)
        name = scheme.name

        judge: Callable[[PublicKey, SignatureScheme, bytes, bytes], object] = signatures.verify
        bare: Callable[[PublicKey, SignatureScheme, bytes, bytes], object] = signatures.verify_prehashed

        def check(key: PublicKey, signature: bytes, digest: bytes) -> object:
            # RFC 4754 hashes HASH_I once more, as a message; strongSwan and others sign it as the hash it is.
            try:
                return judge(key, scheme, signature, digest)
            except SignatureInvalid:
                return bare(key, scheme, signature, digest)

    else:
        raise AuthenticationError(
            Kind.AUTH_METHOD_MISMATCH, f"{Authentication.name_of(method)} is no method with signatures"
        )
    if schemes and kind not in {one.partition("-")[0] for one in schemes}:
        raise AuthenticationError(
            Kind.AUTH_METHOD_MISMATCH, f"the peer signs with {name}, allowed are {', '.join(schemes)}"
        )
    try:
        outcome = check(trusted.public_key, signature, digest)
    except UnsuitableKey as error:
        raise AuthenticationError(Kind.AUTH_METHOD_MISMATCH, f"the peer's certificate: {error}") from None
    except SignatureInvalid as error:
        raise AuthenticationError(
            Kind.SIGNATURE_INVALID, f"{error}: {trusted.identity} does not hold the key of its certificate"
        ) from None
    # None is the only way to say yes.
    if outcome is not None:
        raise AuthenticationError(Kind.SIGNATURE_INVALID, "the signature could not be verified")
    return name
