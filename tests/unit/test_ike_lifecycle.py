"""Connections coming up, staying up and changing under a running gateway."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cygnet.ike.configuration import Connection, StartAction
from cygnet.ike.errors import LocalMisuse, Reason
from cygnet.ike.events import ChildSaDown, ChildSaUp, IkeSaDown, IkeSaRekeyed, IkeSaUp
from cygnet.policy.access_list import parse_access_list
from cygnet.policy.expansion import expand
from cygnet.policy.selectors import format_selector
from cygnet.testing import Gateway, Pair, assert_agreement, assert_nothing_left
from cygnet.wire.numbers import Exchange

UP = [("peer", "net")]


def only(gateway: Gateway) -> Connection:
    (connection,) = gateway.endpoint.connections()
    return connection


def pairs_of(gateway: Gateway) -> set[tuple[str, int, int]]:
    return {(child.name, child.spi_in, child.spi_out) for view in gateway.sas() for child in view.children}


def number_of(pair: Pair, exchange: int) -> int:
    headers = [flight.header for flight in pair.network.trace]
    return sum(h is not None and h.exchange == exchange and not h.response for h in headers)


# -- people ---------------------------------------------------------------------------------------


def test_unknown_names_are_refused_at_once() -> None:
    pair = Pair().up()
    for verb in (
        lambda: pair.a.initiate("nobody", ""),
        lambda: pair.a.initiate("peer", "no child"),
        lambda: pair.a.unload("nobody"),
        lambda: pair.a.endpoint.terminate(99, 0, False, pair.network.now),
        lambda: pair.a.endpoint.terminate(1, 99, False, pair.network.now),
        lambda: pair.a.endpoint.rekey(99, 0, pair.network.now),
    ):
        with pytest.raises(LocalMisuse) as caught:
            verb()
        assert caught.value.reason is Reason.NO_SUCH_OBJECT
    assert_agreement(*pair.both, up=UP)


def test_a_connection_comes_up_with_all_of_its_children() -> None:
    pair = Pair(children=("net", "more", "last"))
    operation = pair.a.initiate("peer")
    pair.settle(10)
    assert pair.a.operations == {operation: None}
    assert {name for name, _, _ in pairs_of(pair.a)} == {"net", "more", "last"}
    assert_agreement(*pair.both, up=[("peer", name) for name in ("net", "more", "last")])


def test_two_operations_for_one_child_end_both_and_make_one_pair() -> None:
    pair = Pair()
    first, second = pair.a.initiate("peer", "net"), pair.a.initiate("peer", "net")
    pair.settle(10)
    assert pair.a.operations == {first: None, second: None}
    assert_agreement(*pair.both, up=UP)


def test_closing_while_it_comes_up_ends_the_attempt() -> None:
    pair = Pair()
    pair.b.die()
    started = pair.a.initiate("peer", "net")
    pair.network.run_for(1.0)
    closed = pair.a.terminate()
    pair.settle(20)
    failure = pair.a.operations[started]
    assert failure is not None
    assert failure.reason is Reason.OPERATOR
    assert pair.a.operations[closed] is None
    assert_nothing_left(pair.a)


def test_closing_by_force_does_not_wait_for_the_peer() -> None:
    pair = Pair().up()
    pair.b.die()
    operation = pair.a.terminate(force=True)
    assert pair.a.operations[operation] is None
    assert not pair.a.sas()


def test_closing_stops_the_traffic_at_once_though_the_peer_is_away() -> None:
    pair = Pair().up()
    pair.b.die()
    pair.a.terminate()
    pair.network.run_for(0.001)
    assert not [child for view in pair.a.sas() for child in view.children]
    assert pair.a.plane.live_pairs() == (set(), set())
    assert [event.failure.reason for event in pair.a.of(ChildSaDown)] == [Reason.OPERATOR]
    pair.settle()
    assert [event.failure.reason for event in pair.a.of(IkeSaDown)] == [Reason.OPERATOR]
    assert_nothing_left(pair.a)


# -- the peer goes --------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "comes_back"), [("start", True), ("none", False)])
def test_close_action_decides_whether_what_the_peer_closed_comes_back(action: str, comes_back: bool) -> None:
    pair = Pair(a_settings=f'close_action = "{action}"').up()
    pair.b.terminate()
    pair.settle(60)
    assert bool(pair.a.sas()) is comes_back
    assert_agreement(*pair.both, up=UP if comes_back else [])


def test_close_action_brings_a_single_child_back_on_the_same_ike_sa() -> None:
    pair = Pair(children=("net", "more"), a_settings='close_action = "start"').up()
    pair.b.terminate("more")
    pair.settle(20)
    assert_agreement(*pair.both, up=[("peer", "net"), ("peer", "more")])
    assert number_of(pair, Exchange.IKE_SA_INIT) == 1


def test_close_action_trap_waits_for_traffic() -> None:
    pair = Pair(a_settings='close_action = "trap"').up()
    assert pair.a.send(pair.packet()) == "sent"
    pair.b.terminate()
    pair.settle(60)
    assert not pair.a.sas()
    assert pair.a.send(pair.packet()) == "held"
    pair.settle(10)
    assert_agreement(*pair.both, up=UP)
    assert len(pair.b.plane.received) == 2


def test_a_dead_peer_is_called_again_until_it_comes_back() -> None:
    pair = Pair(
        connection='dpd_delay = "10s"\nkeyingtries = 0', a_settings='dpd_action = "restart"', b_settings=""
    ).up()
    pair.b.die()
    pair.settle(600)
    assert Reason.PEER_DEAD in [event.failure.reason for event in pair.a.of(IkeSaDown)]
    pair.restart("b")
    pair.settle(600)
    assert_agreement(*pair.both, up=UP)


def test_keyingtries_bounds_the_attempts() -> None:
    pair = Pair(connection="keyingtries = 2")
    pair.b.die()
    pair.a.initiate("peer", "net")
    pair.settle(1200)
    reasons = [failure.reason for failure in pair.a.failures()]
    assert reasons == [Reason.PEER_UNREACHABLE] * 2
    assert_nothing_left(pair.a)


def test_a_refused_attempt_is_repeated_with_growing_pauses() -> None:
    pair = Pair(connection="keyingtries = 0", b_only='proposals = ["aes256-sha512-modp6144"]')
    pair.a.initiate("peer", "net")
    pair.settle(400)
    tries = len(pair.a.failures())
    assert 4 <= tries <= 8
    pair.a.unload("peer")
    pair.settle(700)
    assert len(pair.a.failures()) == tries


def test_traffic_while_the_peer_is_away_does_not_pile_up_attempts() -> None:
    pair = Pair(settings='start_action = "trap"')
    pair.b.die()
    for _ in range(50):
        pair.a.send(pair.packet())
        pair.network.run_for(1.0)
    assert number_of(pair, Exchange.IKE_SA_INIT) <= 5
    assert len(pair.a.sas()) == 1


# -- configuration --------------------------------------------------------------------------------


def test_an_equal_connection_is_left_alone() -> None:
    pair = Pair().up()
    before, installed = pairs_of(pair.a), pair.a.plane.installed
    pair.a.load(replace(only(pair.a)))
    pair.settle(30)
    assert pairs_of(pair.a) == before
    assert pair.a.plane.installed == installed


def test_a_changed_child_is_made_anew_and_the_others_stay() -> None:
    pair = Pair(children=("net", "more")).up()
    before = pairs_of(pair.a)
    connection = only(pair.a)
    changed = replace(connection.children[1], rekey_time=1800.0)
    pair.a.load(replace(connection, children=(connection.children[0], changed)))
    pair.settle(30)
    after = pairs_of(pair.a)
    assert {one for one in before if one[0] == "net"} == {one for one in after if one[0] == "net"}
    assert {one[0] for one in after} == {"net", "more"}
    assert not {one for one in before if one[0] == "more"} & after
    assert number_of(pair, Exchange.IKE_SA_INIT) == 1
    assert_agreement(*pair.both, up=[("peer", "net"), ("peer", "more")])


RULES = [
    "10 permit tcp 10.1.0.0/16 10.2.0.0/16 eq 22",
    "20 permit udp 10.1.0.0/16 10.2.0.0/16",
    "30 permit icmp 10.1.0.0/16 10.2.0.0/16",
]


def with_rules(connection: Connection, rules: list[str], *, mirrored: bool = False) -> Connection:
    """Its first child with an SA for each rule, as seen from 10.1.0.0/16; `mirrored`: from the other end."""
    found = expand(parse_access_list("office", rules), per_rule=True)
    flows, order = found.flows, found.rules
    if mirrored:
        flows = tuple([replace(one, local=one.remote, remote=one.local) for one in flows])
        order = tuple([replace(one, local=one.remote, remote=one.local) for one in order])
    child = replace(connection.children[0], flows=flows, rules=order)
    return replace(connection, children=(child,))


def carried(gateway: Gateway) -> dict[str, tuple[str, int, int]]:
    """What each pair protects: rule, SPIs."""
    return {
        format_selector(child.remote_selectors[0]): (child.rule, child.spi_in, child.spi_out)
        for view in gateway.sas()
        for child in view.children
    }


SSH, UDP, ICMP, DNS = (f"10.2.0.0/16[{what}]" for what in ("tcp/22", "udp", "icmp", "udp/53"))
WORDS = {SSH: "tcp 10.1.0.0/16 10.2.0.0/16 eq 22", UDP: "permit udp", ICMP: "permit icmp"}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("rules", "kept", "new"),
    [
        (
            [RULES[0], "20 permit udp 10.1.0.0/16 10.2.0.0/16 eq 53", RULES[2]],
            {SSH, ICMP},
            {DNS},
        ),
        (["5 permit tcp 10.1.0.0/16 10.2.0.0/16 eq 80", *RULES], {SSH, UDP, ICMP}, set()),
        (RULES[1:], {UDP, ICMP}, set()),
        ([*RULES, "40 deny gre any any"], {SSH, UDP, ICMP}, set()),
        ([RULES[1].replace("20", "7"), RULES[2], RULES[0].replace("10 ", "44 ", 1)], {SSH, UDP, ICMP}, set()),
        (["5 deny udp any host 10.2.0.9", *RULES], {SSH, ICMP}, None),
    ],
)
def test_of_a_changed_access_list_the_other_rules_sas_stay(
    rules: list[str], kept: set[str], new: set[str] | None, version: int
) -> None:
    if version == 1 and new is None:
        return
    pair = Pair(version=version)
    pair.a.load(with_rules(only(pair.a), RULES))
    pair.b.load(with_rules(only(pair.b), RULES, mirrored=True))
    pair.a.initiate("peer")
    pair.settle(60)
    before, installed = carried(pair.a), pair.a.plane.installed
    assert set(before) == {SSH, UDP, ICMP}
    pair.a.load(with_rules(only(pair.a), rules))
    if UDP in kept:
        assert pair.a.send(pair.packet()) == "sent"
    pair.settle(60)
    after = carried(pair.a)
    assert {one: spis[1:] for one, spis in after.items() if one in kept} == {
        one: spis[1:] for one, spis in before.items() if one in kept
    }
    if new is not None:
        assert set(after) == kept | new
    # Each stands by its rule's new name, and is rekeyed as what it is.
    names = {one: f"office/{rule.split()[0]}" for rule in rules for one in kept if WORDS[one] in rule}
    assert {one: after[one][0] for one in kept} == names
    assert pair.a.plane.installed - installed == 2 * len(set(after) - kept)
    for view in pair.a.sas():
        for child in view.children:
            pair.a.endpoint.rekey(view.unique_id, child.pair, pair.network.now)
    pair.a.handle_timeout()
    pair.settle(60)
    again = carried(pair.a)
    assert set(again) == set(after)
    assert {one: row[0] for one, row in again.items()} == {one: row[0] for one, row in after.items()}
    assert {row[1] for row in again.values()}.isdisjoint({row[1] for row in after.values()})
    assert_agreement(*pair.both, up=UP)


@pytest.mark.parametrize("version", [1, 2])
def test_one_broad_child_takes_each_rule_of_the_peer_s_list(version: int) -> None:
    """They come at once, and none of them is another's twin (RFC 7296, section 2.8.1)."""
    pair = Pair(version=version)
    pair.a.load(with_rules(only(pair.a), RULES))
    pair.a.initiate("peer")
    pair.settle(60)
    assert set(carried(pair.a)) == {SSH, UDP, ICMP}
    ends = [
        {(child.spi_in, child.spi_out) for view in one.sas() for child in view.children} for one in pair.both
    ]
    assert ends[1] == {(theirs, ours) for ours, theirs in ends[0]}
    assert pair.talk(2) == (2, 2)


