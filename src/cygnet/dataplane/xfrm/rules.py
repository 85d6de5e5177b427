"""Rules of an access list as the kernel's selectors, and their place in the kernel's order.

The kernel's selector is a pair of prefixes with ports under masks; a rule has ranges. So a range of addresses
becomes its prefixes, a range of ports the fewest values under masks, and a rule the product. For ICMP and the
mobility header one field, type and code, takes the place of both ports: the kernel has the type where the
source port is and the code where the destination port is, in either direction.

Order: the kernel takes the policy with the lowest priority number, and knows two policies of one direction,
selector, mark and interface as the same. So numbers are given out along the order of the SPD with room
between, and of equal selectors only the first rule's is installed, for the others are never reached.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from cygnet.dataplane.nftables import KernelError
from cygnet.dataplane.xfrm.codec import FORWARD, IN, OUT, Selector
from cygnet.policy.names import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, PROTOCOLS_WITH_TYPES
from cygnet.policy.selectors import (
    ANY_PROTOCOL,
    PORT_MAX,
    TrafficSelector,
    intersect_protocols,
    is_any_port,
    is_opaque,
    prefixes,
)
from cygnet.policy.spd import Policy, PolicyRule

MAX_SELECTORS = 4096
"""Of one rule in one direction: beyond that a rule is refused rather than the kernel filled."""
_ALL = 0xFFFF
_MOBILITY = 135
Ports = tuple[int, int]
"""A value under a mask."""


def selectors(rule: PolicyRule) -> list[Selector]:
    """Of what leaves; see `turned`. Empty: no packet can match. Raises KernelError if it takes too many."""
    local, remote = rule.local, rule.remote
    protocol = intersect_protocols(local.protocol, remote.protocol)
    if local.family != remote.family or protocol is None:
        return []
    pairs = [
        (number, own, theirs)
        for number in _protocols(local, remote, protocol)
        for own, theirs in _port_pairs(local, remote, number)
    ]
    sources, destinations = prefixes(local), prefixes(remote)
    if len(pairs) * len(sources) * len(destinations) > MAX_SELECTORS:
        raise KernelError(f"a rule takes more than {MAX_SELECTORS} of the kernel's selectors")
    return [
        Selector(local.family, source, source_length, destination, destination_length, number, *own, *theirs)
        for source, source_length in sources
        for destination, destination_length in destinations
        for number, own, theirs in pairs
    ]


def _protocols(local: TrafficSelector, remote: TrafficSelector, protocol: int) -> list[int]:
    """Those that a rule means, for the kernel compares whatever stands where ports would be. Ports of any
    protocol are those that have some; OPAQUE of any are those that never show one."""
    if protocol != ANY_PROTOCOL or (is_any_port(local) and is_any_port(remote)):
        return [protocol]
    if is_opaque(local) or is_opaque(remote):
        return sorted(set(range(1, 256)) - PROTOCOLS_WITH_PORTS - PROTOCOLS_WITH_TYPES)
    return [*sorted(PROTOCOLS_WITH_PORTS), ICMP if local.family == 4 else ICMPV6]


def turned(selector: Selector) -> Selector:
    """The same flow as it arrives."""
    ports: tuple[int, int, int, int] = (
        selector.destination_port, selector.destination_mask, selector.source_port, selector.source_mask
    )  # fmt: skip
    if selector.protocol in PROTOCOLS_WITH_TYPES:
        ports = (ports[2], ports[3], ports[0], ports[1])
    return Selector(
        selector.family, selector.destination, selector.destination_length, selector.source,
        selector.source_length, selector.protocol, *ports,
    )  # fmt: skip


def directed(selector: Selector, direction: int) -> Selector:
    return selector if direction == OUT else turned(selector)


DIRECTIONS = (OUT, IN, FORWARD)


def _port_pairs(
    local: TrafficSelector, remote: TrafficSelector, protocol: int
) -> Iterator[tuple[Ports, Ports]]:
    if protocol == ANY_PROTOCOL:
        yield (0, 0), (0, 0)
    elif protocol in PROTOCOLS_WITH_TYPES:
        for value, mask in _types(local, remote):
            kind = value >> 8, (mask >> 8 | 0xFF00) if mask >> 8 else 0
            code = (
                (0, 0) if protocol == _MOBILITY else (value & 255, (mask & 255 | 0xFF00) if mask & 255 else 0)
            )
            yield kind, code
    elif protocol in PROTOCOLS_WITH_PORTS:
        for own in _masked(local):
            for theirs in _masked(remote):
                yield own, theirs
    elif all(is_any_port(side) or is_opaque(side) for side in (local, remote)):
        yield (0, 0), (0, 0)


def _types(local: TrafficSelector, remote: TrafficSelector) -> list[Ports]:
    """Both sides speak of one field; OPAQUE there leaves it to the other (RFC 4301, 4.4.1.3)."""
    if is_opaque(remote):
        return _masked(local)
    if is_opaque(local):
        return _masked(remote)
    first, last = max(local.port_first, remote.port_first), min(local.port_last, remote.port_last)
    return list(masks(first, last)) if first <= last else []


def _masked(side: TrafficSelector) -> list[Ports]:
    if is_any_port(side):
        return [(0, 0)]
    if is_opaque(side):
        return [(0, _ALL)]  # a packet that shows no ports has zeros for the kernel
    return list(masks(side.port_first, side.port_last))


def masks(first: int, last: int) -> Iterator[Ports]:
    """A range of 16-bit numbers as the fewest values under masks."""
    while first <= last:
        size = first & -first or PORT_MAX + 1
        while size > last - first + 1:
            size >>= 1
        yield first, _ALL & ~(size - 1)
        first += size


def of_packet(asked: Selector) -> tuple[TrafficSelector, TrafficSelector]:
    """Of a packet that asked for an SA, as the kernel tells it: our side and the peer's."""
    typed = asked.protocol in PROTOCOLS_WITH_TYPES
    field = (asked.source_port & 255) << 8 | asked.destination_port & 255
    sides = []
    for address, port, mask in (
        (asked.source, asked.source_port, asked.source_mask),
        (asked.destination, asked.destination_port, asked.destination_mask),
    ):
        seen = asked.protocol and (typed or mask == _ALL)
        port = field if typed else port
        ports = (port, port) if seen else (0, PORT_MAX)
        sides.append(TrafficSelector(asked.family, asked.protocol, address, address, *ports))
    return sides[0], sides[1]


