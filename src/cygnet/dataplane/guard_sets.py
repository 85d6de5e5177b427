"""Ordered policy rules compiled to sets of disjoint boxes, which is what nftables can look up.

nftables has no first match over overlapping ranges, so order becomes levels: a rule stands one level below
every earlier rule of another action that it overlaps, and levels are asked in turn. In one level and one
action order does not matter, so boxes inside others are dropped and overlapping ones are cut apart.
Rules that cannot change an outcome (a bypass before nothing that it overlaps) are left out.

What a set's key holds is its shape. Few rules name ports, and packets without visible ports must still
meet those that do not, so a rule goes into the narrowest shape that says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from cygnet.policy import names
from cygnet.policy.selectors import (
    ANY_PROTOCOL,
    PORT_MAX,
    PORT_MIN,
    TrafficSelector,
    intersect_protocols,
    is_any_port,
    is_opaque,
)
from cygnet.policy.spd import Action, Policy, PolicyRule

MAX_CUTS = 16
"""Pieces that a box is cut into to fit beside others of its set; more, and it goes into a set of its own."""
MAX_SETS = 4
"""Sets of one level, action and shape; the last takes what is left, in as many pieces as it needs."""

Span = tuple[int, int]


class Shape(IntEnum):
    """The fields of a key. Addresses are in all of them."""

    ADDRESSES = 0
    PROTOCOL = 1
    PORTS = 2
    TYPE = 3
    """ICMP type * 256 + code: the first two octets of the header, where others have the source port."""
    FRAGMENT = 4
    """Like PROTOCOL, for later fragments only: rules with OPAQUE ports (RFC 4301, section 4.4.1.1)."""


@dataclass(frozen=True, slots=True)
class Box:
    """`spans`: remote address, local address, protocol, local port, remote port; those that the shape
    lacks hold everything. Of TYPE the remote port is the type."""

    family: int
    shape: Shape
    action: Action
    spans: tuple[Span, Span, Span, Span, Span]


@dataclass(slots=True)
class BoxSet:
    """Disjoint boxes of one family, level, action and shape."""

    family: int
    level: int
    action: Action
    shape: Shape
    boxes: list[Box] = field(default_factory=list)


_ANY_PORTS: Span = (PORT_MIN, PORT_MAX)
_ANY_PROTOCOLS: Span = (0, 255)


def compile_sets(policies: Iterable[Policy], default: Action = Action.BYPASS) -> list[BoxSet]:
    """Sets in the order in which they are to be asked; the first that holds a packet decides, else the
    default. Policies may come in any order."""
    boxes = [
        box
        for policy in sorted(policies, key=lambda one: (one.priority, one.id))
        for rule in policy.rules
        for box in boxes_of(rule)
    ]
    earlier = _overlaps(boxes)
    needed = _needed(boxes, earlier, default)
    levels = _levels(boxes, earlier, needed)
    found: dict[tuple[int, int, Action, Shape], list[int]] = {}
    for index, level in levels.items():
        box = boxes[index]
        found.setdefault((box.family, level, box.action, box.shape), []).append(index)
    return [
        made
        for (family, level, action, shape), members in sorted(found.items())
        for made in _disjoint(family, level, action, shape, [boxes[i] for i in members])
    ]


def boxes_of(rule: PolicyRule) -> list[Box]:
    """A rule as boxes; none if no packet can match it."""
    local, remote = rule.local, rule.remote
    protocol = intersect_protocols(local.protocol, remote.protocol)
    if protocol is None or local.family != remote.family:
        return []
    where = (remote.first, remote.last), (local.first, local.last)
    any_ports = is_any_port(local) and is_any_port(remote)

    def box(
        shape: Shape, number: int, local_ports: Span = _ANY_PORTS, remote_ports: Span = _ANY_PORTS
    ) -> Box:
        protocols = (number, number) if number else _ANY_PROTOCOLS
        return Box(local.family, shape, rule.action, (*where, protocols, local_ports, remote_ports))

    if any_ports or protocol == names.MOBILITY:
        return [box(Shape.PROTOCOL if protocol else Shape.ADDRESSES, protocol)]
    boxes = []
    types = _types(local, remote)
    if types is not None:
        icmp = names.ICMP if local.family == 4 else names.ICMPV6
        if protocol in (ANY_PROTOCOL, icmp):
            boxes.append(box(Shape.TYPE, icmp, _ANY_PORTS, types))
    if all(is_opaque(one) or is_any_port(one) for one in (local, remote)):
        boxes.append(box(Shape.FRAGMENT, protocol))
    elif not is_opaque(local) and not is_opaque(remote):
        with_ports = names.PROTOCOLS_WITH_PORTS if protocol == ANY_PROTOCOL else {protocol}
        boxes += [
            box(Shape.PORTS, one, (local.port_first, local.port_last), (remote.port_first, remote.port_last))
            for one in sorted(with_ports & names.PROTOCOLS_WITH_PORTS)
        ]
    return boxes


def _types(local: TrafficSelector, remote: TrafficSelector) -> Span | None:
    """The ICMP types that may be sent; None if none (RFC 4301, section 4.4.1.3, C and D)."""
    if is_opaque(local):
        return None
    if is_opaque(remote):
        return local.port_first, local.port_last
    first, last = max(local.port_first, remote.port_first), min(local.port_last, remote.port_last)
    return (first, last) if first <= last else None


# -- order ----------------------------------------------------------------------------------------


def _meet(a: Box, b: Box) -> bool:
    """Can one packet match both? Remote addresses are known to meet."""
    for (a_first, a_last), (b_first, b_last) in zip(a.spans[1:], b.spans[1:], strict=True):
        if a_first > b_last or b_first > a_last:
            return False
    if a.shape is b.shape:
        return True
    # ICMP types and ports are different fields, and a later fragment shows neither.
    apart = {Shape.PORTS: {Shape.TYPE, Shape.FRAGMENT}, Shape.TYPE: {Shape.PORTS, Shape.FRAGMENT}}
    return b.shape not in apart.get(a.shape, ()) and a.shape not in apart.get(b.shape, ())


def _overlaps(boxes: Sequence[Box]) -> dict[int, list[int]]:
    """For each box those before it that it meets; a sweep over remote addresses."""
    earlier: dict[int, list[int]] = {}
    order = sorted(range(len(boxes)), key=lambda i: (boxes[i].family, boxes[i].spans[0][0]))
    active: list[int] = []
    family = 0
    for index in order:
        box = boxes[index]
        if box.family != family:
            family, active = box.family, []
        first = box.spans[0][0]
        active = [i for i in active if boxes[i].spans[0][1] >= first]
        for other in active:
            if _meet(box, boxes[other]):
                low, high = (index, other) if index < other else (other, index)
                earlier.setdefault(high, []).append(low)
        active.append(index)
    return earlier


def _needed(boxes: Sequence[Box], earlier: dict[int, list[int]], default: Action) -> set[int]:
    """Boxes whose action is not the default, and those of the default action that come before such a one."""
    needed = {index for index, box in enumerate(boxes) if box.action != default}
    needed |= {
        index
        for later, indexes in earlier.items()
        if boxes[later].action != default
        for index in indexes
        if boxes[index].action == default
    }
    return needed


def _levels(boxes: Sequence[Box], earlier: dict[int, list[int]], needed: set[int]) -> dict[int, int]:
    levels: dict[int, int] = {}
    for index in sorted(needed):
        box = boxes[index]
        level = 0
        for other in earlier.get(index, ()):
            if other in levels:
                level = max(level, levels[other] + (boxes[other].action != box.action))
        levels[index] = level
    return levels


# -- disjointness -----------------------------------------------------------------------------------


def _disjoint(family: int, level: int, action: Action, shape: Shape, boxes: list[Box]) -> list[BoxSet]:
    """The same union as disjoint boxes, in as few sets as cutting allows. Larger ones first: what lies
    within them falls away."""
    boxes = sorted(set(boxes), key=_size, reverse=True)
    earlier = _overlaps(boxes)
    sets: list[BoxSet] = []
    placed: list[dict[int, list[Box]]] = []
    for index, box in enumerate(boxes):
        for number in range(MAX_SETS):
            if number == len(sets):
                sets.append(BoxSet(family, level, action, shape))
                placed.append({})
            pieces = [box]
            for other in earlier.get(index, ()):
                for there in placed[number].get(other, ()):
                    pieces = [left for piece in pieces for left in _cut(piece, there)]
                if len(pieces) > MAX_CUTS and number < MAX_SETS - 1:
                    break
            if len(pieces) <= MAX_CUTS or number == MAX_SETS - 1:
                sets[number].boxes += pieces
                placed[number][index] = pieces
                break
    return sets


def _size(box: Box) -> int:
    size = 1
    for first, last in box.spans:
        size *= last - first + 1
    return size


def _cut(box: Box, taken: Box) -> list[Box]:
    """What of the box is not taken."""
    pieces = []
    spans = list(box.spans)
    for place, ((first, last), (low, high)) in enumerate(zip(box.spans, taken.spans, strict=True)):
        if first > high or low > last:
            return [box]
        if first < low:
            pieces.append(_with(box, spans, place, (first, low - 1)))
        if high < last:
            pieces.append(_with(box, spans, place, (high + 1, last)))
        spans[place] = max(first, low), min(last, high)
    return pieces


def _with(box: Box, spans: list[Span], place: int, span: Span) -> Box:
    a, b, c, d, e = [*spans[:place], span, *spans[place + 1 :]]
    return Box(box.family, box.shape, box.action, (a, b, c, d, e))


def merged_ranges(spans: Iterable[Span]) -> list[Span]:
    """Touching and overlapping ranges joined, ascending."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged
