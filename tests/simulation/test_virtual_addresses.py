"""Virtual addresses in virtual time: leased, used, kept over rekeys, and given back however an SA ends."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from cygnet.ike.errors import Reason
from cygnet.policy.selectors import format_selector
from cygnet.testing import ACTS, Fault, Nat, Packet, assert_agreement, assert_nothing_left
from cygnet.testing.gateway import Gateway
from cygnet.testing.remote_access import RemoteAccess

FIRST = ip_address("10.3.0.1")
PLAIN = 'proposals = ["aes256gcm16-prfsha256-x25519"]'
WATCHED = PLAIN + '\ndpd_delay = "60s"'


def online(gateway: Gateway) -> dict[str, str]:
    """Address to identity of what is leased now."""
    return {
        str(address): str(identity)
        for pool in gateway.leases.views(leases=True)
        for address, identity, is_online in pool.leases
        if is_online
    }


def talk(office: RemoteAccess, client: Gateway) -> bool:
    """A packet from the client's virtual address into the office, and one back."""
    inner, host = client.host.addresses[0], ip_address("10.1.0.5")
    before = len(office.server.plane.received), len(client.plane.received)
    client.send(Packet(17, inner, host, 5000, 5000, 100, 1))
    office.server.send(Packet(17, host, inner, 5000, 5000, 100, 2))
    office.network.run_for(1)
    after = len(office.server.plane.received), len(client.plane.received)
    return (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_a_client_gets_an_address_and_what_it_is_told_and_speaks_from_it() -> None:
    office = RemoteAccess(1, connection=PLAIN).up()
    assert office.client.host.addresses == (FIRST,)
    assert office.client.host.dns == (ip_address("10.1.0.53"), ip_address("2001:db8:1::53"))
    assert office.client.host.domains == ("example.org", "corp.example.org")
    assert online(office.server) == {"10.3.0.1": "user11@example.org"}
    (child,) = office.client.sas()[0].children
    assert [format_selector(one) for one in child.local_selectors] == ["10.3.0.1/32"]
    assert office.client.sas()[0].local_vips == office.server.sas()[0].remote_vips == (FIRST,)
    assert talk(office, office.client)
    assert_agreement(*office.everybody)


def test_addresses_of_both_families_come_together() -> None:
    office = RemoteAccess(1, connection=PLAIN, vips='"0.0.0.0", "::"').up()
    assert office.client.host.addresses == (FIRST, ip_address("2001:db8:3::1"))
    (child,) = office.client.sas()[0].children
    assert [format_selector(s) for s in child.local_selectors] == ["10.3.0.1/32", "2001:db8:3::1/128"]
    assert_agreement(*office.everybody)


def test_several_clients_have_addresses_and_policies_of_their_own() -> None:
    office = RemoteAccess(1, connection=PLAIN, clients=5).up()
    addresses = [client.host.addresses for client in office.clients]
    assert addresses == [(FIRST + n,) for n in range(5)]
    assert all(talk(office, client) for client in office.clients)
    assert_agreement(*office.everybody)


def test_a_certain_address_is_asked_for_and_given() -> None:
    office = RemoteAccess(1, connection=PLAIN, vips='"10.3.0.77"').up()
    assert office.client.host.addresses == (ip_address("10.3.0.77"),)


def test_an_address_that_is_not_free_is_answered_with_another() -> None:
    office = RemoteAccess(1, connection=PLAIN, clients=2, vips='"10.3.0.77"').up()
    assert {client.host.addresses[0] for client in office.clients} == {ip_address("10.3.0.77"), FIRST}
    assert_agreement(*office.everybody)


def test_a_pool_may_be_named_by_its_addresses() -> None:
    office = RemoteAccess(1, connection=PLAIN, pools='"10.9.0.7"').up()
    assert office.client.host.addresses == (ip_address("10.9.0.7"),)


def refused(office: RemoteAccess, name: str = "client") -> None:
    """The IKE SA stands, the Child SA does not, and both ends say why (RFC 7296, section 2.19)."""
    client: Gateway = office.clients[-1]
    operation = client.initiate("office", "net")
    office.settle(60)
    failure = client.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.ADDRESS_REFUSED
    assert Reason.ADDRESS_REFUSED in [one.reason for one in office.server.failures()]
    assert [view.children for view in client.sas()] == [()]
    assert client.host.addresses == ()
    assert_agreement(*office.everybody)


def test_when_a_pool_is_empty_the_client_hears_internal_address_failure() -> None:
    office = RemoteAccess(1, connection=PLAIN, clients=2, pools='"10.9.0.7"')
    office.client.initiate("office", "net")
    office.settle(5)
    refused(office)


def test_who_asks_for_an_address_where_there_are_none_hears_internal_address_failure() -> None:
    refused(RemoteAccess(1, connection=PLAIN, pools="", sections=""))


def test_who_asks_for_no_address_where_it_must_have_one_hears_failed_cp_required() -> None:
    refused(RemoteAccess(1, connection=PLAIN, vips=""))


def rekeyed_and_closed(office: RemoteAccess) -> None:
    office.client.rekey()
    office.settle(20)
    office.client.terminate()


def rekeyed_by_both_and_closed(office: RemoteAccess) -> None:
    office.client.rekey()
    office.server.rekey()
    office.settle(20)
    office.server.terminate()


ENDS: dict[str, Callable[[RemoteAccess], object]] = {
    "the client closes": lambda office: office.client.terminate(),
    "the client closes by force": lambda office: office.client.terminate(force=True),
    "the server closes": lambda office: office.server.terminate(),
    "the server closes by force": lambda office: office.server.terminate(force=True),
    "the client's connection is unloaded": lambda office: office.client.unload("office"),
    "the server's connection is unloaded": lambda office: office.server.unload("clients"),
    "the client dies": lambda office: office.client.die(),
    "rekeyed, then closed": rekeyed_and_closed,
    "rekeyed by both, then closed": rekeyed_by_both_and_closed,
}


@pytest.mark.parametrize("end", ENDS)
def test_an_address_is_given_back_however_its_sa_ends(end: str) -> None:
    office = RemoteAccess(1, connection=WATCHED, vips='"0.0.0.0", "::"').up()
    ENDS[end](office)
    office.settle()
    assert online(office.server) == {}
    assert sum(pool.offline for pool in office.server.leases.views()) == 2
    if "dies" not in end:
        assert office.client.host.addresses == ()
        assert office.client.host.dns == ()
        assert_nothing_left(*office.everybody)


def test_an_sa_whose_lifetime_is_over_gives_its_address_back() -> None:
    life = PLAIN + '\nrekey_time = "0s"'
    office = RemoteAccess(1, connection=life, child='rekey_time = "0s"').up()
    office.client.terminate()
    office.settle(30)
    assert online(office.server) == {}


def test_a_half_done_authentication_leases_nothing_for_long() -> None:
    """The peer that asked falls silent: what came of its request is not its for ever."""
    office = RemoteAccess(1, connection=WATCHED)
    office.client.initiate("office", "net")
    office.network.run_until(lambda: bool(online(office.server)))
    office.client.die()
    office.settle()
    assert online(office.server) == {}


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_rekey_of_the_ike_sa_keeps_the_address(who: str) -> None:
    office = RemoteAccess(1, connection=PLAIN).up()
    (office.client if who == "client" else office.server).rekey()
    office.settle(20)
    assert office.client.host.addresses == (FIRST,)
    assert online(office.server) == {"10.3.0.1": "user11@example.org"}
    assert talk(office, office.client)
    assert_agreement(*office.everybody)


def test_authentication_anew_keeps_the_address() -> None:
    office = RemoteAccess(1, connection=PLAIN).up()
    number = office.client.sas()[0].unique_id
    office.client.endpoint.reauthenticate(number, office.network.now)
    office.client.handle_timeout()
    office.settle(60)
    assert len(office.client.sas()) == 1
    assert office.client.sas()[0].unique_id != number
    assert office.client.host.addresses == (FIRST,)
    assert online(office.server) == {"10.3.0.1": "user11@example.org"}
    assert talk(office, office.client)
    assert_agreement(*office.everybody)


def test_a_client_that_restarts_gets_its_address_again() -> None:
    office = RemoteAccess(1, connection=PLAIN, clients=2).up()
    had = office.clients[1].host.addresses
    client = office.restart_client(1)
    client.initiate("office", "net")
    office.settle(60)
    assert client.host.addresses == had
    assert_agreement(*office.everybody)


def test_a_server_that_restarts_gives_everybody_the_address_they_had() -> None:
    office = RemoteAccess(1, connection=WATCHED, clients=3).up()
    had = [client.host.addresses for client in office.clients]
    office.restart_server()
    for client in office.clients:
        client.terminate(force=True)
    office.clients.reverse()
    office.up()
    office.clients.reverse()
    assert [client.host.addresses for client in office.clients] == had
    assert_agreement(*office.everybody)


def test_two_devices_of_one_user_have_an_address_each() -> None:
    office = RemoteAccess(1, connection=PLAIN + '\nunique = "never"', clients=2, same_identity=True).up()
    assert [client.host.addresses for client in office.clients] == [(FIRST,), (FIRST + 1,)]
    assert_agreement(*office.everybody)


def test_a_second_device_does_not_get_the_address_of_the_first_by_asking_for_it() -> None:
    office = RemoteAccess(
        1, connection=PLAIN + '\nunique = "never"', clients=2, same_identity=True, vips='"10.3.0.9"'
    ).up()
    assert len(online(office.server)) == 2
    assert_agreement(*office.everybody)


def devices_behind_one_nat(office: RemoteAccess) -> None:
    """Both ask for 10.3.0.9 from one address. The first has it, also when it authenticates anew; the second
    never gets it too."""
    Nat(office.network, ip_address("203.0.113.9"), *[client.address for client in office.clients])
    had = []
    for client in office.clients:
        operation = client.initiate("office", "net")
        office.settle(60)
        assert client.operations[operation] is None
        had.append(client.host.addresses)
    assert had == [(ip_address("10.3.0.9"),), (FIRST,)]
    for client in office.clients:
        client.endpoint.reauthenticate(client.sas()[0].unique_id, office.network.now)
        client.handle_timeout()
        office.settle(60)
    assert office.client.host.addresses == had[0]
    assert office.clients[1].host.addresses != had[0]
    assert len(online(office.server)) == 2
    assert all(talk(office, client) for client in office.clients)
    assert_agreement(*office.everybody)


def test_behind_one_nat_a_second_device_does_not_get_the_address_of_the_first() -> None:
    setting = PLAIN + '\nunique = "never"'
    devices_behind_one_nat(
        RemoteAccess(1, connection=setting, clients=2, same_identity=True, vips='"10.3.0.9"')
    )


def test_what_is_always_to_be_up_is_protected_before_its_address_is_known() -> None:
    office = RemoteAccess(1, connection=PLAIN, client_child='start_action = "trap"')
    packet = Packet(17, ip_address("192.0.2.11"), ip_address("10.1.0.5"), 1, 1, 100, 1)
    office.settle(1)
    assert office.client.send(packet) == "held"
    office.settle(5)
    assert office.client.host.addresses == (FIRST,)
    office.client.terminate()
    office.settle(5)
    assert office.client.send(packet) == "held"


@pytest.mark.parametrize("action", ["trap", "start"])
def test_what_is_always_to_be_up_lets_nothing_leave_from_other_addresses(action: str) -> None:
    """Before, while and after; what is allowed by name stays allowed."""
    printer = """
[connections.office.children.printer]
mode = "pass"
local_ts = ["192.0.2.11"]
remote_ts = ["10.1.9.0/24"]
"""
    office = RemoteAccess(1, connection=PLAIN, client_child=f'start_action = "{action}"\n{printer}')
    other = Packet(17, ip_address("192.0.2.11"), ip_address("10.1.0.5"), 1, 1, 100, 1)
    allowed = Packet(17, ip_address("192.0.2.11"), ip_address("10.1.9.5"), 1, 1, 100, 1)
    elsewhere = Packet(17, ip_address("192.0.2.11"), ip_address("10.77.0.5"), 1, 1, 100, 1)
    if action == "trap":
        office.settle(1)
        assert office.client.send(other) == "held"
    office.settle(10)
    assert office.client.host.addresses == (FIRST,)
    mine = Packet(17, FIRST, ip_address("10.1.0.5"), 1, 1, 100, 1)
    said = [office.client.send(one) for one in (other, mine, allowed, elsewhere)]
    assert said == ["discard", "sent", "bypass", "bypass"]
    rekey = office.client.rekey()
    office.settle(10)
    assert office.client.operations[rekey] is None
    assert office.client.send(other) == "discard"
    office.client.terminate()
    office.settle(5)
    assert office.client.send(other) == ("held" if action == "trap" else "dropped")
    office.client.unload("office")
    office.settle(20)
    assert office.client.send(other) == "bypass"


def test_what_people_bring_up_when_they_want_it_leaves_no_policy_behind() -> None:
    office = RemoteAccess(1, connection=PLAIN)
    office.settle(1)
    assert not office.client.plane.policies
    office.up()
    assert office.client.plane.policies
    office.client.terminate()
    office.settle(20)
    assert not office.client.plane.policies


def up(office: RemoteAccess) -> int:
    return office.client.initiate("office", "net")


def rekeyed(office: RemoteAccess) -> int:
    return office.client.rekey()


SCENARIOS: dict[str, tuple[bool, Callable[[RemoteAccess], int]]] = {
    "set up": (False, up),
    "rekey": (True, rekeyed),
    "close": (True, lambda office: office.client.terminate()),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_with_a_fault_at_any_position_both_ends_agree_on_the_addresses(name: str, act: str) -> None:
    first, what = SCENARIOS[name]

    def make() -> RemoteAccess:
        office = RemoteAccess(3, connection=WATCHED, vips='"0.0.0.0", "::"')
        return office.up() if first else office

    trial = make()
    before = [trial.network.ike_datagrams_of(g.address) for g in trial.everybody]
    what(trial)
    trial.network.run_for(20)
    after = [trial.network.ike_datagrams_of(g.address) for g in trial.everybody]
    counts = [now - then for now, then in zip(after, before, strict=True)]
    for side in (0, 1):
        for position in range(counts[side]):
            office = make()
            source = office.everybody[side].address
            fault = Fault(source, office.network.ike_datagrams_of(source) + position, ACTS[act])
            office.network.meddlers.append(fault)
            operation = what(office)
            office.settle()
            assert fault.hit
            assert office.client.operations[operation] is None
            if name == "close":
                assert_nothing_left(*office.everybody)
                assert online(office.server) == {}
            else:
                assert_agreement(*office.everybody)
                assert talk(office, office.client)
