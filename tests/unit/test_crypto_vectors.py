"""Wycheproof's and the known-answer sets from `../shared/vectors`, where they are present.

They are larger than what the RFCs print and hold the attacks: special-case points, twisted and
small-order keys, forged signatures, truncated tags. "acceptable" cases must not crash; "valid" must
pass and "invalid" must be refused.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cygnet.crypto import aes_mac
from cygnet.crypto.entropy import SystemEntropy
from cygnet.crypto.errors import IntegrityFailure, InvalidPublicValue, SignatureInvalid
from cygnet.crypto.integrity import integrity
from cygnet.crypto.key_exchange import KeyExchange, check_public, generate, public_length, respond
from cygnet.crypto.prf import prf
from cygnet.crypto.signatures import PublicKey, scheme_by_method, scheme_named, verify
from cygnet.crypto.suites import suite
from cygnet.wire.numbers import Encr, Integ, KeMethod, Prf

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="../shared/vectors is not here")

Case = dict[str, Any]


def cases(name: str) -> Iterator[tuple[Case, Case]]:
    """Groups with their cases."""
    path = VECTORS / name
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for group in json.loads(text)["testGroups"]:
        for case in group["tests"]:
            yield group, case


def octets(case: Case, key: str) -> bytes:
    return bytes.fromhex(case[key])


def expect_aead(group: Case, case: Case, number: int, bits: int, salt: int) -> bool:
    """Whether the case has the shape that IKE and ESP use; if so, it is judged."""
    iv = octets(case, "iv")
    if len(iv) != salt + 8:
        return False
    protector = suite(number, bits).protector(octets(case, "key") + iv[:salt])
    sealed = octets(case, "ct") + octets(case, "tag")
    if case["result"] == "valid":
        assert protector.seal(octets(case, "aad"), iv[salt:], octets(case, "msg")) == sealed, case
        assert protector.open(octets(case, "aad"), iv[salt:], sealed) == octets(case, "msg"), case
    else:
        with pytest.raises(IntegrityFailure):
            protector.open(octets(case, "aad"), iv[salt:], sealed)
    return True


@pytest.mark.parametrize("name", ["wycheproof/aes_gcm_test.json.gz", "kat/gcm_test.json"])
def test_gcm_agrees_at_every_icv_length(name: str) -> None:
    judged = 0
    for group, case in cases(name):
        if group["tagSize"] != 128 or len(case["iv"]) != 24:
            continue
        judged += expect_aead(group, case, Encr.AES_GCM_16, group["keySize"], 4)
        if case["result"] == "valid":
            for number, length in ((Encr.AES_GCM_8, 8), (Encr.AES_GCM_12, 12)):
                expect_aead(group, {**case, "tag": case["tag"][: 2 * length]}, number, group["keySize"], 4)
    assert judged > 15


CCM_BY_ICV = {64: Encr.AES_CCM_8, 96: Encr.AES_CCM_12, 128: Encr.AES_CCM_16}


@pytest.mark.parametrize(
    "name", ["wycheproof/aes_ccm_test.json.gz", "kat/ccm_128_test.json", "kat/ccm_256_test.json"]
)
def test_ccm_agrees_at_every_icv_length(name: str) -> None:
    """Only nonces of 11 octets, which RFC 4309, section 4, uses, are judged."""
    shapes = [
        expect_aead(group, case, CCM_BY_ICV[group["tagSize"]], group["keySize"], 3)
        for group, case in cases(name)
        if group["tagSize"] in CCM_BY_ICV
    ]
    assert "wycheproof" not in name or sum(shapes) > 15


@pytest.mark.parametrize(
    "name", ["wycheproof/chacha20_poly1305_test.json.gz", "kat/chacha20_poly1305_test.json"]
)
def test_chacha20_poly1305_agrees(name: str) -> None:
    judged = [expect_aead(group, case, Encr.CHACHA20_POLY1305, 0, 4) for group, case in cases(name)]
    assert sum(judged) > 0


def test_cbc_agrees() -> None:
    judged = 0
    for group, case in cases("kat/cbc_test.json"):
        if case["result"] != "valid" or len(case["msg"]) % 32:
            continue
        protector = suite(Encr.AES_CBC, group["keySize"], Integ.HMAC_SHA1_96).protector(
            octets(case, "key"), bytes(20)
        )
        sealed = protector.seal(b"", octets(case, "iv"), octets(case, "msg"))
        assert sealed[:-12].hex().startswith(case["ct"][: len(case["msg"])]), case
        judged += 1
    assert judged > 3


@pytest.mark.parametrize(
    ("name", "number"), [("kat/des_test.json", Encr.DES_CBC), ("kat/des3_test.json", Encr.TRIPLE_DES_CBC)]
)
def test_des_and_triple_des_agree(name: str, number: int) -> None:
    judged = 0
    for _, case in cases(name):
        protector = suite(number, 0, Integ.HMAC_MD5_96).protector(octets(case, "key"), bytes(16))
        sealed = protector.seal(b"", octets(case, "iv"), octets(case, "msg"))
        assert sealed[:-12].hex() == case["ct"], case
        assert protector.open(b"", octets(case, "iv"), sealed) == octets(case, "msg")
        judged += 1
    assert judged >= 2


@pytest.mark.parametrize(
    ("name", "compute"),
    [
        ("kat/xcbc_test.json", aes_mac.xcbc),
        ("kat/cmac_128_test.json", aes_mac.cmac),
        ("wycheproof/aes_cmac_test.json.gz", aes_mac.cmac),
        ("kat/hmac_md5_test.json", prf(Prf.PRF_HMAC_MD5).compute),
        ("kat/hmac_sha1_test.json", prf(Prf.PRF_HMAC_SHA1).compute),
        ("kat/hmac_sha256_test.json", prf(Prf.PRF_HMAC_SHA2_256).compute),
        ("kat/hmac_sha512_test.json", prf(Prf.PRF_HMAC_SHA2_512).compute),
        ("wycheproof/hmac_sha1_test.json.gz", prf(Prf.PRF_HMAC_SHA1).compute),
        ("wycheproof/hmac_sha256_test.json.gz", prf(Prf.PRF_HMAC_SHA2_256).compute),
        ("wycheproof/hmac_sha384_test.json.gz", prf(Prf.PRF_HMAC_SHA2_384).compute),
        ("wycheproof/hmac_sha512_test.json.gz", prf(Prf.PRF_HMAC_SHA2_512).compute),
    ],
)
def test_macs_agree(name: str, compute: Any) -> None:
    judged = 0
    for _, case in cases(name):
        if ("cbc" in name or "cmac" in name) and len(case["key"]) != 32:
            continue
        tag = octets(case, "tag")
        same = compute(octets(case, "key"), octets(case, "msg"))[: len(tag)] == tag
        assert same == (case["result"] == "valid"), case
        judged += 1
    assert judged > 5


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("wycheproof/hmac_sha256_test.json.gz", Integ.HMAC_SHA2_256_128),
        ("wycheproof/hmac_sha384_test.json.gz", Integ.HMAC_SHA2_384_192),
        ("wycheproof/hmac_sha512_test.json.gz", Integ.HMAC_SHA2_512_256),
    ],
)
def test_integrity_is_the_truncated_mac(name: str, number: int) -> None:
    algorithm = integrity(number)
    for group, case in cases(name):
        if group["tagSize"] == 8 * algorithm.icv_length and case["result"] == "valid":
            assert algorithm.compute(octets(case, "key"), octets(case, "msg")) == octets(case, "tag")


class FixedEntropy:
    def __init__(self, private: bytes) -> None:
        self._private = private

    def octets(self, count: int) -> bytes:
        return self._private.rjust(count, b"\x00")

    def uniform(self) -> float:
        return 0.0


def exchange_or_none(ours: KeyExchange, public: bytes) -> bytes | None:
    try:
        return ours.shared(public)
    except InvalidPublicValue:
        return None


@pytest.mark.parametrize(
    ("name", "group", "size"),
    [
        ("wycheproof/x25519_test.json.gz", KeMethod.CURVE_25519, 32),
        ("wycheproof/x448_test.json.gz", KeMethod.CURVE_448, 56),
    ],
)
def test_montgomery_curves_agree_and_refuse_zero_secrets(name: str, group: int, size: int) -> None:
    for _, case in cases(name):
        public, secret = octets(case, "public"), octets(case, "shared")
        ours = generate(group, FixedEntropy(octets(case, "private")))
        computed = exchange_or_none(ours, public)
        if len(public) != size or secret == bytes(size):
            assert computed is None, case
            with pytest.raises(InvalidPublicValue):
                check_public(group, public)
        else:
            # "acceptable" here means non-canonical values and twist points, which RFC 7748 accepts.
            assert computed == secret, case
            check_public(group, public)


def curve_cases(name: str) -> Iterator[tuple[Case, bytes | None]]:
    """The public value as x | y, or None where the encoding has no such form."""
    for group, case in cases(name):
        raw = octets(case, "public")
        if group["encoding"] == "ecpoint":
            yield case, raw[1:] if raw[:1] == b"\x04" else None
            continue
        try:
            key = load_der_public_key(raw)
        except Exception:  # noqa: BLE001 - whatever the library says of a broken key, the case has no x | y
            continue
        if isinstance(key, ec.EllipticCurvePublicKey):
            numbers = key.public_numbers()
            size = (key.curve.key_size + 7) // 8
            yield case, numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("wycheproof/ecdh_secp256r1_ecpoint_test.json.gz", KeMethod.ECP_256),
        ("wycheproof/ecdh_secp384r1_ecpoint_test.json.gz", KeMethod.ECP_384),
        ("wycheproof/ecdh_secp521r1_ecpoint_test.json.gz", KeMethod.ECP_521),
        ("wycheproof/ecdh_brainpoolP256r1_test.json.gz", KeMethod.ECP_256_BP),
        ("wycheproof/ecdh_brainpoolP384r1_test.json.gz", KeMethod.ECP_384_BP),
        ("wycheproof/ecdh_brainpoolP512r1_test.json.gz", KeMethod.ECP_512_BP),
    ],
)
def test_curves_agree_and_refuse_points_elsewhere(name: str, group: int) -> None:
    valid = refused = 0
    for case, public in curve_cases(name):
        if public is None:
            continue
        private = int(case["private"], 16) - 1
        ours = generate(group, FixedEntropy(private.to_bytes(public_length(group), "big").lstrip(b"\x00")))
        computed = exchange_or_none(ours, public)
        if case["result"] == "valid":
            assert computed == octets(case, "shared"), case
            check_public(group, public)
            valid += 1
        elif case["result"] == "invalid" and "ecpoint" in name:
            assert computed is None, case
            with pytest.raises(InvalidPublicValue):
                check_public(group, public)
            refused += 1
    assert valid > 100
    assert refused > 5 or "brainpool" in name


def load(group: Case) -> PublicKey:
    return cast(PublicKey, load_der_public_key(bytes.fromhex(group["publicKeyDer"])))


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("ecdsa_secp256r1_sha256_test", "ecdsa-sha256"),
        ("ecdsa_secp384r1_sha384_test", "ecdsa-sha384"),
        ("ecdsa_secp521r1_sha512_test", "ecdsa-sha512"),
        ("ecdsa_secp256r1_sha256_p1363_test", "ecdsa-256"),
        ("ed25519_test", "ed25519"),
        ("ed448_test", "ed448"),
        ("rsa_pss_2048_sha256_mgf1_32_test", "rsa/pss-sha256"),
        ("rsa_pss_3072_sha256_mgf1_32_test", "rsa/pss-sha256"),
        ("rsa_pss_4096_sha384_mgf1_48_test", "rsa/pss-sha384"),
        ("rsa_pss_4096_sha512_mgf1_64_test", "rsa/pss-sha512"),
        ("rsa_signature_2048_sha256_test", "rsa-sha256"),
        ("rsa_signature_2048_sha384_test", "rsa-sha384"),
        ("rsa_signature_2048_sha512_test", "rsa-sha512"),
        ("rsa_signature_3072_sha256_test", "rsa-sha256"),
    ],
)
def test_signatures_verify_if_and_only_if_they_are_valid(name: str, scheme: str) -> None:
    chosen = scheme_named(scheme)
    keys: dict[str, PublicKey] = {}
    valid = 0
    for group, case in cases(f"wycheproof/{name}.json.gz"):
        der = group["publicKeyDer"]
        if der not in keys:
            keys[der] = load(group)
        try:
            verify(keys[der], chosen, octets(case, "sig"), octets(case, "msg"))
        except SignatureInvalid:
            assert case["result"] != "valid", case
        else:
            assert case["result"] != "invalid", case
            valid += 1
    assert valid > 5


def test_the_classic_scheme_by_number_is_the_one_by_name() -> None:
    assert scheme_by_method(9) is scheme_named("ecdsa-256")


def test_gmac_agrees_at_every_key_length() -> None:
    judged = 0
    for name in ("wycheproof/aes_gmac_test.json.gz", "kat/gmac_test.json"):
        for group, case in cases(name):
            if group["ivSize"] != 96 or group["tagSize"] != 128:
                continue
            number = {128: Integ.AES_128_GMAC, 192: Integ.AES_192_GMAC, 256: Integ.AES_256_GMAC}
            iv = octets(case, "iv")
            found = integrity(number[group["keySize"]]).compute(
                octets(case, "key") + iv[:4], iv[4:] + octets(case, "msg")
            )
            assert (found == octets(case, "tag")) is (case["result"] == "valid"), case
            judged += 1
    assert judged > 50


def test_3des_agrees() -> None:
    judged = 0
    for _, case in cases("kat/des3_test.json"):
        key, plaintext = octets(case, "key"), octets(case, "msg")
        if len(plaintext) % 8 or len(key) != 24:
            continue
        protector = suite(Encr.TRIPLE_DES_CBC, 0, Integ.HMAC_MD5_96).protector(key, bytes(16))
        assert protector.seal(b"", octets(case, "iv"), plaintext)[:-12] == octets(case, "ct")
        judged += 1
    assert judged


def test_hmac_md5_agrees() -> None:
    judged = 0
    for _, case in cases("kat/hmac_md5_test.json"):
        found = integrity(Integ.HMAC_MD5_96).compute(octets(case, "key"), octets(case, "msg"))
        tag = octets(case, "tag")[:12]
        assert found[: len(tag)] == tag
        judged += 1
    assert judged


@pytest.mark.parametrize(
    ("name", "method"),
    [("mlkem_768", KeMethod.ML_KEM_768), ("mlkem_1024", KeMethod.ML_KEM_1024)],
)
def test_ml_kem_decapsulates_what_others_encapsulated(name: str, method: int) -> None:
    agreed = 0
    for _, case in cases(f"wycheproof/{name}_test.json.gz"):
        if len(octets(case, "seed")) != 64:
            continue
        ours = generate(method, FixedEntropy(octets(case, "seed")))
        try:
            shared = ours.shared(octets(case, "c"))
        except InvalidPublicValue:
            assert case["result"] == "invalid", case
            continue
        if case["result"] == "valid":
            assert ours.public == octets(case, "ek")
            assert shared == octets(case, "K")
            agreed += 1
    assert agreed > 10


def test_an_ml_kem_key_is_checked_before_anything_is_encapsulated_to_it() -> None:
    refused = 0
    for _, case in cases("wycheproof/mlkem_768_encaps_test.json.gz"):
        key = octets(case, "ek")
        if case["result"] == "invalid":
            with pytest.raises(InvalidPublicValue):
                check_public(KeMethod.ML_KEM_768, key)
            with pytest.raises(InvalidPublicValue):
                respond(KeMethod.ML_KEM_768, key, SystemEntropy())
            refused += 1
        else:
            answered = respond(KeMethod.ML_KEM_768, key, SystemEntropy())
            assert len(answered.public) == 1088
    assert refused > 10
