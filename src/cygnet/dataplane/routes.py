"""The policy in the kernel: routes that bring protected packets to the TUN, and the guard.

Protected networks have a routing table of their own, which a rule lets everything look into that does
not carry Cygnet's mark (sealed packets, and what the guard found to be denied or unmatched). In it each
remote prefix has two routes: one to the TUN, with a source address inside the local selectors, so that
a socket that is bound to nothing speaks as a protected host; and `unreachable` with the highest metric
beneath it, which remains when the TUN dies with its process.

Order is what makes it fail closed: the guard is in force before routes come, and goes after them.
A process that starts finds what the one before left and keeps it in force beneath its own until `sweep`.
"""

from __future__ import annotations

import contextlib
import socket
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from cygnet.dataplane.descriptors import IKE_PORT, MARK, NAT_PORT
from cygnet.dataplane.guard import MARK_MASK, Guard
from cygnet.dataplane.nftables import KernelError
from cygnet.dataplane.reverse_paths import ReversePaths
from cygnet.dataplane.rtnetlink import Address, Route, RouteSocket
from cygnet.dataplane.xfrm.leftovers import remove_kernels
from cygnet.policy.selectors import prefixes
from cygnet.policy.spd import Action, Policy

__all__ = ["Kernel", "KernelError"]

ROUTE_TABLE = 0x4379
RULE_PRIORITY = 217
TUN_METRIC, UNREACHABLE_METRIC = 100, 0xFFFFFFFF

Prefix = tuple[int, int, int]
"""Family, first address, length."""
_Use = tuple[int, int, int, int, int]
"""Of a prefix by a rule: priority, policy, place, then first and last local address."""