def test_a_removed_child_goes_with_its_policy() -> None:
    pair = Pair(children=("net", "more")).up()
    connection = only(pair.a)
    pair.a.load(replace(connection, children=connection.children[:1]))
    pair.settle(30)
    assert {name for name, _, _ in pairs_of(pair.a)} == {"net"}
    assert [policy.name for policy in pair.a.plane.policies.values()] == ["peer/net"]
    assert_agreement(*pair.both, up=UP)


def test_an_added_child_disturbs_nothing_and_starts_if_it_is_to() -> None:
    pair = Pair(children=("net", "more")).up()
    connection = only(pair.a)
    pair.a.load(replace(connection, children=connection.children[:1]))
    pair.settle(30)
    before = pairs_of(pair.a)
    started = replace(connection.children[1], start_action=StartAction.START)
    pair.a.load(replace(connection, children=(connection.children[0], started)))
    pair.settle(30)
    assert before < pairs_of(pair.a)
    assert_agreement(*pair.both, up=[("peer", "net"), ("peer", "more")])


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_changed_ike_sa_is_made_anew_with_what_it_carried(who: str) -> None:
    pair = Pair(children=("net", "more")).up()
    gateway = pair.a if who == "a" else pair.b
    gateway.load(replace(only(gateway), rekey_time=7200.0))
    pair.settle(60)
    assert [event.failure.reason for event in gateway.of(IkeSaDown)] == [Reason.CONFIGURATION_CHANGED]
    assert len(gateway.of(IkeSaUp)) == 2
    assert_agreement(*pair.both, up=[("peer", "net"), ("peer", "more")])


