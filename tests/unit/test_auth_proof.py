"""The AUTH payload in both directions: RFC vectors, what the peers agreed on, and who is told what."""

from __future__ import annotations

import ast
import copy
import dataclasses
import hashlib
import hmac
import itertools
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import cygnet
from cygnet.auth import proof as proofs
from cygnet.auth.credentials import Credentials, OwnKey, TrustedKey
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.auth.proof import Proof, prove_with_key, prove_with_secret, verify_secret, verify_signature
from cygnet.crypto import signatures
from cygnet.crypto.prf import prf
from cygnet.crypto.signatures import PrivateKey
from cygnet.ike.errors import Reason
from cygnet.wire.numbers import AuthMethod, Prf
from tests.unit.auth_material import WALL, Held, ca, entity, holding, key, trusting

MOON, SUN = Identity.parse("moon.example.org"), Identity.parse("sun.example.org")
OCTETS = b"RealMessage1" + bytes(500) + b"NonceRData" + b"MACedIDForI"
SECRET = bytes(range(32))
HASHES = frozenset({2, 3, 4, 5})
ROOT = ca("C=CH,O=Test,CN=Root")

KINDS = ["rsa2048", "p256", "p384", "p521", "bp256", "ed25519", "ed448"]


def own(kind: str) -> OwnKey:
    return holding(entity(ROOT, holder=key(kind))).own_key(identity=MOON)


def trusted(own_key: OwnKey) -> TrustedKey:
    return trusting(ROOT).trusted_key(MOON, [one.der for one in own_key.chain], wall=WALL)


def kind_of(error: pytest.ExceptionInfo[AuthenticationError]) -> Kind:
    assert error.value.detail
    return error.value.kind


# Vectors


def hexadecimal(text: str) -> bytes:
    return bytes.fromhex("".join(text.split()))


# RFC 4754, section 8: the private key w, the method, and the AUTH payload's data for the message "abc".
RFC_4754 = {
    AuthMethod.ECDSA_256: (
        ec.SECP256R1(),
        "DC51D386 6A15BACD E33D96F9 92FCA99D A7E6EF09 34E70975 59C27F16 14C88A7F",
        """CB28E099 9B9C7715 FD0A80D8 E47A7707 9716CBBF 917DD72E 97566EA1 C066957C
        86FA3BB4 E26CAD5B F90B7F81 899256CE 7594BB1E A0C89212 748BFF3B 3D5B0315""",
    ),
    AuthMethod.ECDSA_384: (
        ec.SECP384R1(),
        """0BEB6466 34BA8773 5D77AE48 09A0EBEA 865535DE 4C1E1DCB 692E8470 8E81A5AF
        62E528C3 8B2A81B3 5309668D 73524D9F""",
        """FB017B91 4E291494 32D8BAC2 9A514640 B46F53DD AB2C6994 8084E293 0F1C8F7E
        08E07C9C 63F2D21A 07DCB56A 6AF56EB3 B263A130 5E057F98 4D38726A 1B468741
        09F417BC A112674C 528262A4 0A629AF1 CBB9F516 CE0FA7D2 FF630863 A00E8B9F""",
    ),
    AuthMethod.ECDSA_521: (
        ec.SECP521R1(),
        """0065FDA3 409451DC AB0A0EAD 45495112 A3D813C1 7BFD34BD F8C1209D 7DF58491
        20597779 060A7FF9 D704ADF7 8B570FFA D6F062E9 5C7E0C5D 5481C5B1 53B48B37 5FA1""",
        """0154FD38 36AF92D0 DCA57DD5 341D3053 988534FD E8318FC6 AAAAB68E 2E6F4339
        B19F2F28 1A7E0B22 C269D93C F8794A92 78880ED7 DBB8D936 2CAEACEE 54432055
        22510177 05A70302 90D1CEB6 05A9A1BB 03FF9CDD 521E87A6 96EC926C 8C10C836
        2DF49753 67101F67 D1CF9BCC BF2F3D23 9534FA50 9E70AAC8 51AE01AA C68D62F8 66472660""",
    ),
}