class Kernel:
    """Routes and guard of one TUN device, in the network namespace of the caller.

    Policies are put and removed one by one and take effect with `commit`, many at once being much
    cheaper than one at a time; `apply` does it all for a whole list.
    """

    def __init__(
        self, ports: tuple[int, ...] = (IKE_PORT, NAT_PORT), default: Action = Action.BYPASS
    ) -> None:
        """`ports`: where this gateway takes IKE and encapsulated ESP. `default`: for unmatched packets."""
        self._guard = Guard(ports, default)
        self._policies: dict[int, Policy] = {}
        self._uses: dict[Prefix, set[_Use]] = {}
        self._of_policy: dict[int, list[tuple[Prefix, _Use]]] = {}
        self._changed: set[Prefix] = set()
        self._installed: dict[Prefix, int] = {}
        """Source addresses of the routes in force."""
        self._own: list[Address] = []
        self._device = 0
        self._reverse_paths = ReversePaths()
        self._alone = False
        """What a former kernel engine left is gone."""

    def apply(self, policies: Iterable[Policy], tun: str) -> None:
        """These policies and no others are in force. Raises KernelError."""
        wanted = {policy.id: policy for policy in policies}
        for policy in set(self._of_policy) - set(wanted):
            self.remove(policy)
        for one in wanted.values():
            self.put(one)
        self.commit(tun)

    def put(self, policy: Policy) -> None:
        """In place of what had the same id; the same again costs nothing."""
        if self._policies.get(policy.id) == policy:
            return
        self._withdraw(policy.id)
        self._policies[policy.id] = policy
        self._guard.put(policy)
        uses = self._of_policy[policy.id] = []
        for place, rule in enumerate(policy.rules):
            if rule.action == Action.PROTECT and rule.local.family == rule.remote.family:
                use = policy.priority, policy.id, place, rule.local.first, rule.local.last
                for first, length in prefixes(rule.remote):
                    uses.append(((rule.remote.family, first, length), use))
        for prefix, use in uses:
            self._uses.setdefault(prefix, set()).add(use)
            self._changed.add(prefix)

    def remove(self, policy: int) -> None:
        """Nothing happens if there is none."""
        self._withdraw(policy)
        self._guard.remove(policy)

    def _withdraw(self, policy: int) -> None:
        self._policies.pop(policy, None)
        for prefix, use in self._of_policy.pop(policy, ()):
            uses = self._uses.get(prefix, set())
            uses.discard(use)
            if not uses:
                self._uses.pop(prefix, None)
            self._changed.add(prefix)

    def commit(self, tun: str) -> None:
        """What was put is in force, what was removed is not. Raises KernelError."""
        try:
            device = socket.if_nametoindex(tun)
        except OSError:
            raise KernelError(f"there is no device {tun}") from None
        self._guard.commit(tun)
        with _routing() as sock:
            # On the TUN only what a gateway gave us counts: addresses of one host each.
            own = [
                one
                for one in sock.addresses()
                if one.interface != device or one.length == (32 if one.family == 4 else 128)
            ]
            if device != self._device or own != self._own:
                self._device, self._own = device, own
                self._changed.update(self._uses)
                self._installed.clear()
                self._reverse_paths.fit(tun)
                sock.add_rule(RULE_PRIORITY, MARK, MARK_MASK, ROUTE_TABLE)
            self._reverse_paths.loosen(self._links_among(self._changed))
            self._change_routes(sock)
        if not self._alone:
            remove_kernels()
            self._alone = True

    def refresh(self, tun: str) -> bool:
        """Put back what somebody else took away (a flushed ruleset, a deleted route, a new address of ours):
        True if anything was missing. To be called from time to time. Raises KernelError."""
        missing = self._guard.was_lost()
        with _routing() as sock:
            present = {
                (one.family, one.prefix, one.length)
                for one in sock.routes(ROUTE_TABLE)
                if one.device == self._device and one.device
            }
        lost = self._installed.keys() - present
        for prefix in lost:
            del self._installed[prefix]
            self._changed.add(prefix)
        self._device = 0 if lost else self._device  # so that the rules are looked after too
        self.commit(tun)
        return missing or bool(lost)

    def take_precedence(self) -> None:
        """All policies are here: what a former process left and lies inside a network of ours goes, for the
        longer prefix would win, and unreachable. The guard decides there, ours before theirs. What no policy
        of ours has taken over stays. Raises KernelError."""
        with _routing() as sock:
            overridden = [
                one
                for one in sock.routes(ROUTE_TABLE)
                if (one.family, one.prefix, one.length) not in self._installed and self._covers(one)
            ]
            sock.delete_routes(ROUTE_TABLE, overridden)

    def _covers(self, route: Route) -> bool:
        bits = 32 if route.family == 4 else 128
        return any(
            (route.family, route.prefix >> bits - length << bits - length, length) in self._installed
            for length in range(route.length)
        )

    def sweep(self) -> None:
        """What a former process left, and no policy of ours asks for, is gone. Raises KernelError."""
        with _routing() as sock:
            left = [
                one
                for one in sock.routes(ROUTE_TABLE)
                if (one.family, one.prefix, one.length) not in self._installed
            ]
            sock.delete_routes(ROUTE_TABLE, left)
        self._guard.sweep()

    def clear(self) -> None:
        """Nothing of ours is left. Raises KernelError."""
        for policy in list(self._of_policy):
            self.remove(policy)
        with _routing() as sock:
            sock.delete_routes(ROUTE_TABLE, sock.routes(ROUTE_TABLE))
            sock.delete_rule(RULE_PRIORITY, MARK, MARK_MASK, ROUTE_TABLE)
        self._installed.clear()
        self._changed.clear()
        self._device = 0
        self._reverse_paths.restore()
        self._guard.clear()

    def _change_routes(self, sock: RouteSocket) -> None:
        sources = self._sources()
        wanted = {prefix: self._source(prefix, sources) for prefix in self._changed if prefix in self._uses}
        come = {prefix: source for prefix, source in wanted.items() if self._installed.get(prefix) != source}
        gone = [prefix for prefix in self._changed if prefix not in self._uses and prefix in self._installed]
        # Unreachable first: there is no moment in which a prefix has a way around the TUN.
        sock.add_routes(ROUTE_TABLE, (Route(*prefix, UNREACHABLE_METRIC) for prefix in come))
        sock.add_routes(
            ROUTE_TABLE, (Route(*prefix, TUN_METRIC, self._device, come[prefix]) for prefix in come)
        )
        self._installed.update(come)
        for metric, device in ((TUN_METRIC, self._device), (UNREACHABLE_METRIC, 0)):
            sock.delete_routes(ROUTE_TABLE, (Route(*prefix, metric, device) for prefix in gone))
        for prefix in gone:
            del self._installed[prefix]
        self._changed.clear()

    def _sources(self) -> dict[int, list[int]]:
        return {family: sorted(one.address for one in self._own if one.family == family) for family in (4, 6)}

    def _source(self, prefix: Prefix, sources: dict[int, list[int]]) -> int:
        """Our lowest address inside the local selectors of the first rule that has one; 0: none has."""
        mine = sources[prefix[0]]
        for _, _, _, first, last in sorted(self._uses[prefix]) if mine else ():
            place = bisect_left(mine, first)
            if place < len(mine) and mine[place] <= last:
                return mine[place]
        return 0

    def _links_among(self, networks: Iterable[Prefix]) -> set[str]:
        """Links with neighbours inside IPv4 networks."""
        spans = [(first, first | (1 << 32 - length) - 1) for family, first, length in networks if family == 4]
        found = set()
        for one in self._own:
            if one.interface == self._device:
                continue
            rest = (1 << 32 - one.length) - 1 if one.family == 4 else 0
            first, last = one.address & ~rest, one.address | rest
            if one.family == 4 and any(low <= last and first <= high for low, high in spans):
                with contextlib.suppress(OSError):
                    found.add(socket.if_indextoname(one.interface))
        return found


@contextlib.contextmanager
def _routing() -> Iterator[RouteSocket]:
    """Raises KernelError for whatever is refused inside."""
    try:
        sock = RouteSocket()
        try:
            yield sock
        finally:
            sock.close()
    except OSError as error:
        raise KernelError(f"the routes of protected networks were refused: {error.strerror}") from error
