"""The security policy database: which flows are protected, bypassed, discarded (RFC 4301, section 4.4.1).

Ordered: policies by (priority, id), in each its rules in order; the first rule that matches decides, and
where none does, the gateway's default. Inbound packets are judged by the same database with the two
sides exchanged: one that came out of an SA must fall to a PROTECT rule of that SA's flow, one that came
in clear must not fall to PROTECT at all (RFC 4301, section 5.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from cygnet.policy import names
from cygnet.policy.lookup import CHAIN_ENTRY, CHAIN_VERDICT, Entry, Index
from cygnet.policy.sa import Mode, SaProtocol
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
from cygnet.records import dataclass


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
    mode: int = Mode.TUNNEL
    """`policy.sa.Mode` of its PROTECT rules."""
    protocols: tuple[int, ...] = (SaProtocol.ESP,)
    """`policy.sa.SaProtocol`s from the inside out, as configured first: (ESP,), (AH,), (ESP, AH)."""
    ipcomp: bool = False
    interface: str = ""
    """Route-based: packets are those that are routed into this TUN device, which the data plane makes and
    removes with the policy; no routes and no guard are made for it. Empty: policy-based."""
    if_id: int = 0
    """Route-based: the interface's number; 0: none."""


class Spd:
    """The policies in force. Lookup time does not grow with their number (policy.lookup)."""

    def __init__(self, default: Action = Action.BYPASS) -> None:
        """`default` is what happens to a packet that no rule matches: BYPASS or DISCARD."""
        self._default = (default, 0)
        self._policies: dict[int, Policy] = {}
        self._connections: dict[int, str] = {}
        """Of each flow; a policy's name is CONNECTION/CHILD."""
        self._filed: dict[int, list[tuple[Index, Entry, tuple[tuple[int, int], ...]]]] = {}
        # An entry stands under the side whose addresses it narrows more.
        self._by_remote = {4: Index(32), 6: Index(128)}
        self._by_local = {4: Index(32), 6: Index(128)}

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
        connection = policy.name.partition("/")[0]
        self._connections.update((rule.flow, connection) for rule in policy.rules)
        filed = []
        for place, rule in enumerate(policy.rules):
            protocol = intersect_protocols(rule.local.protocol, rule.remote.protocol)
            if rule.local.family != rule.remote.family or protocol is None:
                continue  # no packet can match it
            local, remote = _bounds(rule.local), _bounds(rule.remote)
            if protocol in names.PROTOCOLS_WITH_TYPES and is_opaque(rule.remote):
                # May be sent, not received (RFC 4301, 4.4.1.3 C): the local side judges the one field.
                remote = (*remote[:2], NO_PORT, PORT_MAX)
            by_remote = remote[1] - remote[0] <= local[1] - local[0]
            own, other = (remote, local) if by_remote else (local, remote)
            protocols = (0, 255) if protocol == ANY_PROTOCOL else (protocol, protocol)
            verdict = (rule.action, rule.flow if rule.action == Action.PROTECT else 0)
            order = policy.priority, policy.id, place
            entry = (*order, verdict, *own[:2], *other[:2], *protocols, *own[2:], *other[2:])
            index = (self._by_remote if by_remote else self._by_local)[rule.remote.family]
            under = prefixes(rule.remote if by_remote else rule.local)
            index.add(entry, under)
            filed.append((index, entry, under))
        self._filed[policy.id] = filed

    def remove(self, policy: int) -> None:
        """Nothing happens if there is none of that id."""
        former = self._policies.pop(policy, None)
        for rule in former.rules if former else ():
            self._connections.pop(rule.flow, None)
        for index, entry, under in self._filed.pop(policy, ()):
            index.discard(entry, under)

    def filed(self, policy: int) -> Iterator[tuple[int, bool, Entry, tuple[tuple[int, int], ...]]]:
        """How a policy's rules stand in the index: the family, whether under the remote side, the entry, and
        the prefixes of its own range. For engines that keep an index of their own."""
        for index, entry, under in self._filed.get(policy, ()):
            by_remote = index in self._by_remote.values()
            family = next(f for f in (4, 6) if index in (self._by_remote[f], self._by_local[f]))
            yield family, by_remote, entry, under

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
        lport = NO_PORT if lport is None else lport
        rport = NO_PORT if rport is None else rport
        found = self._by_remote[family].find(remote_addr, local_addr, protocol, rport, lport)
        by_local = self._by_local[family]
        if by_local.count:
            other = by_local.find(local_addr, remote_addr, protocol, lport, rport)
            if not found or (other and other[CHAIN_ENTRY] < found[CHAIN_ENTRY]):
                found = other
        return found[CHAIN_VERDICT] if found else self._default

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
        takes it and denies it, or protects it with another connection. Which of one connection's
        overlapping flows the peer chose is its own affair: its list may have another order."""
        action, owner = self.lookup_outbound(
            protocol, destination, source, destination_port, source_port, family
        )
        if action != Action.PROTECT:
            return False
        return owner == flow or self._connections.get(owner) == self._connections.get(flow, "")


def _bounds(selector: TrafficSelector) -> tuple[int, int, int, int]:
    """First and last address, first and last port, with the port that cannot be seen as -1."""
    ports = selector.port_first, selector.port_last
    if is_any_port(selector):
        ports = NO_PORT, PORT_MAX
    elif is_opaque(selector):
        ports = NO_PORT, NO_PORT
    return selector.first, selector.last, *ports
