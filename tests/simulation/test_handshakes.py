"""Two gateways come up in every way that IKEv2 knows, and say exactly why when they do not."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest

from cygnet.ike.errors import Failure, Reason
from cygnet.ike.events import ChildSaUp, IkeSaDown, IkeSaUp
from cygnet.ike.v2 import intermediate
from cygnet.policy.sa import Direction, SaParameters
from cygnet.testing import (
    Conditions,
    Gateway,
    Mesh,
    Nat,
    Network,
    Packet,
    Pair,
    assert_agreement,
    assert_nothing_left,
    connection_text,
)
from cygnet.wire.message import Header
from cygnet.wire.numbers import Exchange, KeMethod
from cygnet.wire.payloads import Payload

UP = [("peer", "net")]


def exchanges(pair: Pair) -> Counter[tuple[str, bool]]:
    """How many messages of each exchange and direction were sent."""
    headers = [flight.header for flight in pair.network.trace]
    return Counter((Exchange.name_of(h.exchange), h.response) for h in headers if h is not None)


def failure_of(gateway: Gateway, operation: int) -> Reason | None:
    assert operation in gateway.operations, "the operation did not end"
    failure = gateway.operations[operation]
    return failure.reason if failure is not None else None


def initiate(pair: Pair, child: str = "net", seconds: float = 400.0) -> Reason | None:
    operation = pair.a.initiate("peer", child)
    pair.network.run_until(lambda: operation in pair.a.operations, timeout=seconds)
    return failure_of(pair.a, operation)


@pytest.mark.parametrize("encap", ["no", "yes", "auto"])
@pytest.mark.parametrize("seed", range(3))
def test_two_gateways_come_up_and_carry_packets_both_ways(seed: int, encap: str) -> None:
    pair = Pair(seed, connection=f'encap = "{encap}"').up()
    assert all(view.children[0].encapsulated == (encap != "no") for g in pair.both for view in g.sas())
    assert_agreement(*pair.both, up=UP)
    assert pair.talk(20) == (20, 20)
    assert not pair.a.drops()
    assert not pair.b.drops()


def test_four_messages_for_the_first_pair_and_two_for_each_further_one() -> None:
    plain = 'proposals = ["aes256gcm16-prfsha384-x25519"]'
    pair = Pair(children=("net", "more", "last"), connection=plain).up()
    assert exchanges(pair) == {
        ("IKE_SA_INIT", False): 1,
        ("IKE_SA_INIT", True): 1,
        ("IKE_AUTH", False): 1,
        ("IKE_AUTH", True): 1,
        ("CREATE_CHILD_SA", False): 2,
        ("CREATE_CHILD_SA", True): 2,
    }
    assert_agreement(*pair.both, up=[("peer", child) for child in pair.children])


def test_by_default_two_more_messages_bring_in_ml_kem() -> None:
    pair = Pair().up()
    assert exchanges(pair) == {
        ("IKE_SA_INIT", False): 1,
        ("IKE_SA_INIT", True): 1,
        ("IKE_INTERMEDIATE", False): 1,
        ("IKE_INTERMEDIATE", True): 1,
        ("IKE_AUTH", False): 1,
        ("IKE_AUTH", True): 1,
    }
    assert all(view.additional_key_exchanges == (KeMethod.ML_KEM_768,) for g in pair.both for view in g.sas())


@pytest.mark.parametrize("lacking", ["a", "b"])
def test_who_lacks_further_key_exchanges_is_met_without_them(lacking: str) -> None:
    plain = 'proposals = ["aes256gcm16-prfsha384-x25519"]'
    pair = Pair(a_only=plain if lacking == "a" else "", b_only=plain if lacking == "b" else "").up()
    assert all(view.additional_key_exchanges == () for g in pair.both for view in g.sas())
    assert ("IKE_INTERMEDIATE", False) not in exchanges(pair)


@pytest.mark.parametrize("by", ["a", "b"])
def test_further_key_exchanges_that_are_required_are_never_dropped(by: str) -> None:
    strict = 'proposals = ["aes256gcm16-prfsha384-x25519-ke1_mlkem768"]'
    plain = 'proposals = ["aes256gcm16-prfsha384-x25519"]'
    pair = Pair(a_only=strict if by == "a" else plain, b_only=plain if by == "a" else strict)
    assert initiate(pair) is Reason.IKE_PROPOSAL_MISMATCH
    assert_nothing_left(*pair.both)


@pytest.mark.parametrize("tampered", [0, 1, 2, 3])
def test_t29_what_was_said_before_ike_auth_goes_into_its_proofs(
    tampered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9242, section 3.3.2: whoever could open and change IKE_INTERMEDIATE is found out. Each message is
    noted by its sender and by its receiver; one of these four notes has another octet than was said."""
    genuine, notes = intermediate.authenticated, 0

    def noted(header: Header, payloads: tuple[Payload, ...]) -> bytes:
        nonlocal notes
        said = genuine(header, payloads)
        notes += 1
        return said if notes - 1 != tampered else said[:-1] + bytes((said[-1] ^ 1,))

    monkeypatch.setattr(intermediate, "authenticated", noted)
    pair = Pair()
    assert initiate(pair) is not None
    assert notes == 4
    pair.settle(400)
    assert_nothing_left(*pair.both)


