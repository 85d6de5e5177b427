"""What goes beside certificates: OCSP inside IKE (RFC 4806); in their place: hash and URL (RFC 7296, 3.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cygnet.auth import der, ocsp
from cygnet.auth.ask import Fetch
from cygnet.auth.revocation import Places
from cygnet.config.from_vici import connections
from cygnet.ike.configuration import Options
from cygnet.ike.events import MessageSeen
from cygnet.ike.v2 import proving
from cygnet.testing import Gateway, Network, assert_agreement
from cygnet.wire.message import Message
from cygnet.wire.numbers import CertEncoding
from cygnet.wire.payloads import CertPayload, CertReqPayload
from tests.unit.auth_material import Held, ca, entity, holding, key
from tests.unit.revocation_material import OCSP_URL, answer, ocsp_at
from tests.unit.test_security_remote_access import encoded

ROOT = ca()
FOREIGN = ca("O=Foreign,CN=CA", holder=key("p256", "foreign CA"))
TODAY = datetime.fromtimestamp(Network(1).now.wall, UTC)
BASE = "http://certificates.example.org/by-hash/"
BY_URL = CertEncoding.X509_HASH_AND_URL


def certificate(who: str, *, issuer: Held = ROOT) -> Held:
    more = (ocsp_at(OCSP_URL),)
    held = key("p256", who)
    return entity(issuer, f"C=CH,O=Test,CN={who}", [f"dns:{who}.example.org"], holder=held, more=more)


class Sites:
    """`moon` begins. Each has a certificate; `moon` and `sun` also hold lines of their connection."""

    def __init__(
        self,
        moon: dict[str, str] | None = None,
        sun: dict[str, str] | None = None,
        *,
        by_url: bool = False,
        of: Held = ROOT,
        **remote: str,
    ) -> None:
        self.network = Network(7)
        self.held = {"moon": certificate("moon", issuer=of), "sun": certificate("sun")}
        options = Options(hash_and_url=by_url)
        ends = {"moon": ("192.0.2.1", "10.1.0.0/16"), "sun": ("192.0.2.2", "10.2.0.0/16")}
        gateways = []
        for name, other, lines in (("moon", "sun", moon or {}), ("sun", "moon", sun or {})):
            section = {
                "proposals": ["aes256-sha256-x25519"],
                "encap": "no",
                "local_addrs": [ends[name][0]],
                "remote_addrs": [ends[other][0]],
                "local": {"auth": "pubkey", "id": f"{name}.example.org", "certs": [self.held[name].der]},
                "remote": {"auth": "pubkey", "id": f"{other}.example.org", **remote},
                "children": {"net": {"local_ts": [ends[name][1]], "remote_ts": [ends[other][1]]}},
                **lines,
            }
            store = holding(self.held[name])
            store.add_certificate(ROOT.der, ca=True)
            if by_url:
                store.revocations.set_places(ROOT.der, Places(certificate_base=BASE))
            made = connections(_contents(encoded({"peer": section}), self.held[name]))
            gateways.append(
                Gateway(
                    self.network, name, ends[name][0], connections=made, credentials=store, options=options
                )
            )
            gateways[-1].endpoint.observe = True
        self.moon, self.sun = gateways

    def tries(self) -> str:
        operation = self.moon.initiate("peer", "net")
        self.network.run_for(100.0)
        failure = self.moon.operations[operation]
        return failure.reason.value if failure is not None else ""

    def said(self, gateway: Gateway) -> list[Message]:
        return [seen.message for seen in gateway.of(MessageSeen) if seen.sent]

    def certificates(self, gateway: Gateway) -> list[CertPayload]:
        return [one for message in self.said(gateway) for one in message.all(CertPayload)]


def _contents(message: Any, held: Held) -> Any:
    message["peer"]["local"]["certs"] = [held.der]
    return message


def responder(
    *, revoked: bool = False, asked: list[str] | None = None, **how: Any
) -> Callable[[Fetch], bytes]:
    """Answers about whoever is asked for: moon."""

    def web(fetch: Fetch) -> bytes:
        if asked is not None:
            asked.append(fetch.url)
        return answered(fetch.request, revoked=revoked, **how)

    return web


def answered(asked: bytes, **how: Any) -> bytes:
    times = {"start": TODAY - timedelta(hours=1), "end": TODAY + timedelta(hours=1)}
    return answer(asked, certificate("moon"), ROOT, **(times | how))


@pytest.mark.parametrize("begins", ["moon", "sun"])
def test_who_asks_gets_the_status_along_with_the_certificate(begins: str) -> None:
    """Though it cannot reach the responder itself; in either role."""
    asking, shown = ({"ocsp": "request"}, {}) if begins == "sun" else ({}, {"ocsp": "request"})
    sites = Sites(asking, shown, revocation="strict")
    prover, asker = (sites.sun, sites.moon) if begins == "sun" else (sites.moon, sites.sun)
    asked: list[str] = []
    prover.web = responder(asked=asked)
    asker.web = lambda fetch: None
    assert sites.tries() == ""
    assert_agreement(sites.moon, sites.sun, up=[("peer", "net")])
    kinds = [one.encoding for one in sites.certificates(prover)]
    assert kinds == [CertEncoding.X509_SIGNATURE, CertEncoding.OCSP_CONTENT]
    assert CertEncoding.OCSP_CONTENT not in [one.encoding for one in sites.certificates(asker)]


def test_a_status_that_says_revoked_refuses() -> None:
    sites = Sites(sun={"ocsp": "request"})
    sites.moon.web = responder(revoked=True)
    assert sites.tries() == "peer-refused-authentication"
    assert sites.sun.failures()[0].reason == "certificate-revoked"


@pytest.mark.parametrize("replying", ["never", "request"])
def test_who_is_not_to_reply_does_not(replying: str) -> None:
    sites = Sites({"ocsp": replying}, {"ocsp": "both"}, revocation="strict")
    sites.moon.web = responder()
    assert sites.tries() == "peer-refused-authentication"
    assert sites.sun.failures()[0].reason == "certificate-status-unknown"
    assert CertEncoding.OCSP_CONTENT not in [one.encoding for one in sites.certificates(sites.moon)]


def test_nothing_is_asked_for_unless_it_is_wanted() -> None:
    sites = Sites()
    assert sites.tries() == ""
    for gateway in (sites.moon, sites.sun):
        wanted = [one.encoding for m in sites.said(gateway) for one in m.all(CertReqPayload)]
        assert set(wanted) == {CertEncoding.X509_SIGNATURE}
    assert {one.encoding for one in sites.certificates(sites.moon)} == {CertEncoding.X509_SIGNATURE}


BAD: dict[str, dict[str, Any]] = {
    "of another CA": {"responder": FOREIGN},
    "too old": {"end": TODAY - timedelta(hours=1), "start": TODAY - timedelta(hours=2)},
    "of tomorrow": {"start": TODAY + timedelta(days=1), "end": TODAY + timedelta(days=2)},
    "of another certificate": {"serial": 4711},
    "unknown": {"unknown": True},
}


@pytest.mark.parametrize("how", list(BAD))
def test_v50_a_status_in_ike_that_is_not_what_it_should_be_counts_for_nothing(how: str) -> None:
    """The peer that shows its certificate chose it: by the same rules as what is fetched."""
    sites = Sites(sun={"ocsp": "request"}, revocation="strict")
    bad = answer_of(sites, **BAD[how])
    staple(sites, bad)
    assert sites.tries() == "peer-refused-authentication"
    assert sites.sun.failures()[0].reason == "certificate-status-unknown"


def test_the_same_way_a_good_one_counts() -> None:
    sites = Sites(sun={"ocsp": "request"}, revocation="strict")
    staple(sites, answer_of(sites))
    sites.moon.web = responder()
    assert sites.tries() == ""


def answer_of(sites: Sites, **how: Any) -> bytes:
    asked = ocsp.request(sites.held["moon"].certificate, ROOT.certificate, bytes(32))
    return answered(asked, **how)


def staple(sites: Sites, data: bytes) -> None:
    """Moon sends this, whatever it is."""
    own = sites.held["moon"].der
    revocations = sites.moon.credentials.revocations
    revocations.own_answers = lambda chain, wall: {own: data}  # type: ignore[method-assign]
    revocations.own_wanted = lambda chain, wall, entropy: ()  # type: ignore[method-assign]


def test_a_status_in_ike_takes_no_revocation_back() -> None:
    """An answer of before the revocation may say good for days yet."""
    sites = Sites(sun={"ocsp": "request"})
    revocations = sites.sun.credentials.revocations
    chain = sites.held["moon"].certificate, ROOT.certificate
    wall = sites.network.now.wall
    revocations.take_stapled(chain, [answer_of(sites, revoked=True)], wall)
    staple(sites, answer_of(sites))
    assert sites.tries() == "peer-refused-authentication"
    assert sites.sun.failures()[0].reason == "certificate-revoked"


# -- hash and URL -------------------------------------------------------------------------------


def library(*held: Held, asked: list[str] | None = None) -> Callable[[Fetch], bytes | None]:
    """The place of the authority: each certificate under its hash."""
    known = {BASE + hashlib.sha1(one.der).hexdigest(): one.der for one in held}

    def web(fetch: Fetch) -> bytes | None:
        if asked is not None:
            asked.append(fetch.url)
        return known.get(fetch.url)

    return web


def test_certificates_travel_as_hash_and_url_where_both_want_it() -> None:
    sites = Sites(by_url=True)
    asked: list[str] = []
    sites.moon.web = sites.sun.web = library(*sites.held.values(), asked=asked)
    assert sites.tries() == ""
    for gateway in (sites.moon, sites.sun):
        (sent,) = sites.certificates(gateway)
        assert sent.encoding == BY_URL
        assert sent.data[20:].decode() == BASE + sent.data[:20].hex()
    # Once fetched they are known.
    fetched = [url for url in asked if url.startswith(BASE)]
    sites.moon.terminate()
    sites.network.run_for(20.0)
    assert sites.tries() == ""
    assert [url for url in asked if url.startswith(BASE)] == fetched
    assert len(fetched) == 2


def test_off_unless_it_is_asked_for() -> None:
    sites = Sites()
    asked: list[str] = []
    sites.sun.web = library(*sites.held.values(), asked=asked)
    point(sites, BASE)
    assert sites.tries() == "peer-refused-authentication"
    assert not [url for url in asked if url.startswith(BASE)]
    assert sites.sun.failures()[0].reason == "certificate-missing"


def point(sites: Sites, base: str, data: bytes | None = None, encoding: int = BY_URL) -> None:
    """Moon sends a pointer of this kind, whatever it may."""
    content = sites.held["moon"].der if data is None else data
    digest = hashlib.sha1(content)

    def pointers(*_: object) -> tuple[CertPayload, ...]:
        where = base + digest.hexdigest() if base.endswith("/") else base
        return (CertPayload(encoding, digest.digest() + where.encode()),)

    sites.moon.endpoint.credentials.certificate_base = lambda certificate: base  # type: ignore[method-assign]
    MONKEY.setattr("cygnet.ike.v2.proving._certificates", only_of(sites, pointers))


def only_of(sites: Sites, pointers: Callable[..., tuple[CertPayload, ...]]) -> Callable[..., Any]:
    genuine = proving._certificates

    def made(context: Any, own: Any, initial: Any) -> tuple[CertPayload, ...]:
        if context.gateway is sites.moon.endpoint:
            return pointers()
        return genuine(context, own, initial)

    return made


MONKEY: pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _patched(monkeypatch: pytest.MonkeyPatch) -> None:
    global MONKEY
    MONKEY = monkeypatch


ELSEWHERE = [
    "http://169.254.169.254/latest/",
    "http://certificates.example.org.evil.example/by-hash/",
    BASE + "../",
    BASE + "x/",
    "https://certificates.example.org/by-hash/",
    BASE + "0000",
    "",
]


@pytest.mark.parametrize("base", ELSEWHERE)
def test_v55_nothing_is_fetched_from_where_the_operator_did_not_say(base: str) -> None:
    """The peer is nobody yet: the URL is what the operator's place and the hash make, or nothing."""
    sites = Sites(by_url=True)
    asked: list[str] = []
    sites.sun.web = library(*sites.held.values(), asked=asked)
    point(sites, base)
    assert sites.tries() == "peer-refused-authentication"
    assert not asked


