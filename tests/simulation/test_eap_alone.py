"""Whom a client tells its password in a tunnel of EAP: the gateway that it wants, and nobody else (V9).

Where EAP alone proves the gateway (RFC 5998), the certificate that ends the tunnel is all that it shows.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from cygnet.auth.eap import tls_engine
from cygnet.auth.passwords import Stored
from cygnet.ike.v2 import candidates
from tests.simulation.test_eap_tls_faults import ROOT, SERVER, Pair
from tests.unit.auth_material import NOW, YEAR, Held, ca, entity, key
from tests.unit.revocation_material import revocation_list

pytestmark = pytest.mark.skipif(not tls_engine.available(), reason=tls_engine.MISSING)
METHODS = ["eap-ttls-pap", "eap-ttls-mschapv2", "eap-ttls", "eap-peap"]
MALLORY = entity(ROOT, "CN=mallory", ["dns:mallory.example.org"], holder=key("p256", "mallory"))
OTHER = ca("O=Other,CN=CA", holder=key("p256", "other root"))
OTHERS = entity(OTHER, "CN=gw.example.org", ["dns:gw.example.org"], holder=key("p256", "other gateway"))
REVOKED = revocation_list(ROOT, [SERVER], start=NOW - timedelta(days=1), end=NOW + YEAR)


def heard(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Whose passwords the gateway looked for: it does so when somebody has told one, or their name inside."""
    names: list[bytes] = []
    store = pair.b.endpoint.credentials
    known = store.user

    def user(name: bytes) -> Stored | None:
        names.append(name)
        return known(name)

    monkeypatch.setattr(store, "user", user)
    return names


def reason_of(pair: Pair) -> str | None:
    operation = pair.a.initiate("peer", "net")
    pair.network.run_for(30)
    failure = pair.a.operations[operation]
    return str(failure.reason) if failure is not None else None


@pytest.mark.parametrize("method", METHODS)
def test_eap_alone_proves_the_gateway_that_is_wanted(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(method, alone=True)
    names = heard(pair, monkeypatch)
    assert reason_of(pair) is None
    assert names


@pytest.mark.parametrize("method", METHODS)
def test_v9_a_good_certificate_of_somebody_else_hears_no_password(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls itself what its certificate says: another name than the one that is wanted."""
    monkeypatch.setattr(candidates, "_is_asked", lambda *_: True)
    pair = Pair(method, held=MALLORY, named="mallory.example.org", alone=True)
    names = heard(pair, monkeypatch)
    assert reason_of(pair) == "peer-id-mismatch"
    assert not names


@pytest.mark.parametrize("method", METHODS)
def test_v9_a_certificate_of_another_ca_than_the_one_that_is_named_hears_no_password(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That CA is loaded, for other connections."""

    def meeting(held: Held) -> Pair:
        pair = Pair(method, held=held, alone=True, cacerts=[ROOT.der])
        pair.a.endpoint.credentials.add_certificate(OTHER.der, ca=True)
        return pair

    assert reason_of(meeting(SERVER)) is None
    pair = meeting(OTHERS)
    names = heard(pair, monkeypatch)
    assert reason_of(pair) == "certificate-untrusted"
    assert not names


@pytest.mark.parametrize("alone", [True, False], ids=["EAP alone", "behind a certificate"])
@pytest.mark.parametrize("method", METHODS)
def test_v9_a_revoked_certificate_in_the_tunnel_hears_no_password(
    method: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(method, alone=alone)
    if not alone:
        # The gateway's own certificate, in IKE, is fine: it is the one in the tunnel that is looked at.
        monkeypatch.setattr("cygnet.ike.v2.mutual.check_revocation", lambda *_: iter(()))
    pair.a.endpoint.credentials.revocations.add_crl(REVOKED)
    names = heard(pair, monkeypatch)
    assert reason_of(pair) == "certificate-revoked"
    assert not names