@pytest.mark.parametrize(
    "proposals",
    [
        "aes256gcm16-prfsha384-x25519",
        "aes128gcm8-prfsha256-ecp256",
        "aes256-sha256-ecp384",
        "aes192-sha384-ecp521",
        "aes128ctr-sha512-x448",
        "aes128ccm16-prfaescmac-ecp256bp",
        "chacha20poly1305-prfsha512-ecp512bp",
        "aes128-sha1-modp2048",
        "aes128-aesxcbc-x25519",
        "aes256-aescmac-prfsha1-ecp384bp",
    ],
)
def test_every_kind_of_ike_suite_comes_up(proposals: str) -> None:
    pair = Pair(connection=f'proposals = ["{proposals}"]').up()
    assert_agreement(*pair.both, up=UP)
    pair.a.rekey()
    pair.settle(30)
    assert_agreement(*pair.both, up=UP)


@pytest.mark.parametrize(
    "proposals",
    [
        "aes256gcm16",
        "aes128gcm12-esn",
        "aes256ccm16",
        "chacha20poly1305",
        "aes128-sha256",
        "aes256ctr-sha512",
        "null-sha256",
        "aes128-sha1-esn",
        "aes256gcm16-x25519",
        "aes256-sha384-modp2048",
    ],
)
def test_every_kind_of_esp_suite_comes_up_and_is_rekeyed(proposals: str) -> None:
    pair = Pair(settings=f'esp_proposals = ["{proposals}"]').up()
    assert pair.talk(3) == (3, 3)
    pair.b.rekey("net")
    pair.settle(10)
    assert_agreement(*pair.both, up=UP)
    assert pair.talk(3) == (3, 3)


def under_load(**how: str) -> Pair:
    """`b` has a half-open SA already, of which nothing more is heard: more first messages need a cookie."""
    pair = Pair(b_options="cookie_threshold = 1", **how)  # type: ignore[arg-type]
    other = Pair(seed=99, connection=how.get("b_only", ""))
    other.a.initiate("peer", "net")
    pair.network.send(pair.a.address, pair.b.address, (500, 500), other.network.trace[0].data)
    pair.network.run_for(1)
    pair.network.trace.clear()
    return pair


def test_a_cookie_costs_one_round_trip_and_no_state() -> None:
    pair = under_load().up()
    assert exchanges(pair)[("IKE_SA_INIT", False)] == 2
    pair.settle(60)
    assert_agreement(*pair.both, up=UP)


def test_a_wrong_group_costs_one_round_trip() -> None:
    pair = Pair(
        a_only='proposals = ["aes256gcm16-prfsha256-ecp256-x25519"]',
        b_only='proposals = ["aes256gcm16-prfsha256-x25519"]',
    ).up()
    assert exchanges(pair)[("IKE_SA_INIT", False)] == 2
    assert_agreement(*pair.both, up=UP)


