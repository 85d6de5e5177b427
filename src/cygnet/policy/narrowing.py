"""Narrowing of traffic selectors, both roles (RFC 7296, section 2.9).

A proposal and a policy are both products of two lists, so what both allow is the product of the two
intersections: narrowing a proposal by a policy is exact. The responder narrows and picks the flow that
holds the initiator's first choices; the initiator checks that the answer stays inside its proposal.
Selectors must be concrete here (`selectors.resolve_all`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cygnet.policy.selectors import TrafficSelector, contains, covers, intersect, intersect_protocols
from cygnet.records import dataclass

MAX_SELECTORS = 255
"""Of one traffic selector payload: their number is one octet (RFC 7296, section 3.13)."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """What an SA pair will carry. `whole`: all that was offered, nothing was cut away."""

    initiator: tuple[TrafficSelector, ...]
    responder: tuple[TrafficSelector, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The responder's answer. `additional`: another flow would have taken other parts of the offer.

    `flow` indexes the flows that `choose` was given. `local` is the responder's side.
    """

    flow: int
    local: tuple[TrafficSelector, ...]
    remote: tuple[TrafficSelector, ...]
    additional: bool


def narrow(
    offered_i: Sequence[TrafficSelector],
    offered_r: Sequence[TrafficSelector],
    policy_i: Sequence[TrafficSelector],
    policy_r: Sequence[TrafficSelector],
) -> Narrowed | None:
    """The part of the offer that the policy allows; None if that is nothing (TS_UNACCEPTABLE)."""
    common = _common(offered_i, offered_r, policy_i, policy_r)
    if common is None:
        return None
    initiator, responder = common
    whole = covers(initiator, offered_i) and covers(responder, offered_r)
    return Narrowed(tuple(initiator), tuple(responder), whole)


def _common(
    offered_i: Sequence[TrafficSelector],
    offered_r: Sequence[TrafficSelector],
    policy_i: Sequence[TrafficSelector],
    policy_r: Sequence[TrafficSelector],
) -> tuple[list[TrafficSelector], list[TrafficSelector]] | None:
    initiator = _intersections(offered_i, policy_i)
    responder = _intersections(offered_r, policy_r)
    initiator, responder = _with_partner(initiator, responder), _with_partner(responder, initiator)
    if not initiator or not responder:
        return None
    return initiator[:MAX_SELECTORS], responder[:MAX_SELECTORS]


def choose(
    offered_local: Sequence[TrafficSelector],
    offered_remote: Sequence[TrafficSelector],
    flows: Sequence[tuple[Sequence[TrafficSelector], Sequence[TrafficSelector]]],
) -> Choice | None:
    """Which of our flows (local, remote) a peer's offer is answered with; None: TS_UNACCEPTABLE.

    The first flow that takes the first selector of each side whole, as RFC 7296, 2.9 demands; else
    one that takes the whole offer; else the first that takes a part of both first selectors; else the
    first that takes anything.
    """
    if len(flows) == 1:
        common = _common(offered_local, offered_remote, *flows[0])
        return None if common is None else Choice(0, tuple(common[0]), tuple(common[1]), additional=False)
    found = []
    for index, (local, remote) in enumerate(flows):
        narrowed = narrow(offered_local, offered_remote, local, remote)
        if narrowed is not None:
            first_whole = covers(local, offered_local[:1]) and covers(remote, offered_remote[:1])
            first_part = _meet(local, offered_local[0]) and _meet(remote, offered_remote[0])
            found.append(((not first_whole, not narrowed.whole, not first_part, index), narrowed))
    if not found:
        return None
    key, best = min(found, key=lambda one: one[0])
    additional = not best.whole and len(found) > 1
    return Choice(key[3], best.initiator, best.responder, additional)


def within(
    offered_i: Sequence[TrafficSelector],
    offered_r: Sequence[TrafficSelector],
    answered_i: Sequence[TrafficSelector],
    answered_r: Sequence[TrafficSelector],
) -> bool:
    """The initiator's check: the answer is not empty and a subset of what was offered on both sides.

    Also the responder's check of a rekey: the new SA must not be narrower than the old, so the old
    selectors must lie within the new (RFC 7296, section 2.9.2).
    """
    return (
        bool(answered_i)
        and bool(answered_r)
        and covers(offered_i, answered_i)
        and covers(offered_r, answered_r)
    )


def _intersections(
    offered: Iterable[TrafficSelector], policy: Sequence[TrafficSelector]
) -> list[TrafficSelector]:
    """In the order of the offer, without those inside another."""
    kept: list[TrafficSelector] = []
    for one in offered:
        for allowed in policy:
            common = intersect(one, allowed)
            if common is not None and not any(contains(other, common) for other in kept):
                kept = [other for other in kept if not contains(common, other)]
                kept.append(common)
    return kept


def _with_partner(side: Iterable[TrafficSelector], other: Sequence[TrafficSelector]) -> list[TrafficSelector]:
    """Those that some packet can match together with one of the other side."""
    return [
        one
        for one in side
        if any(
            one.family == partner.family and intersect_protocols(one.protocol, partner.protocol) is not None
            for partner in other
        )
    ]


def _meet(selectors: Iterable[TrafficSelector], one: TrafficSelector) -> bool:
    return any(intersect(other, one) is not None for other in selectors)
