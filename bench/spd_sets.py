"""The three sets of policies that lookups are measured on, and packets for them.

  disjoint   pairs of networks that do not overlap, every protocol
  nested     chains of prefixes of 20 lengths around one address, longest first, each with its own ports
  lists      access lists of 20 rules over the same networks, permit and deny in turn, overlapping

One policy holds one rule, so that a set of 100,000 policies has 100,000 rules.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from cygnet.policy.selectors import TrafficSelector
from cygnet.policy.spd import Action, Policy, PolicyRule

TCP, UDP = 6, 17
HUB, HUB_SIZE = 10 << 24, 1 << 24
LENGTHS = 20
LIST_RULES = 20

Packet = tuple[int, int, int, int, int, int]
"""Arguments of `Spd.lookup_outbound`: protocol, local, remote, local port, remote port, family."""


def disjoint(count: int, _: random.Random) -> Iterator[Policy]:
    for number in range(count):
        local, remote = (10 << 24) + (number << 8), (100 << 24) + (number << 8)
        yield _policy(number, Action.PROTECT, side(0, local, 256), side(0, remote, 256))


def nested(count: int, rng: random.Random) -> Iterator[Policy]:
    base = 0
    for number in range(count):
        if number % LENGTHS == 0:
            base = rng.getrandbits(32)
        size = 1 << number % LENGTHS
        protocol, port = rng.choice((TCP, UDP)), rng.choice((53, 80, 443, 8080)) + number % LENGTHS
        remote = TrafficSelector(4, protocol, base & -size, base | size - 1, port, port + number % 100)
        yield _policy(number, Action.PROTECT, side(protocol, HUB, HUB_SIZE), remote)


def lists(count: int, rng: random.Random) -> Iterator[Policy]:
    for number in range(count):
        network = (100 << 24) + (number // LIST_RULES << 12)
        size = rng.choice((64, 256, 1024, 4096))
        first = network + rng.randrange(0, 4096, size)
        if number % 2:
            remote = TrafficSelector(4, TCP, first, first + size - 1, rng.randrange(1000), 2000)
            yield _policy(number, Action.BYPASS, side(TCP, HUB, HUB_SIZE), remote)
        else:
            yield _policy(number, Action.PROTECT, side(0, HUB, HUB_SIZE), side(0, first, size))


SETS: dict[str, Callable[[int, random.Random], Iterator[Policy]]] = {
    "disjoint_pairs": disjoint,
    "nested_prefixes": nested,
    "permit_and_deny": lists,
}


def side(protocol: int, first: int, size: int) -> TrafficSelector:
    return TrafficSelector(4, protocol, first, first + size - 1)


def _policy(number: int, action: Action, local: TrafficSelector, remote: TrafficSelector) -> Policy:
    flow = number + 1 if action is Action.PROTECT else 0
    rules = (PolicyRule(action, local, remote, flow),)
    return Policy(number + 1, f"p{number}", 0, rules, True, None, None)


def packets(policies: list[Policy], count: int, rng: random.Random) -> list[Packet]:
    """Half are aimed at a rule, a quarter miss its local and a quarter its remote side."""
    made = []
    for turn in range(count):
        rule = rng.choice(policies).rules[0]
        local = rng.randint(rule.local.first, rule.local.last)
        remote = rng.randint(rule.remote.first, rule.remote.last)
        if turn % 4 == 1:
            local = rng.getrandbits(32)
        elif turn % 4 == 3:
            remote = rng.getrandbits(32)
        port = rng.choice((rule.remote.port_first, rng.randrange(65536)))
        made.append((rule.remote.protocol or TCP, local, remote, rng.randrange(1024, 65536), port, 4))
    return made
