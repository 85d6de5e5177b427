"""Whether a certificate was revoked: lists, deltas and OCSP answers, good and forged, old and new."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library
from cryptography.x509.oid import ExtendedKeyUsageOID

from cygnet.auth import certificate, crl, ocsp, revocation
from cygnet.auth.ask import Fetch
from cygnet.auth.credentials import Credentials
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import Identity
from cygnet.auth.revocation import AGAIN, Places, Policy, Revocations, State
from cygnet.crypto import signatures
from cygnet.crypto.entropy import SeededEntropy
from tests.unit.auth_material import NOW, WALL, Held, ca, entity, key, raw, trusting
from tests.unit.revocation_material import (
    CRL_URL,
    DELTA_URL,
    HOUR,
    OCSP_URL,
    answer,
    crl_at,
    ocsp_at,
    points,
    revocation_list,
)

ROOT = ca("CN=Root")
SAME_NAME = ca("CN=Root", holder=key("p256", "another"))
MIDDLE = ca("CN=Middle", ROOT)
SUN = entity(ROOT, "CN=sun", ["dns:sun.example.org"], more=(crl_at(CRL_URL), ocsp_at(OCSP_URL)))
PLAIN = entity(ROOT, "CN=plain", ["dns:sun.example.org"])
ENTROPY = SeededEntropy(7)
Web = Callable[[Fetch], bytes | None]


def chain(*held: Held) -> tuple[certificate.Certificate, ...]:
    return tuple(one.certificate for one in held)


def learn(store: Revocations, path: tuple[Held, ...], web: Web, wall: float = WALL) -> list[str]:
    """Fetch until nothing is wanted; what was asked for."""
    asked = []
    for _ in range(revocation.MAX_ROUNDS):
        for one in store.wanted(chain(*path), wall, ENTROPY):
            asked.append(one.fetch.url)
            store.take(chain(*path), one, web(one.fetch), wall)
    return asked


def state(store: Revocations, subject: Held = SUN, issuer: Held = ROOT, wall: float = WALL) -> State:
    return store.judge(subject.certificate, issuer.certificate, wall).state


def loaded(*lists: bytes) -> Revocations:
    store = Revocations()
    for one in lists:
        store.add_crl(one)
    return store


def refused(store: Revocations, path: tuple[Held, ...], policy: Policy) -> Kind | None:
    try:
        store.check(chain(*path), policy, WALL)
    except AuthenticationError as error:
        return error.kind if error.detail.isprintable() else None
    return None


def test_a_loaded_list_convicts_and_acquits() -> None:
    assert state(Revocations()) is State.UNKNOWN
    assert state(loaded(revocation_list(ROOT, [SUN]))) is State.REVOKED
    assert state(loaded(revocation_list(ROOT, [PLAIN]))) is State.GOOD


@pytest.mark.parametrize("kind", ["rsa", "p384", "p521", "ed25519", "ed448"])
def test_lists_are_believed_under_every_kind_of_key(kind: str) -> None:
    root = ca(f"CN={kind}", holder=key(kind, "crl"))
    one = entity(root, "CN=one")
    assert state(loaded(revocation_list(root, [one])), one, root) is State.REVOKED
    assert state(loaded(revocation_list(root)), one, root) is State.GOOD


def test_a_list_that_another_key_signed_says_nothing() -> None:
    forged = revocation_list(ROOT, [SUN], signer=SAME_NAME.key)
    assert state(loaded(forged)) is State.UNKNOWN
    good = revocation_list(ROOT)
    spoiled = good[:-1] + bytes((good[-1] ^ 1,))
    assert state(loaded(spoiled)) is State.UNKNOWN
    assert state(loaded(revocation_list(SAME_NAME, [SUN]))) is State.UNKNOWN


def test_a_ca_that_may_not_sign_lists_is_not_believed() -> None:
    no_lists = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    extensions = ((x509.BasicConstraints(True, None), True), (no_lists, True))
    holder = key("p256", "no lists")
    root = Held(certificate.parse(raw("CN=No lists", holder=holder, extensions=extensions)), holder)
    one = entity(root, "CN=one")
    assert state(loaded(revocation_list(root, [one])), one, root) is State.UNKNOWN


def test_an_old_list_still_convicts_and_acquits_nobody() -> None:
    old: dict[str, Any] = {"start": NOW - 48 * HOUR, "end": NOW - 24 * HOUR}
    assert state(loaded(revocation_list(ROOT, [SUN], **old))) is State.REVOKED
    assert state(loaded(revocation_list(ROOT, **old))) is State.UNKNOWN
    future: dict[str, Any] = {"start": NOW + HOUR, "end": NOW + 2 * HOUR}
    assert state(loaded(revocation_list(ROOT, **future))) is State.UNKNOWN


def test_the_newest_list_counts() -> None:
    held = revocation_list(ROOT, [SUN], number=1, reason=x509.ReasonFlags.certificate_hold)
    assert state(loaded(held, revocation_list(ROOT, number=2))) is State.GOOD
    assert state(loaded(revocation_list(ROOT, number=2), held)) is State.GOOD


def test_a_delta_adds_to_its_list_and_takes_back() -> None:
    base = revocation_list(ROOT, number=5)
    assert state(loaded(base, revocation_list(ROOT, [SUN], number=6, base=5))) is State.REVOKED
    # One that goes with a later list than the one that is here says too little.
    assert state(loaded(base, revocation_list(ROOT, [SUN], number=8, base=7))) is State.GOOD
    assert state(loaded(revocation_list(ROOT, [SUN], number=6, base=5))) is State.UNKNOWN
    held = revocation_list(ROOT, [SUN], number=5, reason=x509.ReasonFlags.certificate_hold)
    back = revocation_list(ROOT, [SUN], number=6, base=5, reason=x509.ReasonFlags.remove_from_crl)
    assert state(loaded(held, back)) is State.GOOD
    # Only a delta takes back.
    whole = revocation_list(ROOT, [SUN], number=7, reason=x509.ReasonFlags.remove_from_crl)
    assert state(loaded(whole)) is State.REVOKED


def scope(**options: object) -> tuple[x509.ExtensionType, bool]:
    chosen: dict[str, object] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**chosen, **options}), True  # type: ignore[arg-type]


def test_a_list_serves_for_what_it_is_only() -> None:
    users = revocation_list(ROOT, more=[scope(only_contains_user_certs=True)])
    cas = revocation_list(ROOT, more=[scope(only_contains_ca_certs=True)])
    assert state(loaded(users)) is State.GOOD
    assert state(loaded(users), MIDDLE) is State.UNKNOWN
    assert state(loaded(cas)) is State.UNKNOWN
    assert state(loaded(cas), MIDDLE) is State.GOOD
    here = revocation_list(ROOT, more=[scope(full_name=[x509.UniformResourceIdentifier(CRL_URL)])])
    assert state(loaded(here)) is State.GOOD
    assert state(loaded(here), PLAIN) is State.UNKNOWN


@pytest.mark.parametrize(
    "options",
    [
        {"indirect_crl": True},
        {"only_contains_attribute_certs": True},
        {"only_some_reasons": frozenset({x509.ReasonFlags.key_compromise})},
    ],
)
def test_a_list_that_could_be_misunderstood_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(CredentialError):
        crl.parse(revocation_list(ROOT, more=[scope(**options)]))


def test_v53_a_list_is_refused_whole_or_read_whole() -> None:
    good = revocation_list(ROOT, [SUN])
    for size in range(0, len(good), 3):
        with pytest.raises(CredentialError):
            crl.parse(good[:size])
    for at in range(0, len(good), 2):
        odd = good[:at] + bytes((good[at] ^ 0x80,)) + good[at + 1 :]
        try:
            store = loaded(odd)
        except CredentialError:
            continue
        assert state(store) is State.UNKNOWN
    with pytest.raises(CredentialError):
        crl.parse(bytes(crl.MAX_CRL + 1))
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    with pytest.raises(CredentialError, match="not understood"):
        crl.parse(revocation_list(ROOT, more=[(unknown, True)]))
    assert crl.parse(revocation_list(ROOT, more=[(unknown, False)])).number == 1


def test_each_policy_refuses_what_it_says() -> None:
    revoked = loaded(revocation_list(ROOT, [SUN]))
    nothing = Revocations()
    for policy in Policy:
        assert refused(revoked, (SUN, ROOT), policy) is Kind.CERTIFICATE_REVOKED
        assert refused(loaded(revocation_list(ROOT)), (SUN, ROOT), policy) is None
    unknown = Kind.CERTIFICATE_STATUS_UNKNOWN
    assert [refused(nothing, (SUN, ROOT), policy) for policy in Policy] == [unknown, unknown, None]
    assert [refused(nothing, (PLAIN, ROOT), policy) for policy in Policy] == [unknown, None, None]
    nothing.set_places(ROOT.der, Places(("http://a/",), ()))
    assert refused(nothing, (PLAIN, ROOT), Policy.IFURI) is unknown


def test_an_intermediate_ca_may_be_revoked() -> None:
    below = entity(MIDDLE, "CN=below", ["dns:sun.example.org"])
    store = loaded(revocation_list(ROOT, [MIDDLE]), revocation_list(MIDDLE))
    assert refused(store, (below, MIDDLE, ROOT), Policy.RELAXED) is Kind.CERTIFICATE_REVOKED
    half = loaded(revocation_list(MIDDLE))
    assert refused(half, (below, MIDDLE, ROOT), Policy.STRICT) is Kind.CERTIFICATE_STATUS_UNKNOWN
    both = loaded(revocation_list(MIDDLE), revocation_list(ROOT))
    assert refused(both, (below, MIDDLE, ROOT), Policy.STRICT) is None


def test_what_is_known_to_be_revoked_is_trusted_nowhere() -> None:
    credentials: Credentials = trusting(ROOT)
    identity = Identity.parse("sun.example.org")
    credentials.trusted_key(identity, [SUN.der], wall=WALL)
    credentials.revocations.add_crl(revocation_list(ROOT, [SUN]))
    with pytest.raises(AuthenticationError) as caught:
        credentials.trusted_key(identity, [SUN.der], wall=WALL)
    assert caught.value.kind is Kind.CERTIFICATE_REVOKED


# -- what is fetched ------------------------------------------------------------------------------


def test_ocsp_is_asked_first_and_a_list_if_nobody_answers() -> None:
    store = Revocations()
    assert learn(store, (SUN, ROOT), lambda fetch: answer(fetch.request, SUN, ROOT)) == [OCSP_URL]
    assert state(store) is State.GOOD
    store = Revocations()
    web: Web = lambda fetch: None if fetch.request else revocation_list(ROOT, [SUN])  # noqa: E731
    assert learn(store, (SUN, ROOT), web) == [OCSP_URL, CRL_URL]
    assert state(store) is State.REVOKED
    assert learn(store, (SUN, ROOT), web) == []


def test_what_ocsp_called_revoked_stays_so_when_its_answer_has_ended_until_it_says_otherwise() -> None:
    """Nor does an older answer of before, which the peer brings along and which would serve longer."""
    store = Revocations()
    learn(store, (SUN, ROOT), lambda f: answer(f.request, SUN, ROOT, revoked=True) if f.request else None)
    later = WALL + 2 * HOUR.total_seconds()
    asked = learn(store, (SUN, ROOT), lambda _: None, later)
    assert OCSP_URL in asked
    assert state(store, wall=later) is State.REVOKED
    with pytest.raises(AuthenticationError) as refusal:
        store.check(chain(SUN, ROOT), Policy.RELAXED, later)
    assert refusal.value.kind is Kind.CERTIFICATE_REVOKED
    request = ocsp.request(SUN.certificate, ROOT.certificate, bytes(32))
    brought = answer(request, SUN, ROOT, end=NOW + 24 * HOUR)
    store.take_stapled(chain(SUN, ROOT), (brought,), later)
    assert state(store, wall=later) is State.REVOKED
    later += AGAIN + 1

    def again(fetch: Fetch) -> bytes | None:
        return answer(fetch.request, SUN, ROOT, end=NOW + 24 * HOUR) if fetch.request else None

    learn(store, (SUN, ROOT), again, later)
    assert state(store, wall=later) is State.GOOD


def test_what_cannot_be_had_is_asked_for_again_later() -> None:
    store = Revocations()
    assert learn(store, (SUN, ROOT), lambda fetch: None) == [OCSP_URL, CRL_URL]
    assert learn(store, (SUN, ROOT), lambda fetch: None) == []
    later = WALL + AGAIN + 1
    assert learn(store, (SUN, ROOT), lambda fetch: None, later) == [OCSP_URL, CRL_URL]
    # Nor does a clock that was set back keep it away.
    assert learn(store, (SUN, ROOT), lambda fetch: None, WALL - 10_000) == [OCSP_URL, CRL_URL]


def test_fetched_lists_are_fetched_again_when_they_end() -> None:
    store = Revocations()
    end = 24 * 3600.0
    hosts = entity(ROOT, "CN=sun", more=(crl_at(CRL_URL),))
    assert learn(store, (hosts, ROOT), lambda fetch: revocation_list(ROOT)) == [CRL_URL]
    assert learn(store, (hosts, ROOT), lambda fetch: None, WALL + end - 1) == []
    assert state(store, hosts, wall=WALL + end + 1) is State.UNKNOWN
    assert learn(store, (hosts, ROOT), lambda fetch: None, WALL + end + 1) == [CRL_URL]
    store.forget_fetched()
    assert state(store, hosts) is State.UNKNOWN


def test_a_list_that_is_older_than_the_one_before_is_not_taken() -> None:
    store = Revocations()
    hosts = entity(ROOT, "CN=sun", more=(crl_at(CRL_URL),))
    learn(store, (hosts, ROOT), lambda fetch: revocation_list(ROOT, [hosts], number=9))
    day = timedelta(days=2)
    replay = revocation_list(ROOT, number=8, end=NOW + 2 * day)
    wanted = store.wanted(chain(hosts, ROOT), WALL, ENTROPY)
    assert wanted == ()
    one = revocation.Wanted(0, Fetch(CRL_URL, crl.MAX_CRL))
    assert "older" in store.take(chain(hosts, ROOT), one, replay, WALL + day.total_seconds())
    assert state(store, hosts) is State.REVOKED


def test_deltas_are_fetched_from_where_list_and_certificate_say() -> None:
    freshest = (x509.FreshestCRL(points(DELTA_URL)), False)
    hosts = entity(ROOT, "CN=sun", more=(crl_at(CRL_URL),))
    web = {
        CRL_URL: revocation_list(ROOT, number=1, more=[freshest]),
        DELTA_URL: revocation_list(ROOT, [hosts], number=2, base=1),
    }
    store = Revocations()
    assert learn(store, (hosts, ROOT), lambda fetch: web[fetch.url]) == [CRL_URL, DELTA_URL]
    assert state(store, hosts) is State.REVOKED


def test_the_operator_says_where_to_ask() -> None:
    store = Revocations()
    store.set_places(ROOT.der, Places(("http://crl/",), ("http://ocsp/",)))
    assert learn(store, (PLAIN, ROOT), lambda fetch: None) == ["http://ocsp/", "http://crl/"]


def test_only_plain_http_is_ever_asked_for() -> None:
    urls = ("file:///etc/passwd", "ftp://a/", "https://a/", "ldap://a/")
    hosts = entity(ROOT, "CN=sun", more=(crl_at(*urls), ocsp_at(*urls)))
    assert Revocations().wanted(chain(hosts, ROOT), WALL, ENTROPY) == ()


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation, "MAX_FETCHED", 3)
    monkeypatch.setattr(revocation, "MAX_FAILED", 5)
    store = Revocations()
    for number in range(12):
        hosts = entity(ROOT, f"CN=sun {number}", more=(crl_at(f"http://a/{number}"),))
        learn(store, (hosts, ROOT), lambda fetch: revocation_list(ROOT))
    # A list of the CA serves for all its certificates, wherever it came from.
    assert len(store.crls()) == 1
    for number in range(12):
        one = revocation.Wanted(0, Fetch(f"http://a/{number}", crl.MAX_CRL))
        assert store.take(chain(SUN, ROOT), one, revocation_list(ROOT), WALL) == ""
        store.take(chain(SUN, ROOT), revocation.Wanted(0, Fetch(f"http://b/{number}", 1)), None, WALL)
    assert len(store.crls()) == 3
    assert len(store._failed) <= 5


# -- OCSP -----------------------------------------------------------------------------------------

RESPONDER = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)
NONCE = bytes(range(32))
ASKED = ocsp.request(SUN.certificate, ROOT.certificate, NONCE)


def said(data: bytes) -> str:
    """good, revoked, or why it is not believed."""
    try:
        found = ocsp.judge(data, SUN.certificate, ROOT.certificate, NONCE, WALL)
    except CredentialError as error:
        return str(error)
    return "good" if found.revoked is None else f"revoked ({found.reason})"


def test_an_answer_is_believed_from_the_ca_and_from_whom_it_delegated() -> None:
    assert said(answer(ASKED, SUN, ROOT)) == "good"
    assert said(answer(ASKED, SUN, ROOT, revoked=True)) == "revoked (keyCompromise)"
    delegate = entity(ROOT, "CN=responder", [], holder=key("p384", "ocsp"), more=(RESPONDER,))
    assert said(answer(ASKED, SUN, ROOT, responder=delegate)) == "good"
    assert said(answer(ASKED, SUN, ROOT, responder=delegate, revoked=True)).startswith("revoked")
    assert "neither" in said(answer(ASKED, SUN, ROOT, responder=delegate, with_certificate=False))
    rsa = entity(ROOT, "CN=responder", [], holder=key("rsa", "ocsp"), more=(RESPONDER,))
    assert said(answer(ASKED, SUN, ROOT, responder=rsa)) == "good"


def test_nobody_else_answers_for_a_ca() -> None:
    holder = key("p256", "nobody")
    plain = entity(ROOT, "CN=responder", [], holder=holder)
    assert "may not answer" in said(answer(ASKED, SUN, ROOT, responder=plain))
    anything = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)
    other = entity(ROOT, "CN=responder", [], holder=holder, more=(anything,))
    assert "may not answer" in said(answer(ASKED, SUN, ROOT, responder=other))
    foreign = entity(SAME_NAME, "CN=responder", [], holder=holder, more=(RESPONDER,))
    assert "not one of" in said(answer(ASKED, SUN, ROOT, responder=foreign))
    below = entity(MIDDLE, "CN=responder", [], holder=holder, more=(RESPONDER,))
    assert "not one of" in said(answer(ASKED, SUN, ROOT, responder=below))
    ended = entity(ROOT, "CN=r", [], holder=holder, more=(RESPONDER,), end=NOW - HOUR)
    assert "not valid now" in said(answer(ASKED, SUN, ROOT, responder=ended))
    # The peer itself, with its own certificate, is no witness in its own case.
    assert "may not answer" in said(answer(ASKED, SUN, ROOT, responder=SUN))


def test_an_answer_is_for_this_certificate_this_request_and_now() -> None:
    assert "another request" in said(answer(ASKED, SUN, ROOT, nonce=b"other nonce, other"))
    assert said(answer(ASKED, SUN, ROOT, nonce=None)) == "good"
    assert "nothing of" in said(answer(ASKED, SUN, ROOT, serial=4711))
    other = ocsp.request(entity(SAME_NAME).certificate, SAME_NAME.certificate, NONCE)
    serial = SUN.certificate.handle.serial_number
    assert "nothing of" in said(answer(other, SUN, ROOT, serial=serial))
    day = 24 * HOUR
    times: dict[str, Any]
    for times in (
        {"start": NOW - 2 * day, "end": NOW - day},
        {"start": NOW + day, "end": NOW + 2 * day},
        {"start": NOW - day, "end": None},
    ):
        assert "not of now" in said(answer(ASKED, SUN, ROOT, **times))
    assert said(answer(ASKED, SUN, ROOT, start=NOW, end=None)) == "good"
    assert "does not know" in said(answer(ASKED, SUN, ROOT, unknown=True))


def test_v53_no_octet_of_an_answer_can_be_another() -> None:
    good = answer(ASKED, SUN, ROOT)
    for size in range(0, len(good), 3):
        assert said(good[:size]) not in ("good", "revoked")
    for at in range(len(good)):
        for change in (0x01, 0x80):
            odd = good[:at] + bytes((good[at] ^ change,)) + good[at + 1 :]
            assert said(odd) != "good", at
    assert "at most" in said(bytes(ocsp.MAX_ANSWER + 1))


def test_an_unsigned_error_is_no_answer() -> None:
    for status in (library.OCSPResponseStatus.UNAUTHORIZED, library.OCSPResponseStatus.TRY_LATER):
        data = library.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
        assert "the OCSP responder says" in said(data)


@pytest.mark.parametrize("outcome", [True, False, 0, 1, -1, "yes", object()])
def test_v50_a_check_of_an_ocsp_answer_that_does_not_simply_return_refuses(
    outcome: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2020-16088: only None, or an exception, comes of a verification."""
    monkeypatch.setattr(signatures, "verify", lambda *_: outcome)
    assert said(answer(ASKED, SUN, ROOT)) != "good"
