"""Signatures in IKEv2: the schemes of RFC 7427 and RFC 8420, and the classic methods 1, 9, 10, 11.

A `SignatureScheme` says how octets are signed and how that is written on the wire: method 14 carries
an AlgorithmIdentifier in DER, which is compared as bytes with the few encodings that can be meant
(RFC 7427, appendix A), so that no parameters of the peer's (salt lengths, mask functions) are ever
parsed. SHA-1 is left to the classic method 1, where RFC 7296, section 3.8, prescribes it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    NoDigestInfo,
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from cygnet.crypto.errors import SignatureInvalid, UnsuitableKey, UnsupportedAlgorithm
from cygnet.wire.numbers import AuthMethod, HashAlgorithm

__all__ = [
    "PrivateKey",
    "PublicKey",
    "SignatureInvalid",
    "SignatureScheme",
    "UnsuitableKey",
    "check_public_key",
    "classic_scheme_for",
    "scheme_by_algorithm_identifier",
    "scheme_by_method",
    "scheme_named",
    "schemes_for",
    "sign",
    "sign_bare_hash",
    "sign_prehashed",
    "verify",
    "verify_bare_hash",
    "verify_prehashed",
]

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

# Weaker is no proof today, larger only burns the verifier's time.
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT_BITS = 64
_CURVES = frozenset(
    {"secp256r1", "secp384r1", "secp521r1", "brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"}
)


@dataclass(frozen=True, slots=True)
class SignatureScheme:
    """`name` is swanctl's spelling ("rsa/pss-sha256", "rsa-sha256", "ecdsa-sha384", "ed25519").

    `key` is the kind of key: rsa, ecdsa, ed25519 or ed448. `hash_number` is from RFC 7427's registry.
    `method` is the AUTH payload's; `algorithm_identifier` is DER, empty for the classic methods.
    `curve` binds the classic ECDSA methods to theirs (RFC 4754, section 2).
    """

    name: str
    key: str
    hash_number: int
    method: int
    algorithm_identifier: bytes = b""
    curve: str = ""


_HASHES: dict[int, hashes.SHA1 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    HashAlgorithm.SHA1: hashes.SHA1(),  # noqa: S303 - method 1 of RFC 7296 signs with it
    HashAlgorithm.SHA2_256: hashes.SHA256(),
    HashAlgorithm.SHA2_384: hashes.SHA384(),
    HashAlgorithm.SHA2_512: hashes.SHA512(),
}
_SHA2 = (
    ("sha256", HashAlgorithm.SHA2_256, 1, 32),
    ("sha384", HashAlgorithm.SHA2_384, 2, 48),
    ("sha512", HashAlgorithm.SHA2_512, 3, 64),
)
_NULL = bytes.fromhex("0500")


def _tlv(tag: int, *content: bytes) -> bytes:
    """DER of less than 128 octets of content."""
    body = b"".join(content)
    return bytes((tag, len(body))) + body


def _pss_identifier(hash_arc: int, salt: int, *, null: bytes, mgf_null: bytes, trailer: bytes) -> bytes:
    """id-RSASSA-PSS with hash, MGF1 with the same hash, salt length (RFC 4055, section 3.1)."""
    hash_oid = _tlv(0x06, bytes.fromhex("6086480165030402"), bytes((hash_arc,)))
    hash_identifier = _tlv(0xA0, _tlv(0x30, hash_oid, null))
    mgf1_oid = _tlv(0x06, bytes.fromhex("2a864886f70d010108"))
    mgf_identifier = _tlv(0xA1, _tlv(0x30, mgf1_oid, _tlv(0x30, hash_oid, mgf_null)))
    salt_length = _tlv(0xA2, _tlv(0x02, bytes((salt,))))
    pss_oid = _tlv(0x06, bytes.fromhex("2a864886f70d01010a"))
    return _tlv(0x30, pss_oid, _tlv(0x30, hash_identifier, mgf_identifier, salt_length, trailer))


def _schemes() -> tuple[tuple[SignatureScheme, ...], dict[bytes, SignatureScheme]]:
    schemes: list[SignatureScheme] = []
    encodings: dict[bytes, SignatureScheme] = {}
    for name, number, arc, salt in _SHA2:
        # What is sent leaves the default trailer out, as DER demands; what is accepted may differ in
        # the NULLs (RFC 4055, section 2.1: both must be accepted) and in the trailer (RFC 7427, A.4.3).
        sent = _pss_identifier(arc, salt, null=_NULL, mgf_null=_NULL, trailer=b"")
        scheme = SignatureScheme(f"rsa/pss-{name}", "rsa", number, AuthMethod.DIGITAL_SIGNATURE, sent)
        schemes.append(scheme)
        trailers = (b"", bytes.fromhex("a303020101"))
        for null, mgf_null, trailer in itertools.product((_NULL, b""), (_NULL, b""), trailers):
            encodings[_pss_identifier(arc, salt, null=null, mgf_null=mgf_null, trailer=trailer)] = scheme
    for name, number, arc, _ in _SHA2:
        # sha256/384/512WithRSAEncryption: pkcs-1 11, 12, 13
        oid = _tlv(0x06, bytes.fromhex("2a864886f70d0101"), bytes((10 + arc,)))
        sent = _tlv(0x30, oid, _NULL)
        schemes.append(SignatureScheme(f"rsa-{name}", "rsa", number, AuthMethod.DIGITAL_SIGNATURE, sent))
    for name, number, arc, _ in _SHA2:
        # ecdsa-with-SHA256/384/512: ecdsa-with-SHA2 2, 3, 4
        sent = _tlv(0x30, _tlv(0x06, bytes.fromhex("2a8648ce3d0403"), bytes((1 + arc,))))
        schemes.append(SignatureScheme(f"ecdsa-{name}", "ecdsa", number, AuthMethod.DIGITAL_SIGNATURE, sent))
    for name, oid_hex in (("ed25519", "2b6570"), ("ed448", "2b6571")):
        sent = _tlv(0x30, _tlv(0x06, bytes.fromhex(oid_hex)))
        schemes.append(
            SignatureScheme(name, name, HashAlgorithm.IDENTITY, AuthMethod.DIGITAL_SIGNATURE, sent)
        )
    for scheme in schemes:
        encodings[scheme.algorithm_identifier] = scheme
    return tuple(schemes), encodings


SCHEMES, _BY_IDENTIFIER = _schemes()
CLASSIC_SCHEMES = (
    SignatureScheme("rsa-sha1", "rsa", HashAlgorithm.SHA1, AuthMethod.RSA),
    SignatureScheme("ecdsa-256", "ecdsa", HashAlgorithm.SHA2_256, AuthMethod.ECDSA_256, curve="secp256r1"),
    SignatureScheme("ecdsa-384", "ecdsa", HashAlgorithm.SHA2_384, AuthMethod.ECDSA_384, curve="secp384r1"),
    SignatureScheme("ecdsa-521", "ecdsa", HashAlgorithm.SHA2_512, AuthMethod.ECDSA_521, curve="secp521r1"),
)
_BY_NAME = {scheme.name: scheme for scheme in (*SCHEMES, *CLASSIC_SCHEMES)}
_BY_METHOD = {scheme.method: scheme for scheme in CLASSIC_SCHEMES}
SUPPORTED_HASHES = (
    HashAlgorithm.SHA2_256,
    HashAlgorithm.SHA2_384,
    HashAlgorithm.SHA2_512,
    HashAlgorithm.IDENTITY,
)


def scheme_named(name: str) -> SignatureScheme:
    """Raises UnsupportedAlgorithm."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnsupportedAlgorithm(f"signature scheme {name!r}; known: {', '.join(_BY_NAME)}") from None


