"""Narrowing keeps exactly what both sides allow, in both roles (RFC 7296, section 2.9)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cygnet.policy.narrowing import choose, narrow, within
from cygnet.policy.selectors import TrafficSelector, matches, parse_selector

PROTOCOLS = (1, 6, 17)
PORTS = (0, 1, 2, 65535)
SIDES = [(address, port) for address in range(4) for port in PORTS]


@st.composite
def lists(draw: st.DrawFn) -> list[TrafficSelector]:
    made = []
    for _ in range(draw(st.integers(1, 3))):
        first, last = sorted(draw(st.integers(0, 3)) for _ in range(2))
        ports = draw(st.sampled_from([(0, 65535), (0, 65535), (1, 1), (0, 1), (2, 65535)]))
        family = draw(st.sampled_from((4, 4, 4, 6)))
        made.append(TrafficSelector(family, draw(st.sampled_from((0, 0, 6, 17))), first, last, *ports))
    return made


def carried(
    initiator: list[TrafficSelector] | tuple[TrafficSelector, ...],
    responder: list[TrafficSelector] | tuple[TrafficSelector, ...],
) -> set[tuple[int, ...]]:
    """Every packet of the small world that an SA with these selectors carries."""
    return {
        (family, protocol, *source, *destination)
        for family in (4, 6)
        for protocol in PROTOCOLS
        for source in SIDES
        if any(matches(one, family, protocol, *source) for one in initiator)
        for destination in SIDES
        if any(matches(one, family, protocol, *destination) for one in responder)
    }


@settings(max_examples=150)
@given(lists(), lists(), lists(), lists())
def test_a_narrowed_offer_carries_what_offer_and_policy_both_carry(
    offered_i: list[TrafficSelector],
    offered_r: list[TrafficSelector],
    policy_i: list[TrafficSelector],
    policy_r: list[TrafficSelector],
) -> None:
    expected = carried(offered_i, offered_r) & carried(policy_i, policy_r)
    narrowed = narrow(offered_i, offered_r, policy_i, policy_r)
    if narrowed is None:
        assert not expected
        return
    assert carried(narrowed.initiator, narrowed.responder) == expected
    assert within(offered_i, offered_r, narrowed.initiator, narrowed.responder)
    assert within(policy_i, policy_r, narrowed.initiator, narrowed.responder)
    if narrowed.whole:
        assert carried(offered_i, offered_r) == expected


def test_the_example_of_the_standard() -> None:
    # RFC 7296, 2.9: a packet's own selectors first, then the wide ones; a responder that allows part
    # of the wide ones must still include the first.
    offered_i = selectors("198.51.100.43[tcp/5000]", "198.51.100.0/24")
    offered_r = selectors("192.0.2.123[tcp/80]", "192.0.2.0/24")
    narrowed = narrow(offered_i, offered_r, selectors("198.51.100.32/27"), selectors("192.0.2.0/24"))
    assert narrowed is not None
    assert narrowed.initiator == selectors("198.51.100.32/27")
    assert narrowed.responder == selectors("192.0.2.0/24")
    assert not narrowed.whole


def test_an_offer_that_the_policy_allows_whole_is_returned_as_it_is() -> None:
    offered = selectors("10.1.0.0/16"), selectors("10.2.0.0/16")
    narrowed = narrow(*offered, selectors("10.0.0.0/8"), selectors("0.0.0.0/0"))
    assert narrowed is not None
    assert (narrowed.initiator, narrowed.responder, narrowed.whole) == (*offered, True)


def test_selectors_that_nothing_of_the_other_side_can_meet_are_left_out() -> None:
    narrowed = narrow(
        selectors("10.1.0.0/16[tcp]", "fd01::/64"),
        selectors("10.2.0.0/16[tcp]", "10.2.0.0/16[udp]"),
        selectors("0.0.0.0/0", "::/0"),
        selectors("0.0.0.0/0", "::/0"),
    )
    assert narrowed is not None
    assert narrowed.initiator == selectors("10.1.0.0/16[tcp]")
    assert narrowed.responder == selectors("10.2.0.0/16[tcp]")
    four, six = selectors("10.0.0.0/8"), selectors("::/0")
    assert narrow(four, four, six, six) is None


FLOWS = [
    (["10.2.0.0/24"], ["10.1.0.0/16"]),
    (["10.2.1.0/24"], ["10.1.0.0/16"]),
    (["10.2.2.0/24[tcp]"], ["10.1.0.0/16[tcp]"]),
]


def flows() -> list[tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]]:
    return [(selectors(*local), selectors(*remote)) for local, remote in FLOWS]


def test_a_responder_chooses_the_flow_that_holds_the_first_choices() -> None:
    offered_local = selectors("10.2.1.5[udp/53]", "10.2.0.0/16")
    offered_remote = selectors("10.1.0.9[udp/999]", "10.1.0.0/16")
    choice = choose(offered_local, offered_remote, flows())
    assert choice is not None
    assert choice.flow == 1
    assert choice.local == selectors("10.2.1.5[udp/53]", "10.2.1.0/24")[1:]
    assert choice.additional, "other flows would have taken other parts"


def test_without_first_choices_the_flow_that_takes_all_wins_then_the_first() -> None:
    choice = choose(selectors("10.2.1.0/25"), selectors("10.1.0.0/16"), flows())
    assert choice is not None
    assert (choice.flow, choice.additional) == (1, False)
    choice = choose(selectors("10.2.0.0/16"), selectors("10.1.0.0/16"), flows())
    assert choice is not None
    assert (choice.flow, choice.additional) == (0, True)
    assert choose(selectors("10.3.0.0/16"), selectors("10.1.0.0/16"), flows()) is None


def test_an_answer_outside_of_the_offer_is_not_within() -> None:
    offer = (
        selectors("10.1.0.0/25", "10.1.0.128/25"),
        selectors("10.2.0.0/16[tcp/0-79]", "10.2.0.0/16[tcp/80-65535]"),
    )
    assert within(*offer, selectors("10.1.0.0/24"), selectors("10.2.0.0/16[tcp]"))
    assert not within(*offer, selectors("10.1.0.0/23"), selectors("10.2.0.0/16[tcp]"))
    assert not within(*offer, selectors("10.1.0.0/24"), selectors("10.2.0.0/16"))
    assert not within(*offer, (), selectors("10.2.0.0/16[tcp]"))


def selectors(*texts: str) -> tuple[TrafficSelector, ...]:
    made = []
    for text in texts:
        one = parse_selector(text)
        assert isinstance(one, TrafficSelector)
        made.append(one)
    return tuple(made)
