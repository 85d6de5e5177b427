"""Who a certificate is believed for: chains, times, uses, constraints, names; each refusal with its own kind.

The cases of Common Criteria's FCS_IPSEC_EXT.1 (identity against certificate), of CVE-2026-35331 (name
constraints) and CVE-2017-11185 and its kind (odd keys) are here.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding

from cygnet.auth import certificate
from cygnet.auth import x509 as paths
from cygnet.auth.credentials import MAX_SENT
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import Identity
from cygnet.wire.numbers import IdType
from tests.unit.auth_material import (
    MOON,
    NOW,
    WALL,
    YEAR,
    Held,
    ca,
    entity,
    holding,
    key,
    name,
    names,
    raw,
    trusting,
    usage,
)

MOON_ID = Identity.parse("moon.example.org")
ROOT = ca("C=CH,O=Test,CN=Root")
OTHER = ca("C=CH,O=Other,CN=Root")


def refusal(
    anchors: tuple[Held, ...],
    *sent: Held | bytes,
    identity: Identity = MOON_ID,
    wall: float = WALL,
) -> Kind:
    """Why the chain is refused."""
    octets = [one if isinstance(one, bytes) else one.der for one in sent]
    with pytest.raises(AuthenticationError) as caught:
        trusting(*anchors).trusted_key(identity, octets, wall=wall)
    assert caught.value.detail.isprintable()
    return caught.value.kind


def accept(
    anchors: tuple[Held, ...], *sent: Held, identity: Identity = MOON_ID, wall: float = WALL
) -> tuple[bytes, ...]:
    trusted = trusting(*anchors).trusted_key(identity, [one.der for one in sent], wall=wall)
    assert trusted.identity == identity
    return tuple(one.der for one in trusted.chain)


# Chains


def test_a_certificate_under_a_configured_ca_is_trusted() -> None:
    moon = entity(ROOT)
    assert accept((OTHER, ROOT), moon) == (moon.der, ROOT.der)


@pytest.mark.parametrize("kind", ["rsa2048", "rsa8192", "p256", "p384", "p521", "bp256", "ed25519", "ed448"])
def test_every_kind_of_key_serves_as_ca_and_as_gateway(kind: str) -> None:
    root = ca(holder=key(kind, "ca"))
    moon = entity(root, holder=key(kind))
    assert accept((root,), moon) == (moon.der, root.der)


def test_intermediates_may_come_in_any_order_with_strangers_between() -> None:
    first = ca("CN=I1", ROOT)
    second = ca("CN=I2", first)
    moon = entity(second)
    stranger = ca("CN=stranger")
    assert accept((ROOT,), moon, stranger, second, first) == (moon.der, second.der, first.der, ROOT.der)
    assert accept((ROOT,), moon, first, second, ROOT)[-1] == ROOT.der


def test_an_intermediate_that_is_configured_as_ca_is_an_anchor() -> None:
    intermediate = ca("CN=I1", ROOT)
    moon = entity(intermediate)
    assert accept((intermediate,), moon) == (moon.der, intermediate.der)


def test_an_intermediate_that_is_loaded_need_not_be_sent() -> None:
    intermediate = ca("CN=I1", ROOT)
    moon = entity(intermediate)
    store = trusting(ROOT)
    store.add_certificate(intermediate.der)
    assert len(store.trusted_key(MOON_ID, [moon.der], wall=WALL).chain) == 3


def test_a_cross_signed_ca_leads_to_whichever_root_is_trusted() -> None:
    holder = key("p256", "cross")
    by_root, by_other = ca("CN=X", ROOT, holder=holder), ca("CN=X", OTHER, holder=holder)
    moon = entity(by_root)
    for root in (ROOT, OTHER):
        assert accept((root,), moon, by_other, by_root)[-1] == root.der


def test_a_renewed_ca_with_the_same_key_is_used_where_the_old_one_has_expired() -> None:
    holder = key("p256", "renewed")
    old = ca("CN=R", holder=holder, end=NOW - timedelta(days=1))
    new = ca("CN=R", holder=holder)
    assert accept((old, new), entity(old))[-1] == new.der


def test_a_certificate_of_another_ca_is_untrusted() -> None:
    assert refusal((ROOT,), entity(OTHER)) == Kind.CERTIFICATE_UNTRUSTED
    assert refusal((ROOT,), entity(OTHER), OTHER) == Kind.CERTIFICATE_UNTRUSTED
    assert refusal((), entity(ROOT)) == Kind.CERTIFICATE_UNTRUSTED


def test_a_ca_of_the_same_name_with_another_key_is_another_ca() -> None:
    double = ca("C=CH,O=Test,CN=Root", holder=key("p256", "double"))
    moon = entity(double)
    assert refusal((ROOT,), moon) == Kind.CERTIFICATE_UNTRUSTED
    assert refusal((ROOT,), moon, double) == Kind.CERTIFICATE_UNTRUSTED


def test_a_self_signed_certificate_is_untrusted_unless_it_is_configured() -> None:
    moon = entity(None)
    assert refusal((ROOT,), moon) == Kind.CERTIFICATE_UNTRUSTED
    assert refusal((ROOT,), moon, moon) == Kind.CERTIFICATE_UNTRUSTED
    trusted = trusting(ROOT).trusted_key(MOON_ID, [moon.der], wall=WALL, pinned=[moon.der])
    assert trusted.chain[0].der == moon.der


def test_a_ca_that_is_named_for_the_connection_excludes_the_others() -> None:
    store = trusting(ROOT, OTHER)
    moon = entity(ROOT)
    assert store.trusted_key(MOON_ID, [moon.der], wall=WALL, ca_certificates=[ROOT.der])
    with pytest.raises(AuthenticationError) as caught:
        store.trusted_key(MOON_ID, [moon.der], wall=WALL, ca_certificates=[OTHER.der])
    assert caught.value.kind == Kind.CERTIFICATE_UNTRUSTED


def test_an_end_entity_does_not_issue_certificates() -> None:
    sun = entity(ROOT, "CN=sun", ["dns:sun.example.org"], holder=key("p256", "sun"))
    forged = entity(sun)
    assert refusal((ROOT,), forged, sun) == Kind.CERTIFICATE_INVALID


@pytest.mark.parametrize(
    ("constraints", "key_usage"),
    [
        (None, usage(sign=False, certify=True)),
        (x509.BasicConstraints(False, None), usage(sign=False, certify=True)),
        (x509.BasicConstraints(True, None), usage(sign=True, certify=False)),
    ],
)
def test_a_ca_must_be_marked_as_one(
    constraints: x509.BasicConstraints | None, key_usage: x509.KeyUsage
) -> None:
    holder = key("p256", "unmarked")
    extensions: list[tuple[x509.ExtensionType, bool]] = [(key_usage, True)]
    if constraints:
        extensions.append((constraints, True))
    data = raw("CN=unmarked", ROOT, holder=holder, extensions=extensions)
    unmarked = Held(certificate.parse(data), holder)
    assert refusal((ROOT,), entity(unmarked), unmarked) == Kind.CERTIFICATE_INVALID


def test_a_path_length_is_kept() -> None:
    short = ca("CN=short", path_length=0)
    assert accept((short,), entity(short))
    below = ca("CN=below", short)
    assert refusal((short,), entity(below), below) == Kind.CERTIFICATE_INVALID
    one = ca("CN=one", path_length=1)
    first = ca("CN=first", one)
    assert accept((one,), entity(first), first)
    second = ca("CN=second", first)
    assert refusal((one,), entity(second), second, first) == Kind.CERTIFICATE_INVALID


def test_a_chain_is_as_long_as_allowed_and_no_longer() -> None:
    chain = [ROOT]
    while len(chain) < paths.MAX_PATH:
        chain.append(ca(f"CN=I{len(chain)}", chain[-1]))
    for length in (paths.MAX_PATH - 1, paths.MAX_PATH):
        moon = entity(chain[length - 1])
        sent = [moon, *reversed(chain[1:length])]
        if length < paths.MAX_PATH:
            assert len(accept((ROOT,), *sent)) == paths.MAX_PATH
        else:
            assert refusal((ROOT,), *sent) == Kind.CERTIFICATE_UNTRUSTED


def test_more_certificates_than_a_chain_may_have_are_refused_unread() -> None:
    assert refusal((ROOT,), entity(ROOT), *[b"\x30\x00"] * MAX_SENT) == Kind.CERTIFICATE_INVALID


def test_cas_that_issue_each_other_end_the_search() -> None:
    """Every pair of eight names signs each other: without bounds the paths would be thousands."""
    holders = [key("p256", f"ring{number}") for number in range(3)]
    rings = [
        ca(f"CN=R{a}", Held(ca(f"CN=R{b}", holder=holders[b]).certificate, holders[b]), holder=holders[a])
        for a in range(3)
        for b in range(3)
        if a != b
    ]
    began = time.perf_counter()
    assert refusal((ROOT,), entity(rings[0]), *rings) == Kind.CERTIFICATE_UNTRUSTED
    assert time.perf_counter() - began < 0.5


def test_many_cas_of_one_name_cost_a_bounded_number_of_signature_checks() -> None:
    doubles = [
        ca("C=CH,O=Test,CN=Root", holder=key("p256", f"many{number}"))
        for number in range(paths.MAX_SIGNATURES + 8)
    ]
    moon = entity(ca("C=CH,O=Test,CN=Root", holder=key("p256", "none of them")))
    assert refusal(tuple(doubles), moon) == Kind.CERTIFICATE_UNTRUSTED


# Times


@pytest.mark.parametrize(
    ("offset", "kind"),
    [
        (-1, Kind.CERTIFICATE_NOT_YET_VALID),
        (0, None),
        (3600, None),
        (3601, Kind.CERTIFICATE_EXPIRED),
    ],
)
def test_a_certificate_is_valid_from_its_first_to_its_last_second(offset: int, kind: Kind | None) -> None:
    moon = entity(ROOT, start=NOW, end=NOW + timedelta(hours=1))
    if kind is None:
        assert accept((ROOT,), moon, wall=WALL + offset)
    else:
        assert refusal((ROOT,), moon, wall=WALL + offset) == kind


@pytest.mark.parametrize("level", ["root", "intermediate"])
def test_an_expired_ca_ends_what_it_issued(level: str) -> None:
    past = NOW - timedelta(days=1)
    root = ca("CN=R", end=past) if level == "root" else ROOT
    intermediate = ca("CN=I", root, end=past if level == "intermediate" else NOW + YEAR)
    assert refusal((root,), entity(intermediate), intermediate) == Kind.CERTIFICATE_EXPIRED


def test_an_expired_certificate_of_another_ca_is_called_untrusted() -> None:
    assert refusal((ROOT,), entity(OTHER, end=NOW - timedelta(days=1))) == Kind.CERTIFICATE_UNTRUSTED


def test_a_pinned_certificate_expires_too() -> None:
    moon = entity(None, end=NOW - timedelta(days=1))
    with pytest.raises(AuthenticationError) as caught:
        trusting().trusted_key(MOON_ID, [moon.der], wall=WALL, pinned=[moon.der])
    assert caught.value.kind == Kind.CERTIFICATE_EXPIRED


# Uses


@pytest.mark.parametrize(
    ("key_usage", "fits"),
    [
        (usage(), True),
        (x509.KeyUsage(False, True, False, False, False, False, False, False, False), True),
        (x509.KeyUsage(False, False, True, True, True, False, False, False, False), False),
        (usage(sign=False, certify=True), False),
    ],
)
def test_key_usage_must_allow_signatures(key_usage: x509.KeyUsage, fits: bool) -> None:
    moon = entity(ROOT, key_usage=key_usage)
    if fits:
        assert accept((ROOT,), moon)
    else:
        assert refusal((ROOT,), moon) == Kind.CERTIFICATE_INVALID


@pytest.mark.parametrize(
    ("purposes", "fits"),
    [
        (["1.3.6.1.5.5.7.3.17"], True),
        (["2.5.29.37.0"], True),
        (["1.3.6.1.5.5.7.3.1"], True),
        (["1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.17"], True),
        (["1.3.6.1.5.5.7.3.3"], False),
        (["1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.9"], False),
    ],
)
@pytest.mark.parametrize("critical", [True, False])
def test_extended_key_usage_must_have_a_purpose_for_ike(
    purposes: list[str], fits: bool, critical: bool
) -> None:
    extension = x509.ExtendedKeyUsage([x509.ObjectIdentifier(purpose) for purpose in purposes])
    moon = entity(ROOT, more=[(extension, critical)])
    if fits:
        assert accept((ROOT,), moon)
    else:
        assert refusal((ROOT,), moon) == Kind.CERTIFICATE_INVALID


@pytest.mark.parametrize("where", ["gateway", "intermediate", "root"])
@pytest.mark.parametrize(
    "extension",
    [
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
        x509.PolicyConstraints(require_explicit_policy=0, inhibit_policy_mapping=None),
        x509.InhibitAnyPolicy(0),
    ],
)
def test_a_critical_extension_that_is_not_understood_refuses(
    where: str, extension: x509.ExtensionType
) -> None:
    odd = [(extension, True)]
    root = ca("CN=R", more=odd if where == "root" else ())
    intermediate = ca("CN=I", root, more=odd if where == "intermediate" else ())
    moon = entity(intermediate, more=odd if where == "gateway" else ())
    if where == "root":
        with pytest.raises(CredentialError, match="critical extension"):
            trusting(root)
        return
    assert refusal((root,), moon, intermediate) == Kind.CERTIFICATE_INVALID


def test_extensions_that_are_not_critical_or_are_policies_do_not_matter() -> None:
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)])
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert accept((ROOT,), entity(ROOT, more=[(policies, True), (unknown, False)]))


# Keys and signatures (CVE-2017-11185, 2017-9022, 2018-17540, 2018-6459)


@pytest.mark.parametrize(
    ("modulus_bits", "exponent"),
    [(1024, 65537), (2047, 65537), (8200, 65537), (2048, 1), (2048, 4), (2048, 2**65 + 1), (2048, 0)],
)
def test_an_rsa_key_that_is_weak_or_odd_is_refused_quickly(modulus_bits: int, exponent: int) -> None:
    public = spki_of(2 ** (modulus_bits - 1) + 1, exponent)
    data = with_key(entity(ROOT, holder=key("rsa2048")).der, public)
    began = time.perf_counter()
    assert refusal((ROOT,), data) == Kind.CERTIFICATE_INVALID
    assert time.perf_counter() - began < 0.05


def test_an_even_modulus_is_refused() -> None:
    data = with_key(entity(ROOT, holder=key("rsa2048")).der, spki_of(2**2047, 65537))
    assert refusal((ROOT,), data) == Kind.CERTIFICATE_INVALID


def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    return bytes((tag, 0x82)) + size.to_bytes(2, "big") + content


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def spki_of(modulus: int, exponent: int) -> bytes:
    """The SubjectPublicKeyInfo of any RSA numbers, as the library would not write it."""
    algorithm = tlv(0x30, bytes.fromhex("06092a864886f70d010101") + b"\x05\x00")
    bits = b"\x00" + tlv(0x30, integer(modulus) + integer(exponent))
    return tlv(0x30, algorithm + tlv(0x03, bits))


def with_key(der: bytes, spki: bytes) -> bytes:
    """The certificate with another key in it; that its signature no longer fits must not be what is found."""
    before = certificate.parse(der).spki
    body_at = 4
    body = der[body_at:]
    body_length = int.from_bytes(body[2:4], "big")
    tbs, rest = body[4 : 4 + body_length], body[4 + body_length :]
    assert before in tbs
    return tlv(0x30, tlv(0x30, tbs.replace(before, spki)) + rest)


def test_a_key_on_a_small_curve_is_refused() -> None:
    assert refusal((ROOT,), entity(ROOT, holder=key("p192"))) == Kind.CERTIFICATE_INVALID


def test_a_certificate_signed_over_sha1_is_refused() -> None:
    root = ca("CN=R", holder=key("rsa2048"))
    with_sha256, with_sha1 = (bytes.fromhex("06092a864886f70d0101" + arc) for arc in ("0b", "05"))
    moon = entity(root).der
    assert moon.count(with_sha256) == 2
    # The signature no longer fits either, but the weak hash is what must be found before it is computed.
    assert refusal((root,), moon.replace(with_sha256, with_sha1)) == Kind.CERTIFICATE_INVALID


@pytest.mark.parametrize(
    ("digest", "fits"), [(hashes.SHA256(), True), (hashes.SHA512(), True), (hashes.SHA224(), False)]
)
def test_a_certificate_signed_with_pss_is_read_by_its_hash(digest: hashes.HashAlgorithm, fits: bool) -> None:
    root = ca("CN=R", holder=key("rsa2048"))
    assert isinstance(root.key, rsa.RSAPrivateKey)
    chosen = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
    holder = key("p256")
    start, end = NOW - YEAR, NOW + YEAR
    builder = x509.CertificateBuilder(
        root.subject, name("CN=moon"), holder.public_key(), x509.random_serial_number(), start, end
    ).add_extension(names(*MOON), critical=False)
    made = builder.sign(root.key, digest, rsa_padding=chosen)  # type: ignore[arg-type]
    data = made.public_bytes(Encoding.DER)
    if fits:
        assert accept((root,), Held(certificate.parse(data), holder))
    else:
        assert refusal((root,), data) == Kind.CERTIFICATE_INVALID


def test_a_weak_certificate_is_refused_even_if_it_is_pinned() -> None:
    weak = entity(None, holder=key("p192"))
    with pytest.raises(AuthenticationError) as caught:
        trusting().trusted_key(MOON_ID, [weak.der], wall=WALL, pinned=[weak.der])
    assert caught.value.kind == Kind.CERTIFICATE_INVALID


def test_a_serial_number_that_is_not_positive_and_version_1_are_refused() -> None:
    moon = entity(ROOT).der
    at = moon.index(b"\xa0\x03\x02\x01\x02") + 5
    length = moon[at + 1]
    for serial in (b"\x80" + bytes(length - 1), bytes(length)):
        with pytest.raises(CredentialError, match="serial number"):
            certificate.parse(moon[: at + 2] + serial + moon[at + 2 + length :])
    body = moon[8:]
    assert body.startswith(b"\xa0\x03\x02\x01\x02")
    inner = tlv(0x30, body[5 : int.from_bytes(moon[6:8], "big")])
    with pytest.raises(CredentialError, match="version 1"):
        certificate.parse(tlv(0x30, inner + moon[8 + int.from_bytes(moon[6:8], "big") :]))


def test_keys_that_cannot_sign_and_too_many_names_are_refused() -> None:
    holder = x25519.X25519PrivateKey.generate()
    assert isinstance(ROOT.key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder(
        ROOT.subject, name("CN=x"), holder.public_key(), 1, NOW - YEAR, NOW + YEAR
    )
    data = builder.sign(ROOT.key, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(CredentialError, match="key of kind"):
        certificate.parse(data)
    many = [f"dns:n{number}.example.org" for number in range(certificate.MAX_NAMES + 1)]
    with pytest.raises(CredentialError, match="names"):
        entity(ROOT, sans=many)


def test_a_certificate_without_a_subject_is_called_by_its_first_name() -> None:
    assert entity(ROOT, "").certificate.title == "moon.example.org"
    assert entity(ROOT, "", ()).certificate.title == "(no subject)"


def test_a_ca_of_the_connection_that_is_none_is_told_as_our_mistake() -> None:
    moon = entity(ROOT)
    for wrong in (moon.der, b"rubbish"):
        with pytest.raises(AuthenticationError, match="our own configuration"):
            trusting(ROOT).trusted_key(MOON_ID, [moon.der], wall=WALL, ca_certificates=[wrong])


def test_every_flipped_octet_of_a_certificate_refuses_it() -> None:
    moon = entity(ROOT).der
    store = trusting(ROOT)
    passed = []
    for at in range(len(moon)):
        changed = bytes((*moon[:at], moon[at] ^ 0x01, *moon[at + 1 :]))
        try:
            store.trusted_key(MOON_ID, [changed], wall=WALL)
        except AuthenticationError:
            continue
        passed.append(at)
    assert passed == []


def test_a_certificate_cut_off_anywhere_or_longer_is_refused() -> None:
    moon = entity(ROOT).der
    for data in (*(moon[:length] for length in range(0, len(moon), 7)), moon + b"\x00", b"\x00" * 40_000):
        with pytest.raises(CredentialError):
            certificate.parse(data)


def test_a_certificate_with_an_extension_twice_or_a_broken_one_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x84")
    with pytest.raises(CredentialError):
        certificate.parse(raw("CN=x", ROOT, extensions=[(unknown, False)]))


# Names: the ID against the certificate


@pytest.mark.parametrize(
    "text",
    [
        "moon.example.org",
        "MOON.Example.org",
        "192.0.2.1",
        "2001:db8::1",
        "moon@example.org",
        "C=CH, O=Test, CN=moon",
    ],
)
def test_an_identity_in_the_alternative_names_or_equal_to_the_subject_is_the_peers(text: str) -> None:
    assert accept((ROOT,), entity(ROOT), identity=Identity.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "sun.example.org",
        "example.org",
        "sub.moon.example.org",
        "moon.example.org.",
        "xmoon.example.org",
        "192.0.2.2",
        "2001:db8::2",
        "sun@example.org",
        "fqdn:192.0.2.1",
        "fqdn:moon@example.org",
        "email:moon.example.org",
        "keyid:moon.example.org",
        "C=CH, O=Test",
        "C=CH, O=Test, CN=sun",
        "C=CH, O=Test, CN=moon, CN=moon",
        "O=Test, C=CH, CN=moon",
        "C=CH, O=test, CN=moon",
        "C=CH, O=Test, CN=*",
        "CN=moon",
        "fqdn:moon",
        "192.0.2.0/24",
        "fqdn:*.example.org",
        "{10}:#82106d6f6f6e",
        "{13}:#00",
    ],
)
def test_any_other_identity_is_not(text: str) -> None:
    assert refusal((ROOT,), entity(ROOT), identity=Identity.parse(text)) == Kind.CERTIFICATE_ID_MISMATCH


def test_a_flipped_bit_anywhere_in_the_dn_is_another_name() -> None:
    moon = entity(ROOT)
    subject = moon.certificate.subject
    for at in range(len(subject)):
        for bit in range(8):
            changed = bytes((*subject[:at], subject[at] ^ 1 << bit, *subject[at + 1 :]))
            identity = Identity(IdType.DER_ASN1_DN, changed)
            assert refusal((ROOT,), moon, identity=identity) == Kind.CERTIFICATE_ID_MISMATCH


def test_the_common_name_is_no_identity_even_without_alternative_names() -> None:
    moon = entity(ROOT, "CN=moon.example.org", ())
    assert refusal((ROOT,), moon) == Kind.CERTIFICATE_ID_MISMATCH
    assert accept((ROOT,), moon, identity=Identity.parse("CN=moon.example.org"))


def test_the_alternative_name_counts_where_the_common_name_says_otherwise() -> None:
    moon = entity(ROOT, "CN=sun.example.org", ["dns:moon.example.org"])
    assert accept((ROOT,), moon)
    assert refusal((ROOT,), moon, identity=Identity.parse("sun.example.org")) == Kind.CERTIFICATE_ID_MISMATCH


def test_a_wildcard_in_a_certificate_vouches_for_nobody() -> None:
    wild = entity(ROOT, "CN=w", ["dns:*.example.org"])
    assert refusal((ROOT,), wild) == Kind.CERTIFICATE_ID_MISMATCH
    literal = Identity(IdType.FQDN, b"*.example.org")
    assert refusal((ROOT,), wild, identity=literal) == Kind.CERTIFICATE_ID_MISMATCH


def test_an_empty_subject_is_no_identity() -> None:
    moon = entity(ROOT, "")
    assert accept((ROOT,), moon)
    empty = Identity(IdType.DER_ASN1_DN, b"\x30\x00")
    assert refusal((ROOT,), moon, identity=empty) == Kind.CERTIFICATE_ID_MISMATCH


def test_a_key_id_is_the_subject_key_identifier_or_the_keys_sha1() -> None:
    moon = entity(ROOT, more=[(x509.SubjectKeyIdentifier(b"\x01\x02\x03\x04"), False)])
    for data in (b"\x01\x02\x03\x04", moon.certificate.key_id):
        assert accept((ROOT,), moon, identity=Identity(IdType.KEY_ID, data))
    for data in (b"\x01\x02\x03", moon.certificate.key_id[:19]):
        identity = Identity(IdType.KEY_ID, data)
        assert refusal((ROOT,), moon, identity=identity) == Kind.CERTIFICATE_ID_MISMATCH
    bare = Identity(IdType.KEY_ID, b"")
    assert refusal((ROOT,), entity(ROOT), identity=bare) == Kind.CERTIFICATE_ID_MISMATCH


def test_without_a_certificate_of_the_peers_a_loaded_one_serves() -> None:
    moon = entity(ROOT)
    assert refusal((ROOT,)) == Kind.CERTIFICATE_MISSING
    store = trusting(ROOT)
    store.add_certificate(moon.der)
    assert store.trusted_key(MOON_ID, [], wall=WALL).chain[0].der == moon.der
    with pytest.raises(AuthenticationError) as caught:
        store.trusted_key(Identity.parse("sun.example.org"), [], wall=WALL)
    assert caught.value.kind == Kind.CERTIFICATE_MISSING


def test_where_a_certificate_is_pinned_no_other_will_do() -> None:
    moon, renewed = entity(ROOT), entity(ROOT)
    store = trusting(ROOT)
    assert store.trusted_key(MOON_ID, [moon.der], wall=WALL, pinned=[renewed.der, moon.der])
    with pytest.raises(AuthenticationError) as caught:
        store.trusted_key(MOON_ID, [moon.der], wall=WALL, pinned=[renewed.der])
    assert caught.value.kind == Kind.CERTIFICATE_UNTRUSTED
    assert store.trusted_key(MOON_ID, [], wall=WALL, pinned=[moon.der])


def test_what_the_peer_sends_is_not_remembered() -> None:
    store = trusting(ROOT)
    for _ in range(50):
        store.trusted_key(MOON_ID, [entity(ROOT).der], wall=WALL)
    assert len(store.certificates()) == 1
    assert len(store._parsed) == 0


# Name constraints (CVE-2026-35331)


def dns(*values: str) -> list[x509.GeneralName]:
    return [x509.DNSName(value) for value in values]


def mail(*values: str) -> list[x509.GeneralName]:
    return [x509.RFC822Name(value) for value in values]


def net(*values: str) -> list[x509.GeneralName]:
    return [x509.IPAddress(ipaddress.ip_network(value)) for value in values]


def dirs(*values: str) -> list[x509.GeneralName]:
    return [x509.DirectoryName(name(value)) for value in values]


Names = list[x509.GeneralName]


@pytest.mark.parametrize(
    ("permitted", "excluded", "sans", "fits"),
    [
        (dns("example.org"), [], ["dns:moon.example.org"], True),
        (dns("example.org"), [], ["dns:example.org"], True),
        (dns("EXAMPLE.org"), [], ["dns:moon.Example.ORG"], True),
        (dns("example.org"), [], ["dns:moon.example.org."], True),
        (dns(".example.org"), [], ["dns:moon.example.org"], True),
        (dns(".example.org"), [], ["dns:example.org"], False),
        (dns("example.org"), [], ["dns:evilexample.org"], False),
        (dns("example.org"), [], ["dns:moon.example.org", "dns:evil.net"], False),
        (dns("a.net", "example.org"), [], ["dns:moon.example.org"], True),
        (dns("example.org"), [], ["dns:*.org"], False),
        ([], dns("example.org"), ["dns:moon.example.net"], True),
        ([], dns("example.org"), ["dns:moon.example.org"], False),
        ([], dns("example.org"), ["dns:MOON.EXAMPLE.ORG"], False),
        ([], dns("EXAMPLE.ORG"), ["dns:moon.example.org"], False),
        ([], dns("example.org."), ["dns:moon.example.org"], False),
        ([], dns("example.org"), ["dns:moon.example.org."], False),
        ([], dns(".example.org"), ["dns:example.org"], False),
        ([], dns("moon.example.org"), ["dns:*.example.org"], False),
        ([], dns("xn--bcher-kva.example"), ["dns:a.XN--BCHER-KVA.example"], False),
        (dns("example.org"), dns("moon.example.org"), ["dns:moon.example.org"], False),
        (dns("example.org"), [], ["ip:192.0.2.1"], True),
        (net("192.0.2.0/24"), [], ["ip:192.0.2.1"], True),
        (net("192.0.2.0/24"), [], ["ip:198.51.100.1"], False),
        (net("192.0.2.0/24"), [], ["ip:2001:db8::1"], False),
        ([], net("192.0.2.0/24"), ["ip:192.0.2.1"], False),
        ([], net("2001:db8::/32"), ["ip:2001:db8::1"], False),
        (mail("example.org"), [], ["email:moon@example.org"], True),
        (mail("example.org"), [], ["email:moon@sub.example.org"], False),
        (mail(".example.org"), [], ["email:moon@sub.example.org"], True),
        (mail("moon@example.org"), [], ["email:moon@example.org"], True),
        (mail("moon@example.org"), [], ["email:sun@example.org"], False),
        ([], mail("example.org"), ["email:moon@EXAMPLE.ORG"], False),
        ([], mail("moon@example.org"), ["email:Moon@example.org"], False),
        ([], mail(".example.org"), ["email:moon@example.org"], False),
        (dns(""), [], ["dns:moon.example.org"], True),
        ([], dns(""), ["dns:moon.example.org"], False),
        (mail("example.org"), [], ["email:nobody"], False),
        ([], mail("example.org"), ["email:nobody"], False),
        (dirs("C=CH,O=Test"), [], [], True),
        (dirs("C=CH"), [], [], True),
        (dirs("C=CH,O=Other"), [], [], False),
        (dirs("C=CH,O=Test,CN=moon,CN=x"), [], [], False),
        ([], dirs("C=CH,O=TEST"), [], False),
        ([], dirs("C=CH,O= test "), [], False),
        ([], dirs("C=CH,O=Other"), [], True),
        ([x509.UniformResourceIdentifier("example.org")], [], [], False),
        ([], [x509.UniformResourceIdentifier("example.org")], [], False),
        ([], [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], [], False),
    ],
)
@pytest.mark.parametrize("level", ["root", "intermediate"])
def test_names_outside_a_cas_constraints_are_refused(
    level: str, permitted: Names, excluded: Names, sans: list[str], fits: bool
) -> None:
    constraints = [(x509.NameConstraints(permitted or None, excluded or None), True)]
    root = ca("CN=R", more=constraints if level == "root" else ())
    intermediate = ca("C=CH,O=Test", root, more=constraints if level == "intermediate" else ())
    moon = entity(intermediate, "C=CH,O=Test,CN=moon", sans)
    identity = Identity.parse("C=CH, O=Test, CN=moon")
    if fits:
        assert accept((root,), moon, intermediate, identity=identity)
    else:
        assert refusal((root,), moon, intermediate, identity=identity) == Kind.CERTIFICATE_INVALID


def test_constraints_bind_intermediates_too() -> None:
    root = ca("CN=R", more=[(x509.NameConstraints(None, dirs("C=DE")), True)])
    intermediate = ca("C=DE,CN=I", root)
    assert refusal((root,), entity(intermediate), intermediate) == Kind.CERTIFICATE_INVALID


# What may be loaded


def test_only_a_ca_is_loaded_as_one() -> None:
    with pytest.raises(CredentialError, match="no CA certificate"):
        trusting(entity(ROOT))
    weak = ca("CN=weak", holder=rsa.generate_private_key(65537, 1024))
    with pytest.raises(CredentialError, match="1024 bits"):
        trusting(weak)


@pytest.mark.interop
def test_strongswan_reads_these_certificates_as_we_do(tmp_path: Path) -> None:
    """Independent judge: `pki --verify` on certificates whose fate is known, at today's date."""
    if shutil.which("pki") is None:
        pytest.skip("strongSwan's pki is not installed")
    wall = time.time()
    start, end = NOW - 10 * YEAR, NOW + 20 * YEAR
    root = ca("CN=R", start=start, end=end)
    other = ca("CN=R", start=start, end=end, holder=key("p256", "other"))
    cases = {
        "good": (entity(root, start=start, end=end), None),
        "expired": (entity(root, start=start, end=NOW - 5 * YEAR), Kind.CERTIFICATE_EXPIRED),
        "future": (entity(root, start=end, end=end + YEAR), Kind.CERTIFICATE_NOT_YET_VALID),
        "other": (entity(other, start=start, end=end), Kind.CERTIFICATE_UNTRUSTED),
    }
    (tmp_path / "ca").write_bytes(root.der)
    for title, (moon, kind) in cases.items():
        (tmp_path / title).write_bytes(moon.der)
        judged = subprocess.run(
            ["pki", "--verify", "--in", str(tmp_path / title), "--cacert", str(tmp_path / "ca")],
            capture_output=True,
        )
        assert (judged.returncode == 0) is (kind is None), title
        if kind is None:
            assert accept((root,), moon, wall=wall)
        else:
            assert refusal((root,), moon, wall=wall) == kind


def test_a_gateway_holds_what_it_was_given() -> None:
    moon = entity(ROOT, sans=MOON)
    own = holding(moon).own_key(identity=MOON_ID)
    assert own.certificate.der == moon.der
    assert [str(one) for one in own.certificate.identities()] == [
        "moon.example.org",
        "192.0.2.1",
        "2001:db8::1",
        "moon@example.org",
        "C=CH, O=Test, CN=moon",
    ]