def test_a_cookie_and_a_wrong_group_together_are_bounded() -> None:
    pair = under_load(
        a_only='proposals = ["aes256gcm16-prfsha256-ecp256-x25519"]',
        b_only='proposals = ["aes256gcm16-prfsha256-x25519"]',
    ).up()
    assert 3 <= exchanges(pair)[("IKE_SA_INIT", False)] <= 4
    pair.settle(60)
    assert_agreement(*pair.both, up=UP)


def test_large_messages_travel_in_fragments_below_the_mtu() -> None:
    many = ", ".join(
        f'"aes{n}gcm{k}-{e}"' for n in (128, 192, 256) for k in (8, 12, 16) for e in ("esn", "noesn")
    )
    pair = Pair(
        conditions=Conditions(mtu=576), options="fragment_size = 576", settings=f"esp_proposals = [{many}]"
    )
    pair.network.links[pair.a.address, pair.b.address] = Conditions()
    pair.a.initiate("peer", "net")
    pair.network.run_for(0.015)
    pair.network.links.clear()
    pair.network.run_for(10)
    assert exchanges(pair)[("IKE_AUTH", False)] > 1
    assert all(len(flight.data) <= 548 for flight in list(pair.network.trace)[1:])
    assert_agreement(*pair.both, up=UP)


def test_ipv6_gateways_come_up() -> None:
    network = Network()
    texts = [
        connection_text("peer", n, 3 - n, local_address=f"2001:db8::{n}", remote_address=f"2001:db8::{3 - n}")
        for n in (1, 2)
    ]
    a = Gateway(network, "a", "2001:db8::1", texts[0])
    b = Gateway(network, "b", "2001:db8::2", texts[1])
    a.initiate("peer", "net")
    network.run_for(5)
    assert_agreement(a, b, up=UP)


# -- NAT --------------------------------------------------------------------------------------


def behind_nat(timeout: float = 120.0, options: str = "") -> tuple[Network, Nat, Gateway, Gateway]:
    network = Network(seed=5)
    text_a = f"[options]\n{options}\n" + connection_text("peer", 1, 2, local_address="10.9.9.9")
    text_b = f"[options]\n{options}\n" + connection_text("peer", 2, 1, remote_address="203.0.113.9")
    a = Gateway(network, "a", "10.9.9.9", text_a)
    b = Gateway(network, "b", "192.0.2.2", text_b)
    nat = Nat(network, ip_address("203.0.113.9"), ip_address("10.9.9.9"), timeout=timeout)
    a.initiate("peer", "net")
    network.run_for(5)
    return network, nat, a, b


PING = Packet(1, ip_address("10.1.0.5"), ip_address("10.2.0.5"), 8 * 256, 8 * 256)
PONG = Packet(1, ip_address("10.2.0.5"), ip_address("10.1.0.5"), 0, 0)


def test_a_gateway_behind_nat_moves_to_4500_and_encapsulates() -> None:
    network, _, a, b = behind_nat()
    assert_agreement(a, b, up=UP)
    (view_a,), (view_b,) = a.sas(), b.sas()
    assert (view_a.nat_local, view_a.nat_remote) == (True, False)
    assert (view_b.nat_local, view_b.nat_remote) == (False, True)
    assert view_a.children[0].encapsulated
    assert view_b.children[0].encapsulated
    assert a.send(PING) == "sent"
    network.run_for(1)
    assert b.send(PONG) == "sent"
    network.run_for(1)
    assert (len(b.plane.received), len(a.plane.received)) == (1, 1)


def test_keepalives_hold_the_mapping_open() -> None:
    network, _, a, b = behind_nat(timeout=60.0, options='keep_alive = "20s"')
    network.run_for(3600 - 600)
    assert b.send(PONG) == "sent"
    network.run_for(1)
    assert len(a.plane.received) == 1


def test_after_rebinding_the_peer_follows_to_the_new_port() -> None:
    """RFC 7296, section 2.23, by an authentic packet only."""
    network, nat, a, b = behind_nat()
    nat.rebind()
    a.send(PING)
    network.run_for(1)
    b.send(PONG)
    network.run_for(1)
    assert len(a.plane.received) == 1
    a.rekey("net")
    network.run_for(30)
    assert_agreement(a, b, up=UP)


