"""XAUTH and mode config in virtual time: every message lost, doubled, delayed, reordered, corrupted (C50)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from cygnet.auth import credentials
from cygnet.config import files
from cygnet.ike.errors import Reason
from cygnet.ike.events import IkeSaUp
from cygnet.ike.v1.sa import CLIENTS_COME
from cygnet.testing import ACTS, Fault, Gateway, assert_agreement, assert_nothing_left
from cygnet.testing.remote_access import POOLS, RemoteAccess
from tests.simulation.test_virtual_addresses import devices_behind_one_nat, online, talk
from tests.unit.auth_material import ca, entity, key

FIRST = ip_address("10.3.0.1")
AGGRESSIVE = "aggressive = true\n"
AGGRESSIVE_PSK = "i_dont_care_about_security_and_use_aggressive_mode_psk = true"
V1 = 'version = 1\nproposals = ["aes256-sha256-x25519"]\ndpd_delay = "60s"\n'
NETWORK = '"10.1.0.0/16"'


KEYS: dict[str, Any] = {}
"""Sections of the configuration that name the private keys: without, it is refused."""


@pytest.fixture(scope="module", autouse=True)
def _keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each is read once: to check an RSA key takes longer than to negotiate with it."""
    directory = tmp_path_factory.mktemp("keys")
    for end, held in (("server", GATEWAY), ("client", CLIENT)):
        path = directory / end
        path.write_bytes(held.key_pem)
        path.chmod(0o600)
        KEYS[f"{end}_sections"] = f'[secrets.private-own]\nfile = "{path}"\n'
    with pytest.MonkeyPatch.context() as patch:
        for module in (credentials, files):
            for name in ("load_pem_private_key", "load_der_private_key"):
                patch.setattr(module, name, functools.cache(getattr(serialization, name)))
        yield


# IKEv1's XAUTH knows signatures of RSA alone.
ROOT = ca(holder=key("rsa", "root"))
GATEWAY = entity(ROOT, "CN=gateway", ["dns:gw.example.org"], holder=key("rsa", "gateway"))
CLIENT = entity(ROOT, "CN=client", ["email:user11@example.org"], holder=key("rsa", "client"))


@dataclass(frozen=True, slots=True)
class Way:
    """How the client comes in."""

    connection: str = ""
    login: str = ""
    proof: str = "psk"

    def office(self, seed: int = 3, **more: Any) -> RemoteAccess:
        if AGGRESSIVE in self.connection:
            more = {"options": AGGRESSIVE_PSK, **more}
        more = {**(KEYS if self.proof != "psk" else {}), **more}
        made = RemoteAccess(
            seed,
            connection=V1 + self.connection,
            login=self.login,
            proof=self.proof,
            networks=NETWORK,
            **more,
        )
        if self.proof != "psk":
            for gateway in made.everybody:
                own = GATEWAY if gateway is made.server else CLIENT
                gateway.credentials.add_certificate(ROOT.der, ca=True)
                gateway.credentials.add_certificate(own.der)
        return made


PUSH = "pull = false\n"
WAYS = {
    "pull": Way(),
    "push": Way(PUSH),
    "xauth and pull": Way(login="xauth"),
    "xauth and push": Way(PUSH, login="xauth"),
    "xauth by challenge": Way(login="xauth-chap"),
    "aggressive, xauth, pull": Way(AGGRESSIVE, login="xauth"),
    "aggressive, xauth, push": Way(AGGRESSIVE + PUSH, login="xauth"),
    "certificates, xauth": Way(login="xauth", proof="pubkey"),
    "aggressive, certificates, xauth": Way(AGGRESSIVE, login="xauth", proof="pubkey"),
    "hybrid": Way(login="xauth", proof="hybrid"),
    "aggressive, hybrid, push": Way(AGGRESSIVE + PUSH, login="xauth", proof="hybrid"),
}


def settled(office: RemoteAccess) -> None:
    assert_agreement(*office.everybody)
    assert office.client.host.addresses == (FIRST,)
    assert talk(office, office.client)


@pytest.mark.parametrize("way", WAYS)
def test_a_client_comes_in_and_has_an_address(way: str) -> None:
    office = WAYS[way].office().up()
    office.settle()
    settled(office)
    user = "joe11" if WAYS[way].login else "user11@example.org"
    assert online(office.server) == {"10.3.0.1": user}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_leased_is_given_back(way: str) -> None:
    office = WAYS[way].office().up()
    office.client.terminate()
    office.settle()
    assert_nothing_left(*office.everybody)
    assert online(office.server) == {}
    assert office.client.host.addresses == ()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("way", WAYS)
