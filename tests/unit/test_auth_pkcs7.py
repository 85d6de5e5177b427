"""Certificates in PKCS#7 bundles of IKEv1 peers (RFC 4945, section 3.3.10)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import load_der_x509_certificate

from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import Identity
from cygnet.auth.pkcs7 import MAX_BUNDLE, MAX_CERTIFICATES, unpack
from cygnet.ike.v1 import phase1
from cygnet.wire.v1.numbers import CertEncoding
from cygnet.wire.v1.payloads import CertPayload
from tests.unit.auth_material import Held, ca, entity, key
from tests.unit.test_security_remote_access import with_certificate_and_login

ROOT = ca()
MIDDLE = ca("CN=Middle", ROOT, holder=key("p256", "middle"))
MOON = entity(MIDDLE, holder=key("p256", "moon"))
OTHER = entity(MIDDLE, "CN=other", ["dns:other.example.org"], holder=key("p256", "other"))
NAME = Identity.parse("moon.example.org")


def bundle(*held: Held) -> bytes:
    return pkcs7.serialize_certificates([one.certificate.handle for one in held], Encoding.DER)


def test_the_peers_own_certificate_comes_first_wherever_it_stood() -> None:
    for order in ((MIDDLE, OTHER, MOON), (MOON, MIDDLE, OTHER), (OTHER, MOON, MIDDLE)):
        assert unpack(bundle(*order), NAME) == (MOON.der, OTHER.der, MIDDLE.der)


def test_v53_what_is_no_bundle_is_refused_and_bounded() -> None:
    good = bundle(MOON, MIDDLE)
    for data in (b"", b"\x30\x80", MOON.der, good[:-1], good[: len(good) // 2], bytes(MAX_BUNDLE + 1)):
        with pytest.raises(CredentialError):
            unpack(data, NAME)
    many = [entity(ROOT, f"CN=n{n}", holder=key("p256", "moon")) for n in range(MAX_CERTIFICATES + 1)]
    with pytest.raises(CredentialError):
        unpack(bundle(*many), NAME)


def test_v53_no_octet_of_a_bundle_makes_anything_else_of_it() -> None:
    good = bundle(MOON, MIDDLE)
    for at in range(0, len(good), 7):
        odd = good[:at] + bytes((good[at] ^ 0x41,)) + good[at + 1 :]
        try:
            found = unpack(odd, NAME)
        except CredentialError:
            continue
        assert len(found) <= 2


@pytest.mark.parametrize("bad", [False, True])
def test_a_peer_that_sends_a_bundle_is_judged_by_it(bad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    office = with_certificate_and_login("no", "wrong CA" if bad else "")
    genuine = phase1.prove
    bundles = 0

    def bundled(*arguments: Any) -> tuple[Any, ...]:
        nonlocal bundles
        made = []
        for payload in genuine(*arguments):
            if isinstance(payload, CertPayload):
                bundles += 1
                handle = load_der_x509_certificate(payload.data)
                data = pkcs7.serialize_certificates([handle, MIDDLE.certificate.handle], Encoding.DER)
                payload = CertPayload(CertEncoding.PKCS7_X509, data)
            made.append(payload)
        return tuple(made)

    monkeypatch.setattr(phase1, "prove", bundled)
    assert office.tries() is not bad
    assert bundles