def scheme_by_algorithm_identifier(der: bytes) -> SignatureScheme:
    """The scheme that these octets of an AUTH payload of method 14 mean; raises UnsupportedAlgorithm."""
    try:
        return _BY_IDENTIFIER[der]
    except KeyError:
        raise UnsupportedAlgorithm("signature scheme of an unknown AlgorithmIdentifier") from None


def scheme_by_method(method: int) -> SignatureScheme:
    """The scheme of a classic AUTH method (1, 9, 10, 11); raises UnsupportedAlgorithm."""
    try:
        return _BY_METHOD[method]
    except KeyError:
        raise UnsupportedAlgorithm(f"signature method {AuthMethod.name_of(method)}") from None


def _kind(key: object) -> str:
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return "rsa"
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return "ecdsa"
    if isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, Ed448PrivateKey | Ed448PublicKey):
        return "ed448"
    raise UnsuitableKey(f"a key of kind {type(key).__name__} cannot sign in IKEv2")


def _strength(key: PrivateKey | PublicKey) -> int:
    """Index into _SHA2 of the hash that fits the key: not weaker than it, nor longer than needed."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return 0 if key.key_size <= 3072 else 1 if key.key_size <= 7680 else 2
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return 0 if key.curve.key_size <= 256 else 1 if key.curve.key_size <= 384 else 2
    return 0


def schemes_for(key: PrivateKey | PublicKey) -> tuple[SignatureScheme, ...]:
    """The method 14 schemes that this key can do, best first: the fitting hash, PSS before PKCS#1."""
    kind = _kind(key)
    usable = [scheme for scheme in SCHEMES if scheme.key == kind]
    if kind in ("rsa", "ecdsa"):
        fitting = _SHA2[_strength(key)][1]
        usable.sort(key=lambda scheme: (not scheme.name.startswith("rsa/pss"), scheme.hash_number != fitting))
    return tuple(usable)


