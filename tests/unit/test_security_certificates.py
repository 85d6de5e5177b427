"""Certificates and identities as an attacker makes them: depth, number, addresses in them (docs/security.md).

The rules of trust have tests of their own (`test_auth_*`); here is what certificates may cost and cause.
"""

from __future__ import annotations

import ast
import gc
import inspect
import sys
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from cygnet.auth import certificate
from cygnet.auth.ask import FetchAll
from cygnet.auth.credentials import Credentials, OwnKey
from cygnet.auth.der import encode
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import BadIdentity, Identity
from cygnet.auth.revocation import Policy
from cygnet.ike.configuration import AuthClass, LocalAuth, RemoteAuth
from cygnet.ike.effects import Ask
from cygnet.ike.errors import Reason
from cygnet.wire.numbers import CertEncoding, IdType
from cygnet.wire.payloads import CertPayload
from tests.unit.auth_material import Held, ca, entity, holding, key
from tests.unit.ike_by_hand import connection, with_key
from tests.unit.security_by_hand import MOON, SECRET, SUN, Talk, Watched, product, work

ROOT = ca("CN=Root")
NETWORK = {"socket", "ssl", "http", "urllib", "requests", "httpx", "aiohttp", "asyncio", "subprocess"}


def gateway() -> Watched:
    """It asks for a certificate, and proves itself with a secret."""
    remote = RemoteAuth(AuthClass.PUBKEY, SUN, ca_certificates=(ROOT.der,))
    credentials = Credentials()
    credentials.add_shared("s", "ike", SECRET)
    credentials.add_certificate(ROOT.der, ca=True)
    way = connection("peer", LocalAuth(AuthClass.PSK, MOON), remote)
    return Watched(way, credentials=credentials, loud=True)


def nested(depth: int, tag: int = 0x30) -> bytes:
    data = b"\x05\x00"
    for _ in range(depth):
        if len(data) > 60_000:
            break
        data = encode(tag, data)
    return data


@pytest.mark.parametrize("depth", [1, 10, 11, 100, 5000, 12_000])
@pytest.mark.parametrize("tag", [0x30, 0x31, 0xA0, 0x24])
def test_v53_no_depth_of_der_is_walked_down(depth: int, tag: int) -> None:
    """CVE-2017-9023, CVE-2013-5018, CVE-2026-35329: nesting without end, loops, lengths that lie."""
    data = nested(depth, tag)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200 + len(inspect.stack()))
    try:
        with pytest.raises(CredentialError):
            certificate.parse(data)
        with pytest.raises(BadIdentity):
            Identity.from_wire(IdType.DER_ASN1_DN, encode(0x30, encode(0x31, data)))
    finally:
        sys.setrecursionlimit(limit)


def test_v53_hostile_der_costs_no_more_than_its_length_allows() -> None:
    good = entity(ROOT, "CN=sun", ["dns:sun.example.org"]).der
    hostile = [nested(12_000), good + bytes(30_000), b"\x30\x82\xff\xff" + good, good * 20]
    for data in [*hostile, b"\x30\x80" * 15_000]:
        assert work(map(_judged, [data])) < 3000 + len(data)


def _judged(data: bytes) -> list[object]:
    """What comes of it, without an exception."""
    found: list[object] = []
    try:
        found.append(certificate.parse(data))
    except CredentialError as error:
        found.append(error)
    return found


def test_v53_lengths_that_lie_anywhere_in_a_certificate_are_refused() -> None:
    good = entity(ROOT, "CN=sun", ["dns:sun.example.org"]).der
    for at in range(0, len(good), 3):
        for octet in (0x00, 0x7F, 0x80, 0x84, 0xFF):
            odd = good[:at] + bytes((octet,)) + good[at + 1 :]
            for found in _judged(odd):
                assert found is not None
    for size in range(0, len(good), 5):
        with pytest.raises(CredentialError):
            certificate.parse(good[:size])


def with_urls(issuer: Held | None) -> Held:
    """Sun's certificate, full of places to ask at."""
    at = "http://192.0.2.66/"
    urls = x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(f"{at}crl")], None, None, None)]
    )
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(method, x509.UniformResourceIdentifier(at))
            for method in (AuthorityInformationAccessOID.OCSP, AuthorityInformationAccessOID.CA_ISSUERS)
        ]
    )
    more = ((urls, False), (access, False))
    return entity(issuer, "CN=sun", ["dns:sun.example.org"], holder=key("p256", "urls"), more=more)


