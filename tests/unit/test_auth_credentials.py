"""The store: which secret, key and certificate is taken; and that none of them can be seen (T46)."""

from __future__ import annotations

import ipaddress
import timeit
import traceback

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cygnet.auth.credentials import Credentials, Shared
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import Identity
from cygnet.wire.numbers import IdType
from tests.unit.auth_material import ca, entity, holding, key, trusting

MOON, SUN, VENUS = (Identity.parse(f"{name}.example.org") for name in ("moon", "sun", "venus"))
MOON_ADDRESS, SUN_ADDRESS, VENUS_ADDRESS = (ipaddress.ip_address(f"192.0.2.{n}") for n in (1, 2, 3))
ROOT = ca("C=CH,O=Test,CN=Root")


def store(**owners: list[str]) -> Credentials:
    """A secret for each name, with these owners; its octets are its name."""
    credentials = Credentials()
    for name, who in owners.items():
        credentials.add_shared(name, "ike", name.encode(), [Identity.parse(one) for one in who])
    return credentials


@pytest.mark.parametrize(
    ("owners", "local", "remote", "found"),
    [
        ({"both": ["moon.example.org", "sun.example.org"]}, MOON, SUN, b"both"),
        ({"both": ["moon.example.org", "sun.example.org"]}, SUN, MOON, b"both"),
        ({"peer": ["sun.example.org"]}, MOON, SUN, b"peer"),
        ({"peer": ["SUN.Example.org"]}, MOON, SUN, b"peer"),
        ({"peer": ["sun.example.org"]}, MOON, VENUS, None),
        ({"anybody": []}, MOON, SUN, b"anybody"),
        ({"anybody": ["%any"]}, MOON, SUN, b"anybody"),
        ({"wild": ["*.example.org"]}, MOON, SUN, b"wild"),
        ({"wild": ["*.example.net"]}, MOON, SUN, None),
        ({"dn": ["C=CH, CN=*"]}, MOON, Identity.parse("C=CH, CN=sun"), b"dn"),
        ({"block": ["10.0.0.0/8"]}, MOON, Identity.parse("10.1.2.3"), b"block"),
        ({"any": [], "wild": ["*.example.org"], "peer": ["sun.example.org"]}, MOON, SUN, b"peer"),
        ({"peer": ["sun.example.org"], "wild": ["*.example.org"], "any": []}, MOON, SUN, b"peer"),
        ({"any": [], "wild": ["*.example.org"]}, MOON, SUN, b"wild"),
        (
            {"pair": ["moon.example.org", "sun.example.org"], "peer": ["sun.example.org"]},
            MOON,
            SUN,
            b"pair",
        ),
        (
            {
                "moon": ["moon.example.org", "sun.example.org"],
                "venus": ["venus.example.org", "sun.example.org"],
            },
            VENUS,
            SUN,
            b"venus",
        ),
        # A secret of our own serves towards all; one that we share with sun does not serve towards venus.
        ({"own": ["moon.example.org"]}, MOON, SUN, b"own"),
        ({"own": ["moon.example.org"], "any": []}, MOON, SUN, b"own"),
        ({"sun": ["moon.example.org", "sun.example.org"]}, MOON, VENUS, None),
        ({"sun": ["moon.example.org", "sun.example.org"], "any": []}, MOON, VENUS, b"any"),
    ],
)
def test_the_secret_whose_owner_names_the_peer_most_closely_is_taken(
    owners: dict[str, list[str]], local: Identity, remote: Identity, found: bytes | None
) -> None:
    assert store(**owners).psk(local, remote) == found


@pytest.mark.parametrize(
    ("owners", "found"),
    [
        ({"address": ["192.0.2.2"]}, b"address"),
        ({"pair": ["192.0.2.1", "192.0.2.2"]}, b"pair"),
        ({"other": ["192.0.2.3"]}, None),
        ({"block": ["192.0.2.0/24"]}, b"block"),
        ({"address": ["192.0.2.2"], "name": ["sun.example.org"]}, b"name"),
        ({"address": ["192.0.2.2"], "wild": ["*.example.org"]}, b"wild"),
        ({"any": [], "address": ["192.0.2.2"]}, b"address"),
    ],
)
def test_a_secret_may_belong_to_an_address_which_counts_less_than_an_identity(
    owners: dict[str, list[str]], found: bytes | None
) -> None:
    assert store(**owners).psk(MOON, SUN, MOON_ADDRESS, SUN_ADDRESS) == found


def test_only_the_diagonal_of_peers_and_secrets_fits() -> None:
    """T25: N peers, N secrets; each pair has its own and no other."""
    peers = [Identity.parse(f"peer{number}.example.org") for number in range(20)]
    credentials = store(**{f"secret{number}": [str(peer), str(MOON)] for number, peer in enumerate(peers)})
    for number, peer in enumerate(peers):
        assert credentials.psk(MOON, peer) == f"secret{number}".encode()
        assert credentials.psk(peer, MOON) == f"secret{number}".encode()
        assert credentials.psk(peer, VENUS) is None