# -- traffic asks for it, wear ends it ----------------------------------------------------------


def test_a_packet_of_a_trapped_flow_brings_the_tunnel_up_and_is_not_sent_in_clear() -> None:
    pair = Pair(settings='start_action = "trap"')
    pair.network.run_for(0.1)
    assert pair.a.send(pair.packet()) == "held"
    pair.network.run_for(5)
    assert_agreement(*pair.both, up=UP)
    assert not pair.a.plane.bypassed
    assert len(pair.b.plane.received) == 1


def test_start_brings_it_up_at_load() -> None:
    pair = Pair(a_settings='start_action = "start"', b_settings="")
    pair.network.run_for(5)
    assert_agreement(*pair.both, up=UP)


@pytest.mark.parametrize("limit", ["packets", "bytes"])
def test_a_worn_pair_is_replaced_without_a_lost_packet(limit: str) -> None:
    size = 1 if limit == "packets" else 100
    pair = Pair(settings=f"rekey_{limit} = {50 * size}\nlife_{limit} = {80 * size}\nrand_{limit} = 0\n").up()
    for _ in range(10):
        assert pair.talk(20, apart=0.005) == (20, 20)
        pair.network.run_for(2)
    pair.settle(20)
    assert_agreement(*pair.both, up=UP)


def test_lifetimes_rekey_child_and_ike_sa_for_days() -> None:
    pair = Pair(
        connection='rekey_time = "1h"\nover_time = "6m"\nrand_time = "6m"',
        settings='rekey_time = "20m"\nlife_time = "22m"\nrand_time = "2m"',
    ).up()
    first = {view.initiator_spi for view in pair.a.sas()}
    for _ in range(48):
        pair.network.run_for(3600)
        assert pair.talk(2) == (2, 2)
    pair.settle(10)
    assert {view.initiator_spi for view in pair.a.sas()} != first
    # A rekey may be under way at any time; there is one pair all the same once it is over.
    pair.network.run_until(lambda: not _under_way(pair), timeout=60)
    assert_agreement(*pair.both, up=UP)


def _under_way(pair: Pair) -> bool:
    return any(
        view.state != "ESTABLISHED" or len(view.children) != 1 or view.children[0].state != "INSTALLED"
        for gateway in pair.both
        for view in gateway.sas()
    ) or any(len(gateway.endpoint.by_number) != 1 for gateway in pair.both)


# -- the peer goes ------------------------------------------------------------------------------


def test_a_dead_peer_is_noticed_and_everything_is_taken_down() -> None:
    pair = Pair(connection='dpd_delay = "30s"').up()
    pair.b.die()
    pair.settle()
    assert_nothing_left(pair.a)
    assert any(f.reason == Reason.PEER_DEAD for f in _downs(pair.a))


def _downs(gateway: Gateway) -> list[Failure]:
    return [event.failure for event in gateway.of(IkeSaDown)]


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("initiator", ["a", "b"])
def test_a_restarted_gateway_replaces_what_it_forgot(who: str, initiator: str) -> None:
    """INITIAL_CONTACT: the survivor drops the old SA when the new one is authenticated."""
    pair = Pair(connection='dpd_delay = "30s"').up()
    pair.restart(who)
    starter = pair.a if initiator == "a" else pair.b
    starter.initiate("peer", "net")
    pair.settle()
    if initiator == who:
        assert_agreement(*pair.both, up=UP)
        assert pair.talk(5) == (5, 5)
    else:
        # The survivor believed that it was up; its liveness check finds the truth, nothing is left over.
        assert_agreement(*pair.both)


def test_a_gateway_that_lost_its_peer_comes_back_by_itself_if_told_so() -> None:
    pair = Pair(connection='dpd_delay = "10s"', settings='start_action = "start"\ndpd_action = "restart"')
    pair.network.run_for(60)
    assert_agreement(*pair.both, up=UP)
    pair.restart("b")
    pair.settle(900)
    assert_agreement(*pair.both, up=UP)