@pytest.mark.parametrize("method", RFC_4754)
def test_the_classic_ecdsa_payloads_of_rfc_4754_verify(method: int) -> None:
    curve, private, data = RFC_4754[method]
    holder = ec.derive_private_key(int.from_bytes(hexadecimal(private), "big"), curve)
    signer = holding(entity(ROOT, holder=holder)).own_key(identity=MOON)
    peer = verify_signature(Proof(method, hexadecimal(data)), trusted(signer), None, b"abc", None)
    assert (peer.identity, peer.method) == (MOON, method)


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
def test_a_shared_key_mac_is_that_of_rfc_7296_section_2_15(digest: str) -> None:
    number = {
        "sha1": Prf.PRF_HMAC_SHA1,
        "sha256": Prf.PRF_HMAC_SHA2_256,
        "sha384": Prf.PRF_HMAC_SHA2_384,
        "sha512": Prf.PRF_HMAC_SHA2_512,
    }[digest]
    message, nonce, sk_p, id_body = b"message one", b"nonce of the other", b"SK_pi" * 4, b"\x02\0\0\0moon"
    octets = proofs.signed_octets(message, nonce, prf(number), sk_p, id_body)
    by_hand = message + nonce + hmac.new(sk_p, id_body, digest).digest()
    pad = hmac.new(SECRET, b"Key Pad for IKEv2", digest).digest()
    made = prove_with_secret(SECRET, number, octets)
    assert octets == by_hand
    assert made == Proof(AuthMethod.PSK, hmac.new(pad, by_hand, digest).digest())
    assert verify_secret(made, MOON, MOON, SECRET, number, octets).identity == MOON


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        # RFC 7427, A.4.3 (less the trailer field, a default that DER leaves out) and A.3; RFC 8420, A.
        (
            "rsa2048",
            "43 3041 06092a864886f70d01010a 3034 a00f 300d 0609608648016503040201 0500"
            "a11c 301a 06092a864886f70d010108 300d 0609608648016503040201 0500 a203 020120",
        ),
        ("p256", "0c300a06082a8648ce3d040302"),
        ("p384", "0c300a06082a8648ce3d040303"),
        ("p521", "0c300a06082a8648ce3d040304"),
        ("ed25519", "073005 06032b6570"),
        ("ed448", "073005 06032b6571"),
    ],
)
def test_a_digital_signature_begins_with_the_length_and_the_algorithm(kind: str, begins: str) -> None:
    made = prove_with_key(own(kind), OCTETS, HASHES)
    assert made.method == AuthMethod.DIGITAL_SIGNATURE
    assert made.data.startswith(bytes.fromhex(begins))
    assert len(made.data) > 1 + made.data[0] + 50


# Agreement


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_proves_its_owner(kind: str) -> None:
    signer = own(kind)
    made = prove_with_key(signer, OCTETS, HASHES)
    peer = verify_signature(made, trusted(signer), MOON, OCTETS, HASHES)
    assert peer.identity == MOON
    assert peer.chain == (signer.certificate.der, ROOT.der)
    assert peer.valid_until == signer.certificate.not_after


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("rsa2048", AuthMethod.RSA),
        ("p256", AuthMethod.ECDSA_256),
        ("p384", AuthMethod.ECDSA_384),
        ("p521", AuthMethod.ECDSA_521),
        ("bp256", None),
        ("ed25519", None),
        ("ed448", None),
    ],
)
def test_without_an_announcement_of_hashes_a_classic_method_serves_if_the_key_has_one(
    kind: str, method: int | None
) -> None:
    signer = own(kind)
    if method is None:
        with pytest.raises(AuthenticationError) as caught:
            prove_with_key(signer, OCTETS, None)
        assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH
        return
    made = prove_with_key(signer, OCTETS, None)
    assert made.method == method
    assert verify_signature(made, trusted(signer), MOON, OCTETS, None).method == method
    # Who announced hashes and got the peer's must not fall back (RFC 7427, section 3).
    with pytest.raises(AuthenticationError) as caught:
        verify_signature(made, trusted(signer), MOON, OCTETS, HASHES)
    assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH


def test_a_digital_signature_that_was_not_agreed_on_is_refused() -> None:
    signer = own("p256")
    made = prove_with_key(signer, OCTETS, HASHES)
    with pytest.raises(AuthenticationError) as caught:
        verify_signature(made, trusted(signer), MOON, OCTETS, None)
    assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH


@pytest.mark.parametrize("kind", KINDS)
def test_the_hash_is_one_that_the_other_side_announced(kind: str) -> None:
    signer = own(kind)
    able = {5} if kind.startswith("ed") else {2, 3, 4}
    for size in range(5):
        for announced in itertools.combinations(range(1, 6), size):
            if not able & set(announced):
                with pytest.raises(AuthenticationError) as caught:
                    prove_with_key(signer, OCTETS, announced)
                assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH
                continue
            made = prove_with_key(signer, OCTETS, announced)
            assert verify_signature(made, trusted(signer), MOON, OCTETS, announced)
            others = HASHES - set(announced)
            with pytest.raises(AuthenticationError) as caught:
                verify_signature(made, trusted(signer), MOON, OCTETS, others)
            assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH


def test_configured_schemes_bind_both_sides() -> None:
    signer = own("rsa2048")
    pss, pkcs1 = "rsa/pss-sha256", "rsa-sha256"
    made = prove_with_key(signer, OCTETS, HASHES, [pkcs1])
    assert verify_signature(made, trusted(signer), MOON, OCTETS, HASHES, [pkcs1]).scheme == pkcs1
    with pytest.raises(AuthenticationError) as caught:
        verify_signature(made, trusted(signer), MOON, OCTETS, HASHES, [pss])
    assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH
    with pytest.raises(AuthenticationError) as caught:
        prove_with_key(signer, OCTETS, HASHES, ["ecdsa-sha256"])
    assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH
    with pytest.raises(AuthenticationError) as caught:
        prove_with_key(signer, OCTETS, None, [pss])
    assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH


# Refusals


def test_the_wrong_secret_no_secret_and_the_wrong_identity_are_told_apart() -> None:
    number = Prf.PRF_HMAC_SHA2_256
    made = prove_with_secret(SECRET, number, OCTETS)
    for secret, expected, kind in (
        (bytes(32), None, Kind.PSK_MISMATCH),
        (None, None, Kind.PSK_NOT_FOUND),
        (b"", None, Kind.PSK_NOT_FOUND),
        (SECRET, SUN, Kind.PEER_ID_MISMATCH),
    ):
        with pytest.raises(AuthenticationError) as caught:
            verify_secret(made, MOON, expected, secret, number, OCTETS)
        assert kind_of(caught) == kind
        assert SECRET.hex() not in caught.value.detail


@pytest.mark.parametrize("method", [0, 1, 3, 4, 5, 9, 10, 11, 12, 13, 14, 255])
def test_a_method_other_than_the_configured_one_is_refused(method: int) -> None:
    number = Prf.PRF_HMAC_SHA2_256
    mac = prove_with_secret(SECRET, number, OCTETS).data
    with pytest.raises(AuthenticationError) as caught:
        verify_secret(Proof(method, mac), MOON, None, SECRET, number, OCTETS)
    assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH
    if method in proofs.SIGNATURE_METHODS:
        return
    signer = own("p256")
    for data in (mac, prove_with_key(signer, OCTETS, HASHES).data, b""):
        for hashes in (HASHES, None):
            with pytest.raises(AuthenticationError) as caught:
                verify_signature(Proof(method, data), trusted(signer), MOON, OCTETS, hashes)
            assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH


@pytest.mark.parametrize("data", ["", "0c", "0c300a06082a8648ce3d0403", "00", "0030", "ff" + "30" * 254])
def test_a_digital_signature_cut_off_or_of_an_unknown_algorithm_is_refused(data: str) -> None:
    signer = own("p256")
    made = Proof(AuthMethod.DIGITAL_SIGNATURE, bytes.fromhex(data))
    with pytest.raises(AuthenticationError) as caught:
        verify_signature(made, trusted(signer), MOON, OCTETS, HASHES)
    assert kind_of(caught) in (Kind.SIGNATURE_INVALID, Kind.AUTH_METHOD_MISMATCH)


def test_a_psk_proof_is_no_signature_and_the_reverse() -> None:
    signer = own("p256")
    made = prove_with_secret(SECRET, Prf.PRF_HMAC_SHA2_256, OCTETS)
    with pytest.raises(AuthenticationError) as caught:
        verify_signature(made, trusted(signer), MOON, OCTETS, HASHES)
    assert kind_of(caught) == Kind.AUTH_METHOD_MISMATCH


@pytest.mark.parametrize("made_by", KINDS)
def test_the_key_of_one_gateway_does_not_prove_another(made_by: str) -> None:
    impostor = own(made_by)
    made = prove_with_key(impostor, OCTETS, HASHES)
    for kind in KINDS:
        if kind == made_by:
            continue
        with pytest.raises(AuthenticationError) as caught:
            verify_signature(made, trusted(own(kind)), MOON, OCTETS, HASHES)
        assert kind_of(caught) in (Kind.SIGNATURE_INVALID, Kind.AUTH_METHOD_MISMATCH)
    double = holding(entity(ROOT, holder=key(made_by, "double"))).own_key(identity=MOON)
    with pytest.raises(AuthenticationError) as caught:
        verify_signature(made, trusted(double), MOON, OCTETS, HASHES)
    assert kind_of(caught) == Kind.SIGNATURE_INVALID


def test_a_trusted_peer_whom_we_do_not_expect_is_refused() -> None:
    signer = own("p256")
    made = prove_with_key(signer, OCTETS, HASHES)
    with pytest.raises(AuthenticationError) as caught:
        verify_signature(made, trusted(signer), SUN, OCTETS, HASHES)
    assert kind_of(caught) == Kind.PEER_ID_MISMATCH
    assert verify_signature(made, trusted(signer), Identity.parse("*.example.org"), OCTETS, HASHES)