def test_a_change_while_it_comes_up_is_followed() -> None:
    pair = Pair(a_only='proposals = ["aes256-sha512-modp6144"]')
    right = only(Pair().a)
    pair.a.initiate("peer", "net")
    pair.network.run_for(0.5)
    pair.a.load(right)
    pair.settle(30)
    assert_agreement(*pair.both, up=UP)


def test_thousands_of_connections_load_and_unload() -> None:
    pair = Pair()
    connection = only(pair.a)
    for number in range(2000):
        pair.a.load(replace(connection, name=f"c{number}"))
    assert len(pair.a.endpoint.connections()) == 2001
    for number in range(2000):
        pair.a.unload(f"c{number}")
    pair.network.run_for(0.1)
    assert len(pair.a.plane.policies) == 1


# -- lifetimes ------------------------------------------------------------------------------------


def test_liveness_checks_come_only_when_nothing_else_was_heard() -> None:
    pair = Pair(connection='dpd_delay = "30s"').up()
    before = number_of(pair, Exchange.INFORMATIONAL)
    for _ in range(10):
        pair.a.rekey("net")
        pair.network.run_for(10.0)
    busy = number_of(pair, Exchange.INFORMATIONAL) - before
    assert busy == 10  # the Deletes of the rekeys
    pair.settle(100)
    assert number_of(pair, Exchange.INFORMATIONAL) - before - busy >= 3


