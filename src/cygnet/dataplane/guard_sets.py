"""Ordered policy rules compiled to sets of disjoint boxes, which is what nftables can look up.

nftables has no first match over overlapping ranges, so order becomes levels: a rule stands one level below
every earlier rule of another action that it overlaps, and levels are asked in turn. In one level and one
action order does not matter, so boxes inside others are dropped and overlapping ones are cut apart.
Rules that cannot change an outcome (a bypass with nothing behind it that it overlaps) are left out.

What a set's key holds is its shape. Few rules name ports, and packets without visible ports must still
meet those that do not, so a rule goes into the narrowest shape that says it. What policies are mostly made
of, prefixes and single ports, is hashed under masks; only the rest is looked up as ranges.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from cygnet.policy import names
from cygnet.policy.selectors import (
    ANY_PROTOCOL,
    PORT_MAX,
    PORT_MIN,
    TrafficSelector,
    intersect_protocols,
    is_any_port,
    is_opaque,
    prefixes,
)
from cygnet.policy.spd import Action, Policy, PolicyRule

MAX_CUTS = 16
"""Pieces that a box is cut into to fit beside others of its set; more, and it goes into a set of its own."""
MAX_SETS = 4
"""Sets of one level, action and shape; the last takes what is left, in as many pieces as it needs."""

MAX_HASHED = 6
"""Sets by masks of one family, level, action and shape: each is a lookup for every packet."""
MANY, MAX_HASHED_IF_MANY = 256, 24
"""So many boxes that come at once with the same masks get a set of their own all the same: among ranges they
would cost more."""

Span = tuple[int, int]
Spans = tuple[Span, Span, Span, Span, Span]


class Shape(IntEnum):
    """The fields of a key. Addresses are in all of them."""

    ADDRESSES = 0
    PROTOCOL = 1
    PORTS = 2
    TYPE = 3
    """ICMP type * 256 + code: the first two octets of the header, where others have the source port."""
    FRAGMENT = 4
    """Like PROTOCOL, for later fragments only: rules with OPAQUE ports (RFC 4301, section 4.4.1.1)."""


class Box(NamedTuple):
    """`spans`: remote address, local address, protocol, local port, remote port; those that the shape
    lacks hold everything. Of TYPE the remote port is the type."""

    family: int
    shape: Shape
    action: Action
    spans: Spans
    masks: tuple[int, ...]
    """The spans' prefix lengths, if all are blocks that a prefix describes and an address is among them; else
    empty."""


class SetKey(NamedTuple):
    """A set of boxes of one action. Sets of a family are asked by level; in one level order does not matter.

    `masks` empty: any boxes, disjoint; the kernel's time grows with their number (pipapo), slowly for
    addresses and fast for port ranges. Else the boxes are blocks that all have these prefix lengths, in
    the order of spans, and the kernel hashes what is left of a packet under the masks.
    """

    family: int
    level: int
    action: Action
    shape: Shape
    number: int
    masks: tuple[int, ...] = ()


_ANY_PORTS: Span = (PORT_MIN, PORT_MAX)
_ANY_PROTOCOLS: Span = (0, 255)


@dataclass(slots=True)
class Change:
    """Of one set: boxes that come and boxes that go."""

    added: list[Spans] = field(default_factory=list)
    removed: list[Spans] = field(default_factory=list)


class Compiler:
    """Keeps the sets of a changing policy: a change costs what it overlaps, not what there is.

    Boxes that overlap, directly or by way of others, are a component; only components that a change
    touches are compiled again.
    """

    def __init__(self, default: Action = Action.BYPASS) -> None:
        """`default`: what happens to packets that no rule matches."""
        self._default = default
        self._boxes: dict[int, Box] = {}
        self._rank: dict[int, tuple[int, int, int]] = {}
        self._of_policy: dict[int, list[int]] = {}
        self._neighbours: dict[int, set[int]] = {}
        self._placed: dict[int, list[tuple[SetKey, Spans]]] = {}
        self._overlaps = {4: Overlaps(32), 6: Overlaps(128)}
        self._new: dict[int, None] = {}
        self._dirty: set[int] = set()
        self._gone: list[tuple[SetKey, Spans]] = []
        self._next = 0
        self._hashed: defaultdict[tuple[int, int, Action, Shape], set[tuple[int, ...]]] = defaultdict(set)

    def put(self, policy: Policy) -> None:
        """In place of what had the same id."""
        if policy.id in self._of_policy:
            self.remove(policy.id)
        made = self._of_policy[policy.id] = []
        for place, rule in enumerate(policy.rules):
            for box in boxes_of(rule):
                self._next += 1
                self._boxes[self._next] = box
                self._rank[self._next] = policy.priority, policy.id, place
                made.append(self._next)
        self._new.update(dict.fromkeys(made))

    def remove(self, policy: int) -> None:
        """Nothing happens if there is none."""
        for one in self._of_policy.pop(policy, ()):
            box = self._boxes.pop(one)
            del self._rank[one]
            if one in self._new:
                del self._new[one]
                continue
            self._overlaps[box.family].discard(one, box.spans[0])
            for other in self._neighbours.pop(one, ()):
                self._neighbours[other].discard(one)
                self._dirty.add(other)
            self._dirty.discard(one)
            self._gone += self._placed.pop(one, ())

    def changes(self) -> dict[SetKey, Change]:
        """What has to change in the sets since the last call."""
        self._take_in_new()
        found: defaultdict[SetKey, Change] = defaultdict(Change)
        for key, spans in self._gone:
            found[key].removed.append(spans)
        self._gone = []
        self._choose_hashed()
        while self._dirty:
            one = self._dirty.pop()
            if self._neighbours.get(one):
                component = self._component(one)
                self._dirty -= component
                placements = self._compile(component)
                for member in component:
                    self._place(member, placements.get(member, []), found)
            else:
                self._place(one, self._alone(one), found)
        return _without_what_stays(found)

    def _place(self, one: int, after: list[tuple[SetKey, Spans]], found: defaultdict[SetKey, Change]) -> None:
        before = self._placed.get(one, ())
        if before != after:
            for key, spans in before:
                found[key].removed.append(spans)
            for key, spans in after:
                found[key].added.append(spans)
            self._placed[one] = after

    def start_over(self) -> None:
        """The sets were lost: the next changes make them from nothing."""
        self._hashed.clear()
        self._placed.clear()
        self._gone.clear()
        self._dirty.update(self._boxes)

    def _take_in_new(self) -> None:
        new, self._new = self._new, {}
        for one in new:
            box = self._boxes[one]
            self._overlaps[box.family].add(one, box.spans[0])
        for one in new:
            box = self._boxes[one]
            meeting = self._overlaps[box.family].meeting(box.spans[0])
            if len(meeting) > 1:
                for other in meeting:
                    if other != one and _meet(box, self._boxes[other]):
                        self._neighbours.setdefault(one, set()).add(other)
                        self._neighbours.setdefault(other, set()).add(one)
        self._dirty.update(new)

    def _component(self, start: int) -> set[int]:
        found, waiting = {start}, [start]
        while waiting:
            for other in self._neighbours.get(waiting.pop(), ()):
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        return found

    def _choose_hashed(self) -> None:
        """What many new boxes have in common comes first to sets of its own."""
        if len(self._dirty) >= MANY:
            boxes = (self._boxes[one] for one in self._dirty)
            common = Counter((box.family, box.action, box.shape, box.masks) for box in boxes)
            for (family, action, shape, masks), count in common.most_common(MAX_HASHED_IF_MANY):
                if masks and count >= MANY:
                    self._hashed[family, 0, action, shape].add(masks)

    def _hashed_masks(self, box: Box, level: int) -> tuple[int, ...]:
        """Empty: the box goes to a set of ranges."""
        masks = box.masks
        if masks:
            chosen = self._hashed[box.family, level, box.action, box.shape]
            if masks in chosen:
                return masks
            if len(chosen) < MAX_HASHED:
                chosen.add(masks)
                return masks
        return ()

    def _alone(self, one: int) -> list[tuple[SetKey, Spans]]:
        box = self._boxes[one]
        if box.action == self._default:
            return []
        masks = self._hashed_masks(box, 0)
        return [(SetKey(box.family, 0, box.action, box.shape, 0, masks), box.spans)]

    def _compile(self, component: set[int]) -> dict[int, list[tuple[SetKey, Spans]]]:
        order = sorted(component, key=lambda one: (self._rank[one], one))
        levels: dict[int, int] = {}
        rank = {one: place for place, one in enumerate(order)}
        for one in order:
            box, neighbours = self._boxes[one], self._neighbours[one]
            if box.action == self._default and not any(
                rank[other] > rank[one] and self._boxes[other].action != self._default for other in neighbours
            ):
                continue  # it changes no outcome
            level = 0
            for other in neighbours:
                if rank[other] < rank[one] and other in levels:
                    level = max(level, levels[other] + (self._boxes[other].action != box.action))
            levels[one] = level
        return self._placements(levels)

    def _placements(self, levels: dict[int, int]) -> dict[int, list[tuple[SetKey, Spans]]]:
        """Where each box stands. Larger ones come first: what lies within them falls away."""
        placed: dict[int, list[tuple[SetKey, Spans]]] = {}
        for one in sorted(levels, key=lambda one: (-_size(self._boxes[one]), one)):
            box, level = self._boxes[one], levels[one]
            beside = [
                found
                for other in self._neighbours[one]
                if levels.get(other) == level and self._boxes[other].action == box.action
                for found in placed.get(other, ())
            ]
            # A wider shape's box says something of all packets of a narrower one's.
            if any(key.shape <= box.shape and _holds(taken, box.spans) for key, taken in beside):
                placed[one] = []
            elif masks := self._hashed_masks(box, level):
                placed[one] = [(SetKey(box.family, level, box.action, box.shape, 0, masks), box.spans)]
            else:
                placed[one] = _among_ranges(box, level, beside)
        return placed


def _among_ranges(box: Box, level: int, beside: list[tuple[SetKey, Spans]]) -> list[tuple[SetKey, Spans]]:
    """The box, cut so that it is disjoint from others in a set of ranges."""
    for number in range(MAX_SETS):
        last = number == MAX_SETS - 1
        key = SetKey(box.family, level, box.action, box.shape, number)
        pieces = [box.spans]
        for there, taken in beside:
            if there == key and (last or len(pieces) <= MAX_CUTS):
                pieces = [left for piece in pieces for left in _cut(piece, taken)]
        if last or len(pieces) <= MAX_CUTS:
            break
    return [(key, piece) for piece in pieces]


def masks_of(family: int, spans: Spans) -> tuple[int, ...]:
    """See `Box.masks`."""
    bits = 32 if family == 4 else 128
    remote, local, protocol, local_port, remote_port = spans
    masks = (
        _length(remote, bits),
        _length(local, bits),
        0 if protocol is _ANY_PROTOCOLS else _length(protocol, 8),
        0 if local_port is _ANY_PORTS else _length(local_port, 16),
        0 if remote_port is _ANY_PORTS else _length(remote_port, 16),
    )
    return masks if (masks[0] or masks[1]) and min(masks) >= 0 else ()


def _length(span: Span, width: int) -> int:
    first, last = span
    size = last - first + 1
    return -1 if size & (size - 1) or first & (size - 1) else width + 1 - size.bit_length()


def _without_what_stays(found: dict[SetKey, Change]) -> dict[SetKey, Change]:
    """A box that goes and comes again stays; what is left after that."""
    for change in found.values():
        if change.added and change.removed:
            stays = set(change.added) & set(change.removed)
            change.added = [spans for spans in change.added if spans not in stays]
            change.removed = [spans for spans in change.removed if spans not in stays]
    return {key: change for key, change in found.items() if change.added or change.removed}


class Overlaps:
    """Which of many spans meet a given one: those that hold its start, and those that start within it."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._by_prefix: dict[int, dict[int, set[int]]] = {}
        self._by_start: dict[int, set[int]] = {}
        self._starts: list[int] = []
        self._unsorted = False
        self._unused = 0

    def add(self, one: int, span: Span) -> None:
        for length, key in self._prefixes(span):
            self._by_prefix.setdefault(length, {}).setdefault(key, set()).add(one)
        starting = self._by_start.get(span[0])
        if starting is None:
            self._by_start[span[0]] = {one}
            self._unsorted = self._unsorted or bool(self._starts and self._starts[-1] > span[0])
            self._starts.append(span[0])
        else:
            self._unused -= not starting
            starting.add(one)

    def discard(self, one: int, span: Span) -> None:
        for length, key in self._prefixes(span):
            table = self._by_prefix[length]
            table[key].discard(one)
            if not table[key]:
                del table[key]
                if not table:
                    del self._by_prefix[length]
        starting = self._by_start[span[0]]
        starting.discard(one)
        self._unused += not starting
        if self._unused > len(self._starts) // 2:
            self._by_start = {start: them for start, them in self._by_start.items() if them}
            self._starts = sorted(self._by_start)
            self._unsorted, self._unused = False, 0

    def meeting(self, span: Span) -> set[int]:
        self._sort()
        first, last = span
        found: set[int] = set()
        for length, table in self._by_prefix.items():
            holding = table.get(first >> (self._bits - length))
            if holding:
                found |= holding
        low = bisect_right(self._starts, first)
        high = bisect_right(self._starts, last, low)
        for start in self._starts[low:high]:
            found |= self._by_start[start]
        return found

    def _sort(self) -> None:
        if self._unsorted:
            self._starts.sort()
            self._unsorted = False

    def _prefixes(self, span: Span) -> list[tuple[int, int]]:
        """(length, first address without the rest) of the fewest prefixes."""
        first, last = span
        size = last - first + 1
        if not size & (size - 1) and not first & (size - 1):
            rest = size.bit_length() - 1
            return [(self._bits - rest, first >> rest)]
        selector = TrafficSelector(4 if self._bits == 32 else 6, 0, *span)
        return [(length, first >> (self._bits - length)) for first, length in prefixes(selector)]