def test_the_credential_matrix_passes_on_its_diagonal_only() -> None:
    """T25, B8: twenty peers, half with secrets, half with certificates; everyone tries to be everyone."""
    number = Prf.PRF_HMAC_SHA2_256
    peers = [Identity.parse(f"peer{index}.example.org") for index in range(20)]
    gateway = trusting(ROOT)
    signers: dict[int, OwnKey] = {}
    for index, peer in enumerate(peers):
        if index % 2:
            holder = key("p256", f"peer{index}")
            held = entity(ROOT, f"CN=peer{index}", [f"dns:{peer}"], holder=holder)
            signers[index] = holding(held).own_key(identity=peer)
        else:
            gateway.add_shared(str(index), "ike", f"{index:032d}".encode(), [peer])
    passed = []
    for (mine, claimed), as_signature in itertools.product(
        itertools.product(range(20), range(20)), (True, False)
    ):
        identity = peers[claimed]
        try:
            if as_signature:
                if mine not in signers:
                    continue
                made = prove_with_key(signers[mine], OCTETS, HASHES)
                sent = [one.der for one in signers[mine].chain]
                trust = gateway.trusted_key(identity, sent, wall=WALL)
                proved = verify_signature(made, trust, identity, OCTETS, HASHES)
            else:
                made = prove_with_secret(f"{mine:032d}".encode(), number, OCTETS)
                secret = gateway.psk(MOON, identity)
                proved = verify_secret(made, identity, identity, secret, number, OCTETS)
        except AuthenticationError:
            continue
        assert proved.identity == identity
        passed.append((mine, claimed, as_signature))
    assert passed == [(index, index, bool(index % 2)) for index in range(20)]


# The value


def test_an_authenticated_peer_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        AuthenticatedPeer(MOON, AuthMethod.PSK, "psk", (), 0.0)
    with pytest.raises(TypeError):
        AuthenticatedPeer(MOON, AuthMethod.PSK, "psk", (), 0.0, evidence=True)
    number = Prf.PRF_HMAC_SHA2_256
    made = prove_with_secret(SECRET, number, OCTETS)
    peer = verify_secret(made, MOON, None, SECRET, number, OCTETS)
    with pytest.raises(TypeError):
        dataclasses.replace(peer, identity=SUN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        peer.identity = SUN  # type: ignore[misc]
    assert copy.copy(peer) == peer


def test_only_the_verifications_attest() -> None:
    source = Path(cygnet.__file__).parent
    users = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id in ("attest", "_EVIDENCE"))
        or (isinstance(node, ast.Attribute) and node.attr in ("attest", "_EVIDENCE"))
        or (isinstance(node, ast.alias) and node.name in ("attest", "_EVIDENCE"))
    }
    assert users == {"auth/peer.py", "auth/proof.py", "auth/isakmp.py"}


def test_every_kind_of_failure_is_a_reason_of_the_negotiation() -> None:
    reasons = {reason.name: reason.value for reason in Reason}
    assert {kind.name: kind.value for kind in Kind}.items() <= reasons.items()


def test_a_verification_says_nothing_by_truth() -> None:
    """No verification returns a boolean: who forgets to look at the result has lost nothing."""
    for function in (verify_secret, verify_signature, Credentials.trusted_key):
        assert "bool" not in str(function.__annotations__["return"])


def private_octets(held: PrivateKey) -> bytes:
    return held.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_messages_of_failures_hold_no_key() -> None:
    moon: Held = entity(ROOT)
    signer = holding(moon).own_key(identity=MOON)
    with pytest.raises(AuthenticationError) as caught:
        prove_with_key(signer, OCTETS, [1])
    text = caught.value.detail + repr(caught.value)
    assert hashlib.sha256(private_octets(moon.key)).hexdigest() not in text
    assert private_octets(moon.key).hex() not in text


def test_the_largest_rsa_key_that_is_taken_proves_its_owner() -> None:
    signer = OwnKey(key("rsa8192"), (entity(ROOT, holder=key("rsa8192")).certificate,))
    made = prove_with_key(signer, OCTETS, HASHES)
    assert len(made.data) > 1024
    assert verify_signature(made, trusted(signer), MOON, OCTETS, HASHES).identity == MOON


def test_of_the_signatures_that_we_can_make_one_that_the_peer_names_comes_first() -> None:
    """RFC 9593: a hint; where none of them can be made, it changes nothing."""
    wanted = next(one for one in signatures.SCHEMES if one.name == "rsa/pss-sha512").algorithm_identifier
    made = prove_with_key(own("rsa"), OCTETS, HASHES, (), (b"another", wanted))
    assert made.data[1 : 1 + len(wanted)] == wanted
    assert prove_with_key(own("rsa"), OCTETS, HASHES, (), (b"another",)).data[1:] != made.data[1:]
