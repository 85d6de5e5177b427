"""NULL authentication (RFC 7619): who proves nothing is nobody, and behind a wall (security.md, T27)."""

from __future__ import annotations

import itertools
from ipaddress import ip_address
from typing import Any

import pytest

from cygnet.auth.identity import Identity
from cygnet.auth.proof import Proof, prove_nothing
from cygnet.ike.v2 import ike_auth, proving
from cygnet.testing import Gateway, Network, Packet
from cygnet.testing.configurations import SECRET
from cygnet.wire.numbers import AuthMethod
from tests.unit.config_files import problems

GATEWAY = """
[connections.{name}]
local_addrs = ["192.0.2.1"]
proposals = ["aes256gcm16-prfsha256-x25519"]
encap = "no"
{more}
[connections.{name}.local]
auth = "{ours}"
{our_id}
[connections.{name}.remote]
auth = "{theirs}"
[connections.{name}.children.net]
local_ts = ["10.1.0.0/16"]
"""
CLIENT = """
[connections.office]
local_addrs = ["192.0.2.{number}"]
remote_addrs = ["192.0.2.1"]
proposals = ["aes256gcm16-prfsha256-x25519"]
encap = "no"
{more}
[connections.office.local]
auth = "{ours}"
{our_id}
[connections.office.remote]
auth = "{theirs}"
[connections.office.children.net]
remote_ts = ["10.1.0.0/16"]
"""
SECRETS = f'\n[secrets.ike-all]\nsecret = "{SECRET}"\n[secrets.eap-c]\nid = "c"\nsecret = "{SECRET}"\n'
POOL = '[pools.road]\naddrs = "10.3.0.0/30"\n'
OURS = 'id = "gw.example.org"'


def gateway_text(theirs: str, ours: str = "psk", *, name: str = "c", more: str = "") -> str:
    our_id = "" if ours == "null" else OURS
    return GATEWAY.format(name=name, ours=ours, our_id=our_id, theirs=theirs, more=more)


def client(network: Network, number: int, ours: str = "null", theirs: str = "psk", more: str = "") -> Gateway:
    our_id = "" if ours == "null" else 'id = "c"'
    text = CLIENT.format(number=number, ours=ours, our_id=our_id, theirs=theirs, more=more)
    return Gateway(network, f"c{number}", f"192.0.2.{number}", text + SECRETS)


def tries(network: Network, one: Gateway) -> str:
    """The reason why it did not come in, or ""."""
    operation = one.initiate("office", "net")
    network.run_for(200.0)
    failure = one.operations[operation]
    return failure.reason.value if failure is not None else ""


@pytest.mark.parametrize(("ours", "theirs"), [("null", "null"), ("psk", "null"), ("null", "psk")])
def test_where_both_want_it_so_nothing_is_proved_and_traffic_passes(ours: str, theirs: str) -> None:
    """`ours` of the gateway, `theirs` of the client."""
    network = Network(4)
    gateway = Gateway(network, "gateway", "192.0.2.1", gateway_text(theirs, ours) + SECRETS)
    one = client(network, 11, theirs, ours)
    assert tries(network, one) == ""
    (sa,) = gateway.sas()
    assert str(sa.remote_id) == ("%null" if theirs == "null" else "c")
    assert str(one.sas()[0].remote_id) == ("%null" if ours == "null" else "gw.example.org")
    one.send(Packet(17, ip_address("192.0.2.11"), ip_address("10.1.0.5"), 5000, 5000, 100, 1))
    network.run_for(1.0)
    assert len(gateway.plane.received) == 1