def classic_scheme_for(key: PrivateKey | PublicKey) -> SignatureScheme | None:
    """The classic method of this key (RFC 7296, 3.8; RFC 4754), None where there is none."""
    kind = _kind(key)
    for scheme in CLASSIC_SCHEMES:
        if scheme.key == kind and (not scheme.curve or scheme.curve == _curve(key)):
            return scheme
    return None


def _curve(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return key.curve.name
    return ""


def check_public_key(key: object) -> PublicKey:
    """The key, if it is of a kind and size that a signature may be judged by; raises UnsuitableKey.

    For every key of a peer's certificate chain: an RSA modulus or exponent that is even, small or
    huge is refused before anything is computed with it.
    """
    kind = _kind(key)
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise UnsuitableKey(
                f"RSA key of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted"
            )
        if numbers.e < 3 or not numbers.e & 1 or numbers.e.bit_length() > MAX_RSA_EXPONENT_BITS:
            raise UnsuitableKey("RSA key with an exponent that is even, too small or too large")
        if not numbers.n & 1:
            raise UnsuitableKey("RSA key with an even modulus")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise UnsuitableKey(f"ECDSA key on {key.curve.name}; accepted: {', '.join(sorted(_CURVES))}")
        return key
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return key
    raise UnsuitableKey(f"a private key of kind {kind} where a public one belongs")


def _rsa_padding(scheme: SignatureScheme) -> padding.PSS | padding.PKCS1v15:
    if scheme.name.startswith("rsa/pss"):
        digest = _HASHES[scheme.hash_number]
        return padding.PSS(padding.MGF1(digest), digest.digest_size)
    return padding.PKCS1v15()


def _check_fits(scheme: SignatureScheme, key: PrivateKey | PublicKey) -> None:
    if _kind(key) != scheme.key:
        raise UnsuitableKey(f"{scheme.name} with a key of kind {_kind(key)}")
    if scheme.curve and scheme.curve != _curve(key):
        raise UnsuitableKey(f"{scheme.name} with a key on {_curve(key)}")


def sign(key: PrivateKey, scheme: SignatureScheme, data: bytes) -> bytes:
    """The signature value as the AUTH payload carries it; raises UnsuitableKey.

    ECDSA is DER in method 14, r | s in the length of the curve in the classic methods (RFC 4754, 3).
    """
    _check_fits(scheme, key)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, _rsa_padding(scheme), _HASHES[scheme.hash_number])
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(data, ec.ECDSA(_HASHES[scheme.hash_number]))
        if not scheme.curve:
            return signature
        size = (key.curve.key_size + 7) // 8
        r, s = decode_dss_signature(signature)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return key.sign(data)