def test_secrets_of_other_kinds_are_no_psk() -> None:
    credentials = Credentials()
    for kind in ("eap", "xauth", "ppk", "ntlm"):
        credentials.add_shared(kind, kind, b"of another kind.", [SUN])
        credentials.add_shared(f"{kind}-any", kind, b"of another kind.")
    assert credentials.psk(MOON, SUN) is None


def test_a_secret_is_replaced_and_removed_by_its_name() -> None:
    credentials = store(one=["sun.example.org"], wild=["*.example.org"])
    credentials.add_shared("one", "ike", b"renewed", [VENUS])
    assert credentials.psk(MOON, VENUS) == b"renewed"
    assert credentials.psk(MOON, SUN) == b"wild"
    assert credentials.shared_names() == ("wild", "one")
    assert credentials.remove_shared("wild")
    assert not credentials.remove_shared("wild")
    assert credentials.psk(MOON, SUN) is None
    assert credentials.remove_shared("one")
    assert credentials._by_owner == {}
    assert credentials._patterns == []


def test_a_short_secret_is_noted_and_an_empty_one_refused() -> None:
    credentials = Credentials()
    (note,) = credentials.add_shared("weak", "ike", b"guess me", [SUN])
    assert "8 octets" in note
    assert "guess me" not in note
    assert credentials.psk(MOON, SUN) == b"guess me"
    assert credentials.add_shared("strong", "ike", bytes(range(16)), [SUN]) == ()
    assert credentials.add_shared("password", "eap", b"short", [SUN]) == ()
    with pytest.raises(CredentialError):
        credentials.add_shared("none", "ike", b"", [SUN])


def test_the_lookup_does_not_slow_down_with_the_number_of_secrets() -> None:
    few = store(**{f"s{number}": [f"peer{number}.example.org"] for number in range(10)})
    many = store(**{f"s{number}": [f"peer{number}.example.org"] for number in range(5000)})
    peer = Identity.parse("peer7.example.org")
    ratio = min(timeit.repeat(lambda: many.psk(MOON, peer), number=200)) / min(
        timeit.repeat(lambda: few.psk(MOON, peer), number=200)
    )
    assert ratio < 5


MARKER = "Marker-of-a-Secret-0815"


def test_no_secret_and_no_key_can_be_seen_in_a_repr_or_a_message() -> None:
    credentials = Credentials()
    credentials.add_shared("s", "ike", MARKER.encode(), [SUN])
    moon = entity(ROOT)
    credentials.add_certificate(moon.der)
    credentials.add_private_key(moon.key_pem)
    own = credentials.own_key(identity=MOON)
    shown = [repr(credentials), str(credentials), repr(own)]
    shown += [repr(entry) for entry in credentials._shared.values()]
    shown.append(repr(Shared("s", "ike", MARKER.encode(), ())))
    private = moon.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for text in shown:
        assert MARKER not in text
        assert private.hex() not in text
        assert "PrivateKey" not in text
    broken = f"-----BEGIN PRIVATE KEY-----\n{MARKER}\n-----END PRIVATE KEY-----\n".encode()
    try:
        credentials.add_private_key(broken)
    except CredentialError:
        assert MARKER not in "".join(traceback.format_exc(chain=True))
    else:
        pytest.fail("a broken key was loaded")


# Keys


def test_a_key_is_loaded_from_pem_or_der_encrypted_or_not_and_known_by_strongswans_number() -> None:
    moon = entity(ROOT)
    expected = moon.certificate.key_id.hex()
    pem = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    forms = [
        moon.key.private_bytes(*pem),
        moon.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        moon.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        moon.key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    ]
    for form in forms:
        credentials = Credentials()
        assert credentials.add_private_key(form) == expected
        assert credentials.key_ids() == (expected,)
        assert credentials.key_for(moon.der) is not None
    locked = moon.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open"))
    credentials = Credentials()
    assert credentials.add_private_key(locked, b"open") == expected
    for passphrase in (None, b"wrong"):
        with pytest.raises(CredentialError, match="passphrase"):
            credentials.add_private_key(locked, passphrase)
    assert credentials.remove_private_key(expected.upper())
    assert not credentials.remove_private_key(expected)
    assert credentials.key_for(moon.der) is None