def test_with_a_fault_at_any_position_both_ends_agree(way: str, act: str) -> None:
    trial = WAYS[way].office()
    trial.client.initiate("office", "net")
    trial.network.run_for(20)
    counts = [trial.network.ike_datagrams_of(gateway.address) for gateway in trial.everybody]
    assert min(counts) >= 3
    for side in (0, 1):
        for position in range(counts[side]):
            office = WAYS[way].office()
            fault = Fault(office.everybody[side].address, position, ACTS[act])
            office.network.meddlers.append(fault)
            operation = office.client.initiate("office", "net")
            office.settle()
            where = f"datagram {position} of {office.everybody[side].name}"
            assert fault.hit, where
            assert operation in office.client.operations, where
            try:
                if act == "corrupted" and office.client.operations[operation] is not None:
                    # Nothing protects the first messages of main mode: what they bring about fails, at both
                    # ends, and the next attempt does not.
                    assert position < 2, where
                    assert_nothing_left(*office.everybody)
                    office.up()
                    office.settle()
                settled(office)
            except AssertionError as error:
                raise AssertionError(f"{way}: {where} {act}: {error}") from error


def up(gateway: Gateway) -> int:
    return len(gateway.of(IkeSaUp))


@pytest.mark.parametrize("login", ["xauth", "xauth-chap"])
@pytest.mark.parametrize("act", [None, *ACTS])
def test_with_a_wrong_password_nobody_comes_in_whatever_is_lost(login: str, act: str | None) -> None:
    way = Way(login=login)
    trial = way.office(password="no such thing")
    trial.client.initiate("office", "net")
    trial.network.run_for(20)
    counts = [trial.network.ike_datagrams_of(gateway.address) for gateway in trial.everybody]
    for side in (0, 1):
        for position in range(counts[side] if act else 1):
            office = way.office(password="no such thing")
            if act:
                office.network.meddlers.append(Fault(office.everybody[side].address, position, ACTS[act]))
            operation = office.client.initiate("office", "net")
            office.settle()
            assert_nothing_left(*office.everybody)
            assert up(office.server) == up(office.client) == 0
            assert online(office.server) == {}
            assert office.client.operations[operation] is not None
            if position >= 3:
                assert Reason.LOGIN_FAILED in [failure.reason for failure in office.server.failures()]


def test_the_client_hears_that_its_login_was_refused() -> None:
    office = Way(login="xauth").office(password="no such thing")
    operation = office.client.initiate("office", "net")
    office.settle(30)
    failure = office.client.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.PEER_REFUSED_AUTHENTICATION
    assert failure.detail == "the peer refuses our login"


def test_a_client_without_a_password_says_so_and_the_server_lets_nobody_in() -> None:
    office = Way(login="xauth").office()
    office.client.credentials.remove_shared("xauth-joe")
    operation = office.client.initiate("office", "net")
    office.settle()
    failure = office.client.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.LOGIN_FAILED
    assert "joe11" in failure.detail
    assert_nothing_left(*office.everybody)


@pytest.mark.parametrize("way", WAYS)
def test_a_new_phase_1_keeps_the_address_and_the_traffic(way: str) -> None:
    office = WAYS[way].office().up()
    user = "joe11" if WAYS[way].login else "user11@example.org"
    for _ in range(3):
        number = office.client.sas()[-1].unique_id
        office.client.rekey()
        office.settle(60)
        assert [view.unique_id for view in office.client.sas()] != [number]
        settled(office)
        assert online(office.server) == {"10.3.0.1": user}
    office.client.terminate()
    office.settle()
    assert online(office.server) == {}


@pytest.mark.parametrize("way", WAYS)
def test_a_server_leaves_the_new_phase_1_to_its_client(way: str) -> None:
    """It would log in nobody, and give the address away."""
    office = WAYS[way].office().up()
    number = office.server.sas()[0].unique_id
    operation = office.server.rekey()
    office.settle(120)
    failure = office.server.operations[operation]
    assert failure is not None
    assert failure.detail == CLIENTS_COME
    assert [view.unique_id for view in office.server.sas()] == [number]
    settled(office)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", ["server_connection", "client_connection"])
def test_the_shorter_lifetime_of_either_end_counts_for_both(way: str, side: str) -> None:
    """RESPONDER-LIFETIME is the server's word; the client's is its offer. The client comes again in time."""
    short: dict[str, object] = {side: 'rekey_time = "300s"\nover_time = "60s"\n'}
    office = WAYS[way].office(**short).up()  # type: ignore[arg-type]
    for _ in range(6):
        office.settle(200)
        settled(office)
        ends = []
        for gateway in office.everybody:
            (view,) = gateway.sas()
            state = gateway.endpoint.by_number[view.unique_id].state
            assert 0 < state.expires_at - state.established < 360.001
            ends.append(state.expires_at)
        assert abs(ends[0] - ends[1]) < 1
    assert up(office.client) >= 4
    assert all(view.state == "ESTABLISHED" for view in office.client.sas())


def test_a_server_that_has_no_address_left_gives_none_and_serves_no_quick_mode() -> None:
    office = Way().office(clients=2, pools='"10.9.0.7"', sections="")
    first = office.clients[0].initiate("office", "net")
    office.settle(10)
    assert office.clients[0].operations[first] is None
    second = office.clients[1].initiate("office", "net")
    office.settle(120)
    failure = office.clients[1].operations[second]
    assert failure is not None
    assert failure.reason is Reason.ADDRESS_REFUSED
    assert not office.clients[1].sas()
    assert_agreement(*office.everybody)