# -- why not --------------------------------------------------------------------------------------


def test_nobody_answers() -> None:
    pair = Pair()
    pair.b.die()
    assert initiate(pair) == Reason.PEER_UNREACHABLE
    assert_nothing_left(pair.a)


def test_different_ike_proposals() -> None:
    pair = Pair(
        a_only='proposals = ["aes256-sha256-modp2048"]', b_only='proposals = ["aes256-sha256-x25519-ecp256"]'
    )
    assert initiate(pair) == Reason.IKE_PROPOSAL_MISMATCH
    assert any(
        f.difference is not None
        and f.difference.first
        == "peer offers MODP_2048, you accept CURVE_25519 and ECP_256; first difference: key exchange"
        for f in pair.b.failures()
    )
    pair.settle()
    assert_nothing_left(*pair.both)


def test_different_esp_proposals_leave_the_ike_sa_and_say_so() -> None:
    pair = Pair(a_settings='esp_proposals = ["aes128gcm16"]', b_settings='esp_proposals = ["aes256gcm16"]')
    assert initiate(pair) == Reason.CHILD_PROPOSAL_MISMATCH
    assert [f.reason for f in pair.b.failures()] == [Reason.CHILD_PROPOSAL_MISMATCH]
    pair.settle()
    assert_agreement(*pair.both)


def test_different_secrets() -> None:
    network = Network()
    a = Gateway(network, "a", "192.0.2.1", connection_text("peer", 1, 2, secret="a secret of good length"))
    b = Gateway(network, "b", "192.0.2.2", connection_text("peer", 2, 1, secret="some secret of good length"))
    operation = a.initiate("peer", "net")
    network.run_for(400)
    assert failure_of(a, operation) in (Reason.PEER_REFUSED_AUTHENTICATION, Reason.PSK_MISMATCH)
    assert [f.reason for f in b.failures()] == [Reason.PSK_MISMATCH]
    assert_nothing_left(a, b)


def test_different_selectors() -> None:
    pair = Pair(children=("net",))
    network = Network()
    a = Gateway(network, "a", "192.0.2.1", pair.a_text.replace("10.2.0.0/16", "10.77.0.0/16"))
    b = Gateway(network, "b", "192.0.2.2", pair.b_text)
    operation = a.initiate("peer", "net")
    network.run_for(400)
    assert failure_of(a, operation) == Reason.SELECTOR_MISMATCH
    assert [f.reason for f in b.failures()] == [Reason.SELECTOR_MISMATCH]
    assert_agreement(a, b)


def test_another_identity_than_expected() -> None:
    pair = Pair()
    network = Network()
    a = Gateway(network, "a", "192.0.2.1", pair.a_text)
    text = pair.b_text.replace('id = "g2.example.org"', 'id = "other.example.org"', 1)
    b = Gateway(
        network, "b", "192.0.2.2", text.replace('id-1 = "g2.example.org"', 'id-1 = "other.example.org"')
    )
    operation = a.initiate("peer", "net")
    network.run_for(400)
    assert failure_of(a, operation) is not None
    assert_nothing_left(a, b)


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("direction", [Direction.IN, Direction.OUT])
def test_a_failed_installation_is_told_to_the_peer_and_rolled_back(who: str, direction: Direction) -> None:
    """security.md C41."""
    pair = Pair()
    gateway = pair.a if who == "a" else pair.b

    def refuse(sa: SaParameters) -> str:
        return "no room" if sa.direction == direction else ""

    gateway.plane.refuse = refuse
    assert initiate(pair) is not None
    pair.settle()
    assert_agreement(*pair.both)
    assert not pair.a.plane.live_pairs()[0]
    assert not pair.b.plane.live_pairs()[0]
    gateway.plane.refuse = None
    assert initiate(pair) is None
    pair.settle(5)
    assert_agreement(*pair.both, up=UP)


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("direction", [Direction.IN, Direction.OUT])
def test_a_failed_installation_in_a_rekey_keeps_the_old_pair(who: str, direction: Direction) -> None:
    pair = Pair().up()
    gateway = pair.a if who == "a" else pair.b
    gateway.plane.refuse = lambda sa: "no room" if sa.direction == direction else ""
    pair.a.rekey("net")
    pair.settle(60)
    gateway.plane.refuse = None
    pair.settle()
    assert_agreement(*pair.both)
    if not pair.a.sas() or not pair.a.sas()[0].children:
        assert initiate(pair) is None
    pair.settle(10)
    assert_agreement(*pair.both, up=UP)
    assert pair.talk(3) == (3, 3)


