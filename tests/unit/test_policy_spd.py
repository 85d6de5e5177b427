"""The SPD gives the verdict of the first rule that matches, as a linear scan would."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cygnet.policy.lookup import Index
from cygnet.policy.selectors import TrafficSelector, parse_selector
from cygnet.policy.spd import Action, Policy, PolicyRule, Spd

Packet = tuple[int, int, int, int | None, int | None, int]
ICMP = 1


def selector(text: str) -> TrafficSelector:
    parsed = parse_selector(text)
    assert isinstance(parsed, TrafficSelector)
    return parsed


def policy(number: int, *rules: tuple[Action, str, str], priority: int = 0) -> Policy:
    return Policy(
        number,
        f"p{number}",
        priority,
        tuple(
            PolicyRule(action, selector(local), selector(remote), number if action is Action.PROTECT else 0)
            for action, local, remote in rules
        ),
        True,
        None,
        None,
    )


def scan(policies: Iterable[Policy], packet: Packet, default: Action = Action.BYPASS) -> tuple[Action, int]:
    """The law, written as plainly as it can be: RFC 4301, sections 4.4.1 and 5.1."""
    protocol, local, remote, local_port, remote_port, family = packet
    for one in sorted(policies, key=lambda p: (p.priority, p.id)):
        for rule in one.rules:
            mine, theirs = rule.local, rule.remote
            # An OPAQUE remote "port" of ICMP says "not received", which does not concern what is sent.
            remote_ok = port_matches(theirs, remote_port) or (
                ICMP in (mine.protocol, theirs.protocol) and theirs.port_first > theirs.port_last
            )
            if (
                mine.family == theirs.family == family
                and mine.protocol in (0, protocol)
                and theirs.protocol in (0, protocol)
                and mine.first <= local <= mine.last
                and theirs.first <= remote <= theirs.last
                and port_matches(mine, local_port)
                and remote_ok
            ):
                return rule.action, rule.flow if rule.action is Action.PROTECT else 0
    return default, 0


def port_matches(one: TrafficSelector, port: int | None) -> bool:
    if (one.port_first, one.port_last) == (0, 65535):
        return True
    if (one.port_first, one.port_last) == (65535, 0):
        return port is None
    return port is not None and one.port_first <= port <= one.port_last


# A small world, so that rules meet each other and packets meet rules.
SPACE = {4: (10 << 24, 8), 6: (0x20010DB8 << 96, 10)}


@st.composite
def sides(draw: st.DrawFn, family: int, protocol: int) -> TrafficSelector:
    base, bits = SPACE[family]
    if draw(st.integers(0, 9)) == 0:
        first, last = 0, (1 << (32 if family == 4 else 128)) - 1
    elif draw(st.booleans()):
        length = draw(st.integers(0, bits))
        first = base + (draw(st.integers(0, (1 << bits) - 1)) >> length << length)
        last = first + (1 << length) - 1
    else:
        first, last = sorted(base + draw(st.integers(0, (1 << bits) - 1)) for _ in range(2))
    ports = draw(
        st.one_of(
            st.just((0, 65535)),
            st.just((0, 65535)),
            st.just((65535, 0)),
            st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda p: (min(p), max(p))),
        )
    )
    return TrafficSelector(family, protocol, first, last, *ports)


@st.composite
def policies(draw: st.DrawFn, number: int) -> Policy:
    rules = []
    for place in range(draw(st.integers(0, 4))):
        family = draw(st.sampled_from((4, 4, 6)))
        protocols = draw(st.tuples(st.sampled_from((0, 1, 6, 17)), st.booleans()))
        other = protocols[0] if protocols[1] else 0
        action = draw(st.sampled_from(list(Action)))
        local = draw(sides(family, protocols[0]))
        remote = draw(sides(family, other))
        rules.append(PolicyRule(action, local, remote, number * 10 + place))
    return Policy(number, "", draw(st.integers(-1, 1)), tuple(rules), True, None, None)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    family = draw(st.sampled_from((4, 4, 6)))
    base, bits = SPACE[family]
    local = base + draw(st.integers(-1, 1 << bits))
    remote = base + draw(st.integers(-1, 1 << bits))
    protocol = draw(st.sampled_from((1, 6, 17, 50)))
    if protocol == 50 or draw(st.integers(0, 7)) == 0:
        return protocol, local, remote, None, None, family
    local_port = draw(st.integers(0, 10))
    remote_port = local_port if protocol == ICMP else draw(st.integers(0, 10))
    return protocol, local, remote, local_port, remote_port, family


@settings(max_examples=100)
@given(st.data())
def test_every_verdict_is_that_of_a_linear_scan_while_policies_come_and_go(data: st.DataObject) -> None:
    spd = Spd()
    present: dict[int, Policy] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        number = data.draw(st.integers(1, 8))
        if data.draw(st.integers(0, 3)) == 0:
            spd.remove(number)
            present.pop(number, None)
        else:
            present[number] = data.draw(policies(number))
            spd.put(present[number])
        for packet in data.draw(st.lists(packets(), min_size=3, max_size=12)):
            assert spd.lookup_outbound(*packet) == scan(present.values(), packet)


@pytest.mark.parametrize("count", [3, 40, 3000])
def test_verdicts_equal_a_scan_for_many_overlapping_rules_in_large_spaces(count: int) -> None:
    rng = random.Random(count)
    made = []
    for number in range(1, count + 1):
        length = rng.randrange(0, 25)
        remote = rng.getrandbits(32) >> length << length
        local_length = rng.choice((0, 8, 16, 24, 32))
        local = rng.getrandbits(32) >> local_length << local_length
        port = rng.randrange(100)
        ports = rng.choice(((0, 65535), (port, port), (port, port + 50)))
        protocol = rng.choice((0, 6, 17))
        made.append(
            Policy(
                number,
                "",
                rng.randrange(3),
                (
                    PolicyRule(
                        rng.choice(list(Action)),
                        TrafficSelector(4, protocol, local, local + (1 << local_length) - 1),
                        TrafficSelector(4, protocol, remote, remote + (1 << length) - 1, *ports),
                        number,
                    ),
                ),
                True,
                None,
                None,
            )
        )
    spd = Spd()
    for one in made:
        spd.put(one)
    for turn in range(400):
        near = rng.choice(made).rules[0]
        packet = (
            rng.choice((6, 17)),
            rng.randint(near.local.first, near.local.last),
            rng.randint(near.remote.first, near.remote.last) if turn % 3 else rng.getrandbits(32),
            rng.randrange(200),
            rng.randrange(200),
            4,
        )
        assert spd.lookup_outbound(*packet) == scan(made, packet)


def test_policies_are_tried_by_priority_then_id_and_the_first_match_decides() -> None:
    spd = Spd()
    spd.put(policy(1, (Action.BYPASS, "10.0.0.0/8", "10.2.0.0/16"), priority=5))
    spd.put(policy(3, (Action.PROTECT, "10.0.0.0/8", "10.2.0.0/16"), priority=4))
    spd.put(policy(2, (Action.DISCARD, "10.0.0.0/8", "10.2.0.0/24"), priority=4))
    inside, outside = 0x0A020001, 0x0A020101
    assert spd.lookup_outbound(6, 0x0A000001, inside, 1, 2, 4) == (Action.DISCARD, 0)
    assert spd.lookup_outbound(6, 0x0A000001, outside, 1, 2, 4) == (Action.PROTECT, 3)
    spd.remove(2)
    assert spd.lookup_outbound(6, 0x0A000001, inside, 1, 2, 4) == (Action.PROTECT, 3)
    assert [one.id for one in spd] == [3, 1]


def test_what_nothing_matches_gets_the_default() -> None:
    assert Spd().lookup_outbound(6, 1, 2, 3, 4, 4) == (Action.BYPASS, 0)
    assert Spd(default=Action.DISCARD).lookup_outbound(6, 1, 2, 3, 4, 6) == (Action.DISCARD, 0)


def test_a_later_fragment_matches_all_ports_and_opaque_but_no_particular_port() -> None:
    spd = Spd()
    spd.put(policy(1, (Action.DISCARD, "10.1.0.0/16", "10.2.0.0/16[tcp/80]")))
    spd.put(policy(2, (Action.PROTECT, "10.1.0.0/16", "10.2.0.0/16[udp/opaque]")))
    spd.put(policy(3, (Action.PROTECT, "10.1.0.0/16", "10.2.0.0/16[tcp]")))
    assert spd.lookup_outbound(6, 0x0A010001, 0x0A020001, 1000, 80, 4) == (Action.DISCARD, 0)
    assert spd.lookup_outbound(6, 0x0A010001, 0x0A020001, None, None, 4) == (Action.PROTECT, 3)
    assert spd.lookup_outbound(17, 0x0A010001, 0x0A020001, None, None, 4) == (Action.PROTECT, 2)
    assert spd.lookup_outbound(17, 0x0A010001, 0x0A020001, 1, 2, 4) == (Action.BYPASS, 0)


def test_icmp_that_may_be_sent_but_not_received_is_protected_on_the_way_out() -> None:
    spd = Spd()
    spd.put(policy(1, (Action.PROTECT, "10.1.0.0/16[icmp/30]", "10.2.0.0/16[icmp/opaque]")))
    traceroute, echo = 30 * 256, 8 * 256
    assert spd.lookup_outbound(1, 0x0A010001, 0x0A020001, traceroute, traceroute, 4) == (Action.PROTECT, 1)
    assert spd.lookup_outbound(1, 0x0A010001, 0x0A020001, echo, echo, 4) == (Action.BYPASS, 0)


def test_what_the_peer_sends_into_a_carve_out_is_not_permitted_inbound() -> None:
    spd = Spd()
    spd.put(
        policy(
            1,
            (Action.BYPASS, "10.1.0.0/16", "10.2.9.0/24[tcp/22]"),
            (Action.PROTECT, "10.1.0.0/16", "10.2.0.0/16"),
        )
    )
    from_peer = {"source": 0x0A020901, "destination": 0x0A010001, "destination_port": 999, "family": 4}
    assert spd.permits_inbound(1, 6, source_port=23, **from_peer)
    assert not spd.permits_inbound(1, 6, source_port=22, **from_peer)


def test_overlapping_flows_of_one_connection_serve_each_other_and_no_other_connection() -> None:
    """The two ends may list overlapping children in different orders; a peer must not speak for another."""
    spd = Spd()
    for number, name, remote in (
        (1, "a/host", "10.2.9.0/24"),
        (2, "a/net", "10.2.0.0/16"),
        (3, "b/net", "10.2.0.0/16"),
    ):
        rule = PolicyRule(Action.PROTECT, selector("10.1.0.0/16"), selector(remote), number)
        spd.put(Policy(number, name, 0, (rule,), True, None, None))
    packet = {"source": 0x0A020901, "destination": 0x0A010001, "destination_port": 9, "source_port": 9}
    assert spd.permits_inbound(1, 6, family=4, **packet)
    assert spd.permits_inbound(2, 6, family=4, **packet)
    assert not spd.permits_inbound(3, 6, family=4, **packet)


def test_trees_are_dropped_and_grow_again_when_they_become_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cygnet.policy.lookup.MAX_GROWN", 50)
    spd = Spd()
    made = [
        policy(n, (Action.PROTECT, "10.0.0.0/8", f"10.{n}.{m}.0/24[tcp/{n + m}]"))
        for n in range(1, 40)
        for m in (1,)
    ]
    for one in made:
        spd.put(one)
    rng = random.Random(7)
    for _ in range(500):
        packet = (6, 0x0A000001, 0x0A000000 | rng.randrange(40) << 16 | 1 << 8, 9, rng.randrange(50), 4)
        assert spd.lookup_outbound(*packet) == scan(made, packet)


def test_an_index_that_lost_most_of_its_entries_forgets_their_bounds() -> None:
    index = Index(32)
    entries = [(0, n, 0, (Action.PROTECT, n), n << 8, (n << 8) + 255, 0, 9, 0, 255, -1, 65535, -1, 65535)
               for n in range(1, 500)]  # fmt: skip
    for entry in entries:
        index.add(entry, [(entry[4], 24)])
    assert index.find(300 << 8, 5, 6, 1, 1)[3] == (Action.PROTECT, 300)
    for entry in entries[5:]:
        index.discard(entry, [(entry[4], 24)])
    assert index.find(300 << 8, 5, 6, 1, 1) == ()
    assert index.find(3 << 8, 5, 6, 1, 1)[3] == (Action.PROTECT, 3)
    assert index.count == 5
