"""What is never a tunnel's, whatever the rules say, as the kernel's selectors.

- Link scope: what cannot cross a router. Groups and addresses of the link say it themselves; discovery of
  neighbours (RFC 4861) has any addresses, so where it is forwarded, which no honest host needs, it is
  dropped.
- This machine's talk with itself: the kernel exempts its loopback device for IPv4 alone, so for IPv6 each own
  address has a policy towards itself.
- With `default_action = discard`: what says "packet too big".
"""

from __future__ import annotations

from collections.abc import Iterator

from cygnet.dataplane.xfrm.codec import FORWARD, IN, OUT, Selector
from cygnet.dataplane.xfrm.rules import DIRECTIONS
from cygnet.policy.names import ICMP, ICMPV6
from cygnet.policy.selectors import TrafficSelector, everything
from cygnet.policy.spd import Action, PolicyRule

MAX_OWN = 256
"""Own addresses of IPv6 that get a policy."""
LOOPBACK = 1


def _span(family: int, first: int, length: int) -> TrafficSelector:
    rest = (1 << (32 if family == 4 else 128) - length) - 1
    return TrafficSelector(family, 0, first, first | rest)


_GROUPS = {
    4: [(0xE0000000, 24), (0xFFFFFFFF, 32)],
    6: [(0xFE80 << 112, 10), (0xFF01 << 112, 16), (0xFF02 << 112, 16)],
}
DISCOVERY = range(133, 138)
SAYING_TOO_BIG = (
    Selector(
        4, protocol=ICMP, source_port=3, source_mask=0xFFFF, destination_port=4, destination_mask=0xFFFF
    ),
    Selector(6, protocol=ICMPV6, source_port=2, source_mask=0xFFFF),
)


def touches_link_scope(rule: PolicyRule) -> bool:
    family = rule.remote.family
    ranges = [_span(family, *one) for one in _GROUPS[family]]
    ranges += [] if family == 4 else [everything(6)] if rule.remote.protocol in (0, ICMPV6) else []
    return any(
        side.first <= one.last and one.first <= side.last
        for side in (rule.local, rule.remote)
        for one in ranges
    )


def link_scope(family: int) -> Iterator[tuple[Selector, int, Action]]:
    """Selector, direction, and what becomes of it."""
    for direction in DIRECTIONS:
        for first, length in _GROUPS[family]:
            yield Selector(family, destination=first, destination_length=length), direction, Action.BYPASS
        if family == 6:
            first, length = _GROUPS[6][0]
            yield Selector(6, source=first, source_length=length), direction, Action.BYPASS
            action = Action.DISCARD if direction == FORWARD else Action.BYPASS
            for kind in DISCOVERY:
                yield Selector(6, protocol=ICMPV6, source_port=kind, source_mask=0xFFFF), direction, action


def to_itself(address: int) -> Iterator[tuple[Selector, int]]:
    """An own address of IPv6, as seen by a packet that stays inside."""
    for direction in (IN, OUT):
        yield Selector(6, address, 128, address, 128), direction