@pytest.mark.parametrize("demanded", ["psk", "pubkey", "eap-md5", "eap-mschapv2"])
@pytest.mark.parametrize("named", [True, False], ids=["with a name", "without"])
def test_t27_who_proves_nothing_fits_no_connection_that_demands_a_proof(
    demanded: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it claims to be somebody, and whatever connections for nobody there are besides."""
    network = Network(5)
    other = gateway_text("null", name="nobody", more='remote_addrs = ["198.51.100.9"]')
    gateway = Gateway(network, "gateway", "192.0.2.1", gateway_text(demanded) + other + SECRETS)
    one = client(network, 11)
    if named:
        monkeypatch.setattr(
            "cygnet.ike.v2.rounds.own_identity",
            lambda context, local: Identity.parse("c") if local.method == "null" else OWN(context, local),
        )
    assert tries(network, one) != ""
    assert not gateway.sas()
    assert gateway.failures()


OWN = proving.own_identity


def test_t27_a_name_claimed_without_a_proof_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of that name is not taken, and nothing shows the name as the peer's."""
    network = Network(5)
    named = gateway_text("psk", name="carol").replace('auth = "psk"\n[conn', 'auth = "psk"\nid = "c"\n[conn')
    assert 'id = "c"' in named
    gateway = Gateway(network, "gateway", "192.0.2.1", named + gateway_text("null") + SECRETS)
    one = client(network, 11)
    monkeypatch.setattr(
        "cygnet.ike.v2.rounds.own_identity",
        lambda context, local: Identity.parse("c") if local.method == "null" else OWN(context, local),
    )
    assert tries(network, one) == ""
    (sa,) = gateway.sas()
    assert sa.connection == "c"
    assert str(sa.remote_id) == "%null"


@pytest.mark.parametrize("ours", ["psk", "eap-md5"])
def test_t27_who_proves_something_is_not_taken_for_nobody(ours: str) -> None:
    network = Network(6)
    gateway = Gateway(network, "gateway", "192.0.2.1", gateway_text("null") + SECRETS)
    assert tries(network, client(network, 11, ours)) == "peer-refused-authentication"
    assert not gateway.sas()


def test_t27_id_null_with_a_secret_is_no_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(6)
    gateway = Gateway(
        network, "gateway", "192.0.2.1", gateway_text("psk") + gateway_text("null", name="n") + SECRETS
    )
    monkeypatch.setattr("cygnet.ike.v2.rounds.own_identity", lambda context, local: Identity.nobody())
    assert tries(network, client(network, 11, "psk")) == "peer-refused-authentication"
    assert not gateway.sas()


@pytest.mark.parametrize("position", [0, 7, 31])
def test_a_changed_octet_of_its_auth_is_refused(position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(7)
    gateway = Gateway(network, "gateway", "192.0.2.1", gateway_text("null") + SECRETS)
    genuine = prove_nothing

    def changed(*arguments: Any) -> Proof:
        data = bytearray(genuine(*arguments).data)
        data[position] ^= 1
        return Proof(AuthMethod.NULL, bytes(data))

    monkeypatch.setattr(proving, "prove_nothing", changed)
    assert tries(network, client(network, 11)) == "peer-refused-authentication"
    assert not gateway.sas()
    assert gateway.failures()[0].reason == "signature-invalid"


def test_t27_nobodies_do_not_replace_each_other_and_have_addresses_apart() -> None:
    network = Network(8)
    text = gateway_text("null", more='pools = ["road"]') + POOL.replace("/30", "/28") + SECRETS
    gateway = Gateway(network, "gateway", "192.0.2.1", text)
    clients = [client(network, number, more='vips = ["0.0.0.0"]') for number in (11, 12, 13)]
    for one in clients:
        assert tries(network, one) == ""
    assert len(gateway.sas()) == 3
    assert len({one.host.addresses for one in clients}) == 3


def test_t27_nobodies_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ike_auth, "MAX_NOBODIES", 2)
    network = Network(9)
    text = gateway_text("null") + gateway_text("psk", name="known") + SECRETS
    gateway = Gateway(network, "gateway", "192.0.2.1", text)
    said = [tries(network, client(network, number)) for number in (11, 12, 13)]
    assert said == ["", "", "peer-refused-authentication"]
    assert gateway.failures()[0].reason == "limit-reached"
    assert tries(network, client(network, 14, "psk")) == ""
    # Of those that have gone there is no more count.
    gateway.endpoint.terminate(gateway.sas()[0].unique_id, 0, False, network.now)
    network.run_for(10.0)
    assert tries(network, client(network, 15)) == ""


BAD = [
    ('unique = "replace"', "", "unique"),
    ("", 'id = "c"', "id"),
    ("", '[connections.c.remote-2]\nround = 2\nauth = "psk"', "several rounds"),
]


@pytest.mark.parametrize(("connection", "remote", "said"), BAD)
def test_what_would_mix_nobodies_with_others_is_refused(
    tmp_path: Any, connection: str, remote: str, said: str
) -> None:
    text = gateway_text("null", more=connection).replace(
        "[connections.c.children.net]", f"{remote}\n[connections.c.children.net]"
    )
    found = problems(tmp_path, text + SECRETS)
    assert any(said in str(problem) for problem in found), found


def test_a_peer_that_proves_nothing_gets_its_own_address_only(tmp_path: Any) -> None:
    text = gateway_text("null") + 'remote_ts = ["10.9.0.0/16"]\n'
    found = problems(tmp_path, text + SECRETS)
    assert any("remote_ts" in str(problem) for problem in found)


def test_a_pool_is_nobodys_or_everybody_elses(tmp_path: Any) -> None:
    more = 'pools = ["road"]'
    text = gateway_text("null", more=more) + gateway_text("psk", name="known", more=more) + POOL + SECRETS
    found = problems(tmp_path, text)
    assert any("prove nothing" in str(problem) for problem in found)


def test_pairs_of_identities_never_meet_at_nobody() -> None:
    somebodies = [Identity.parse(text) for text in ("c", "c@d", "192.0.2.1", "@#00", "C=CH", "%any")]
    nobodies = [Identity.nobody(), Identity.nobody(b"1"), Identity.nobody(b"2")]
    for one, other in itertools.product(nobodies, somebodies):
        assert not one.matches(other)
        assert not other.matches(one) or other.is_any
        assert not one.same_as(other)
    assert not nobodies[0].matches(None)
    assert len(set(nobodies)) == 3
