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
from collections.abc import Iterable
from pathlib import Path

from cygnet.dataplane.descriptors import IKE_PORT, MARK, NAT_PORT
from cygnet.dataplane.guard import MARK_MASK, Guard, KernelError
from cygnet.dataplane.rtnetlink import Route, RouteSocket
from cygnet.policy.selectors import prefixes
from cygnet.policy.spd import Action, Policy

__all__ = ["Kernel", "KernelError"]

ROUTE_TABLE = 0x4379
RULE_PRIORITY = 217
TUN_METRIC, UNREACHABLE_METRIC = 100, 0xFFFFFFFF
_LOOSE = "2"
_CONFIGURATION = Path("/proc/sys/net/ipv4/conf")


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
        self._routes: dict[tuple[int, int, int], int] = {}
        self._device = 0

    def apply(self, policies: Iterable[Policy], tun: str) -> None:
        """These policies and no others are in force. Raises KernelError."""
        wanted = {policy.id: policy for policy in policies}
        for policy in set(self._policies) - set(wanted):
            self.remove(policy)
        for one in wanted.values():
            self.put(one)
        self.commit(tun)

    def put(self, policy: Policy) -> None:
        self._policies[policy.id] = policy

    def remove(self, policy: int) -> None:
        """Nothing happens if there is none."""
        self._policies.pop(policy, None)

    def commit(self, tun: str) -> None:
        """What was put is in force, what was removed is not. Raises KernelError."""
        try:
            self._device = socket.if_nametoindex(tun)
        except OSError:
            raise KernelError(f"there is no device {tun}") from None
        self._guard.apply(self._policies.values(), tun)
        let_marks_decide_reverse_paths(tun)
        try:
            self._synchronize()
        except OSError as error:
            raise KernelError(f"the routes of protected networks were refused: {error.strerror}") from error

    def sweep(self) -> None:
        """What a former process left and no policy of ours asks for is gone. Raises KernelError."""

    def clear(self) -> None:
        """Nothing of ours is left. Raises KernelError."""
        self._policies.clear()
        sock = RouteSocket()
        try:
            sock.delete_routes(ROUTE_TABLE, sock.routes(ROUTE_TABLE))
            sock.delete_rule(RULE_PRIORITY, MARK, MARK_MASK, ROUTE_TABLE)
        except OSError as error:
            raise KernelError(f"the routes of protected networks remain: {error.strerror}") from error
        finally:
            sock.close()
        self._routes.clear()
        self._guard.clear()

    def _synchronize(self) -> None:
        sock = RouteSocket()
        try:
            wanted = self._wanted(sock)
            present = set(sock.routes(ROUTE_TABLE))
            sock.add_rule(RULE_PRIORITY, MARK, MARK_MASK, ROUTE_TABLE)
            # Unreachable first: there is no moment in which a prefix has neither.
            sock.add_routes(ROUTE_TABLE, [one for one in wanted if not one.device and one not in present])
            sock.add_routes(ROUTE_TABLE, [one for one in wanted if one.device and one not in present])
            kept = {(one.family, one.prefix, one.length, one.metric) for one in wanted}
            sock.delete_routes(
                ROUTE_TABLE,
                [one for one in present if (one.family, one.prefix, one.length, one.metric) not in kept],
            )
        finally:
            sock.close()

    def _wanted(self, sock: RouteSocket) -> list[Route]:
        own = sorted(
            (family, address) for family, address, index in sock.addresses() if index != self._device
        )
        sources: dict[tuple[int, int, int], int] = {}
        for policy in sorted(self._policies.values(), key=lambda one: (one.priority, one.id)):
            for rule in policy.rules:
                if rule.action != Action.PROTECT or rule.local.family != rule.remote.family:
                    continue
                local = rule.local
                for prefix, length in prefixes(rule.remote):
                    key = rule.remote.family, prefix, length
                    if not sources.get(key):
                        sources[key] = next(
                            (a for f, a in own if f == local.family and local.first <= a <= local.last), 0
                        )
        routes = []
        for (family, prefix, length), source in sources.items():
            routes.append(Route(family, prefix, length, TUN_METRIC, self._device, source))
            routes.append(Route(family, prefix, length, UNREACHABLE_METRIC))
        return routes


def let_marks_decide_reverse_paths(tun: str) -> None:
    """Replies of bypassed flows come in on other links than the TUN, where the tunnels' routes point: with a
    strict rp_filter they pass only if the reverse path is looked up with their mark. Packets out of the
    TUN may come from anywhere that their SA allows; the engine has checked that. Read-only settings stay."""
    with contextlib.suppress(OSError):
        (_CONFIGURATION / tun / "rp_filter").write_text(_LOOSE)
    for interface in _CONFIGURATION.iterdir():
        if interface.name not in ("all", "lo", tun):
            setting = interface / "src_valid_mark"
            with contextlib.suppress(OSError):
                if setting.read_text().strip() != "1":
                    setting.write_text("1")