def boxes_of(rule: PolicyRule) -> list[Box]:
    """A rule as boxes; none if no packet can match it."""
    local, remote = rule.local, rule.remote
    protocol = intersect_protocols(local.protocol, remote.protocol)
    family = local.family
    if protocol is None or family != remote.family:
        return []
    where = (remote.first, remote.last), (local.first, local.last)
    protocols = (protocol, protocol) if protocol else _ANY_PROTOCOLS

    def box(
        shape: Shape, protocols: Span, local_ports: Span = _ANY_PORTS, remote_ports: Span = _ANY_PORTS
    ) -> Box:
        spans = (*where, protocols, local_ports, remote_ports)
        return Box(family, shape, rule.action, spans, masks_of(family, spans))

    if (is_any_port(local) and is_any_port(remote)) or protocol == names.MOBILITY:
        return [box(Shape.PROTOCOL if protocol else Shape.ADDRESSES, protocols)]
    boxes = []
    types = _types(local, remote, protocol)
    if types is not None:
        icmp = names.ICMP if family == 4 else names.ICMPV6
        if protocol in (ANY_PROTOCOL, icmp):
            boxes.append(box(Shape.TYPE, (icmp, icmp), _ANY_PORTS, types))
    if all(is_opaque(one) or is_any_port(one) for one in (local, remote)):
        shows_none = protocol and protocol not in names.PROTOCOLS_WITH_PORTS | names.PROTOCOLS_WITH_TYPES
        boxes.append(box(Shape.PROTOCOL if shows_none else Shape.FRAGMENT, protocols))
    elif not is_opaque(local) and not is_opaque(remote):
        with_ports = names.PROTOCOLS_WITH_PORTS if protocol == ANY_PROTOCOL else {protocol}
        ports = (local.port_first, local.port_last), (remote.port_first, remote.port_last)
        boxes += [
            box(Shape.PORTS, (one, one), *ports) for one in sorted(with_ports & names.PROTOCOLS_WITH_PORTS)
        ]
    return boxes


