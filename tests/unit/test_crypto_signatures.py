"""Signatures: what RFC 4754, 7427 and 8032 print, what must never verify, and keys nobody should trust."""

from __future__ import annotations

import time
from unittest import mock

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from cygnet.crypto import signatures
from cygnet.crypto.errors import SignatureInvalid, UnsuitableKey, UnsupportedAlgorithm
from cygnet.crypto.signatures import (
    CLASSIC_SCHEMES,
    SCHEMES,
    PrivateKey,
    check_public_key,
    classic_scheme_for,
    scheme_by_algorithm_identifier,
    scheme_by_method,
    scheme_named,
    schemes_for,
    sign,
    verify,
)
from cygnet.wire.numbers import AuthMethod, HashAlgorithm

# RFC 4754, sections 8.1 to 8.3, the message "abc": w, gwx, gwy, r, s.
RFC_4754 = [
    (
        "dc51d3866a15bacde33d96f992fca99da7e6ef0934e7097559c27f1614c88a7f",
        "2442a5cc0ecd015fa3ca31dc8e2bbc70bf42d60cbca20085e0822cb04235e970",
        "6fc98bd7e50211a4a27102fa3549df79ebcb4bf246b80945cddfe7d509bbfd7d",
        "cb28e0999b9c7715fd0a80d8e47a77079716cbbf917dd72e97566ea1c066957c",
        "86fa3bb4e26cad5bf90b7f81899256ce7594bb1ea0c89212748bff3b3d5b0315",
    ),
    (
        "0beb646634ba87735d77ae4809a0ebea865535de4c1e1dcb692e84708e81a5af62e528c38b2a81b35309668d73524d9f",
        "96281bf8dd5e0525ca049c048d345d3082968d10fedf5c5aca0c64e6465a97ea5ce10c9dfec21797415710721f437922",
        "447688ba94708eb6e2e4d59f6ab6d7edff9301d249fe49c33096655f5d502fad3d383b91c5e7edaa2b714cc99d5743ca",
        "fb017b914e29149432d8bac29a514640b46f53ddab2c69948084e2930f1c8f7e08e07c9c63f2d21a07dcb56a6af56eb3",
        "b263a1305e057f984d38726a1b46874109f417bca112674c528262a40a629af1cbb9f516ce0fa7d2ff630863a00e8b9f",
    ),
    (
        "0065fda3409451dcab0a0ead45495112a3d813c17bfd34bdf8c1209d7df5849120597779060a7ff9d704adf7"
        "8b570ffad6f062e95c7e0c5d5481c5b153b48b375fa1",
        "0151518f1af0f563517edd5485190df95a4bf57b5cba4cf2a9a3f6474725a35f7afe0a6ddeb8bedbcd6a197e"
        "592d40188901cecd650699c9b5e456aea5add19052a8",
        "006f3b142ea1bfff7e2837ad44c9e4ff6d2d34c73184bbad90026dd5e6e85317d9df45cad7803c6c20035b2f"
        "3ff63aff4e1ba64d1c077577da3f4286c58f0aeae643",
        "0154fd3836af92d0dca57dd5341d3053988534fde8318fc6aaaab68e2e6f4339b19f2f281a7e0b22c269d93c"
        "f8794a9278880ed7dbb8d9362caeacee544320552251",
        "017705a7030290d1ceb605a9a1bb03ff9cdd521e87a696ec926c8c10c8362df4975367101f67d1cf9bccbf2f"
        "3d239534fa509e70aac851ae01aac68d62f866472660",
    ),
]
# RFC 7427, appendices A.1, A.3, A.4.3; RFC 8420, section A.
RFC_7427 = {
    "rsa-sha256": "300d06092a864886f70d01010b0500",
    "rsa-sha384": "300d06092a864886f70d01010c0500",
    "rsa-sha512": "300d06092a864886f70d01010d0500",
    "ecdsa-sha256": "300a06082a8648ce3d040302",
    "ecdsa-sha384": "300a06082a8648ce3d040303",
    "ecdsa-sha512": "300a06082a8648ce3d040304",
    "ed25519": "300506032b6570",
    "ed448": "300506032b6571",
    "rsa/pss-sha256": "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a06092a86"
    "4886f70d010108300d06096086480165030402010500a203020120a303020101",
}
CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def keys(rsa_key: rsa.RSAPrivateKey) -> dict[str, list[PrivateKey]]:
    return {
        "rsa": [rsa_key],
        "ecdsa": [
            *(ec.generate_private_key(curve) for curve in CURVES),
            ec.generate_private_key(ec.BrainpoolP256R1()),
        ],
        "ed25519": [Ed25519PrivateKey.generate()],
        "ed448": [Ed448PrivateKey.generate()],
    }