def test_a_slow_data_plane_only_costs_time() -> None:
    pair = Pair()
    pair.a.plane.install_delay = pair.b.plane.install_delay = 0.7
    pair.up()
    pair.settle(10)
    assert_agreement(*pair.both, up=UP)
    pair.a.rekey("net")
    pair.settle(20)
    assert_agreement(*pair.both, up=UP)
    assert pair.talk(3) == (3, 3)


# -- closing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["a", "b"])
def test_closing_the_ike_sa_leaves_nothing_at_either_end(who: str) -> None:
    pair = Pair(children=("net", "more")).up()
    gateway = pair.a if who == "a" else pair.b
    operation = gateway.terminate()
    pair.settle(60)
    assert failure_of(gateway, operation) is None
    assert_nothing_left(*pair.both)


@pytest.mark.parametrize("who", ["a", "b"])
def test_closing_a_child_leaves_the_others(who: str) -> None:
    pair = Pair(children=("net", "more")).up()
    gateway = pair.a if who == "a" else pair.b
    gateway.terminate("more")
    pair.settle(60)
    assert_agreement(*pair.both, up=UP)
    assert all(len(view.children) == 1 for g in pair.both for view in g.sas())


def test_unloading_a_connection_closes_its_sas() -> None:
    pair = Pair().up()
    pair.a.unload("peer")
    pair.settle(60)
    assert_nothing_left(*pair.both)
    assert not pair.a.plane.policies


def test_reloading_the_same_configuration_disturbs_nothing() -> None:
    pair = Pair().up()
    spis = [child.spi_in for view in pair.a.sas() for child in view.children]
    for connection in pair.a.endpoint.connections():
        pair.a.load(connection)
    pair.settle(10)
    assert [child.spi_in for view in pair.a.sas() for child in view.children] == spis
    assert_agreement(*pair.both, up=UP)


# -- many -----------------------------------------------------------------------------------------


def test_a_mesh_comes_up_with_one_ike_sa_for_each_two_gateways() -> None:
    mesh = Mesh(6).up()
    mesh.network.run_for(5)
    assert_agreement(*mesh.gateways)
    for gateway in mesh.gateways:
        assert len(gateway.sas()) == 5
        assert len(gateway.of(IkeSaUp)) == 5
        assert len(gateway.of(ChildSaUp)) == 5


@pytest.mark.parametrize("offset", [0.0, 0.004, 0.0099, 0.0101, 0.015, 0.0199, 0.025, 0.031])
@pytest.mark.parametrize("seed", range(6))
def test_both_ends_starting_at_once_end_with_one_ike_sa(seed: int, offset: float) -> None:
    """The issue's criterion; security.md C35, C36."""
    pair = Pair(seed)
    pair.a.initiate("peer", "net")

    def other_end() -> None:
        pair.b.initiate("peer", "net")

    pair.network.schedule(offset, other_end)
    pair.settle(60)
    assert_agreement(*pair.both, up=UP)
    assert pair.talk(5) == (5, 5)


def test_both_ends_started_by_traffic_end_with_one_ike_sa() -> None:
    for seed in range(10):
        pair = Pair(seed, settings='start_action = "trap"')
        pair.network.run_for(0.1)
        pair.a.send(pair.packet())
        pair.b.send(pair.packet(forward=False))
        pair.settle(60)
        assert_agreement(*pair.both, up=UP)
        assert (len(pair.b.plane.received), len(pair.a.plane.received)) == (1, 1)