@pytest.mark.parametrize(
    "data", [b"", b"rubbish", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"]
)
def test_what_is_no_private_key_is_refused(data: bytes) -> None:
    with pytest.raises(CredentialError):
        Credentials().add_private_key(data)


def test_a_key_that_ike_cannot_use_is_refused() -> None:
    pem = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for bad in (rsa.generate_private_key(65537, 1024), dsa.generate_private_key(1024), key("p192")):
        with pytest.raises(CredentialError):
            Credentials().add_private_key(bad.private_bytes(*pem))


def test_removal_and_clearing_forget() -> None:
    moon = entity(ROOT)
    credentials = holding(moon)
    credentials.add_certificate(ROOT.der, ca=True)
    credentials.add_shared("s", "ike", bytes(16), [SUN])
    assert credentials.remove_certificate(ROOT.der)
    assert credentials.anchors() == ()
    assert not credentials.remove_certificate(ROOT.der)
    credentials.clear()
    assert repr(credentials) == "Credentials(0 secrets, 0 keys, 0 certificates, 0 CAs)"
    assert credentials.psk(MOON, SUN) is None
    assert credentials.key_for(moon.der) is None


# Our own identity


def test_the_configured_certificate_and_its_intermediates_are_what_we_send() -> None:
    first = ca("CN=I1", ROOT)
    second = ca("CN=I2", first)
    moon = entity(second)
    credentials = holding(moon)
    configured = credentials.own_key([moon.der, second.der, first.der])
    assert [one.der for one in configured.chain] == [moon.der, second.der, first.der]
    for one in (first, second, ROOT):
        credentials.add_certificate(one.der)
    assert [one.der for one in credentials.own_key([moon.der]).chain] == [moon.der, second.der, first.der]


def test_a_missing_certificate_and_a_missing_key_are_told_apart() -> None:
    moon = entity(ROOT)
    credentials = trusting(ROOT)
    with pytest.raises(AuthenticationError) as caught:
        credentials.own_key(identity=MOON)
    assert caught.value.kind == Kind.CERTIFICATE_MISSING
    with pytest.raises(AuthenticationError) as caught:
        credentials.own_key([moon.der])
    assert caught.value.kind == Kind.PRIVATE_KEY_MISSING
    credentials.add_certificate(moon.der)
    with pytest.raises(AuthenticationError) as caught:
        credentials.own_key(identity=MOON)
    assert caught.value.kind == Kind.PRIVATE_KEY_MISSING
    with pytest.raises(AuthenticationError) as caught:
        credentials.own_key([b"rubbish"])
    assert caught.value.kind == Kind.CERTIFICATE_INVALID


def test_the_certificate_under_a_requested_ca_is_preferred_but_another_one_serves() -> None:
    other = ca("CN=Other")
    by_root, by_other = entity(ROOT), entity(other, holder=key("p256", "second"))
    credentials = holding(by_root, by_other)
    for one in (ROOT, other):
        credentials.add_certificate(one.der, ca=True)
    for issuer, wanted in ((ROOT, by_root), (other, by_other)):
        own = credentials.own_key(identity=MOON, requested=[issuer.certificate.key_hash()])
        assert own.certificate.der == wanted.der
    assert credentials.own_key(identity=MOON, requested=[bytes(20)])
    hashes = {ROOT.certificate.key_hash(), other.certificate.key_hash()}
    assert set(credentials.certreq_hashes()) == hashes
    assert all(len(one) == 20 for one in hashes)
    assert credentials.certreq_hashes([other.der]) == (other.certificate.key_hash(),)


def test_a_dn_goes_out_in_the_octets_of_the_certificate() -> None:
    """RFC 4945, section 3.1.5: a binary comparison with the subject must succeed."""
    moon = entity(ROOT)
    configured = Identity.parse("C=CH, O=Test, CN=moon")
    assert configured.data != moon.certificate.subject
    for certificates in ([moon.der], []):
        sent = holding(moon).own_identity(configured, certificates, MOON_ADDRESS)
        assert sent == Identity(IdType.DER_ASN1_DN, moon.certificate.subject)
    stranger = Identity.parse("C=CH, CN=stranger")
    assert holding(moon).own_identity(stranger, [moon.der], MOON_ADDRESS) == stranger


def test_without_an_identity_the_certificates_subject_or_the_address_is_it() -> None:
    moon, nameless = entity(ROOT), entity(ROOT, "")
    credentials = holding(moon, nameless)
    subject = Identity(IdType.DER_ASN1_DN, moon.certificate.subject)
    assert credentials.own_identity(None, [moon.der], MOON_ADDRESS) == subject
    assert credentials.own_identity(Identity.any(), [moon.der], MOON_ADDRESS) == subject
    assert credentials.own_identity(None, [nameless.der], MOON_ADDRESS) == MOON
    assert credentials.own_identity(None, [], MOON_ADDRESS) == Identity.parse("192.0.2.1")
    assert credentials.own_identity(SUN, [moon.der], MOON_ADDRESS) == SUN