def _types(local: TrafficSelector, remote: TrafficSelector, protocol: int) -> Span | None:
    """The ICMP types that may be sent; None if none (RFC 4301, section 4.4.1.3, C and D)."""
    if is_opaque(local) or (is_opaque(remote) and not protocol):
        return None
    if is_opaque(remote):
        return local.port_first, local.port_last
    first, last = max(local.port_first, remote.port_first), min(local.port_last, remote.port_last)
    return (first, last) if first <= last else None


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


# -- boxes ------------------------------------------------------------------------------------------


def _size(box: Box) -> int:
    size = 1
    for first, last in box.spans:
        size *= last - first + 1
    return size


def _holds(outer: Spans, inner: Spans) -> bool:
    return all(low <= first and last <= high for (low, high), (first, last) in zip(outer, inner, strict=True))


def _cut(box: Spans, taken: Spans) -> list[Spans]:
    """What of a box is not taken."""
    pieces: list[Spans] = []
    middle = box
    for place, ((first, last), (low, high)) in enumerate(zip(box, taken, strict=True)):
        if first > high or low > last:
            return [box]
        if first < low:
            pieces.append(_with(middle, place, (first, low - 1)))
        if high < last:
            pieces.append(_with(middle, place, (high + 1, last)))
        middle = _with(middle, place, (max(first, low), min(last, high)))
    return pieces


def _with(spans: Spans, place: int, span: Span) -> Spans:
    changed = [*spans]
    changed[place] = span
    a, b, c, d, e = changed
    return a, b, c, d, e
