"""The connections of a gateway: their lookup, and the numbers of their flows and policies.

Flows and policies are numbered for the whole gateway when a connection is loaded: the data plane
knows them by number only. Lookup by the peer's address and by its identity does not slow down with
the number of connections whose `remote_addrs` or remote `id` are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cygnet.auth.identity import Identity
from cygnet.ike.configuration import AddressRange, Child, Connection
from cygnet.policy.selectors import IpAddress, TrafficSelector, everything, stand_in
from cygnet.policy.spd import Action, ChildRule, Policy, PolicyRule
from cygnet.records import replace
from cygnet.wire.numbers import IdType

Hosts = tuple[TrafficSelector, ...]


@dataclass(frozen=True, slots=True)
class LoadedChild:
    """`flows[i]` is the gateway-wide number of `child.flows[i]`; numbers start at 1."""

    child: Child
    policy: int
    flows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    connection: Connection
    children: tuple[LoadedChild, ...]
    order: int

    def child(self, name: str) -> LoadedChild | None:
        for loaded in self.children:
            if loaded.child.name == name:
                return loaded
        return None


@dataclass(frozen=True, slots=True)
class FlowOwner:
    connection: str
    child: str
    index: int


def in_ranges(address: IpAddress, ranges: tuple[AddressRange, ...]) -> bool:
    """Whether one of the ranges holds the address; no ranges at all hold every address."""
    if not ranges:
        return True
    return any(
        r.first.version == address.version and int(r.first) <= int(address) <= int(r.last) for r in ranges
    )


def single_address(ranges: tuple[AddressRange, ...]) -> IpAddress | None:
    """The first entry that is one address: where to initiate to, or from."""
    for r in ranges:
        if r.first == r.last:
            return r.first
    return None


class Connections:
    __slots__ = ("_by_address", "_by_flow", "_by_id", "_loaded", "_next", "_order", "_wide", "_wide_id")

    def __init__(self) -> None:
        self._loaded: dict[str, Loaded] = {}
        self._by_flow: dict[int, FlowOwner] = {}
        # Insertion-ordered dicts serve as ordered sets of names.
        self._by_address: dict[IpAddress, dict[str, None]] = {}
        self._wide: dict[str, None] = {}
        self._by_id: dict[tuple[int, bytes], dict[str, None]] = {}
        self._wide_id: dict[str, None] = {}
        self._next = 1
        self._order = 0

    def __iter__(self) -> Iterator[Loaded]:
        return iter(tuple(self._loaded.values()))

    def get(self, name: str) -> Loaded | None:
        return self._loaded.get(name)

    def owner(self, flow: int) -> FlowOwner | None:
        return self._by_flow.get(flow)

    def number(self) -> int:
        """A fresh number for a policy or a flow."""
        self._next += 1
        return self._next - 1

    def add(self, connection: Connection, children: tuple[LoadedChild, ...]) -> Loaded:
        """Put a connection into force in place of one of the same name, which keeps its rank."""
        old = self._loaded.get(connection.name)
        if old is not None:
            self.remove(connection.name)
            order = old.order
        else:
            self._order += 1
            order = self._order
        loaded = Loaded(connection, children, order)
        name = connection.name
        self._loaded[name] = loaded
        for child in children:
            for index, flow in enumerate(child.flows):
                self._by_flow[flow] = FlowOwner(name, child.child.name, index)
        for bucket in self._address_buckets(connection):
            bucket[name] = None
        self._id_bucket(connection)[name] = None
        return loaded

    def remove(self, name: str) -> Loaded | None:
        loaded = self._loaded.pop(name, None)
        if loaded is None:
            return None
        for child in loaded.children:
            for flow in child.flows:
                self._by_flow.pop(flow, None)
        for bucket in self._address_buckets(loaded.connection):
            bucket.pop(name, None)
        for ranges in loaded.connection.remote_addrs:
            if not self._by_address.get(ranges.first, True):
                del self._by_address[ranges.first]
        self._id_bucket(loaded.connection).pop(name, None)
        key = _exact_id(loaded.connection)
        if key is not None and not self._by_id[key]:
            del self._by_id[key]
        return loaded

    def _address_buckets(self, connection: Connection) -> list[dict[str, None]]:
        ranges = connection.remote_addrs
        if ranges and not connection.remote_host and all(r.first == r.last for r in ranges):
            return [self._by_address.setdefault(r.first, {}) for r in ranges]
        return [self._wide]

    def _id_bucket(self, connection: Connection) -> dict[str, None]:
        key = _exact_id(connection)
        return self._wide_id if key is None else self._by_id.setdefault(key, {})

    def for_address(self, local: IpAddress, remote: IpAddress) -> Iterator[Loaded]:
        """Connections that a peer at `remote` may be meant by, the more specific address first."""
        for bucket in (self._by_address.get(remote, {}), self._wide):
            for name in bucket:
                loaded = self._loaded[name]
                if bucket is self._wide and not in_ranges(remote, loaded.connection.remote_addrs):
                    continue
                if in_ranges(local, loaded.connection.local_addrs):
                    yield loaded

    def for_identity(
        self, local: IpAddress, remote: IpAddress, identity: Identity, version: int
    ) -> tuple[Loaded, ...]:
        """Connections for this claimed identity, these addresses and this IKE version; exact addresses first.

        Only those that name it most closely (RFC 4945, section 3.1.10): else who satisfies a connection for
        many could pass for a peer that has a stricter one of its own.
        """
        found = []
        best = 0
        for bucket in (self._by_id.get(_key(identity), {}), self._wide_id):
            for name in bucket:
                loaded = self._loaded[name]
                connection = loaded.connection
                quality = identity.match_quality(connection.remote[0].id if connection.remote else None)
                if not quality or connection.version not in (0, version):
                    continue
                if not in_ranges(local, connection.local_addrs):
                    continue
                if not connection.remote_host and not in_ranges(remote, connection.remote_addrs):
                    continue
                exact = any(r.first == r.last == remote for r in connection.remote_addrs)
                found.append((quality, not exact, loaded.order, loaded))
                best = max(best, quality)
        closest = [one for one in found if one[0] == best]
        closest.sort(key=lambda one: one[:3])
        return tuple([loaded for *_, loaded in closest])


T = TypeVar("T")


def closest(found: Sequence[T], identity: Identity, pattern: Callable[[T], Identity | None]) -> list[T]:
    """Those whose pattern takes this identity, and of them those that name it most closely, in order."""
    rated = [(identity.match_quality(pattern(one)), one) for one in found]
    best = max((quality for quality, _ in rated), default=0)
    return [one for quality, one in rated if quality == best and quality]


def _key(identity: Identity) -> tuple[int, bytes]:
    """Names compare without regard to case (RFC 4945, section 3.1)."""
    return identity.type, identity.data.lower()


def _exact_id(connection: Connection) -> tuple[int, bytes] | None:
    """The key of the remote identity if only octets can match it. DNs match in more ways than by octets."""
    identity = connection.remote[0].id if connection.remote else None
    if identity is None or identity.has_wildcards or identity.type == IdType.DER_ASN1_DN:
        return None
    return _key(identity)


def any_of(vips: Iterable[IpAddress]) -> tuple[TrafficSelector, ...]:
    """Every address of the families that virtual addresses are asked for in: until they are known."""
    return tuple([everything(family) for family in dict.fromkeys(vip.version for vip in vips)])


def translated(rule: ChildRule, connection: Connection) -> Hosts:
    """Networks whose hosts become `dynamic`'s address on their way into the tunnel: protected from where they
    come from."""
    if rule.action != Action.PROTECT or isinstance(rule.local, TrafficSelector):
        return ()
    return stand_in([rule.local], connection.translate)


def make_policy(
    connection: Connection,
    loaded: LoadedChild,
    trap: bool,
    ends: tuple[IpAddress | None, IpAddress | None],
    hosts: tuple[Hosts, Hosts],
) -> Policy | None:
    """The child's policy between the tunnel's `ends`; None while something that it needs is not known.

    `hosts`: what `dynamic` stands for on each side, empty while that is not known.
    """
    rules = []
    for rule in loaded.child.rules:
        here, there = stand_in([rule.local], hosts[0]), stand_in([rule.remote], hosts[1])
        if not here or not there:
            return None
        flow = loaded.flows[rule.flow] if rule.action == Action.PROTECT else 0
        rules += pairs_of(rule.action, (*here, *translated(rule, connection)), there, flow)
    name = f"{connection.name}/{loaded.child.name}"
    made = Policy(loaded.policy, name, loaded.child.priority, tuple(rules), trap, *ends)
    return treated(made, loaded.child)


def treated(policy: Policy, child: Child) -> Policy:
    """With what the child does to its packets: mode, protocols, compression, interface."""
    return replace(
        policy,
        mode=child.mode,
        protocols=child.protocols,
        ipcomp=child.ipcomp,
        interface=child.interface,
        if_id=child.if_id,
    )


def pairs_of(action: Action, local: Hosts, remote: Hosts, flow: int) -> list[PolicyRule]:
    """A rule for each two that a packet can have together."""
    return [
        PolicyRule(action, here, there, flow)
        for here in local
        for there in remote
        if here.family == there.family or len(local) == len(remote) == 1
    ]
