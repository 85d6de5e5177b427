"""Access lists: what is read, and that flows and rules mean what the list says, packet by packet."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cygnet.policy.access_list import AccessList, AccessRule, BadAccessRule, parse_access_list, parse_rule
from cygnet.policy.expansion import Expansion, TooManyRanges, expand, from_selectors
from cygnet.policy.selectors import (
    NO_PORT,
    TrafficSelector,
    format_selector,
    matches,
    parse_selector,
)
from cygnet.policy.spd import Action, ChildRule

A, B, C = "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"


def ranges(rule: AccessRule) -> tuple[list[str], list[str]]:
    return [format_selector(one) for one in rule.source], [format_selector(one) for one in rule.destination]


# -- reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "10 permit tcp 10.1.0.0/16 10.2.0.0/16 eq 443",
        "10 permit tcp 10.1.0.0 0.0.255.255 10.2.0.0 0.0.255.255 eq https",
        "rule 10 permit tcp source 10.1.0.0 0.0.255.255 destination 10.2.0.0/16 destination-port eq 443",
        "rule 10 permit 6 destination 10.2.0.0/16 destination-port eq 443 source 10.1.0.0/16",
        {"number": 10, "action": "permit", "protocol": "tcp", "source": A, "destination": B,
         "destination-port": "eq 443"},
        {"number": 10, "action": "permit", "protocol": 6, "source": A, "destination": B,
         "destination_port": 443, "description": "web"},
    ],
)  # fmt: skip
def test_all_spellings_of_a_rule_mean_the_same(text: str | Mapping[str, object]) -> None:
    rule = parse_rule(text)
    assert (rule.number, rule.permit, rule.protocol) == (10, True, 6)
    assert ranges(rule) == ([A], [B])
    assert (rule.source_ports, rule.destination_ports) == (((0, 65535),), ((443, 443),))


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("eq 80", ((80, 80),)),
        ("range 80 90", ((80, 90),)),
        ("lt 1024", ((0, 1023),)),
        ("gt 1023", ((1024, 65535),)),
        ("neq 80", ((0, 79), (81, 65535))),
        ("neq 0", ((1, 65535),)),
        ("neq 65535", ((0, 65534),)),
        ("eq ssh", ((22, 22),)),
    ],
)
def test_port_operators(operator: str, expected: tuple[tuple[int, int], ...]) -> None:
    rule = parse_rule(f"permit udp any {operator} any")
    assert (rule.source_ports, rule.destination_ports) == (expected, ((0, 65535),))
    rule = parse_rule(f"permit udp any any {operator}")
    assert (rule.source_ports, rule.destination_ports) == (((0, 65535),), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("any", ["0.0.0.0/0", "::/0"]),
        ("any4", ["0.0.0.0/0"]),
        ("any6", ["::/0"]),
        ("host 10.1.0.5", ["10.1.0.5/32"]),
        ("10.1.0.5 0", ["10.1.0.5/32"]),
        ("10.1.0.5 0.0.0.0", ["10.1.0.5/32"]),
        ("10.1.0.5-10.1.0.9", ["10.1.0.5-10.1.0.9"]),
        ("10.1.2.3 0.0.255.255", ["10.1.0.0/16"]),
        ("10.1.0.5 0.0.1.0", ["10.1.0.5/32", "10.1.1.5/32"]),
        ("10.1.0.0 0.0.2.15", ["10.1.0.0/28", "10.1.2.0/28"]),
        ("fd00:: ::1:0:0:ffff", ["fd00::/112", "fd00::1:0:0:0/112"]),
        ("fd00::/8", ["fd00::/8"]),
    ],
)
def test_addresses(text: str, expected: list[str]) -> None:
    assert ranges(parse_rule(f"permit ip {text} any"))[0] == expected
    assert ranges(parse_rule({"action": "permit", "source": text}))[0] == expected


@given(st.integers(0, (1 << 32) - 1), st.sets(st.integers(0, 31), max_size=8))
def test_a_wildcard_selects_the_addresses_that_agree_outside_of_its_bits(base: int, bits: set[int]) -> None:
    mask = sum(1 << bit for bit in bits)
    rule = parse_rule(f"permit ip {IPv4Address(base)} {IPv4Address(mask)} any4")
    assert len(rule.source) <= 256
    assert sum(one.last - one.first + 1 for one in rule.source) == 1 << len(bits)
    for one in rule.source:
        for address in (one.first, one.last, (one.first + one.last) // 2):
            assert address & ~mask == base & ~mask


def test_a_wildcard_of_more_than_256_ranges_is_refused() -> None:
    assert len(parse_rule("permit ip 10.0.0.1 0.0.255.0 any").source) == 256
    with pytest.raises(BadAccessRule, match="at most 256 ranges, this one makes 512"):
        parse_rule("permit ip 10.0.0.1 0.1.255.0 any")
    with pytest.raises(BadAccessRule, match="this one makes 65536"):
        parse_rule("permit ip 10.1.0.0 255.255.0.0 any")  # a netmask where a wildcard belongs


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("permit icmp any any", None),
        ("permit icmp any any echo", (2048, 2303)),
        ("permit icmp any any icmp-type 3 4", (772, 772)),
        ("permit icmp any any 3 4", (772, 772)),
        ("permit icmpv6 any any icmp-type echo", (32768, 33023)),
        ({"action": "permit", "protocol": "icmp", "icmp_type": "echo-reply", "icmp_code": 0}, (0, 0)),
    ],
)
def test_icmp_types_and_codes(text: str | Mapping[str, object], types: tuple[int, int] | None) -> None:
    rule = parse_rule(text)
    assert rule.types == types
    assert {one.family for one in rule.source} == ({6} if rule.protocol == 58 else {4})


def test_rules_are_tried_by_number_and_numbered_by_tens() -> None:
    acl = parse_access_list("t", ["permit tcp any any", "5 deny udp any any", "permit ip any any"])
    assert [(rule.number, rule.permit) for rule in acl.rules] == [(5, False), (10, True), (20, True)]
    acl = parse_access_list("t", ["17 permit tcp any any", "permit udp any any"])
    assert [rule.number for rule in acl.rules] == [17, 20]


@pytest.mark.parametrize(
    ("rule", "key", "found"),
    [
        ("allow ip any any", "action", "allow"),
        ("permit", "protocol", ""),
        ("permit tpc any any", "protocol", "tpc"),
        ("permit tcp 10.1.0.0/33 any", "source", "10.1.0.0/33"),
        ("permit tcp any 10.1.0.0 0.0.255", "destination", "10.1.0.0 0.0.255"),
        ("permit tcp 10.1.0.0/16 fd00::/8", "destination", "another family than the source"),
        ("permit icmp fd00::/8 fd00::/8", "protocol", "icmp"),
        ("permit ip any any eq 80", "destination_port", "eq 80"),
        ("permit tcp any any eq 65536", "destination_port", "eq 65536"),
        ("permit tcp any any range 90 80", "destination_port", "range 90 80"),
        ("permit tcp any any range 90", "destination_port", "range 90"),
        ("permit tcp any any lt 0", "destination_port", "lt 0"),
        ("permit tcp any any gt 65535", "destination_port", "gt 65535"),
        ("permit tcp any any icmp-type 8", "icmp_type", "8"),
        ("permit icmp any any icmp-type 256", "icmp_type", "256"),
        ("permit icmp any any icmp-type 3 256", "icmp_code", "256"),
        ("permit tcp any any established", "rule", "established"),
        ("permit tcp any source any", "source", "permit tcp any source any"),
        ({"action": "permit", "sorce": "any"}, "sorce", "any"),
        ({"action": "permit", "source": 1.5}, "source", "1.5"),
        ({"action": "permit", "number": "x"}, "number", "x"),
        ({"action": "permit", "protocol": "icmp", "icmp_code": 0}, "icmp_code", "0"),
        ({"source": "any"}, "action", ""),
    ],
)
def test_bad_rules_are_refused_naming_the_part_what_was_found_and_what_is_allowed(
    rule: str | Mapping[str, object], key: str, found: str
) -> None:
    with pytest.raises(BadAccessRule) as refused:
        parse_access_list("t", ["permit ip any any", rule])
    assert (refused.value.key, refused.value.found, refused.value.entry) == (key, found, 1)
    assert refused.value.allowed


def test_two_rules_with_one_number_are_refused() -> None:
    with pytest.raises(BadAccessRule, match="number"):
        parse_access_list("t", ["10 permit ip any any", "10 deny ip any any"])


# -- expanding --------------------------------------------------------------------------------------


def told(expansion: Expansion) -> list[tuple[list[str], list[str]]]:
    return [
        ([format_selector(s) for s in flow.local], [format_selector(s) for s in flow.remote])
        for flow in expansion.flows
    ]


def test_a_deny_before_a_permit_is_carved_out_of_what_the_peer_is_told() -> None:
    acl = parse_access_list(
        "t",
        [f"deny ip {A} 10.2.4.0/24", f"permit ip {A} {B}", f"deny tcp any {C} eq 22", f"permit tcp {A} {C}"],
    )
    made = expand(acl, per_rule=True)
    assert told(made) == [
        ([A], ["10.2.0.0/22", "10.2.5.0-10.2.255.255"]),
        ([f"{A}[tcp]"], [f"{C}[tcp/0-21]", f"{C}[tcp/23-65535]"]),
    ]
    assert not made.notes
    assert [(rule.action, rule.flow) for rule in made.rules if rule.local != rule.remote] == [
        (Action.BYPASS, -1),
        (Action.PROTECT, 0),
        (Action.BYPASS, -1),
        (Action.PROTECT, 1),
    ]
    assert [flow.rule for flow in made.flows] == ["t/20", "t/40"]


def test_a_deny_that_covers_neither_side_stays_local_and_is_noted() -> None:
    acl = parse_access_list("t", ["deny ip 10.1.1.0/24 10.2.1.0/24", f"permit ip {A} {B}"])
    made = expand(acl, per_rule=True)
    assert told(made) == [([A], [B])]
    assert len(made.notes) == 1
    assert "t/20" in made.notes[0]
    assert "rule 10" in made.notes[0]


def test_more_than_64_ranges_stay_local_and_are_noted() -> None:
    denies = [f"deny ip any 10.2.{2 * n}.0/24" for n in range(64)]
    made = expand(parse_access_list("t", [*denies[:63], f"permit ip {A} {B}"]), per_rule=True)
    assert len(made.flows[0].remote) == 63
    assert not made.notes
    made = expand(parse_access_list("t", [*denies, "deny ip any 10.2.200.0/24", f"permit ip {A} {B}"]), True)
    assert told(made) == [([A], [B])]
    assert made.notes


def test_a_wide_wildcard_is_told_as_its_span() -> None:
    made = expand(parse_access_list("t", [f"permit ip 10.1.0.1 0.0.255.0 {B}"]), per_rule=True)
    assert told(made) == [(["10.1.0.1-10.1.255.1"], [B])]
    assert len(made.rules) == 256
    assert made.notes


def test_icmp_types_are_cut_on_both_sides() -> None:
    acl = parse_access_list("t", ["deny icmp any any echo", f"permit icmp {A} {B}"])
    made = expand(acl, per_rule=True)
    types = ["icmp/0-7", "icmp/9-255"]
    assert told(made) == [([f"{A}[{one}]" for one in types], [f"{B}[{one}]" for one in types])]


def test_a_permit_that_earlier_rules_take_whole_has_no_flow() -> None:
    acl = parse_access_list("t", [f"permit ip {A} any", f"permit tcp {A} {B} eq 80", f"permit ip {C} {B}"])
    made = expand(acl, per_rule=True)
    assert [flow.rule for flow in made.flows] == ["t/10", "t/30"]
    assert {rule.flow for rule in made.rules} == {0, 1}
    assert made.notes == ("t/20: never matches, because earlier rules take all of it",)


def test_aggregate_shares_one_flow_and_says_when_it_tells_more() -> None:
    acl = parse_access_list("t", [f"permit tcp {A} {B} eq 80", f"permit udp {A} {B} eq 53"])
    made = expand(acl, per_rule=False)
    assert told(made) == [([f"{A}[tcp]", f"{A}[udp]"], [f"{B}[tcp/80]", f"{B}[udp/53]"])]
    assert {rule.flow for rule in made.rules} == {0}
    made = expand(
        parse_access_list("t", [f"permit ip {A} {B}", f"permit ip {C} 10.4.0.0/16"]), per_rule=False
    )
    assert told(made) == [([A, C], [B, "10.4.0.0/16"])]
    assert "what no rule permits is dropped" in made.notes[0]
    assert expand(parse_access_list("t", ["deny ip any any"]), per_rule=False).flows == ()


def test_too_many_pairs_of_ranges_are_refused() -> None:
    acl = parse_access_list("t", ["permit ip 10.1.0.1 0.0.255.0 10.2.0.1 0.0.255.0"])
    with pytest.raises(TooManyRanges, match="t/10: 256 source ranges times 256 destination ranges"):
        expand(acl, per_rule=True)


def test_traffic_selectors_are_one_flow_and_a_rule_for_each_pair() -> None:
    local = [parse_selector(text) for text in (A, "fd01::/64", "dynamic")]
    remote = [parse_selector(text) for text in (B, "fd02::/64")]
    made = from_selectors(local, remote)
    assert [(flow.local, flow.remote) for flow in made.flows] == [(tuple(local), tuple(remote))]
    assert len(made.rules) == 4, "both families pair with what may turn out to be either"
    made = from_selectors(local, remote, Action.DISCARD)
    assert made.flows == ()
    assert {(rule.action, rule.flow) for rule in made.rules} == {(Action.DISCARD, -1)}


# -- against the law, packet by packet ----------------------------------------------------------------

Packet = tuple[int, int, int, int, int]
"""Protocol, source, destination, source port, destination port; of ICMP both are the type and code."""

NET = int(ip_address("10.0.0.0"))
PROTOCOLS = (1, 6, 17, 47)


@st.composite
def lines(draw: st.DrawFn) -> str:
    def address() -> str:
        kind = draw(st.integers(0, 4))
        first, last = sorted(draw(st.integers(0, 7)) for _ in range(2))
        if kind == 0:
            return "any4"
        if kind == 1:
            return f"{IPv4Address(NET + first)} 0.0.0.{draw(st.integers(0, 7))}"
        return f"{IPv4Address(NET + first)}-{IPv4Address(NET + last)}"

    protocol = draw(st.sampled_from(("ip", "ip", "tcp", "tcp", "udp", "icmp")))

    def ports() -> str:
        if protocol not in ("tcp", "udp"):
            return ""
        return draw(st.sampled_from(("", "", " eq 2", " range 1 3", " lt 2", " gt 2", " neq 1")))

    action = draw(st.sampled_from(("permit", "permit", "deny")))
    text = f"{action} {protocol} {address()}{ports()} {address()}{ports()}"
    if protocol == "icmp":
        text += draw(st.sampled_from(("", " 8", " 0", " 8 1")))
    return text


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    protocol = draw(st.sampled_from(PROTOCOLS))
    source, destination = (NET + draw(st.integers(0, 8)) for _ in range(2))
    if protocol == 47:
        return protocol, source, destination, NO_PORT, NO_PORT
    if protocol == 1:
        kind = draw(st.sampled_from((0, 8 * 256, 8 * 256 + 1, 3 * 256)))
        return protocol, source, destination, kind, kind
    return protocol, source, destination, draw(st.integers(0, 4)), draw(st.integers(0, 4))


def first_match(acl: AccessList, packet: Packet) -> AccessRule | None:
    protocol, source, destination, source_port, destination_port = packet

    def port_in(spans: tuple[tuple[int, int], ...], port: int) -> bool:
        return spans == ((0, 65535),) or any(first <= port <= last for first, last in spans)

    for rule in acl.rules:
        if (
            rule.protocol in (0, protocol)
            and any(one.first <= source <= one.last for one in rule.source)
            and any(one.first <= destination <= one.last for one in rule.destination)
            and port_in(rule.source_ports, source_port)
            and port_in(rule.destination_ports, destination_port)
            and (rule.types is None or rule.types[0] <= source_port <= rule.types[1])
        ):
            return rule
    return None


def first_child_rule(rules: tuple[ChildRule, ...], packet: Packet) -> ChildRule | None:
    protocol, source, destination, source_port, destination_port = packet
    for rule in rules:
        assert isinstance(rule.local, TrafficSelector)
        assert isinstance(rule.remote, TrafficSelector)
        if matches(rule.local, 4, protocol, source, source_port) and matches(
            rule.remote, 4, protocol, destination, destination_port
        ):
            return rule
    return None


def in_flow(expansion: Expansion, flow: int, packet: Packet) -> bool:
    protocol, source, destination, source_port, destination_port = packet
    told_flow = expansion.flows[flow]
    return any(
        isinstance(one, TrafficSelector) and matches(one, 4, protocol, source, source_port)
        for one in told_flow.local
    ) and any(
        isinstance(one, TrafficSelector) and matches(one, 4, protocol, destination, destination_port)
        for one in told_flow.remote
    )


@settings(max_examples=200)
@given(
    st.lists(lines(), min_size=1, max_size=6), st.lists(packets(), min_size=20, max_size=40), st.booleans()
)
def test_rules_decide_as_the_list_and_flows_hold_what_it_permits(
    texts: list[str], sample: list[Packet], per_rule: bool
) -> None:
    acl = parse_access_list("t", texts)
    made = expand(acl, per_rule)
    by_rule = {flow.rule: number for number, flow in enumerate(made.flows)}
    for packet in sample:
        decided, enforced = first_match(acl, packet), first_child_rule(made.rules, packet)
        if decided is None:
            assert enforced is None
            inside = None
        else:
            assert enforced is not None
            assert (enforced.action is Action.PROTECT) == decided.permit
            inside = by_rule[f"t/{decided.number}" if per_rule else "t"] if decided.permit else None
            assert enforced.flow == (-1 if inside is None else inside)
        for flow in range(len(made.flows)):
            if flow == inside:
                # All that is permitted can be sent; where ports were cut out, only what shows a port.
                if packet[3] != NO_PORT:
                    assert in_flow(made, flow, packet)
            elif not made.notes:
                assert not in_flow(made, flow, packet), "the peer is told no more than the list permits"
