"""XFRM messages as octets; `ip xfrm` and the kernel judge them in tests/network and tests/guest."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plane import Pair, Side
from cygnet.dataplane import messages
from cygnet.dataplane.translate import Refused, sa_parameters
from cygnet.dataplane.xfrm import codec, states
from cygnet.dataplane.xfrm.netlink import Message, NetlinkError, XfrmSocket, attributes, parse
from cygnet.dataplane.xfrm.policies import KernelSpd
from cygnet.dataplane.xfrm.rules import Order, masks, selectors, turned
from cygnet.policy.sa import SaParameters
from cygnet.policy.selectors import TrafficSelector, parse_selector
from cygnet.policy.spd import Action, Policy, PolicyRule
from cygnet.wire.numbers import Encr

LEFT, RIGHT = Side("192.0.2.1", ("10.1.0.0/16",)), Side("192.0.2.2", ("10.2.0.0/16",))


def parameters(direction: int, **changed: Any) -> SaParameters:
    command = Pair(LEFT, RIGHT, port=0).sa(True, direction, **changed)(1)
    assert isinstance(command, messages.InstallSa)
    return sa_parameters(command)


def body(direction: int = 1, **changed: Any) -> bytes:
    (made,) = states.made_of(parameters(direction, **changed), 0x43000001)
    return codec.sa_message(made).body


def test_what_is_installed_reads_back_with_its_ledger() -> None:
    seen = codec.sa_from(body(flow=(1 << 62) - 1, pair=7, hard_seconds=3600.5, hard_bytes=1 << 40))
    assert seen.key == codec.SaKey(ip_address("192.0.2.2"), 0x10000 + 256 + 1, 50)
    assert seen.source == ip_address("192.0.2.1")
    assert seen.limits.ledger == ((1 << 62) - 1, 7)
    assert (seen.limits.hard_seconds, seen.limits.hard_bytes) == (3601, 1 << 40)
    entry = states.adopted(seen)
    assert entry is not None
    assert (entry.direction, entry.flow, entry.pair) == (1, (1 << 62) - 1, 7)


def test_others_sas_are_not_adopted() -> None:
    theirs = bytearray(body())
    struct.pack_into("=I", theirs, 208, 16)  # a request number as other programs choose it
    assert states.adopted(codec.sa_from(bytes(theirs))) is None


def test_wide_windows_and_long_numbers_take_the_attribute_that_they_need() -> None:
    narrow = body(0, replay_window=32)
    assert narrow[215] == 32
    assert 23 not in attributes(narrow, 224)
    for changed in ({"replay_window": 1024}, {"replay_window": 64, "esn": True}):
        wide = body(0, **changed)
        words, _, _, _, _, window = struct.unpack_from("=6I", attributes(wide, 224)[23])
        assert (wide[215], window, words) == (0, changed["replay_window"], changed["replay_window"] // 32)
    assert 31 not in attributes(narrow, 224)  # an interface of 0 is refused since 5.16


def test_numbers_end_before_they_repeat_unless_they_are_long() -> None:
    assert codec.sa_from(body()).limits.hard_packets == (1 << 32) - 1
    assert codec.sa_from(body(esn=True)).limits.hard_packets == 0


def test_a_move_keeps_keys_window_and_counters_and_skips_numbers() -> None:
    before = codec.sa_from(body(esn=True, local_port=4500, remote_port=4500))
    other = ip_address("192.0.2.77")
    moved = codec.moved_sa_message(before, other, before.key.destination, codec.Encapsulation(4500, 9), 1000)
    after = codec.sa_from(moved.body)
    assert (after.source, after.encapsulation) == (other, codec.Encapsulation(4500, 9))
    assert attributes(after.body, 224)[18] == attributes(before.body, 224)[18]
    assert after.limits == before.limits
    used = bytearray(before.body)
    at = before.body.index(attributes(before.body, 224)[23])
    struct.pack_into("=I", used, at + 4, 5)
    sent = codec.sa_from(bytes(used))
    assert sent.sequence_out == 5
    again = codec.moved_sa_message(sent, other, before.key.destination, None, 1000)
    assert codec.sa_from(again.body).sequence_out == 1005


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"encryption": Encr.AES_GCM_16_IIV}, "AES_GCM_16_IIV"),
        ({"copy_df": False, "set_df": True}, "DF"),
        ({"fragment_before": True}, "cut"),
        ({"dummy_interval": 1.0}, "dummy"),
        ({"flow": 1 << 62}, "name"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_with_the_reason(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        states.made_of(parameters(1, **changed), 0x43000001)


@given(st.binary(max_size=700))
def test_anything_but_a_whole_message_is_malformed_and_nothing_else(data: bytes) -> None:
    for read in (
        codec.sa_from, codec.policy_from, codec.acquire_from, codec.expire_from, codec.mapping_from,
        codec.key_from, codec.deleted_policy_from, codec.counts_from, codec.selector_from,
    ):  # fmt: skip
        try:
            read(data)
        except codec.Malformed:
            continue
    assert len(list(parse(data))) <= len(data)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_of_ports_is_its_masks_and_nothing_more(one: int, other: int) -> None:
    first, last = sorted((one, other))
    pieces = list(masks(first, last))
    assert len(pieces) <= 30
    assert sum(0x10000 - mask for _, mask in pieces) == last - first + 1
    for port in {first, last, (first + last) // 2}:
        assert any(port & mask == value for value, mask in pieces)
    for port in {first - 1, last + 1} & set(range(65536)):
        assert not any(port & mask == value for value, mask in pieces)


def side(text: str) -> TrafficSelector:
    found = parse_selector(text)
    assert isinstance(found, TrafficSelector)
    return found


def test_types_stand_for_ports_in_either_direction() -> None:
    rule = PolicyRule(Action.PROTECT, side("10.1.0.0/16[icmp/3(4)]"), side("10.2.0.0/16[icmp/3(4)]"), 1)
    (out,) = selectors(rule)
    assert (out.source_port, out.source_mask, out.destination_port, out.destination_mask) == (
        3, 0xFFFF, 4, 0xFFFF
    )  # fmt: skip
    back = turned(out)
    assert (back.source_port, back.destination_port, back.source) == (3, 4, out.destination)


def kinds(local: str, remote: str) -> set[tuple[int, int, int]]:
    rule = PolicyRule(Action.BYPASS, side(local), side(remote), 0)
    return {(one.protocol, one.destination_port, one.destination_mask) for one in selectors(rule)}


def test_ports_of_any_protocol_mean_those_that_have_ports_and_types() -> None:
    told = kinds("10.1.0.0/16", "10.2.0.0/16[any/53]")
    assert {protocol for protocol, _, _ in told} == {1, 6, 17, 33, 132, 136}
    assert {(port, mask) for _, port, mask in told} == {(53, 0xFFFF)}
    assert {58} == {one for one, _, _ in kinds("fd01::/64", "fd02::/64[any/53]")} - {6, 17, 33, 132, 136}
    showing_none = kinds("10.1.0.0/16", "10.2.0.0/16[any/opaque]")
    assert {mask for _, _, mask in showing_none} == {0}
    assert {protocol for protocol, _, _ in showing_none} == set(range(1, 256)) - {
        1,
        6,
        17,
        33,
        58,
        132,
        135,
        136,
    }
    assert kinds("10.1.0.0/16", "10.2.0.0/16[gre/53]") == set()


class Kernel(XfrmSocket):
    """Keeps the policies that it is told, and `after` each looks at all of them."""

    def __init__(self, after: Callable[[dict[codec.PolicyKey, codec.Verdict]], None]) -> None:
        self.policies: dict[codec.PolicyKey, codec.Verdict] = {}
        self.after = after

    def change(self, messages: Sequence[Message]) -> list[NetlinkError | None]:
        for message in messages:
            seen = codec.policy_from(message.body)
            self.policies[seen.key] = seen.verdict
            self.after(self.policies)
        return [None] * len(messages)


def test_when_all_numbers_change_what_allows_never_comes_before_what_protects() -> None:
    last = 905
    moved: set[int] = set()

    def outward(remote: str) -> tuple[PolicyRule, codec.PolicyKey]:
        rule = PolicyRule(Action.PROTECT, side("10.1.0.0/16"), side(remote), 1)
        return rule, codec.PolicyKey(codec.OUT, codec.packed_selector(selectors(rule)[0]))

    everything, inside = outward("10.0.0.0/8"), outward(f"10.3.{last // 250}.{last % 250}/32")

    def judge(policies: dict[codec.PolicyKey, codec.Verdict]) -> None:
        allows, protects = policies.get(everything[1]), policies.get(inside[1])
        if allows and protects:
            moved.add(allows.priority)
            assert protects.priority < allows.priority

    spd = KernelSpd(Kernel(judge), Action.BYPASS)
    ends = ip_address("192.0.2.1"), ip_address("192.0.2.2")

    def put(number: int, rule: PolicyRule) -> None:
        spd.put(Policy(number, "", number, (rule,), False, *ends))

    put(1, outward("10.2.0.0/16")[0])
    put(2000, replace(everything[0], action=Action.BYPASS, flow=0))
    for number in range(2, last + 80):  # in between there is no room for so many
        put(number, outward(f"10.3.{number // 250}.{number % 250}/32")[0])
        if number in (last, last + 79):
            spd.commit()
    assert len(moved) == 2, "the numbers have changed"


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 60), st.integers(1, 9)), max_size=60))
def test_numbers_rise_along_the_spd_whatever_the_order_of_arrival(given_: list[tuple[int, int, int]]) -> None:
    order = Order()
    present: dict[int, Policy] = {}
    rule = PolicyRule(Action.BYPASS, side("10.1.0.0/16"), side("10.2.0.0/16"), 0)
    for priority, number, rules in given_:
        if number in present:
            order.remove(present[number])
        present[number] = Policy(number, "", priority, (rule,) * rules, False, None, None)
        order.place(present[number])
    ordered = sorted(present.values(), key=lambda one: (one.priority, one.id))
    numbers = [
        order.base((one.priority, one.id)) + place for one in ordered for place in range(len(one.rules))
    ]
    assert numbers == sorted(set(numbers))
    assert all(1 << 16 <= value < 1 << 32 for value in numbers)
