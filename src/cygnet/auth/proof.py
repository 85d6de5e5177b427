"""The AUTH payload: proving who we are, judging the peer's proof (RFC 7296, section 2.15; RFCs 7427, 8420).

Each side signs (or MACs) its own first message, the other's nonce and its own identity. A verification
returns an `AuthenticatedPeer` or raises; there is no third outcome and nothing to be tested for truth. This
is the only file that makes that value.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Sequence

from cygnet.auth.credentials import OwnKey, TrustedKey
from cygnet.auth.eap.packet import KEYED, name_of
from cygnet.auth.eap.session import Finished
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity, user_identity
from cygnet.auth.peer import AuthenticatedPeer, attest
from cygnet.crypto import signatures
from cygnet.crypto.errors import SignatureInvalid, UnsuitableKey, UnsupportedAlgorithm
from cygnet.crypto.prf import Prf, prf
from cygnet.crypto.signatures import PublicKey, SignatureScheme
from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import AuthMethod, HashAlgorithm

_KEY_PAD = b"Key Pad for IKEv2"
SIGNATURE_METHODS = (
    AuthMethod.RSA,
    AuthMethod.ECDSA_256,
    AuthMethod.ECDSA_384,
    AuthMethod.ECDSA_521,
    AuthMethod.DIGITAL_SIGNATURE,
)


@dataclass(frozen=True, slots=True)
class Proof:
    """The content of an AUTH payload: its method and its data."""

    method: int
    data: bytes


def signed_octets(message: bytes, nonce: bytes, algorithm: Prf, sk_p: bytes, id_body: bytes) -> bytes:
    """What one side authenticates (RFC 7296, section 2.15).

    `message`: that side's IKE_SA_INIT message, from the first SPI on; `nonce`: the other side's; `sk_p`:
    SK_pi or SK_pr of that side; `id_body`: its ID payload without the generic header, as it was on the wire
    (the reserved octets count).
    """
    return message + nonce + algorithm.compute(sk_p, id_body)


def prove_with_secret(secret: bytes, prf_number: int, octets: bytes) -> Proof:
    """The AUTH payload of a shared secret."""
    return Proof(AuthMethod.PSK, _mac(secret, prf_number, octets))


def prove_with_key(
    own: OwnKey,
    octets: bytes,
    peer_hashes: Collection[int] | None,
    schemes: Collection[str] = (),
    taken: Collection[bytes] = (),
) -> Proof:
    """The AUTH payload of a signature.

    `peer_hashes`: the peer's SIGNATURE_HASH_ALGORITHMS, None if it sent none or was sent none; then a classic
    method is left (RFC 7427, section 3). `schemes`: names that are allowed; empty: any. `taken`: the
    AlgorithmIdentifiers that the peer would like (RFC 9593), a hint.
    Raises `AuthenticationError` (AUTH_METHOD_MISMATCH) if nothing fits.
    """
    if peer_hashes is None:
        classic = signatures.classic_scheme_for(own.key)
        if classic is None or (schemes and classic.name not in schemes):
            raise AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH,
                "the peer knows no digital signatures (RFC 7427), and no older method is allowed for our key",
            )
        return Proof(classic.method, signatures.sign(own.key, classic, octets))
    able = signatures.schemes_for(own.key)
    for scheme in sorted(able, key=lambda one: bool(taken) and one.algorithm_identifier not in taken):
        if scheme.hash_number in peer_hashes and (not schemes or scheme.name in schemes):
            identifier = scheme.algorithm_identifier
            signature = signatures.sign(own.key, scheme, octets)
            return Proof(scheme.method, bytes((len(identifier),)) + identifier + signature)
    theirs = ", ".join(HashAlgorithm.name_of(number) for number in sorted(peer_hashes)) or "none"
    ours = ", ".join(scheme.name for scheme in able if not schemes or scheme.name in schemes) or "none"
    raise AuthenticationError(
        Kind.AUTH_METHOD_MISMATCH,
        f"no common signature scheme: the peer takes hashes {theirs}, we can sign {ours}",
    )


def check_identity(claimed: Identity, expected: Identity | None) -> None:
    """That the peer claims an identity that we expect (a pattern; None: any), else `AuthenticationError`."""
    if not claimed.matches(expected):
        raise AuthenticationError(
            Kind.PEER_ID_MISMATCH, f"the peer says it is {claimed}, expected was {expected}"
        )


def verify_secret(
    proof: Proof,
    claimed: Identity,
    expected: Identity | None,
    secret: bytes | None,
    prf_number: int,
    octets: bytes,
) -> AuthenticatedPeer:
    """The peer `claimed` holds the shared secret. `secret` None: there is none (`Credentials.psk`).

    Raises `AuthenticationError`: PEER_ID_MISMATCH, AUTH_METHOD_MISMATCH, PSK_NOT_FOUND, PSK_MISMATCH.
    """
    check_identity(claimed, expected)
    if proof.method != AuthMethod.PSK:
        raise _other_method(proof.method, "a pre-shared key")
    if not secret:
        raise AuthenticationError(Kind.PSK_NOT_FOUND, f"no pre-shared key is loaded for {claimed}")
    # Compared in constant time; `is not True`, so that no odd result can pass (CVE-2020-16088).
    outcome: object = hmac.compare_digest(_mac(secret, prf_number, octets), proof.data)
    if outcome is not True:
        raise AuthenticationError(
            Kind.PSK_MISMATCH, f"the pre-shared key of {claimed} is not the one that is loaded here"
        )
    return attest(claimed, AuthMethod.PSK, "psk")


def prove_nothing(sk_p: bytes, prf_number: int, octets: bytes) -> Proof:
    """The AUTH payload of who stays unauthenticated (RFC 7619, section 2.1). `sk_p`: SK_pi or SK_pr, ours."""
    return Proof(AuthMethod.NULL, _mac(sk_p, prf_number, octets))


def verify_nothing(
    proof: Proof, expected: Identity | None, mark: bytes, sk_p: bytes, prf_number: int, octets: bytes
) -> AuthenticatedPeer:
    """The peer proves nothing but that it is the one that sent the first message: whatever it says that it
    is, it is nobody. `mark` tells it from all others; `sk_p`: SK_pi or SK_pr, the peer's.

    Raises `AuthenticationError`: AUTH_METHOD_MISMATCH where somebody is expected, SIGNATURE_INVALID.
    """
    nobody = Identity.nobody(mark)
    if proof.method != AuthMethod.NULL:
        raise _other_method(proof.method, "NULL authentication")
    if not nobody.matches(expected):
        raise AuthenticationError(
            Kind.AUTH_METHOD_MISMATCH, f"the peer proves nothing, expected was {expected or 'somebody'}"
        )
    outcome: object = hmac.compare_digest(_mac(sk_p, prf_number, octets), proof.data)
    if outcome is not True:
        raise AuthenticationError(Kind.SIGNATURE_INVALID, "the AUTH of a peer that proves nothing is wrong")
    return attest(nobody, AuthMethod.NULL, "null")


def verify_eap(
    proof: Proof,
    claimed: Identity,
    expected: Identity | None,
    finished: Finished,
    sk_p: bytes,
    prf_number: int,
    octets: bytes,
) -> AuthenticatedPeer:
    """The peer of an EAP conversation that came to success has sent the messages of this IKE SA too.

    The key is the method's MSK; where it makes none, `sk_p` (the peer's SK_pi or SK_pr) stands in (RFC 7296,
    section 2.16): then nothing ties the two together but that the one ran inside the other.
    Raises `AuthenticationError`: PEER_ID_MISMATCH, AUTH_METHOD_MISMATCH, EAP_FAILED.
    """
    check_identity(claimed, expected)
    if proof.method != AuthMethod.PSK:
        raise _other_method(proof.method, "EAP")
    if finished.method in KEYED and not finished.outcome.msk:
        raise AuthenticationError(Kind.EAP_FAILED, f"{name_of(finished.method)} made no key")
    key = finished.outcome.msk or sk_p
    outcome: object = hmac.compare_digest(_mac(key, prf_number, octets), proof.data)
    if outcome is not True:
        raise AuthenticationError(
            Kind.EAP_FAILED, f"the AUTH of {claimed} is not made with the key that EAP gave both of us"
        )
    return attest(
        claimed,
        AuthMethod.PSK,
        name_of(finished.method),
        chain=finished.outcome.chain,
        eap_identity=user_identity(finished.outcome.identity or finished.identity),
        groups=finished.outcome.groups,
        attributes=finished.outcome.attributes,
    )


def join_rounds(rounds: Sequence[AuthenticatedPeer]) -> AuthenticatedPeer:
    """The peer that has passed all of these (RFC 4739): who it was first, and its user. At least one."""
    first, *others = rounds
    if not others:
        return first
    user = next((one for one in rounds if one.eap_identity is not None), first)
    return attest(
        first.identity,
        first.method,
        " and ".join(one.scheme for one in rounds),
        chain=first.chain or user.chain,
        valid_until=min(one.valid_until for one in rounds),
        eap_identity=user.eap_identity,
        groups=frozenset().union(*(one.groups for one in rounds)),
        attributes=tuple(pair for one in rounds for pair in one.attributes),
    )


def verify_signature(
    proof: Proof,
    trusted: TrustedKey,
    expected: Identity | None,
    octets: bytes,
    own_hashes: Collection[int] | None,
    schemes: Collection[str] = (),
) -> AuthenticatedPeer:
    """The peer holds the private key of the certificate that vouches for its identity.

    `own_hashes`: the SIGNATURE_HASH_ALGORITHMS that we sent, None if we sent or received none. `schemes`:
    names that are allowed; empty: any. Raises `AuthenticationError`: PEER_ID_MISMATCH, AUTH_METHOD_MISMATCH
    (a method, hash or scheme that was not agreed), SIGNATURE_INVALID.
    """
    check_identity(trusted.identity, expected)
    if proof.method not in SIGNATURE_METHODS:
        raise _other_method(proof.method, "a signature")
    scheme, signature = _scheme_of(proof, own_hashes)
    if schemes and scheme.name not in schemes:
        raise AuthenticationError(
            Kind.AUTH_METHOD_MISMATCH, f"the peer signs with {scheme.name}, allowed are {', '.join(schemes)}"
        )
    check: Callable[[PublicKey, SignatureScheme, bytes, bytes], object] = signatures.verify
    try:
        outcome = check(trusted.public_key, scheme, signature, octets)
    except UnsuitableKey as error:
        raise AuthenticationError(Kind.AUTH_METHOD_MISMATCH, f"the peer's certificate: {error}") from None
    except SignatureInvalid as error:
        raise AuthenticationError(
            Kind.SIGNATURE_INVALID, f"{error}: {trusted.identity} does not hold the key of its certificate"
        ) from None
    # None is the only way to say yes.
    if outcome is not None:
        raise AuthenticationError(Kind.SIGNATURE_INVALID, "the signature could not be verified")
    return attest(
        trusted.identity,
        proof.method,
        scheme.name,
        chain=tuple(certificate.der for certificate in trusted.chain),
        valid_until=trusted.valid_until,
    )


def _mac(secret: bytes, prf_number: int, octets: bytes) -> bytes:
    algorithm = prf(prf_number)
    return algorithm.compute(algorithm.compute(secret, _KEY_PAD), octets)


def _other_method(method: int, wanted: str) -> AuthenticationError:
    return AuthenticationError(
        Kind.AUTH_METHOD_MISMATCH,
        f"the peer authenticates with {AuthMethod.name_of(method)}, {wanted} is configured",
    )


def _scheme_of(proof: Proof, own_hashes: Collection[int] | None) -> tuple[SignatureScheme, bytes]:
    """The scheme that the AUTH payload names, if it may be used, and the signature value."""
    try:
        if proof.method != AuthMethod.DIGITAL_SIGNATURE:
            # Who agreed on method 14 must use it (RFC 7427, section 3): else SHA-1 could be slipped in.
            if own_hashes is not None:
                raise _other_method(proof.method, "a digital signature (RFC 7427)")
            return signatures.scheme_by_method(proof.method), proof.data
        if own_hashes is None:
            raise AuthenticationError(
                Kind.AUTH_METHOD_MISMATCH,
                "the peer uses digital signatures (RFC 7427), which were not agreed on",
            )
        cursor = Cursor(proof.data)
        scheme = signatures.scheme_by_algorithm_identifier(cursor.take(cursor.u8()))
        signature = cursor.rest()
    except UnsupportedAlgorithm as error:
        raise AuthenticationError(Kind.AUTH_METHOD_MISMATCH, f"the peer's AUTH: {error}") from None
    except Malformed as error:
        raise AuthenticationError(Kind.SIGNATURE_INVALID, f"the peer's AUTH is cut off: {error}") from None
    if scheme.hash_number not in own_hashes:
        raise AuthenticationError(
            Kind.AUTH_METHOD_MISMATCH,
            f"the peer signs with {scheme.name}, whose hash we did not offer",
        )
    return scheme, signature
