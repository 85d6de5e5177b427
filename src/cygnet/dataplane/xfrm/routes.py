"""Routes for the kernel's IPsec: not what protects (policies do), but what makes packets fit a policy.

A socket that is bound to nothing takes its source address from the route. Where this machine has an address
inside a rule's local selectors (its own, or one that a peer has lent it), a route to the remote ones says so;
where there is no route at all, one is made, or no packet would ever ask for the policy. They lead where the
peer is, in the table that the userspace engines use too; packets with Cygnet's mark, sealed ones among them,
skip it. What a rule before leaves alone is thrown back to the other tables, ports and protocols permitting;
where they do not, ours leads where the packet would have gone without it, for what is not protected takes it.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from cygnet.dataplane.descriptors import MARK
from cygnet.dataplane.guard import MARK_MASK
from cygnet.dataplane.nftables import KernelError
from cygnet.dataplane.routes import ROUTE_TABLE, RULE_PRIORITY, Prefix
from cygnet.dataplane.rtnetlink import Route, RouteSocket
from cygnet.policy.selectors import ANY_PROTOCOL, IpAddress, is_any_port, prefixes
from cygnet.policy.spd import Action, Policy, PolicyRule

METRIC = 100
_NOWHERE_IN_USE = {4: 0xC6336401, 6: 0x0100 << 112 | 1}
"""Addresses that only a default route reaches (RFC 5737, RFC 6666)."""
RemoteOf = Callable[[int], IpAddress | None]
"""Where the peer of a flow is, if that is known."""
_Use = tuple[tuple[int, int], int, PolicyRule, bool]
"""Of a prefix by a rule: place of the policy and of the rule in it, the rule, whether the policy has some
that look at more than addresses."""


class KernelRoutes:
    """`put`, `remove` and `moved` say what has changed; `commit` makes the routes what they must be."""

    def __init__(self, remote_of: RemoteOf) -> None:
        self._remote_of = remote_of
        self._uses: dict[Prefix, list[_Use]] = {}
        self._of_policy: dict[int, list[tuple[Prefix, _Use]]] = {}
        self._of_flow: dict[int, set[Prefix]] = {}
        self._changed: set[Prefix] = set()
        self._installed: dict[Prefix, Route] = {}
        self._ways: dict[IpAddress, Route | None] = {}
        self._own: dict[int, list[int]] = {4: [], 6: []}
        self._anywhere: dict[int, bool] = {}
        self._ruled = False

    def put(self, policy: Policy) -> None:
        """In place of what had the same id. Who routes into an interface of its own chooses himself."""
        self.remove(policy.id)
        uses = self._of_policy[policy.id] = []
        partial = any(not _whole(rule) for rule in policy.rules)
        for number, rule in enumerate(policy.rules if not policy.if_id else ()):
            whole = _whole(rule)
            if rule.local.family == rule.remote.family and (whole or rule.action is Action.PROTECT):
                use = (policy.priority, policy.id), number, rule, partial
                for first, length in prefixes(rule.remote):
                    uses.append(((rule.remote.family, first, length), use))
        for prefix, use in uses:
            insort(self._uses.setdefault(prefix, []), use, key=_order)
            self._of_flow.setdefault(use[2].flow, set()).add(prefix)
            self._changed.add(prefix)

    def remove(self, policy: int) -> None:
        """Nothing happens if there is none."""
        for prefix, use in self._of_policy.pop(policy, ()):
            uses = self._uses[prefix]
            uses.remove(use)
            if not uses:
                del self._uses[prefix]
            of_flow = self._of_flow.get(use[2].flow)
            if of_flow is not None and all(one[2].flow != use[2].flow for one in uses):
                of_flow.discard(prefix)
                if not of_flow:
                    del self._of_flow[use[2].flow]
            self._changed.add(prefix)

    def moved(self, flow: int) -> None:
        """The peer of this flow is elsewhere from now on."""
        self._changed |= self._of_flow.get(flow, set())

    def commit(self) -> None:
        """Raises KernelError."""
        if not self._changed:
            return
        with _routing() as sock:
            self._look(sock)
            wanted = {prefix: self._wanted(sock, prefix) for prefix in self._changed}
            come = [
                route for prefix, route in wanted.items()
                if route is not None and self._installed.get(prefix) != route
            ]  # fmt: skip
            gone = [
                self._installed[prefix] for prefix, route in wanted.items()
                if route is None and prefix in self._installed
            ]  # fmt: skip
            if come and not self._ruled:
                sock.add_rule(RULE_PRIORITY, MARK, MARK_MASK, ROUTE_TABLE)
                self._ruled = True
            sock.add_routes(ROUTE_TABLE, come)
            sock.delete_routes(ROUTE_TABLE, gone)
            self._installed.update({(one.family, one.prefix, one.length): one for one in come})
            for one in gone:
                del self._installed[one.family, one.prefix, one.length]
            self._changed.clear()

    def refresh(self) -> None:
        """Addresses and ways of this machine may have changed, routes be gone. Raises KernelError."""
        with _routing() as sock:
            present = set(sock.routes(ROUTE_TABLE)) if self._installed else set()
        for prefix in [prefix for prefix, route in self._installed.items() if route not in present]:
            del self._installed[prefix]
        self._changed |= self._uses.keys()
        self._ruled = False
        self.commit()

    def sweep(self) -> None:
        """What a former process left and no policy needs is gone. Raises KernelError."""
        with _routing() as sock:
            kept = self._installed.keys()
            left = [
                one for one in sock.routes(ROUTE_TABLE) if (one.family, one.prefix, one.length) not in kept
            ]  # fmt: skip
            sock.delete_routes(ROUTE_TABLE, left)

    def clear(self) -> None:
        """Raises KernelError."""
        for policy in list(self._of_policy):
            self.remove(policy)
        self._installed.clear()
        self._changed.clear()
        self.sweep()
        with _routing() as sock:
            sock.delete_rule(RULE_PRIORITY, MARK, MARK_MASK, ROUTE_TABLE)
        self._ruled = False

    def _look(self, sock: RouteSocket) -> None:
        self._ways.clear()
        self._anywhere.clear()
        found = sock.addresses()
        self._own = {
            family: sorted(one.address for one in found if one.family == family) for family in (4, 6)
        }

    def _wanted(self, sock: RouteSocket, prefix: Prefix) -> Route | None:
        """As the first rule says that has something to say."""
        for _, _, rule, partial in self._uses.get(prefix, ()):
            if rule.action is not Action.PROTECT:
                return Route(*prefix, METRIC, throw=True)
            remote = self._remote_of(rule.flow)
            if remote is None or remote.version != prefix[0]:
                continue
            source = _inside(self._own[prefix[0]], rule.local.first, rule.local.last)
            if not source and self._reached(sock, prefix):
                continue
            if remote not in self._ways:
                self._ways[remote] = sock.towards(remote.version, int(remote), MARK)
            way = (sock.towards(*prefix[:2], MARK) if partial else None) or self._ways[remote]
            if way is not None:
                return Route(*prefix, METRIC, way.device, source, way.gateway)
        return None

    def _reached(self, sock: RouteSocket, prefix: Prefix) -> bool:
        """Whether there is a way without us. Where there is one to anywhere, that is not asked for each."""
        family = prefix[0]
        if family not in self._anywhere:
            self._anywhere[family] = sock.towards(family, _NOWHERE_IN_USE[family], MARK) is not None
        return self._anywhere[family] or sock.towards(family, prefix[1], MARK) is not None


def _whole(rule: PolicyRule) -> bool:
    return all(side.protocol == ANY_PROTOCOL and is_any_port(side) for side in (rule.local, rule.remote))


def _order(use: _Use) -> tuple[tuple[int, int], int]:
    return use[:2]


def _inside(own: list[int], first: int, last: int) -> int:
    """Our lowest address in a range, 0: none."""
    place = bisect_left(own, first)
    return own[place] if place < len(own) and own[place] <= last else 0


@contextlib.contextmanager
def _routing() -> Iterator[RouteSocket]:
    """Raises KernelError for whatever is refused inside."""
    try:
        with contextlib.closing(RouteSocket()) as sock:
            yield sock
    except OSError as error:
        raise KernelError(f"the routes of protected networks were refused: {error.strerror}") from error


def own_addresses(family: int) -> list[int]:
    """This machine's. Raises KernelError."""
    with _routing() as sock:
        return [one.address for one in sock.addresses() if one.family == family]
