"""The guard's sets, asked in order, decide as a scan of the rules does, and no two boxes of a set meet."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cygnet.dataplane.guard_sets import MAX_HASHED, Compiler, Overlaps, SetKey, Shape, Spans, masks_of
from cygnet.policy.access_list import parse_access_list
from cygnet.policy.expansion import expand
from cygnet.policy.selectors import TrafficSelector
from cygnet.policy.spd import Action, Policy, PolicyRule, Spd

Packet = tuple[int, int, int, int | None, int | None, int]
Sets = dict[SetKey, set[Spans]]


def apply_changes(sets: Sets, compiler: Compiler) -> None:
    for key, change in compiler.changes().items():
        present = sets.setdefault(key, set())
        for spans in change.removed:
            assert spans in present
            present.discard(spans)
        for spans in change.added:
            assert spans not in present
            present.add(spans)
        if not present:
            del sets[key]


def ask(sets: Sets, packet: Packet) -> Action:
    """What nftables does with them."""
    protocol, local, remote, local_port, remote_port, family = packet
    for key in sorted(sets):
        if key.family != family:
            continue
        wanted: list[int] = [remote, local, protocol]
        if key.shape is Shape.PORTS:
            if local_port is None or remote_port is None or protocol in (1, 58):
                continue
            wanted += [local_port, remote_port]
        if key.shape is Shape.TYPE:
            if local_port is None or protocol not in (1, 58):
                continue
            wanted += [0, local_port]
        if key.shape is Shape.FRAGMENT and local_port is not None:
            continue
        for spans in sets[key]:
            if all(first <= value <= last for value, (first, last) in zip(wanted, spans, strict=False)):
                return key.action
    return Action.BYPASS


def assert_disjoint(sets: Sets) -> None:
    for key, boxes in sets.items():
        listed = [] if key.masks else list(boxes)
        for spans in boxes if key.masks else ():
            assert masks_of(key.family, spans) == key.masks
        for i, one in enumerate(listed):
            for other in listed[:i]:
                assert any(a[1] < b[0] or b[1] < a[0] for a, b in zip(one, other, strict=True))


BASE = {4: 10 << 24, 6: 0x20010DB8 << 96}


@st.composite
def selectors(draw: st.DrawFn, family: int, protocol: int) -> TrafficSelector:
    first, last = sorted(BASE[family] + draw(st.integers(0, 15)) for _ in range(2))
    ports = draw(st.sampled_from([(0, 65535)] * 3 + [(65535, 0), (3, 3), (2, 6), (5, 9), (0, 4)]))
    return TrafficSelector(family, protocol, first, last, *ports)


@st.composite
def policies(draw: st.DrawFn, number: int) -> Policy:
    rules = []
    for place in range(draw(st.integers(1, 4))):
        family = draw(st.sampled_from((4, 4, 6)))
        protocol = draw(st.sampled_from((0, 0, 1, 6, 17, 50)))
        rules.append(
            PolicyRule(
                draw(st.sampled_from((Action.PROTECT, Action.PROTECT, Action.BYPASS, Action.DISCARD))),
                draw(selectors(family, protocol)),
                draw(selectors(family, protocol)),
                place + 1,
            )
        )
    return Policy(number, "", draw(st.integers(0, 2)), tuple(rules), True, None, None)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    family = draw(st.sampled_from((4, 4, 6)))
    local, remote = (BASE[family] + draw(st.integers(0, 15)) for _ in range(2))
    protocol = draw(st.sampled_from((1 if family == 4 else 58, 6, 17, 50)))
    if protocol == 50 or draw(st.integers(0, 5)) == 0:
        return protocol, local, remote, None, None, family
    local_port = draw(st.integers(0, 10))
    return (
        protocol,
        local,
        remote,
        local_port,
        local_port if protocol in (1, 58) else draw(st.integers(0, 10)),
        family,
    )


@settings(max_examples=100)
@given(st.data())
def test_sets_decide_as_the_spd_does_while_policies_come_and_go(data: st.DataObject) -> None:
    compiler, spd = Compiler(), Spd()
    sets: Sets = {}
    for _ in range(data.draw(st.integers(1, 8))):
        number = data.draw(st.integers(1, 5))
        if data.draw(st.integers(0, 3)) == 0:
            compiler.remove(number)
            spd.remove(number)
        else:
            made = data.draw(policies(number))
            compiler.put(made)
            spd.put(made)
        if data.draw(st.integers(0, 2)) == 0:
            continue  # several at once
        apply_changes(sets, compiler)
        assert_disjoint(sets)
        for packet in data.draw(st.lists(packets(), min_size=3, max_size=10)):
            assert ask(sets, packet) == spd.lookup_outbound(*packet)[0], packet


def test_many_prefixes_of_a_kind_are_hashed_and_odd_ones_are_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cygnet.dataplane.guard_sets.MANY", 8)
    compiler = Compiler()
    sets: Sets = {}
    lengths = list(range(9, 25))  # more than first come, first served
    for number, length in enumerate(lengths):
        compiler.put(policy(100 + number, f"permit ip 10.0.0.0/8 {number + 20}.0.0.0/{length}"))
    apply_changes(sets, compiler)
    assert sum(1 for key in sets if key.masks) == MAX_HASHED
    for number in range(20):
        compiler.put(policy(1 + number, f"permit tcp 10.0.0.0/8 100.{number}.0.0/30 eq 80"))
    compiler.put(policy(50, "permit tcp 10.0.0.0/8 101.0.0.0/8 range 5 9"))
    apply_changes(sets, compiler)
    assert_disjoint(sets)
    hashed = {key.masks: len(boxes) for key, boxes in sets.items() if key.masks}
    assert hashed[(30, 8, 8, 0, 16)] == 20
    assert {key.shape for key in sets if not key.masks} == {Shape.ADDRESSES, Shape.PORTS}


def test_after_a_loss_everything_is_made_anew() -> None:
    compiler = Compiler()
    first: Sets = {}
    compiler.put(policy(1, "deny tcp any any eq 22", "permit ip 10.1.0.0/16 10.2.0.0/16"))
    compiler.put(policy(2, "permit udp 10.3.0.0/16 10.4.0.0/16"))
    apply_changes(first, compiler)
    assert not compiler.changes()
    compiler.start_over()
    again: Sets = {}
    apply_changes(again, compiler)
    assert again == first


def test_nested_and_repeated_permits_need_one_box() -> None:
    compiler = Compiler()
    sets: Sets = {}
    compiler.put(
        policy(
            1,
            "permit tcp 10.1.0.0/24 10.2.0.0/24 eq 80",
            "permit ip 10.1.0.0/16 10.2.0.0/16",
            "permit udp 10.1.0.0/16 10.2.0.0/17",
        )
    )
    compiler.put(policy(2, "permit ip 10.1.0.0/16 10.2.0.0/16"))
    apply_changes(sets, compiler)
    assert [(key.shape, len(boxes)) for key, boxes in sets.items()] == [(Shape.ADDRESSES, 1)]


def test_denies_with_nothing_behind_them_need_none() -> None:
    compiler = Compiler()
    sets: Sets = {}
    compiler.put(policy(1, "permit ip 10.1.0.0/16 10.2.0.0/16", "deny ip any any"))
    compiler.put(policy(2, "deny tcp 10.8.0.0/16 10.9.0.0/16"))
    apply_changes(sets, compiler)
    assert {key.action for key in sets} == {Action.PROTECT}


def test_where_unmatched_packets_are_discarded_it_is_the_bypass_that_needs_boxes() -> None:
    compiler = Compiler(Action.DISCARD)
    sets: Sets = {}
    compiler.put(policy(1, "deny tcp any4 any4 eq 22"))
    apply_changes(sets, compiler)
    assert {key.action for key in sets} == {Action.BYPASS}


def test_a_span_finds_those_that_hold_its_start_and_those_that_start_in_it() -> None:
    overlaps = Overlaps(32)
    spans = {n: (n * 7 % 50, n * 7 % 50 + n % 11) for n in range(1, 60)}
    for n, span in spans.items():
        overlaps.add(n, span)
    check(overlaps, spans)
    for n in range(1, 60, 2):
        overlaps.discard(n, spans.pop(n))
    check(overlaps, spans)
    for n in range(1, 60, 4):
        spans[n] = (n, n)
        overlaps.add(n, spans[n])
    check(overlaps, spans)


def check(overlaps: Overlaps, spans: dict[int, tuple[int, int]]) -> None:
    for first in range(0, 60, 3):
        for last in (first, first + 4, first + 30):
            expected = {n for n, (low, high) in spans.items() if low <= last and first <= high}
            assert overlaps.meeting((first, last)) == expected


def policy(number: int, *lines: str) -> Policy:
    rules = expand(parse_access_list("t", lines), per_rule=True).rules
    return Policy(number, "", 0, tuple(concrete(rules)), True, None, None)


def concrete(rules: Iterable[object]) -> Iterable[PolicyRule]:
    for rule in rules:
        yield PolicyRule(rule.action, rule.local, rule.remote, 1)  # type: ignore[attr-defined]