def test_who_asks_for_no_address_where_it_must_have_one_gets_no_child() -> None:
    """Not with its outer address either: the pools say who is who behind the server."""
    office = Way().office(vips="")
    operation = office.client.initiate("office", "net")
    office.settle(120)
    failure = office.client.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.SELECTOR_MISMATCH
    assert [child for view in office.server.sas() for child in view.children] == []


def test_unity_tells_banner_domains_and_split_networks() -> None:
    told = POOLS.replace(
        'domains = ["example.org", "corp.example.org"]',
        'domains = ["example.org", "corp.example.org"]\nbanner = "No trespassing"\nsave_password = true\n'
        'split_include = ["10.1.0.0/16", "10.7.0.0/16"]\nsplit_exclude = ["192.168.0.0/16"]',
    )
    office = Way().office(sections=told).up()
    (number,) = [view.unique_id for view in office.client.sas()]
    given = office.client.endpoint.by_number[number].state.given
    assert given is not None
    settings = given.settings
    assert settings.banner == "No trespassing"
    assert settings.save_password
    assert settings.domains == ("example.org", "corp.example.org")
    assert len(settings.subnets) == 2
    assert len(settings.excluded) == 1
    assert settings.nbns == (ip_address("10.1.0.54"),)


@pytest.mark.parametrize("connection", ["", PUSH])
def test_addresses_of_ipv6_are_given_too(connection: str) -> None:
    office = RemoteAccess(3, connection=V1 + connection, vips='"::"', networks='"2001:db8:1::/48"').up()
    office.settle()
    assert_agreement(*office.everybody)
    assert office.client.host.addresses == (ip_address("2001:db8:3::1"),)
    assert online(office.server) == {"2001:db8:3::1": "user11@example.org"}


def test_both_families_are_given_at_once_and_each_has_its_child() -> None:
    """One pair of selectors is all that a quick mode can say: a child for each family."""
    more = '[connections.{0}.children.six]\n{1}_ts = ["2001:db8:1::/48"]\n'
    office = (
        Way()
        .office(
            vips='"0.0.0.0", "::"',
            sections=POOLS + more.format("clients", "local"),
            client_child="\n" + more.format("office", "remote"),
        )
        .up()
    )
    operation = office.client.initiate("office", "six")
    office.settle(30)
    assert office.client.operations[operation] is None
    assert_agreement(*office.everybody)
    assert len(office.client.host.addresses) == 2
    (view,) = office.server.sas()
    assert sorted(child.name for child in view.children) == ["net", "six"]


DEVICES = {name: WAYS[name] for name in ("pull", "push", "aggressive, xauth, pull", "xauth and push")}


def second_device(way: Way, unique: str) -> RemoteAccess:
    """One user at two addresses, the second some time after the first."""
    setting = f'unique = "{unique}"\n' if unique else ""
    office = way.office(
        clients=2, same_identity=True, server_connection=setting, client_connection=setting, same_user=True
    )
    for client in office.clients:
        operation = client.initiate("office", "net")
        office.settle(60)
        assert client.operations[operation] is None
    return office


@pytest.mark.parametrize("way", DEVICES)
def test_a_users_second_device_disturbs_nothing_where_users_may_have_several(way: str) -> None:
    office = second_device(DEVICES[way], "never")
    user = "joe11" if DEVICES[way].login else "user@example.org"
    for _ in range(2):
        assert online(office.server) == {"10.3.0.1": user, "10.3.0.2": user}
        assert [client.host.addresses for client in office.clients] == [
            (FIRST,),
            (ip_address("10.3.0.2"),),
        ]
        assert all(talk(office, client) for client in office.clients)
        assert [len(view.children) for view in office.server.sas()] == [1, 1]
        assert_agreement(*office.everybody)
        # Each authenticates anew from where it is, and keeps what it has.
        for client in office.clients:
            client.rekey()
            office.settle(60)
    office.clients[1].terminate()
    office.settle()
    assert online(office.server) == {"10.3.0.1": user}
    assert talk(office, office.client)


@pytest.mark.parametrize("way", [way for way in DEVICES if "pull" in way])
def test_behind_one_nat_a_second_device_does_not_get_the_address_of_the_first(way: str) -> None:
    setting = 'unique = "never"\n'
    office = DEVICES[way].office(
        clients=2,
        same_identity=True,
        same_user=True,
        vips='"10.3.0.9"',
        server_connection=setting,
        client_connection=setting,
    )
    devices_behind_one_nat(office)


@pytest.mark.parametrize("way", DEVICES)
def test_by_default_a_users_second_device_that_says_it_is_alone_ends_the_first(way: str) -> None:
    """As with IKEv2: the first one's SA is closed, not taken over."""
    office = second_device(DEVICES[way], "")
    assert len(office.server.sas()) == 1
    assert list(online(office.server)) == [str(office.clients[1].host.addresses[0])]
    assert talk(office, office.clients[1])
