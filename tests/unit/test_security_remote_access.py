"""Remote access: who is let in, and whom a client tells its password (security.md, V37 and its kin)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cygnet.auth.credentials import Credentials
from cygnet.auth.identity import Identity
from cygnet.config.from_vici import connections
from cygnet.config.requests import implicit_pool
from cygnet.ike.changes import Lend
from cygnet.ike.effects import LeaseAddresses
from cygnet.ike.events import IkeSaUp, MessageSeen
from cygnet.ike.steps import lease
from cygnet.testing import Gateway, Network, assert_nothing_left
from cygnet.wire.v1.numbers import Exchange
from tests.unit.auth_material import NOW, YEAR, Held, ca, entity, key

ROOT = ca(holder=key("rsa", "root"))
OTHER = ca("O=Other,CN=CA", holder=key("rsa", "other root"))
CLIENT, GATEWAY = "moon.example.org", "gw.example.org"
PASSWORD = b"open sesame, please"


def certificate(kind: str, who: str) -> Held:
    """Of `who`, and what is wrong with it."""
    holder = key("rsa", who)
    san = f"dns:{'someone.else.example' if kind == 'another one' else who}"
    issuer = {"self-signed": None, "wrong CA": OTHER}.get(kind, ROOT)
    end = NOW - timedelta(days=1) if kind == "expired" else NOW + YEAR
    start = NOW + YEAR - timedelta(days=1) if kind == "not yet valid" else NOW - YEAR
    return entity(issuer, f"C=CH,O=Test,CN={who}", [san], holder=holder, start=start, end=end)


def credentials(*held: Held) -> Credentials:
    store = Credentials()
    store.add_certificate(ROOT.der, ca=True)
    for one in held:
        store.add_certificate(one.der)
        store.add_private_key(one.key_pem)
    store.add_shared("xauth-joe", "xauth", PASSWORD, (Identity.parse("joe"),))
    return store


def encoded(value: Any) -> Any:
    """As it comes over the control socket."""
    if isinstance(value, dict):
        return {name: encoded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [encoded(one) for one in value]
    return value.encode() if isinstance(value, str) else value


BAD = ["self-signed", "wrong CA", "expired", "not yet valid", "another one", "none sent"]
MODES = pytest.mark.parametrize("aggressive", ["no", "yes"], ids=["main", "aggressive"])


class Office:
    """A client and a gateway with these rounds and certificates."""

    def __init__(
        self, aggressive: str, client: dict[str, Any], gateway: dict[str, Any], ours: Held, theirs: Held
    ) -> None:
        self.network = Network(5)
        common = {
            "version": "1",
            "aggressive": aggressive,
            "proposals": ["aes256-sha256-x25519"],
            "encap": "no",
        }
        there = {"local_addrs": ["192.0.2.1"], "pools": ["10.3.0.0/24"], **gateway}
        there["children"] = {"net": {"local_ts": ["10.1.0.0/16"]}}
        here = {"local_addrs": ["192.0.2.11"], "remote_addrs": ["192.0.2.1"], "vips": ["0.0.0.0"], **client}
        here["children"] = {"net": {"remote_ts": ["10.1.0.0/16"]}}
        pool = implicit_pool("10.3.0.0/24")
        assert pool is not None
        self.gateway = Gateway(
            self.network,
            "gateway",
            "192.0.2.1",
            connections=connections(encoded({"clients": common | there})),
            credentials=credentials(theirs),
            pools=[pool],
        )
        self.client = Gateway(
            self.network,
            "client",
            "192.0.2.11",
            connections=connections(encoded({"office": common | here})),
            credentials=credentials(ours),
        )
        self.gateway.endpoint.observe = self.client.endpoint.observe = True

    def tries(self) -> bool:
        """Whether the client came in."""
        operation = self.client.initiate("office", "net")
        self.network.run_for(300)
        return self.client.operations[operation] is None

    def transactions(self, gateway: Gateway) -> int:
        """Messages of XAUTH and mode config that it sent."""
        return sum(
            seen.sent and seen.message.header.exchange == Exchange.TRANSACTION
            for seen in gateway.of(MessageSeen)
        )


def with_certificate_and_login(aggressive: str, kind: str = "", login: bool = True) -> Office:
    ours, theirs = certificate(kind, CLIENT), certificate("", GATEWAY)
    rounds: dict[str, Any] = {"local-1": {"auth": "pubkey", "id": CLIENT, "certs": [ours.der]}}
    if login:
        rounds["local-2"] = {"auth": "xauth", "xauth_id": "joe"}
    client = {
        **rounds,
        "remote": {"auth": "pubkey", "id": GATEWAY},
        "send_cert": "never" if kind == "none sent" else "always",
    }
    gateway = {
        "local": {"auth": "pubkey", "id": GATEWAY, "certs": [theirs.der]},
        "remote-1": {"auth": "pubkey", "id": CLIENT},
        "remote-2": {"auth": "xauth"},
    }
    return Office(aggressive, client, gateway, ours, theirs)


def hybrid(aggressive: str, kind: str = "") -> Office:
    theirs = certificate(kind, GATEWAY)
    client = {
        "local": {"auth": "xauth", "id": CLIENT, "xauth_id": "joe"},
        "remote": {"auth": "pubkey", "id": GATEWAY},
    }
    gateway = {
        "local": {"auth": "pubkey", "id": GATEWAY, "certs": [theirs.der]},
        "remote": {"auth": "xauth"},
        "send_cert": "never" if kind == "none sent" else "always",
    }
    return Office(aggressive, client, gateway, certificate("", CLIENT), theirs)


@MODES
def test_with_certificate_and_password_a_client_comes_in(aggressive: str) -> None:
    assert with_certificate_and_login(aggressive).tries()
    assert hybrid(aggressive).tries()


@MODES
@pytest.mark.parametrize("kind", BAD)
def test_v37_whose_certificate_is_bad_is_not_even_asked_for_a_password(aggressive: str, kind: str) -> None:
    """CVE-2026-50751: a certificate that fails is the end, whatever would follow."""
    office = with_certificate_and_login(aggressive, kind)
    assert not office.tries()
    assert office.gateway.of(IkeSaUp) == []
    assert office.transactions(office.gateway) == 0
    assert_nothing_left(office.gateway, office.client)


@MODES
@pytest.mark.parametrize("kind", BAD)
def test_v37_a_client_tells_its_password_to_no_gateway_whose_certificate_is_bad(
    aggressive: str, kind: str
) -> None:
    office = hybrid(aggressive, kind)
    assert not office.tries()
    assert office.client.of(IkeSaUp) == []
    assert office.transactions(office.client) == 0


@MODES
def test_v37_a_good_certificate_without_the_login_that_is_demanded_is_no_way_in(aggressive: str) -> None:
    office = with_certificate_and_login(aggressive, login=False)
    assert not office.tries()
    assert office.gateway.of(IkeSaUp) == []
    assert_nothing_left(office.gateway, office.client)


@MODES
def test_v37_a_good_certificate_with_a_wrong_password_is_no_way_in(aggressive: str) -> None:
    office = with_certificate_and_login(aggressive)
    office.client.credentials.remove_shared("xauth-joe")
    office.client.credentials.add_shared("xauth-joe", "xauth", b"a wrong one", (Identity.parse("joe"),))
    assert not office.tries()
    assert office.gateway.of(IkeSaUp) == []
    assert all(pool.online == pool.offline == 0 for pool in office.gateway.leases.views())


@pytest.mark.parametrize("demanded", ["eap-mschapv2", "eap-md5", "eap-radius", "eap-tls", "psk"])
def test_t25_a_good_certificate_is_no_way_into_a_connection_that_demands_another_proof(demanded: str) -> None:
    """Under a CA that the gateway trusts for other connections: what this one demands alone counts."""
    ours, theirs = certificate("", CLIENT), certificate("", GATEWAY)
    network = Network(3)
    common = {"version": "2", "proposals": ["aes256-sha256-x25519"], "encap": "no", "send_cert": "always"}
    there = {
        "local_addrs": ["192.0.2.1"],
        "local": {"auth": "pubkey", "id": GATEWAY, "certs": [theirs.der]},
        "remote": {"auth": demanded},
        "children": {"net": {"local_ts": ["10.1.0.0/16"]}},
    }
    here = {
        "local_addrs": ["192.0.2.11"],
        "remote_addrs": ["192.0.2.1"],
        "local": {"auth": "pubkey", "id": CLIENT, "certs": [ours.der]},
        "remote": {"auth": "pubkey", "id": GATEWAY},
        "children": {"net": {"remote_ts": ["10.1.0.0/16"]}},
    }
    gateway = Gateway(
        network,
        "gateway",
        "192.0.2.1",
        connections=connections(encoded({"people": common | there})),
        credentials=credentials(theirs),
    )
    client = Gateway(
        network,
        "client",
        "192.0.2.11",
        connections=connections(encoded({"office": common | here})),
        credentials=credentials(ours),
    )
    operation = client.initiate("office", "net")
    network.run_for(60)
    assert client.operations[operation] is not None
    assert not gateway.sas()
    assert gateway.failures()[0].reason == "auth-method-mismatch"


def test_a_lease_takes_an_authenticated_peer() -> None:
    """security.md, I4: the token is an argument wherever addresses are leased."""
    for function in (LeaseAddresses, Lend, lease):
        assert function.__annotations__["peer"] == "AuthenticatedPeer"
