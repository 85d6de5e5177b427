"""Phase 1's proofs: HASH and SIG of each method, known answers, and that nothing else passes."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cygnet.auth import isakmp
from cygnet.auth.credentials import OwnKey, TrustedKey
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer, Phase1Peer
from cygnet.crypto import signatures
from cygnet.crypto.errors import SignatureInvalid
from cygnet.crypto.signatures import PrivateKey
from cygnet.wire.numbers import AuthMethod, IdType
from cygnet.wire.v1.numbers import Authentication
from tests.unit.auth_material import WALL, Held, ca, entity, holding, key, trusting

ROOT = ca()
MOON = Identity.parse("moon.example.org")
SUN = Identity.parse("sun.example.org")
DIGEST = bytes(range(32))


def held(kind: str) -> Held:
    return entity(ROOT, holder=key(kind, 1))


def own(kind: str) -> OwnKey:
    return holding(held(kind)).own_key(identity=MOON)


def trusted(kind: str) -> TrustedKey:
    return trusting(ROOT).trusted_key(MOON, [held(kind).der], wall=WALL)


METHODS = [
    ("rsa", Authentication.RSA_SIGNATURE, AuthMethod.RSA, "rsa-bare-hash"),
    ("p256", Authentication.ECDSA_256, AuthMethod.ECDSA_256, "ecdsa-256"),
    ("p384", Authentication.ECDSA_384, AuthMethod.ECDSA_384, "ecdsa-384"),
    ("p521", Authentication.ECDSA_521, AuthMethod.ECDSA_521, "ecdsa-521"),
]


@pytest.mark.parametrize(("kind", "method", "shown", "scheme"), METHODS)
def test_who_signs_the_hash_with_its_certificates_key_is_authenticated(
    kind: str, method: int, shown: int, scheme: str
) -> None:
    assert isakmp.method_for_key(key(kind, 1)) == method
    signature = isakmp.prove_signature(own(kind), method, DIGEST)
    peer = isakmp.verify_signature(signature, DIGEST, trusted(kind), MOON, method)
    assert isinstance(peer, AuthenticatedPeer)
    assert (peer.identity, peer.method, peer.scheme, len(peer.chain)) == (MOON, shown, scheme, 2)


@pytest.mark.parametrize(("kind", "method", "shown", "scheme"), METHODS)
def test_b7_no_flipped_octet_of_signature_or_hash_passes(
    kind: str, method: int, shown: int, scheme: str
) -> None:
    signature = isakmp.prove_signature(own(kind), method, DIGEST)
    public = trusted(kind)
    mutants = [
        (bytes((*signature[:i], signature[i] ^ 1, *signature[i + 1 :])), DIGEST)
        for i in range(len(signature))
    ]
    mutants += [
        (signature, bytes((*DIGEST[:i], DIGEST[i] ^ 1, *DIGEST[i + 1 :]))) for i in range(len(DIGEST))
    ]
    mutants += [(b"", DIGEST), (signature[:-1], DIGEST), (signature + b"\x00", DIGEST), (signature, b"")]
    for forged, digest in mutants:
        with pytest.raises(AuthenticationError) as caught:
            isakmp.verify_signature(forged, digest, public, MOON, method)
        assert caught.value.kind is Kind.SIGNATURE_INVALID


def test_an_rsa_signature_pads_the_bare_hash_as_rfc_2409_says() -> None:
    """Section 5.1: encryption with the private key in PKCS#1 format, not a signature with an OID. Computed
    here with numbers: s^e = 00 01 FF..FF 00 HASH."""
    private = key("rsa", 1)
    assert isinstance(private, rsa.RSAPrivateKey)
    signature = isakmp.prove_signature(own("rsa"), Authentication.RSA_SIGNATURE, DIGEST)
    numbers = private.public_key().public_numbers()
    block = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(256, "big")
    assert block == b"\x00\x01" + b"\xff" * (256 - 3 - len(DIGEST)) + b"\x00" + DIGEST
    # The other way round: made by numbers, taken by us.
    by_hand = pow(int.from_bytes(block, "big"), private.private_numbers().d, numbers.n).to_bytes(256, "big")
    isakmp.verify_signature(by_hand, DIGEST, trusted("rsa"), MOON, Authentication.RSA_SIGNATURE)


def test_padding_that_is_not_all_there_is_refused() -> None:
    """CVE-2006-4339 and its like: short padding with a hash somewhere, encryption's padding, a DigestInfo."""
    private = key("rsa", 1)
    assert isinstance(private, rsa.RSAPrivateKey)
    numbers, secret = private.public_key().public_numbers(), private.private_numbers().d
    rest = 256 - 3 - len(DIGEST)
    for block in (
        b"\x00\x01" + b"\xff" * 8 + b"\x00" + DIGEST + bytes(rest - 8),
        b"\x00\x02" + b"\xff" * rest + b"\x00" + DIGEST,
        b"\x00\x01" + b"\xfe" * rest + b"\x00" + DIGEST,
        b"\x00\x01" + b"\xff" * (rest - 1) + b"\x00\x00" + DIGEST,
    ):
        forged = pow(int.from_bytes(block, "big"), secret, numbers.n).to_bytes(256, "big")
        with pytest.raises(AuthenticationError):
            isakmp.verify_signature(forged, DIGEST, trusted("rsa"), MOON, Authentication.RSA_SIGNATURE)
    named = private.sign(b"x", padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(SignatureInvalid):
        signatures.verify_bare_hash(private.public_key(), named, hashlib.sha256(b"x").digest())


RFC_4754 = [
    (
        ec.SECP256R1(),
        Authentication.ECDSA_256,
        "2442a5cc0ecd015fa3ca31dc8e2bbc70bf42d60cbca20085e0822cb04235e970",
        "6fc98bd7e50211a4a27102fa3549df79ebcb4bf246b80945cddfe7d509bbfd7d",
        "cb28e0999b9c7715fd0a80d8e47a77079716cbbf917dd72e97566ea1c066957c"
        "86fa3bb4e26cad5bf90b7f81899256ce7594bb1ea0c89212748bff3b3d5b0315",
    ),
]


@pytest.mark.parametrize(("curve", "method", "x", "y", "signature"), RFC_4754)
def test_an_ecdsa_signature_is_r_and_s_over_the_curves_own_hash(
    curve: ec.EllipticCurve, method: int, x: str, y: str, signature: str
) -> None:
    """RFC 4754, section 8.1: the message "abc", where IKEv1 has HASH_I or HASH_R."""
    public = ec.EllipticCurvePublicNumbers(int(x, 16), int(y, 16), curve).public_key()
    octets = bytes.fromhex(signature)
    signatures.verify(public, signatures.scheme_by_method(method), octets, b"abc")
    half = len(octets) // 2
    der = encode_dss_signature(int.from_bytes(octets[:half], "big"), int.from_bytes(octets[half:], "big"))
    public.verify(der, b"abc", ec.ECDSA(hashes.SHA256()))


def test_a_key_that_ikev1_has_no_method_for_is_said_so() -> None:
    for kind in ("ed25519", "ed448", "bp256"):
        with pytest.raises(AuthenticationError, match="IKEv2 only") as caught:
            isakmp.method_for_key(key(kind, 1))
        assert caught.value.kind is Kind.AUTH_METHOD_MISMATCH
    with pytest.raises(AuthenticationError, match="our own key"):
        isakmp.prove_signature(own("p256"), Authentication.RSA_SIGNATURE, DIGEST)
    with pytest.raises(AuthenticationError, match="our own key"):
        isakmp.prove_signature(own("p384"), Authentication.ECDSA_256, DIGEST)


def test_a_signature_of_another_method_or_identity_is_refused() -> None:
    signature = isakmp.prove_signature(own("p256"), Authentication.ECDSA_256, DIGEST)
    for method, pattern, schemes, kind in (
        (Authentication.RSA_SIGNATURE, MOON, (), Kind.AUTH_METHOD_MISMATCH),
        (Authentication.ECDSA_384, MOON, (), Kind.AUTH_METHOD_MISMATCH),
        (Authentication.PSK, MOON, (), Kind.AUTH_METHOD_MISMATCH),
        (Authentication.ECDSA_256, SUN, (), Kind.PEER_ID_MISMATCH),
        (Authentication.ECDSA_256, MOON, ("rsa-sha256",), Kind.AUTH_METHOD_MISMATCH),
    ):
        with pytest.raises(AuthenticationError) as caught:
            isakmp.verify_signature(signature, DIGEST, trusted("p256"), pattern, method, schemes)
        assert caught.value.kind is kind
    isakmp.verify_signature(
        signature, DIGEST, trusted("p256"), MOON, Authentication.ECDSA_256, ("ecdsa-sha256",)
    )


def test_the_hash_proves_the_secret_and_no_other_does() -> None:
    peer = isakmp.verify_hash(DIGEST, DIGEST, MOON, None)
    assert (peer.identity, peer.method, peer.scheme, peer.chain) == (MOON, AuthMethod.PSK, "psk", ())
    for i in range(len(DIGEST)):
        with pytest.raises(AuthenticationError) as caught:
            isakmp.verify_hash(bytes((*DIGEST[:i], DIGEST[i] ^ 128, *DIGEST[i + 1 :])), DIGEST, MOON, None)
        assert caught.value.kind is Kind.PSK_MISMATCH
    for short in (b"", DIGEST[:-1], DIGEST + b"\x00"):
        with pytest.raises(AuthenticationError):
            isakmp.verify_hash(short, DIGEST, MOON, None)
    with pytest.raises(AuthenticationError) as caught:
        isakmp.verify_hash(DIGEST, DIGEST, MOON, SUN)
    assert caught.value.kind is Kind.PEER_ID_MISMATCH


def test_v37_phase_1_alone_authenticates_nobody_where_a_login_is_demanded() -> None:
    """CVE-2026-50751: the password step was skipped."""
    user = Identity(IdType.KEY_ID, b"alice")
    signature = isakmp.prove_signature(own("rsa"), Authentication.XAUTH_INIT_RSA, DIGEST)
    for half in (
        isakmp.verify_hash_before_login(DIGEST, DIGEST, MOON, MOON),
        isakmp.verify_signature_before_login(
            signature, DIGEST, trusted("rsa"), MOON, Authentication.XAUTH_INIT_RSA
        ),
    ):
        assert isinstance(half, Phase1Peer)
        assert not isinstance(half, AuthenticatedPeer)
        whole = isakmp.logged_in(half, user)
        assert (whole.identity, whole.eap_identity) == (MOON, user)
        assert whole.scheme.endswith("+xauth")
        assert whole.chain == half.chain
    with pytest.raises(TypeError, match="verification only"):
        Phase1Peer(MOON, 1, "psk", (), 0.0)
    with pytest.raises(AuthenticationError):
        isakmp.verify_hash_before_login(DIGEST[:-1], DIGEST, MOON, MOON)
    with pytest.raises(AuthenticationError):
        isakmp.verify_signature_before_login(
            signature[:-1], DIGEST, trusted("rsa"), MOON, Authentication.XAUTH_INIT_RSA
        )


def test_methods_say_who_signs_and_who_logs_in() -> None:
    hybrid = isakmp.METHODS[Authentication.HYBRID_INIT_RSA]
    assert hybrid.signs
    assert (hybrid.sends_signature(initiator=True), hybrid.sends_signature(initiator=False)) == (False, True)
    assert (hybrid.logs_in(initiator=True), hybrid.logs_in(initiator=False)) == (True, False)
    other = isakmp.METHODS[Authentication.HYBRID_RESP_RSA]
    assert (other.sends_signature(initiator=True), other.sends_signature(initiator=False)) == (True, False)
    xauth = isakmp.METHODS[Authentication.XAUTH_INIT_RSA]
    assert xauth.sends_signature(initiator=True)
    assert xauth.logs_in(initiator=True)
    psk = isakmp.METHODS[Authentication.PSK]
    assert not psk.signs
    assert not psk.sends_signature(initiator=True)
    assert not psk.login


def test_v38_methods_with_rsa_encryption_do_not_exist() -> None:
    for number in (2, 4, 5, 64223, 64224, 65003, 65004, 65007, 65008, 65009, 65010):
        assert number not in isakmp.METHODS


def test_cas_are_named_by_their_subjects() -> None:
    other = ca("O=Other,CN=CA")
    credentials = trusting(ROOT, other)
    assert set(credentials.ca_names()) == {ROOT.certificate.subject, other.certificate.subject}
    assert credentials.ca_names([other.der]) == (other.certificate.subject,)


def test_a_key_of_every_kind_is_judged_before_it_computes() -> None:
    small: PrivateKey = rsa.generate_private_key(65537, 1024)
    signature = signatures.sign_bare_hash(small, DIGEST)
    with pytest.raises(SignatureInvalid, match="1024 bits"):
        signatures.verify_bare_hash(small.public_key(), signature, DIGEST)