def test_every_pair_that_came_up_went_down_once() -> None:
    pair = Pair(children=("net", "more")).up()
    pair.a.rekey("net")
    pair.settle(5)
    pair.b.terminate()
    pair.settle(60)
    for gateway in pair.both:
        assert len(gateway.of(ChildSaUp)) == len(gateway.of(ChildSaDown)) == 2
        assert len(gateway.of(IkeSaUp)) == len(gateway.of(IkeSaDown)) == 1
    assert_nothing_left(*pair.both)


# -- IKE SAs without a Child SA (RFC 6023) --------------------------------------------------------


def changed(gateway: Gateway, **changes: object) -> Connection:
    return replace(only(gateway), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["prefer", "force"])
def test_a_childless_ike_sa_gets_its_child_in_an_exchange_of_its_own(way: str) -> None:
    pair = Pair()
    pair.a.load(changed(pair.a, childless=way))
    operation = pair.a.initiate("peer", "net")
    pair.settle(10)
    assert pair.a.operations == {operation: None}
    assert number_of(pair, Exchange.CREATE_CHILD_SA) == 1
    assert_agreement(*pair.both, up=UP)


def test_where_the_peer_does_not_do_it_prefer_goes_on_and_force_says_why() -> None:
    pair = Pair()
    pair.a.load(changed(pair.a, childless="prefer"))
    pair.b.load(changed(pair.b, childless="never"))
    pair.a.initiate("peer", "net")
    pair.settle(10)
    assert_agreement(*pair.both, up=UP)
    pair.a.load(changed(pair.a, childless="force"))
    pair.settle(60)
    assert pair.a.failures()[-1].reason is Reason.MODE_MISMATCH
    assert_nothing_left(*pair.both)