# -- order ----------------------------------------------------------------------------------------

Place = tuple[int, int]
"""Of a policy in the SPD: (priority, id)."""
LEFT_BEHIND = (1 << 32) - (1 << 22)
"""From here on are the rules that a former process left and nobody has taken over."""
_MIDDLE, _LAST = 1 << 31, LEFT_BEHIND
_FIRST = 1 << 16
"""Below are the numbers that people give by hand, which shall win."""
_ROOM, _NARROW = 1 << 14, 16


class Order:
    """Numbers for the rules of policies, rising along the SPD. A policy keeps its numbers for as long as
    there is room; `place` says when everybody's have changed."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._bases: dict[Place, int] = {}
        self._spans: dict[Place, int] = {}

    def base(self, place: Place) -> int:
        return self._bases[place]

    def remove(self, policy: Policy) -> None:
        place = policy.priority, policy.id
        if place in self._bases:
            del self._bases[place], self._spans[place]
            self._places.pop(bisect_left(self._places, place))

    def place(self, policy: Policy) -> bool:
        """Give the policy its numbers, as many as it has rules; True if others' have changed."""
        place, span = (policy.priority, policy.id), max(1, len(policy.rules))
        self.remove(policy)
        at = bisect_left(self._places, place)
        before = self._places[at - 1] if at else None
        after = self._places[at] if at < len(self._places) else None
        insort(self._places, place)
        self._spans[place] = span
        if before is None and after is None:
            base = _MIDDLE
        elif before is None and after is not None:
            base = self._bases[after] - span - _ROOM
        elif before is not None:
            end = self._bases[before] + self._spans[before]
            base = end + (_ROOM if after is None else _NARROW)
            if after is not None and base + span > self._bases[after]:
                base = -1
        if base < _FIRST or base + span > _LAST:
            self._spread()
            return True
        self._bases[place] = base
        return False

    def _spread(self) -> None:
        """All numbers anew, with equal room between."""
        total = sum(self._spans.values())
        room = (_LAST - _FIRST - total) // (len(self._places) + 1)
        if room < 1:
            raise KernelError("more rules than the kernel has priorities")
        at = _FIRST + room
        for place in self._places:
            self._bases[place] = at
            at += self._spans[place] + room
