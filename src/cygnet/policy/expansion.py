"""Access lists and traffic selectors expanded to flows (what IKE negotiates) and rules (enforced here).

The rules are the list itself, in order: first match decides. The flows are what a peer may be told, which
is a product of two lists (RFC 7296, 2.9), so each permit is decorrelated first (RFC 4301, appendix B): what
earlier rules took is cut out of it. The cut is again a product only if the earlier rule covers one side
of the permit wholly; otherwise, or if more than `MAX_FLOW_SELECTORS` ranges came out, the peer is told
the permit as it was written, the earlier rule holds on this side alone, and a note says so.

ICMP types are one field for both sides: they are cut on the destination side, and the source side gets
all that remain.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

from cygnet.policy import names
from cygnet.policy.access_list import AccessList, AccessRule, sides
from cygnet.policy.selectors import (
    ANY_PROTOCOL,
    PORT_MAX,
    PORT_MIN,
    AnySelector,
    TooManyPieces,
    TrafficSelector,
    covers,
    intersect,
    intersect_protocols,
    is_any_port,
    merge,
    subtract_all,
)
from cygnet.policy.spd import Action, ChildRule, Flow

MAX_FLOW_SELECTORS = 64
"""Of one side of a flow: what one traffic selector payload carries."""

MAX_RULE_PAIRS = 4096
"""Of one rule: its source ranges times its destination ranges, each a pair that is enforced."""

MAX_CHILD_RULES = 2048
"""Of a whole list: what one message to the data plane holds, in IPv6."""

MAX_RULES = 2 * MAX_CHILD_RULES
"""Of a whole list, those too that never match: what is looked at to find that out."""

_Side = tuple[TrafficSelector, ...]


class TooManyRanges(ValueError):
    """A rule needs more pairs of ranges than `MAX_RULE_PAIRS`, or a list more than `MAX_CHILD_RULES`."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """`notes` are sentences for the log: where the peer is told something else than the list says."""

    flows: tuple[Flow, ...]
    rules: tuple[ChildRule, ...]
    notes: tuple[str, ...] = ()


def from_selectors(
    local: Sequence[AnySelector], remote: Sequence[AnySelector], action: Action = Action.PROTECT
) -> Expansion:
    """A child that was given traffic selectors: one flow, and each pair that a packet can match a rule.

    BYPASS and DISCARD (swanctl's modes `pass` and `drop`) have rules without a flow.
    """
    flow = 0 if action is Action.PROTECT else -1
    rules = tuple(
        ChildRule(action, mine, theirs, flow)
        for mine in local
        for theirs in remote
        if _can_pair(mine, theirs)
    )
    flows = (Flow(tuple(local), tuple(remote)),) if action is Action.PROTECT else ()
    return Expansion(flows, rules)


def expand(acl: AccessList, per_rule: bool) -> Expansion:
    """`per_rule`: each permit is a flow of its own; else all of the list share one (`aggregate`).

    A permit that earlier rules take whole has no flow. Raises TooManyRanges.
    """
    if len(acl.rules) > MAX_RULES:
        raise TooManyRanges(
            f"it has {len(acl.rules)} rules; at most {MAX_RULES} are allowed, and {MAX_CHILD_RULES} pairs of"
            " ranges: divide it among several children"
        )
    earlier = _Earlier(acl)
    expansion = _expand_per_rule(acl, earlier) if per_rule else _expand_aggregate(acl, earlier)
    _not_too_many(expansion.rules)
    return expansion


def _not_too_many(rules: Sequence[ChildRule]) -> None:
    if len(rules) > MAX_CHILD_RULES:
        raise TooManyRanges(
            f"at most {MAX_CHILD_RULES} pairs of ranges are allowed in the list of one child, and it comes to"
            " more: divide it among several"
        )


def _expand_per_rule(acl: AccessList, earlier: _Earlier) -> Expansion:
    flows: list[Flow] = []
    rules: list[ChildRule] = []
    notes: list[str] = []
    for place, rule in enumerate(acl.rules):
        flow = -1
        if rule.permit:
            told = _decorrelate(rule, earlier.meeting(place), f"{acl.name}/{rule.number}", notes)
            if told is not None:
                flow = len(flows)
                flows.append(Flow(*told, rule=f"{acl.name}/{rule.number}"))
        if flow >= 0 or not rule.permit:
            rules += _child_rules(acl, rule, flow)
            _not_too_many(rules)
    return Expansion(tuple(flows), tuple(rules), tuple(notes))


def _expand_aggregate(acl: AccessList, earlier: _Earlier) -> Expansion:
    rules: list[ChildRule] = []
    notes: list[str] = []
    local: list[TrafficSelector] = []
    remote: list[TrafficSelector] = []
    permits = []
    for place, rule in enumerate(acl.rules):
        if not rule.permit:
            rules += _child_rules(acl, rule, -1)
            _not_too_many(rules)
            continue
        denied = [one for one in earlier.meeting(place) if not one[0].permit]
        told = _decorrelate(rule, denied, f"{acl.name}/{rule.number}", notes)
        if told is not None:
            permits.append(rule.number)
            local += told[0]
            remote += told[1]
            rules += _child_rules(acl, rule, 0)
            _not_too_many(rules)
    if not permits:
        return Expansion((), tuple(rules), tuple(notes))
    told = _bounded(merge(local), merge(remote), acl.name, notes)
    if len(permits) > 1 and not _same_side(acl, set(permits)):
        notes.append(
            f"{acl.name}: one SA for all rules lets the peer send between any source and any destination "
            "of them; what no rule permits is dropped here"
        )
    return Expansion((Flow(*told, rule=acl.name),), tuple(rules), tuple(notes))


def _same_side(acl: AccessList, permits: Set[int]) -> bool:
    """Do all permits share one side, so that the product of the unions is the union of the products?"""
    pairs = [sides(rule) for rule in acl.rules if rule.number in permits]
    return len({pair[0] for pair in pairs}) == 1 or len({pair[1] for pair in pairs}) == 1


def _child_rules(acl: AccessList, rule: AccessRule, flow: int) -> list[ChildRule]:
    action = Action.PROTECT if rule.permit else Action.BYPASS
    source, destination = sides(rule)
    if len(source) * len(destination) > MAX_RULE_PAIRS:
        raise TooManyRanges(
            f"{acl.name}/{rule.number}: {len(source)} source ranges times {len(destination)} destination "
            f"ranges; at most {MAX_RULE_PAIRS} pairs are allowed"
        )
    return [
        ChildRule(action, mine, theirs, flow)
        for mine in source
        for theirs in destination
        if mine.family == theirs.family
    ]


def _can_pair(a: AnySelector, b: AnySelector) -> bool:
    if isinstance(a, TrafficSelector) and isinstance(b, TrafficSelector) and a.family != b.family:
        return False
    return intersect_protocols(a.protocol, b.protocol) is not None


# -- decorrelation ----------------------------------------------------------------------------------


class _Earlier:
    """The rules of a list as boxes of numbers: which earlier ones may meet a rule is asked of all at once,
    for looking at each in turn takes longest of all. Sets of rules are the bits of a number."""

    def __init__(self, acl: AccessList) -> None:
        self._rules = [(rule, _without_source_types(*sides(rule))) for rule in acl.rules]
        self._boxes = [_box(*taken) for _, taken in self._rules]
        self._dimensions = [_Dimension(spans) for spans in zip(*self._boxes, strict=True)]

    def meeting(self, place: int) -> Iterator[tuple[AccessRule, tuple[_Side, _Side]]]:
        """Rules before this one that may match what it matches, with their sides, in order; no others do."""
        found = (1 << place) - 1
        for dimension, (first, last) in zip(self._dimensions, self._boxes[place], strict=True):
            found &= dimension.meeting(first, last)
        while found:
            yield self._rules[(found & -found).bit_length() - 1]
            found &= found - 1


class _Dimension:
    """Spans of numbers, each a bit in the order given."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self._firsts, self._begun = _gathered([first for first, _ in spans])
        self._lasts, self._ended = _gathered([last for _, last in spans])
        self._all = self._begun[-1]

    def meeting(self, first: int, last: int) -> int:
        begun = self._begun[bisect_right(self._firsts, last)]
        return begun & (self._all ^ self._ended[bisect_left(self._lasts, first)])


def _gathered(ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """The numbers in order, and for each count of the smallest of them the bits of those."""
    order = sorted(range(len(ends)), key=ends.__getitem__)
    bits, gathered = [0], 0
    for place in order:
        gathered |= 1 << place
        bits.append(gathered)
    return [ends[place] for place in order], bits


def _box(source: _Side, destination: _Side) -> list[tuple[int, int]]:
    """First and last of addresses, protocols and ports, of all that a rule matches."""
    box = []
    for side in (source, destination):
        box.append(
            (
                min(one.family << 128 | one.first for one in side),
                max(one.family << 128 | one.last for one in side),
            )
        )
        # Ports in the wrong order say that a packet shows none (RFC 7296, section 3.13.1).
        plain = all(one.port_first <= one.port_last for one in side)
        box.append(
            (min(one.port_first for one in side), max(one.port_last for one in side))
            if plain
            else (PORT_MIN, PORT_MAX)
        )
        any_protocol = any(one.protocol == ANY_PROTOCOL for one in side)
        protocols = [0, 255] if any_protocol else [one.protocol for one in side]
        box.append((min(protocols), max(protocols)))
    return box


def _decorrelate(
    rule: AccessRule, earlier: Iterable[tuple[AccessRule, tuple[_Side, _Side]]], name: str, notes: list[str]
) -> tuple[_Side, _Side] | None:
    """What is told of a permit after what earlier rules take; None if they take all of it."""
    whole = sides(rule)
    left: tuple[_Side, _Side] | None = _without_source_types(*whole)
    for other, taken in earlier:
        for family in (4, 6):
            left = _cut(left, _of_family(taken, family))
            if left is None:
                notes.append(
                    f"{name}: the peer is told the whole rule, because rule {other.number} cannot be cut "
                    f"out of it as at most {MAX_FLOW_SELECTORS} ranges a side; it holds on this side alone"
                )
                return _bounded(*whole, name, notes)
            if not left[0] or not left[1]:
                notes.append(f"{name}: never matches, because earlier rules take all of it")
                return None
    return _bounded(*_with_source_types(*left), name, notes) if left else None


def _cut(left: tuple[_Side, _Side] | None, taken: tuple[_Side, _Side]) -> tuple[_Side, _Side] | None:
    """A product without another one, None where that is no product of at most so many ranges."""
    if left is None:
        return None
    mine, theirs = left
    if not (_meet(mine, taken[0]) and _meet(theirs, taken[1])):
        return left
    try:
        if covers(taken[0], _common(mine, taken[0])):
            return mine, _limited(subtract_all(theirs, taken[1], MAX_FLOW_SELECTORS * 8))
        if covers(taken[1], _common(theirs, taken[1])):
            return _limited(subtract_all(mine, taken[0], MAX_FLOW_SELECTORS * 8)), theirs
    except TooManyPieces:
        pass
    return None


def _limited(selectors: Iterable[TrafficSelector]) -> _Side:
    merged = merge(selectors)
    if len(merged) > MAX_FLOW_SELECTORS:
        raise TooManyPieces
    return merged


def _meet(a: _Side, b: _Side) -> bool:
    return any(intersect(one, other) is not None for one in a for other in b)


def _common(side: _Side, taken: _Side) -> list[TrafficSelector]:
    """`side` narrowed to the family and protocol of `taken`: what the taken rule would have to cover."""
    protocol, family = taken[0].protocol, taken[0].family
    return [
        one if protocol == ANY_PROTOCOL else replace(one, protocol=protocol)
        for one in side
        if one.family == family and (one.protocol in (ANY_PROTOCOL, protocol) or protocol == ANY_PROTOCOL)
    ]


def _of_family(pair: tuple[_Side, _Side], family: int) -> tuple[_Side, _Side]:
    source, destination = pair
    return (
        tuple(one for one in source if one.family == family),
        tuple(one for one in destination if one.family == family),
    )


def _without_source_types(source: _Side, destination: _Side) -> tuple[_Side, _Side]:
    return (
        tuple(
            replace(one, port_first=PORT_MIN, port_last=PORT_MAX)
            if one.protocol in names.PROTOCOLS_WITH_TYPES
            else one
            for one in source
        ),
        destination,
    )


def _with_source_types(source: _Side, destination: _Side) -> tuple[_Side, _Side]:
    """The inverse: the source side lists the types that the destination side has."""
    types: dict[int, list[tuple[int, int]]] = {}
    for one in destination:
        spans = types.setdefault(one.protocol, [])
        if (one.port_first, one.port_last) not in spans:
            spans.append((one.port_first, one.port_last))
    widened = []
    for one in source:
        if one.protocol in names.PROTOCOLS_WITH_TYPES and is_any_port(one):
            spans = types.get(one.protocol, [])
            widened += [replace(one, port_first=first, port_last=last) for first, last in spans]
        else:
            widened.append(one)
    return merge(widened), destination


def _bounded(source: _Side, destination: _Side, name: str, notes: list[str]) -> tuple[_Side, _Side]:
    bounded = _cover(source, MAX_FLOW_SELECTORS), _cover(destination, MAX_FLOW_SELECTORS)
    if bounded != (source, destination):
        notes.append(
            f"{name}: more than {MAX_FLOW_SELECTORS} ranges a side, so the peer is told wider ones; "
            "what no rule permits is dropped here"
        )
    return bounded


def _cover(selectors: _Side, limit: int) -> _Side:
    """The selectors if they are few enough; else wider ones: the span of all addresses with the same
    protocol and ports, then with all ports, then with every protocol."""
    if len(selectors) <= limit:
        return selectors
    alike: dict[tuple[int, int, int, int], list[TrafficSelector]] = {}
    for one in selectors:
        alike.setdefault((one.family, one.protocol, one.port_first, one.port_last), []).append(one)
    spans = tuple(
        replace(group[0], first=min(one.first for one in group), last=max(one.last for one in group))
        for group in alike.values()
    )
    if len(spans) > limit and not all(is_any_port(one) for one in spans):
        return _cover(tuple(replace(one, port_first=PORT_MIN, port_last=PORT_MAX) for one in spans), limit)
    if len(spans) > limit:
        return _cover(tuple(replace(one, protocol=ANY_PROTOCOL) for one in spans), limit)
    return merge(spans)
