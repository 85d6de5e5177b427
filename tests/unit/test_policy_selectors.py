"""Selectors are sets: each operation is checked against membership of every packet side of a small world."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cygnet.policy.selectors import (
    NO_PORT,
    BadSelector,
    DynamicSelector,
    TooManyPieces,
    TrafficSelector,
    addresses,
    contains,
    covers,
    everything,
    format_selector,
    intersect,
    matches,
    merge,
    of_address,
    of_range,
    parse_selector,
    prefixes,
    resolve,
    resolve_all,
    subtract,
    subtract_all,
)
from cygnet.policy.wire_form import from_wire, to_wire
from cygnet.wire.cursor import Cursor
from cygnet.wire.payloads import TsiPayload

PORTS = (NO_PORT, 0, 1, 2, 3, 4, 65534, 65535)
PROTOCOLS = (1, 6, 17, 200)
WORLD = [
    (family, protocol, address, port)
    for family in (4, 6)
    for protocol in PROTOCOLS
    for address in range(8)
    for port in PORTS
]
VISIBLE = [side for side in WORLD if side[3] != NO_PORT]


@st.composite
def selectors(draw: st.DrawFn, opaque: bool = True) -> TrafficSelector:
    family = draw(st.sampled_from((4, 4, 6)))
    first, last = sorted(draw(st.integers(0, 7)) for _ in range(2))
    low, high = sorted(draw(st.sampled_from((0, 1, 2, 3, 65535))) for _ in range(2))
    ports = [(0, 65535), (low, high)] + ([(65535, 0)] if opaque else [])
    return TrafficSelector(
        family, draw(st.sampled_from((0, 0, 1, 6, 17))), first, last, *draw(st.sampled_from(ports))
    )


def members(one: TrafficSelector) -> set[tuple[int, int, int, int]]:
    return {side for side in WORLD if matches(one, *side)}


@given(selectors(), selectors())
def test_an_intersection_selects_what_both_select(a: TrafficSelector, b: TrafficSelector) -> None:
    both = intersect(a, b)
    assert (members(both) if both else set()) == members(a) & members(b)
    assert contains(a, b) == (intersect(a, b) == b)
    if contains(a, b):
        assert members(b) <= members(a)


@given(selectors(), selectors())
def test_a_difference_selects_the_rest_in_disjoint_pieces(a: TrafficSelector, b: TrafficSelector) -> None:
    pieces = subtract(a, b)
    left = set().union(*(members(piece) for piece in pieces)) if pieces else set()
    # What shows no port is lost when ports are cut out of all, and no range can take OPAQUE away from all.
    assert left & set(VISIBLE) == (members(a) - members(b)) & set(VISIBLE)
    assert left <= members(a)
    assert sum(len(members(piece)) for piece in pieces) == len(left)


@given(st.lists(selectors(opaque=False), max_size=5), selectors(opaque=False))
def test_a_list_covers_a_selector_if_it_leaves_nothing_of_it(
    outer: list[TrafficSelector], inner: TrafficSelector
) -> None:
    held = set().union(*(members(one) for one in outer)) if outer else set()
    visible = members(inner) & set(VISIBLE)
    assert covers(outer, [inner]) == (visible <= held)


@given(st.lists(selectors(), max_size=8))
def test_merging_changes_no_set_and_adds_no_selector(given_ones: list[TrafficSelector]) -> None:
    merged = merge(given_ones)
    before = set().union(*(members(one) for one in given_ones)) if given_ones else set()
    after = set().union(*(members(one) for one in merged)) if merged else set()
    assert after == before
    assert len(merged) <= len(given_ones)
    assert set(merge(merged)) == set(merged)


def test_touching_ranges_become_one() -> None:
    halves = [selector("10.0.0.0/25"), selector("10.0.0.128/25"), selector("10.0.1.0/24")]
    assert merge(reversed(halves)) == (selector("10.0.0.0/23"),)
    assert merge([selector("10.0.0.1[tcp/80]"), selector("10.0.0.1[tcp/81-90]")]) == (
        selector("10.0.0.1[tcp/80-90]"),
    )


def test_taking_one_protocol_out_of_all_leaves_the_254_others() -> None:
    left = subtract(selector("10.0.0.0/8"), selector("10.0.0.0/8[tcp]"))
    assert sorted(piece.protocol for piece in left) == [p for p in range(1, 256) if p != 6]
    with pytest.raises(TooManyPieces):
        subtract_all([selector("10.0.0.0/8")], [selector("10.0.0.0/8[tcp]")], limit=64)


@settings(max_examples=200)
@given(
    st.sampled_from((4, 6)),
    st.integers(0, 255),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 1 << 20),
    st.integers(0, 65535),
    st.integers(0, 65535),
)
def test_text_and_wire_give_back_the_selector(
    family: int, protocol: int, first: int, size: int, low: int, high: int
) -> None:
    last = min(first + size, (1 << 32) - 1)
    shift = 0 if family == 4 else 90
    ports = (0, 65535) if high % 3 == 0 else (65535, 0) if high % 3 == 1 else (min(low, high), max(low, high))
    one = TrafficSelector(family, protocol, first << shift, last << shift, *ports)
    assert parse_selector(format_selector(one)) == one
    payload = TsiPayload(to_wire([one]))
    assert from_wire(TsiPayload.parse(Cursor(payload.emit()), 0).selectors) == (one,)


@pytest.mark.parametrize(
    ("text", "expected", "printed"),
    [
        ("10.1.0.0/16", (4, 0, 0x0A010000, 0x0A01FFFF, 0, 65535), "10.1.0.0/16"),
        ("10.1.2.3/16", (4, 0, 0x0A010000, 0x0A01FFFF, 0, 65535), "10.1.0.0/16"),
        ("10.1.0.5", (4, 0, 0x0A010005, 0x0A010005, 0, 65535), "10.1.0.5/32"),
        ("10.1.0.5-10.1.0.9", (4, 0, 0x0A010005, 0x0A010009, 0, 65535), "10.1.0.5-10.1.0.9"),
        ("10.1.0.4..10.1.0.7", (4, 0, 0x0A010004, 0x0A010007, 0, 65535), "10.1.0.4/30"),
        ("10.1.0.0/16[tcp/80]", (4, 6, 0x0A010000, 0x0A01FFFF, 80, 80), "10.1.0.0/16[tcp/80]"),
        ("10.1.0.0/16[TCP/http]", (4, 6, 0x0A010000, 0x0A01FFFF, 80, 80), "10.1.0.0/16[tcp/80]"),
        ("10.1.0.0/16[6/80-90]", (4, 6, 0x0A010000, 0x0A01FFFF, 80, 90), "10.1.0.0/16[tcp/80-90]"),
        ("10.1.0.0/16[udp]", (4, 17, 0x0A010000, 0x0A01FFFF, 0, 65535), "10.1.0.0/16[udp]"),
        ("10.1.0.0/16[udp/any]", (4, 17, 0x0A010000, 0x0A01FFFF, 0, 65535), "10.1.0.0/16[udp]"),
        ("10.1.0.0/16[/53]", (4, 0, 0x0A010000, 0x0A01FFFF, 53, 53), "10.1.0.0/16[any/53]"),
        ("10.1.0.0/16[udp/opaque]", (4, 17, 0x0A010000, 0x0A01FFFF, 65535, 0), "10.1.0.0/16[udp/opaque]"),
        ("10.1.0.0/16[icmp/8]", (4, 1, 0x0A010000, 0x0A01FFFF, 2048, 2303), "10.1.0.0/16[icmp/8]"),
        ("10.1.0.0/16[icmp/echo]", (4, 1, 0x0A010000, 0x0A01FFFF, 2048, 2303), "10.1.0.0/16[icmp/8]"),
        ("10.1.0.0/16[icmp/3(4)]", (4, 1, 0x0A010000, 0x0A01FFFF, 772, 772), "10.1.0.0/16[icmp/3(4)]"),
        ("10.1.0.0/16[icmp/2048]", (4, 1, 0x0A010000, 0x0A01FFFF, 2048, 2048), "10.1.0.0/16[icmp/8(0)]"),
        ("10.1.0.0/16[icmp/3-5]", (4, 1, 0x0A010000, 0x0A01FFFF, 768, 1535), "10.1.0.0/16[icmp/3-5]"),
        ("0.0.0.0/0", (4, 0, 0, (1 << 32) - 1, 0, 65535), "0.0.0.0/0"),
        (
            "fd00::/8[icmpv6/128]",
            (6, 58, 0xFD << 120, (0xFE << 120) - 1, 32768, 33023),
            "fd00::/8[icmpv6/128]",
        ),
    ],
)
def test_swanctls_spelling_is_read(text: str, expected: tuple[int, ...], printed: str) -> None:
    one = parse_selector(text)
    assert one == TrafficSelector(*expected)
    assert format_selector(one) == printed


def test_dynamic_becomes_the_tunnels_own_end() -> None:
    one = parse_selector("dynamic[udp/53]")
    assert one == DynamicSelector(17, 53, 53)
    assert format_selector(one) == "dynamic[udp/53]"
    assert resolve(one, ip_address("192.0.2.1")) == selector("192.0.2.1[udp/53]")
    assert resolve_all([one, selector("10.0.0.0/8")], [ip_address("2001:db8::1")]) == (
        selector("2001:db8::1[udp/53]"),
        selector("10.0.0.0/8"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.1.0.0/33", "not an address, a prefix"),
        ("10.1.0.256", "not an address"),
        ("", "not an address"),
        ("10.1.0.9-10.1.0.5", "not a range"),
        ("10.1.0.9-fd00::1", "not a range"),
        ("10.1.0.0/16[tcp/80", "must end with ']'"),
        ("10.1.0.0/16[tpc]", "'tpc' is not a protocol"),
        ("10.1.0.0/16[256]", "not a protocol"),
        ("10.1.0.0/16[tcp/65536]", "'65536' is not a port"),
        ("10.1.0.0/16[tcp/90-80]", "'90-80' is not a port"),
        ("10.1.0.0/16[tcp/-80]", "is not a port"),
        ("10.1.0.0/16[tcp/٨٠]", "is not a port"),
        ("10.1.0.0/16[icmp/8(256)]", "is not a type"),
        ("10.1.0.0/16[icmp/8(0]", "is not a type"),
        ("dynamic/32", "not an address"),
    ],
)
def test_bad_text_is_refused_with_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(BadSelector) as refused:
        parse_selector(text)
    assert message in str(refused.value)


def test_a_range_is_the_fewest_prefixes() -> None:
    assert prefixes(selector("10.0.0.0/8")) == ((0x0A000000, 8),)
    assert prefixes(selector("10.0.0.1-10.0.0.6")) == (
        (0x0A000001, 32),
        (0x0A000002, 31),
        (0x0A000004, 31),
        (0x0A000006, 32),
    )
    assert prefixes(everything(6)) == ((0, 0),)


def test_addresses_and_selectors_convert() -> None:
    low, high = ip_address("fd00::1"), ip_address("fd00::5")
    assert addresses(of_range(low, high)) == (low, high)
    assert addresses(of_address(low)) == (low, low)


def selector(text: str) -> TrafficSelector:
    one = parse_selector(text)
    assert isinstance(one, TrafficSelector)
    return one