@pytest.mark.parametrize(("method", "curve", "vector"), list(zip((9, 10, 11), CURVES, RFC_4754, strict=True)))
def test_classic_ecdsa_agrees_with_rfc_4754(
    method: int, curve: ec.EllipticCurve, vector: tuple[str, ...]
) -> None:
    w, x, y, r, s = vector
    private = ec.derive_private_key(int(w, 16), curve)
    numbers = private.public_key().public_numbers()
    assert (numbers.x, numbers.y) == (int(x, 16), int(y, 16))
    scheme = scheme_by_method(method)
    verify(private.public_key(), scheme, bytes.fromhex(r + s), b"abc")
    with pytest.raises(SignatureInvalid):
        verify(private.public_key(), scheme, bytes.fromhex(r + s), b"abd")
    assert len(sign(private, scheme, b"abc")) == len(r + s) // 2


@pytest.mark.parametrize(("name", "identifier"), RFC_7427.items())
def test_algorithm_identifiers_are_those_of_rfc_7427(name: str, identifier: str) -> None:
    assert scheme_by_algorithm_identifier(bytes.fromhex(identifier)) is scheme_named(name)


def test_pss_is_sent_in_der_with_the_salt_as_long_as_the_hash() -> None:
    for name, salt in (("sha256", 0x20), ("sha384", 0x30), ("sha512", 0x40)):
        identifier = scheme_named(f"rsa/pss-{name}").algorithm_identifier
        assert identifier.endswith(bytes((0xA2, 3, 2, 1, salt)))
        assert identifier[1] == len(identifier) - 2


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        "00",
        "300d06092a864886f70d0101050500",  # sha1WithRSAEncryption
        "300906072a8648ce3d0401",  # ecdsa-with-SHA1
        "300d06092a864886f70d01010a3000",  # PSS with empty parameters: SHA-1
        "300b06092a864886f70d01010b",  # RSA without its NULL
        # PSS SHA-256 with salts of 0, 127 and -1, and without a mask function
        RFC_7427["rsa/pss-sha256"].replace("a203020120", "a203020100"),
        RFC_7427["rsa/pss-sha256"].replace("a203020120", "a20302017f"),
        RFC_7427["rsa/pss-sha256"].replace("a203020120", "a2030201ff"),
        "302106092a864886f70d01010a3014a00f300d06096086480165030402010500a203020120"[:-2],
        RFC_7427["rsa/pss-sha256"] + "00",
    ],
)
def test_other_algorithm_identifiers_are_refused(identifier: str) -> None:
    """CVE-2018-6459, CVE-2021-41990, CVE-2026-14957: PSS parameters of the peer's are never computed with."""
    with pytest.raises(UnsupportedAlgorithm):
        scheme_by_algorithm_identifier(bytes.fromhex(identifier))


@pytest.mark.parametrize("scheme", [*SCHEMES, *CLASSIC_SCHEMES], ids=lambda scheme: scheme.name)
def test_every_scheme_verifies_its_own_and_no_changed_signature(
    scheme: signatures.SignatureScheme, keys: dict[str, list[PrivateKey]]
) -> None:
    usable = [
        key
        for key in keys[scheme.key]
        if not scheme.curve
        or (isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == scheme.curve)
    ]
    assert usable
    for key in usable:
        signature = sign(key, scheme, b"octets")
        public = key.public_key()
        verify(public, scheme, signature, b"octets")
        for index in range(0, len(signature), 7):
            changed = bytearray(signature)
            changed[index] ^= 0x10
            with pytest.raises(SignatureInvalid):
                verify(public, scheme, bytes(changed), b"octets")
        for wrong in (
            b"",
            signature[:-1],
            signature + b"\x00",
            bytes(len(signature)),
            b"\xff" * len(signature),
        ):
            with pytest.raises(SignatureInvalid):
                verify(public, scheme, wrong, b"octets")
        with pytest.raises(SignatureInvalid):
            verify(public, scheme, signature, b"octetts")


def test_a_scheme_is_not_another_with_the_same_key(keys: dict[str, list[PrivateKey]]) -> None:
    rsa_key = keys["rsa"][0]
    signature = sign(rsa_key, scheme_named("rsa/pss-sha256"), b"octets")
    for name in ("rsa-sha256", "rsa/pss-sha384", "rsa-sha1"):
        with pytest.raises(SignatureInvalid):
            verify(rsa_key.public_key(), scheme_named(name), signature, b"octets")


def test_a_scheme_does_not_take_a_key_of_another_kind(keys: dict[str, list[PrivateKey]]) -> None:
    for scheme in (*SCHEMES, *CLASSIC_SCHEMES):
        for kind, candidates in keys.items():
            for key in candidates:
                if kind == scheme.key and (not scheme.curve or signatures._curve(key) == scheme.curve):
                    continue
                with pytest.raises(UnsuitableKey):
                    sign(key, scheme, b"octets")
                with pytest.raises(SignatureInvalid):
                    verify(key.public_key(), scheme, b"s" * 64, b"octets")