def verify(key: PublicKey, scheme: SignatureScheme, signature: bytes, data: bytes) -> None:
    """Returns if `signature` is that of `key` over `data`; else SignatureInvalid or UnsuitableKey."""
    check_public_key(key)
    _check_fits(scheme, key)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, _rsa_padding(scheme), _HASHES[scheme.hash_number])
        elif isinstance(key, ec.EllipticCurvePublicKey):
            encoded = _der_from_r_s(key, signature) if scheme.curve else signature
            key.verify(encoded, data, ec.ECDSA(_HASHES[scheme.hash_number]))
        else:
            key.verify(signature, data)
    except (InvalidSignature, ValueError):
        raise SignatureInvalid(f"{scheme.name} signature does not verify") from None


def sign_bare_hash(key: PrivateKey, digest: bytes) -> bytes:
    """IKEv1's RSA signature: PKCS#1 padding around the hash itself, without the DigestInfo that would name
    its algorithm (RFC 2409, section 5.1). Raises UnsuitableKey."""
    if not isinstance(key, rsa.RSAPrivateKey):
        raise UnsuitableKey(f"an RSA signature with a key of kind {_kind(key)}")
    return key.sign(digest, padding.PKCS1v15(), NoDigestInfo())


def verify_bare_hash(key: PublicKey, signature: bytes, digest: bytes) -> None:
    """Returns if `signature` is IKEv1's RSA signature of `key` over `digest`; else as `verify`."""
    check_public_key(key)
    if not isinstance(key, rsa.RSAPublicKey):
        raise UnsuitableKey(f"an RSA signature with a key of kind {_kind(key)}")
    try:
        # All of the padding is judged by the library; what it holds is public, so plain comparison will do.
        signed = key.recover_data_from_signature(signature, padding.PKCS1v15(), None)
    except (InvalidSignature, ValueError):
        raise SignatureInvalid("the RSA signature does not verify") from None
    if signed != digest:
        raise SignatureInvalid("the RSA signature is of something else")


def sign_prehashed(key: PrivateKey, scheme: SignatureScheme, digest: bytes) -> bytes:
    """As `sign` with a classic method of ECDSA, over what is a hash already (IKEv1 as strongSwan has it)."""
    _check_fits(scheme, key)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UnsuitableKey(f"an ECDSA signature with a key of kind {_kind(key)}")
    size = (key.curve.key_size + 7) // 8
    r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(_prehashed(digest))))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def verify_prehashed(key: PublicKey, scheme: SignatureScheme, signature: bytes, digest: bytes) -> None:
    """Returns if `signature` is that of `sign_prehashed`; else as `verify`."""
    check_public_key(key)
    _check_fits(scheme, key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UnsuitableKey(f"an ECDSA signature with a key of kind {_kind(key)}")
    try:
        key.verify(_der_from_r_s(key, signature), digest, ec.ECDSA(_prehashed(digest)))
    except (InvalidSignature, ValueError):
        raise SignatureInvalid(f"{scheme.name} signature does not verify") from None


def _prehashed(digest: bytes) -> Prehashed:
    """For ECDSA a hash is a number; the library only wants to know its length."""
    for algorithm in (hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):  # noqa: S303
        if algorithm.digest_size == len(digest):
            return Prehashed(algorithm)
    raise SignatureInvalid(f"ECDSA over a hash of {len(digest)} octets")


def _der_from_r_s(key: ec.EllipticCurvePublicKey, signature: bytes) -> bytes:
    size = (key.curve.key_size + 7) // 8
    if len(signature) != 2 * size:
        raise SignatureInvalid(f"ECDSA signature of {len(signature)} octets")
    return encode_dss_signature(
        int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    )