class Fetching(Watched):
    """What it wants to fetch is answered with nothing, and kept."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.fetched: list[str] = []
        super().__init__(*arguments, **options)

    def _carry_out_one(self, effect: object) -> None:
        if isinstance(effect, Ask) and isinstance(effect.question, FetchAll):
            self.fetched += [one.url for one in effect.question.fetches]
            nothing = (None,) * len(effect.question.fetches)
            self.endpoint.resume(effect.ask_id, nothing, self.now)
            return
        super()._carry_out_one(effect)


def fetching(policy: Policy = Policy.RELAXED) -> Fetching:
    remote = RemoteAuth(AuthClass.PUBKEY, SUN, ca_certificates=(ROOT.der,), revocation=policy)
    credentials = Credentials()
    credentials.add_shared("s", "ike", SECRET)
    credentials.add_certificate(ROOT.der, ca=True)
    way = connection("peer", LocalAuth(AuthClass.PSK, MOON), remote)
    return Fetching(way, credentials=credentials, loud=True)


def test_v55_nothing_that_a_strangers_certificate_names_is_fetched() -> None:
    """CVE-2022-40617: a URL in an untrusted certificate was fetched."""
    for issuer in (None, ca("CN=Root", holder=key("p256", "foreign"))):
        held = with_urls(issuer)
        talk = Talk(True, fetching())
        talk.authenticate(
            talk.sun.authentication(SUN, with_key(holding(held).own_key([held.der], None)), [held.der])
        )
        assert talk.moon.failures[-1].reason == Reason.CERTIFICATE_UNTRUSTED
        assert cast(Fetching, talk.moon).fetched == []


def test_v55_nothing_is_fetched_for_who_only_shows_anothers_certificate() -> None:
    held, thief = with_urls(ROOT), entity(ROOT, "CN=thief", holder=key("p256", "thief"))
    stolen = OwnKey(thief.key, (held.certificate,))
    talk = Talk(True, fetching())
    talk.authenticate(talk.sun.authentication(SUN, with_key(stolen), [held.der]))
    assert talk.moon.failures[-1].reason == Reason.SIGNATURE_INVALID
    assert cast(Fetching, talk.moon).fetched == []


@pytest.mark.parametrize("policy", list(Policy))
def test_v55_of_a_peer_that_proved_itself_only_the_state_is_asked_for(policy: Policy) -> None:
    held = with_urls(ROOT)
    talk = Talk(True, fetching(policy))
    proof = talk.sun.authentication(SUN, with_key(holding(held).own_key([held.der], None)), [held.der])
    url = CertPayload(CertEncoding.X509_HASH_AND_URL, bytes(20) + b"http://192.0.2.66/certificate")
    talk.authenticate([url, *proof])
    assert cast(Fetching, talk.moon).fetched == ["http://192.0.2.66/", "http://192.0.2.66/crl"]
    assert len(talk.moon.established) == (policy is Policy.RELAXED)
    if policy is not Policy.RELAXED:
        assert talk.moon.failures[-1].reason == Reason.CERTIFICATE_STATUS_UNKNOWN
        assert "http://192.0.2.66/crl could not be fetched" in talk.moon.failures[-1].detail


def test_v55_what_judges_a_peer_cannot_reach_the_network() -> None:
    for path, nodes in product():
        if path.split("/")[0] not in ("auth", "ike", "crypto", "wire", "policy"):
            continue
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in imported} & NETWORK, path


def test_v60_nothing_is_decrypted_with_a_private_key() -> None:
    """CVE-2026-35334, and V38: PKCS#1 v1.5 decryption leaks. Keys sign and agree, and do nothing else."""
    for path, nodes in product():
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert "OAEP" not in names, path
        # Messages of IKEv1 are opened with the symmetric keys of their SA.
        assert "decrypt" not in names or path in ("crypto/suites.py", "ike/v1/protection.py"), path
        assert "PKCS1v15" not in names or path in ("crypto/signatures.py", "auth/issue.py"), path


def test_v61_certificates_of_strangers_are_not_remembered() -> None:
    """CVE-2021-41991: the index of a cache of certificates ran over. There is none for what peers send."""
    moon = gateway()
    counts = []
    for round_ in range(3):
        for number in range(40):
            held = entity(None, f"CN=stranger {round_} {number}", ["dns:sun.example.org"])
            talk = Talk(True, moon, spi=(round_ * 1000 + number + 1).to_bytes(8, "big"))
            own = holding(held).own_key([held.der], None)
            talk.authenticate(talk.sun.authentication(SUN, with_key(own), [held.der]))
            assert moon.failures[-1].reason == Reason.CERTIFICATE_UNTRUSTED
            moon.wait(11)
        moon.events.clear()
        moon.sent.clear()
        moon.lines.clear()
        moon.endpoint.history._entries.clear()
        del talk, held, own
        gc.collect()
        counts.append(sum(isinstance(one, certificate.Certificate) for one in gc.get_objects()))
    assert counts[1] >= counts[2]


def test_v50_the_answer_of_a_verification_is_none_or_an_exception() -> None:
    """CVE-2020-16088: a result of three values was taken for one of two. Nowhere stands `if verify(...)`."""
    for path, nodes in product():
        for node in nodes:
            tests = [node.test] if isinstance(node, ast.If | ast.While | ast.IfExp) else []
            tests += node.values if isinstance(node, ast.BoolOp) else []
            for test in tests:
                called = test.operand if isinstance(test, ast.UnaryOp) else test
                if isinstance(called, ast.Call):
                    name = getattr(called.func, "attr", getattr(called.func, "id", ""))
                    assert not name.startswith(("verify", "attest")), f"{path}: {ast.unparse(called)}"