def test_the_library_verifies_what_we_sign(rsa_key: rsa.RSAPrivateKey) -> None:
    public = rsa_key.public_key()
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    public.verify(sign(rsa_key, scheme_named("rsa/pss-sha384"), b"m"), b"m", pss, hashes.SHA384())
    public.verify(sign(rsa_key, scheme_named("rsa-sha1"), b"m"), b"m", padding.PKCS1v15(), hashes.SHA1())
    key = ec.generate_private_key(ec.SECP256R1())
    key.public_key().verify(sign(key, scheme_named("ecdsa-sha512"), b"m"), b"m", ec.ECDSA(hashes.SHA512()))


def test_the_best_scheme_comes_first_and_sha1_never(keys: dict[str, list[PrivateKey]]) -> None:
    assert schemes_for(keys["rsa"][0])[0].name == "rsa/pss-sha256"
    assert [schemes_for(key)[0].name for key in keys["ecdsa"]] == [
        "ecdsa-sha256",
        "ecdsa-sha384",
        "ecdsa-sha512",
        "ecdsa-sha256",
    ]
    assert [scheme.name for scheme in schemes_for(keys["ed448"][0])] == ["ed448"]
    for candidates in keys.values():
        for key in candidates:
            assert all(scheme.hash_number != HashAlgorithm.SHA1 for scheme in schemes_for(key))
            assert schemes_for(key.public_key()) == schemes_for(key)


def test_classic_methods_exist_where_an_rfc_has_them(keys: dict[str, list[PrivateKey]]) -> None:
    methods = []
    for key in (keys["rsa"][0], *keys["ecdsa"], keys["ed25519"][0]):
        scheme = classic_scheme_for(key)
        methods.append(scheme.method if scheme else None)
    assert methods == [
        AuthMethod.RSA,
        AuthMethod.ECDSA_256,
        AuthMethod.ECDSA_384,
        AuthMethod.ECDSA_521,
        None,
        None,
    ]


def test_unknown_names_and_methods_are_refused() -> None:
    with pytest.raises(UnsupportedAlgorithm, match="rsa-md5"):
        scheme_named("rsa-md5")
    for method in (AuthMethod.PSK, AuthMethod.DSS, AuthMethod.DIGITAL_SIGNATURE, 200):
        with pytest.raises(UnsupportedAlgorithm):
            scheme_by_method(method)


def test_rsa_keys_out_of_range_are_refused() -> None:
    """CVE-2017-11185, CVE-2017-9022 and others: sizes, exponents and moduli that no honest key has."""
    odd = (1 << 2047) + 0x1234567
    for modulus, exponent in (
        ((1 << 1023) + 0x1235, 65537),
        ((1 << 2046) + 0x1235, 65537),
        ((1 << 8192) + 0x1235, 65537),
        ((1 << 16383) + 0x1235, 65537),
        (odd, (1 << 64) + 1),
        (odd, odd - 2),
    ):
        started = time.process_time()
        with pytest.raises(UnsuitableKey):
            check_public_key(rsa.RSAPublicNumbers(exponent, modulus).public_key())
        assert time.process_time() - started < 0.05


@pytest.mark.parametrize(("modulus_low", "exponent"), [(0, 65537), (1, 0), (1, 1), (1, 2), (1, 4)])
def test_even_and_tiny_rsa_numbers_never_become_a_key(modulus_low: int, exponent: int) -> None:
    numbers = mock.Mock(n=(1 << 2047) | 0x10 | modulus_low, e=exponent)
    key = mock.Mock(spec=rsa.RSAPublicKey, key_size=2048)
    key.public_numbers.return_value = numbers
    with pytest.raises(UnsuitableKey):
        check_public_key(key)


def test_rsa_signatures_of_nothing_or_of_the_modulus_do_not_verify(rsa_key: rsa.RSAPrivateKey) -> None:
    public = rsa_key.public_key()
    modulus = public.public_numbers().n
    for name in ("rsa/pss-sha256", "rsa-sha256", "rsa-sha1"):
        for value in (0, 1, modulus - 1, modulus, modulus + 1, (1 << 2048) - 1):
            with pytest.raises(SignatureInvalid):
                verify(public, scheme_named(name), value.to_bytes(256, "big"), b"octets")


def test_ecdsa_signatures_of_zero_or_of_the_order_do_not_verify() -> None:
    for scheme, curve in zip(CLASSIC_SCHEMES[1:], CURVES, strict=True):
        key = ec.generate_private_key(curve)
        size = (curve.key_size + 7) // 8
        r, s = decode_dss_signature(key.sign(b"m", ec.ECDSA(hashes.SHA256())))
        order = curve.group_order
        for bad_r, bad_s in ((0, s), (r, 0), (0, 0), (order, s), (r, order), (order, order)):
            with pytest.raises(SignatureInvalid):
                verify(
                    key.public_key(), scheme, bad_r.to_bytes(size, "big") + bad_s.to_bytes(size, "big"), b"m"
                )


def test_keys_of_other_kinds_and_curves_are_refused() -> None:
    for key in (
        dsa.generate_private_key(1024).public_key(),
        ec.generate_private_key(ec.SECP192R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        Ed25519PrivateKey.generate(),
        object(),
        None,
    ):
        with pytest.raises(UnsuitableKey):
            check_public_key(key)