def test_what_comes_must_have_the_hash_and_is_judged_like_any_certificate() -> None:
    sites = Sites(by_url=True)
    sites.sun.web = lambda fetch: sites.held["sun"].der
    sites.moon.web = library(*sites.held.values())
    assert sites.tries() == "peer-refused-authentication"
    assert sites.sun.failures()[0].reason == "certificate-missing"
    foreign = Sites(by_url=True, of=FOREIGN)
    foreign.moon.credentials.certificate_base = lambda certificate: BASE  # type: ignore[method-assign]
    foreign.sun.web = foreign.moon.web = library(*foreign.held.values())
    assert foreign.tries() == "peer-refused-authentication"
    assert foreign.sun.failures()[0].reason == "certificate-untrusted"


def bundle(*held: Held) -> bytes:
    return der.encode(der.SEQUENCE, b"".join(der.encode(der.EXPLICIT_0, one.der) for one in held))


@pytest.mark.parametrize("good", [True, False])
def test_a_bundle_is_taken_apart(good: bool) -> None:
    """RFC 7296, section 3.6: CertificateBundle, with explicit tags; a list in it is passed over."""
    sites = Sites(by_url=True)
    whole = bundle(sites.held["moon"], ROOT)
    if not good:
        whole = whole[:-1]
    point(sites, BASE, whole, CertEncoding.X509_HASH_AND_URL_BUNDLE)
    sites.sun.web = lambda fetch: whole if fetch.url.startswith(BASE) else None
    sites.moon.web = library(*sites.held.values())
    assert (sites.tries() == "") is good
