"""The security policy database: which flows are protected, bypassed, discarded (RFC 4301, section 4.4.1).

Ordered: policies by (priority, id), in each its rules in order; the first rule that matches decides, and
where none does, the gateway's default. Inbound packets are judged by the same database with the two
sides exchanged: one that came out of an SA must fall to a PROTECT rule of that SA's flow, one that came
in clear must not fall to PROTECT at all (RFC 4301, section 5.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from cygnet.policy import names
from cygnet.policy.lookup import LOCAL, REMOTE, Entry, Index
from cygnet.policy.selectors import (
    ANY_PROTOCOL,
    NO_PORT,
    PORT_MAX,
    AnySelector,
    IpAddress,
    TrafficSelector,
    intersect_protocols,
    is_any_port,
    is_opaque,
    prefixes,
)


class Action(IntEnum):
    PROTECT = 1
    BYPASS = 2
    DISCARD = 3


@dataclass(frozen=True, slots=True)
class ChildRule:
    """One ordered rule of a child: `flow` is the index into the child's flows for PROTECT, else -1."""

    action: Action
    local: AnySelector
    remote: AnySelector
    flow: int


@dataclass(frozen=True, slots=True)
class Flow:
    """What one Child SA pair carries, as put into TSi and TSr: a product of two lists (RFC 7296, 2.9)."""

    local: tuple[AnySelector, ...]
    remote: tuple[AnySelector, ...]
    rule: str = ""
    """The access list rule it came from, for people: `branch/10`; empty with traffic selectors."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A `ChildRule` in force: concrete selectors, and the endpoint-wide flow id (0 where not PROTECT)."""

    action: Action
    local: TrafficSelector
    remote: TrafficSelector
    flow: int


@dataclass(frozen=True, slots=True)
class Policy:
    """One child of one connection in force. Policies are ordered by (`priority`, `id`), lower first."""

    id: int
    name: str
    priority: int
    rules: tuple[PolicyRule, ...]
    trap: bool
    local: IpAddress | None
    remote: IpAddress | None


class Spd:
    """The policies in force. Lookup time does not grow with their number (policy.lookup)."""

    def __init__(self, default: Action = Action.BYPASS) -> None:
        """`default` is what happens to a packet that no rule matches: BYPASS or DISCARD."""
        self._default = (default, 0)
        self._policies: dict[int, Policy] = {}
        self._filed: dict[int, list[tuple[Index, Entry, tuple[tuple[int, int], ...]]]] = {}
        # Two indexes a family: an entry stands under the side whose addresses it narrows more.
        self._indexes = {
            (family, dimension): Index(dimension, bits)
            for family, bits in ((4, 32), (6, 128))
            for dimension in (REMOTE, LOCAL)
        }
        self._by_family = {
            family: (self._indexes[family, REMOTE], self._indexes[family, LOCAL]) for family in (4, 6)
        }

    def __len__(self) -> int:
        return len(self._policies)

    def __iter__(self) -> Iterator[Policy]:
        """In the order in which they are tried."""
        return iter(sorted(self._policies.values(), key=lambda policy: (policy.priority, policy.id)))

    def get(self, policy: int) -> Policy | None:
        return self._policies.get(policy)

    def put(self, policy: Policy) -> None:
        """Into force, in place of what had the same id."""
        self.remove(policy.id)
        self._policies[policy.id] = policy
        filed = []
        for place, rule in enumerate(policy.rules):
            entry = _entry(policy, place, rule)
            if entry is not None:
                local, remote = rule.local, rule.remote
                narrower = REMOTE if remote.last - remote.first <= local.last - local.first else LOCAL
                index = self._indexes[remote.family, narrower]
                under = prefixes(remote if narrower == REMOTE else local)
                index.add(entry, under)
                filed.append((index, entry, under))
        self._filed[policy.id] = filed

    def remove(self, policy: int) -> None:
        """Nothing happens if there is none of that id."""
        self._policies.pop(policy, None)
        for index, entry, under in self._filed.pop(policy, ()):
            index.discard(entry, under)

    def lookup_outbound(
        self,
        protocol: int,
        local_addr: int,
        remote_addr: int,
        lport: int | None,
        rport: int | None,
        family: int,
    ) -> tuple[Action, int]:
        """The action and, with PROTECT, the flow (else 0).

        Ports are None (or `selectors.NO_PORT`) where the packet shows none; of ICMP and mobility
        headers both are type * 256 + code. The SPD has no flow cache: callers that send many packets
        of one flow look up once for all of them.
        """
        point = (
            remote_addr,
            local_addr,
            protocol,
            NO_PORT if rport is None else rport,
            NO_PORT if lport is None else lport,
        )
        by_remote, by_local = self._by_family[family]
        if by_remote.unsettled:
            by_remote.settle()
        entry, verdict = by_remote.find(point)
        if by_local.count:
            if by_local.unsettled:
                by_local.settle()
            other, other_verdict = by_local.find(point)
            if other is not None and (entry is None or other < entry):
                return other_verdict  # type: ignore[no-any-return]
        return verdict or self._default

    def permits_inbound(
        self,
        flow: int,
        protocol: int,
        source: int,
        destination: int,
        source_port: int | None,
        destination_port: int | None,
        family: int,
    ) -> bool:
        """May a packet with this header come out of an SA of that flow? It may not if an earlier rule
        takes it: the peer was told more than the list permits, or sends into a carve-out."""
        verdict = self.lookup_outbound(protocol, destination, source, destination_port, source_port, family)
        return verdict == (Action.PROTECT, flow)


def _entry(policy: Policy, place: int, rule: PolicyRule) -> Entry | None:
    """None for a rule that no packet can match."""
    local, remote = rule.local, rule.remote
    protocol = intersect_protocols(local.protocol, remote.protocol)
    if local.family != remote.family or protocol is None:
        return None
    verdict = (rule.action, rule.flow if rule.action == Action.PROTECT else 0)
    local_ports, remote_ports = _ports(local), _ports(remote)
    if protocol in names.PROTOCOLS_WITH_TYPES and is_opaque(remote):
        # May be sent, not received (RFC 4301, 4.4.1.3 C): the one field is judged by the local side.
        remote_ports = (NO_PORT, PORT_MAX)
    protocols = (0, 255) if protocol == ANY_PROTOCOL else (protocol, protocol)
    return (
        policy.priority,
        policy.id,
        place,
        verdict,
        remote.first,
        remote.last,
        local.first,
        local.last,
        *protocols,
        *remote_ports,
        *local_ports,
    )


def _ports(selector: TrafficSelector) -> tuple[int, int]:
    if is_any_port(selector):
        return NO_PORT, PORT_MAX
    return (NO_PORT, NO_PORT) if is_opaque(selector) else (selector.port_first, selector.port_last)