def test_a_responder_that_makes_no_child_in_ike_auth_keeps_the_ike_sa() -> None:
    pair = Pair()
    pair.b.load(changed(pair.b, childless="force"))
    operation = pair.a.initiate("peer", "net")
    pair.settle(10)
    assert pair.a.operations[operation] is not None
    pair.a.initiate("peer", "net")
    pair.settle(10)
    assert_agreement(*pair.both, up=UP)


# -- authenticating anew (RFC 7296, section 2.8.3) ------------------------------------------------


@pytest.mark.parametrize("unique", ["no", "replace", "keep", "never"])
def test_reauthentication_makes_before_it_breaks(unique: str) -> None:
    pair = Pair(children=("net", "more"), connection=f'unique = "{unique}"').up()
    (old,) = [view.unique_id for view in pair.a.sas()]
    operation = pair.a.endpoint.reauthenticate(old, pair.network.now)
    pair.a._carry_out()
    for _ in range(20):
        assert pair.talk(1) == (1, 1)
    pair.settle(60)
    if unique == "keep":
        # The peer keeps what it has: the attempt fails, and nothing is lost.
        assert pair.a.operations[operation] is not None
    else:
        assert pair.a.operations[operation] is None
        assert old not in [view.unique_id for view in pair.a.sas()]
    assert_agreement(*pair.both, up=[("peer", "net"), ("peer", "more")])


def test_reauth_time_is_kept_across_rekeys_by_the_one_who_began() -> None:
    pair = Pair()
    for gateway in pair.both:
        gateway.load(changed(gateway, reauth_time=4000.0, rekey_time=1500.0, rand_time=10.0, over_time=600.0))
    pair.a.initiate("peer", "net")
    pair.settle(3900)
    assert number_of(pair, Exchange.IKE_SA_INIT) == 1
    assert pair.a.of(IkeSaRekeyed)
    pair.settle(200)
    assert number_of(pair, Exchange.IKE_SA_INIT) == 2
    assert_agreement(*pair.both, up=UP)
