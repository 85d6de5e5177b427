"""Policies in force: one for each child from the moment it is loaded, before and beyond its SAs.

Where a connection is for one peer, all SAs of a child share its policy and flows. Where peers may come
from anywhere, each SA pair gets a policy and a flow of its own, made from what was negotiated, in front
of the child's: so traffic to one peer never takes another's SA. It goes with the last SA that uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cygnet.ike.configuration import StartAction
from cygnet.ike.connections import Loaded, LoadedChild, concrete, make_policy, single_address
from cygnet.ike.effects import InstallPolicy, RemovePolicy
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.policy.spd import Action, Policy, PolicyRule

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint
    from cygnet.ike.sa import IkeSa

TRAPS: Final = (StartAction.TRAP, StartAction.TRAP_START)
Selectors = tuple[TrafficSelector, ...]


class Policies:
    __slots__ = ("_gateway", "_in_force", "_users")

    def __init__(self, gateway: Endpoint) -> None:
        self._gateway = gateway
        self._in_force: dict[int, Policy] = {}
        # How many pairs use a policy that was made for one peer.
        self._users: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._in_force)

    # -- of children ---------------------------------------------------------------------------

    def load(self, loaded: Loaded) -> None:
        """Install what can be installed; what has not changed is left alone."""
        for child in loaded.children:
            local = single_address(loaded.connection.local_addrs)
            remote = single_address(loaded.connection.remote_addrs)
            self._put(loaded, child, local, remote, trap=child.child.start_action in TRAPS)

    def _put(
        self,
        loaded: Loaded,
        child: LoadedChild,
        local: IpAddress | None,
        remote: IpAddress | None,
        *,
        trap: bool,
    ) -> None:
        name = f"{loaded.connection.name}/{child.child.name}"
        self._install(make_policy(child, child.policy, name, trap, local, remote))

    def _install(self, policy: Policy | None) -> None:
        if policy is not None and self._in_force.get(policy.id) != policy:
            self._in_force[policy.id] = policy
            self._gateway.emit(InstallPolicy(policy))

    def arm_trap(self, loaded: Loaded, child: LoadedChild) -> None:
        """From now on traffic without an SA asks for one (`close_action`, `dpd_action` = trap)."""
        known = self._in_force.get(child.policy)
        if known is not None and not known.trap:
            self._put(loaded, child, known.local, known.remote, trap=True)

    def unload(self, loaded: Loaded) -> None:
        for child in loaded.children:
            self.remove(child.policy)

    def remove(self, policy: int) -> None:
        if self._in_force.pop(policy, None) is not None:
            self._gateway.emit(RemovePolicy(policy))

    # -- of SA pairs ---------------------------------------------------------------------------

    def use(
        self, sa: IkeSa, child: LoadedChild, index: int, local: Selectors, remote: Selectors
    ) -> tuple[int, int]:
        """(policy, flow) for a new pair; each needs its `unused`."""
        connection = sa.connection
        loaded = self._gateway.book.get(connection.name)
        path = sa.state.path
        if connection.remote_host or single_address(connection.remote_addrs) is not None:
            if child.policy not in self._in_force and loaded is not None:
                self._put(loaded, child, path.local, path.remote, trap=child.child.start_action in TRAPS)
            return child.policy, child.flows[index]
        policy, flow = self._gateway.book.number(), self._gateway.book.number()
        rules = [
            *_exceptions(child, index, path.local, path.remote),
            *[PolicyRule(Action.PROTECT, here, there, flow) for here in local for there in remote],
        ]
        name = f"{connection.name}/{child.child.name}"
        # In front of the child's own policy, which keeps what no peer has asked for from leaving in clear.
        priority = child.child.priority - 1
        self._install(Policy(policy, name, priority, tuple(rules), False, path.local, path.remote))
        self._users[policy] = 1
        return policy, flow

    def use_again(self, policy: int) -> None:
        """A rekey: the new pair uses what the old one does."""
        if policy in self._users:
            self._users[policy] += 1

    def unused(self, policy: int) -> None:
        """One pair less uses this policy. Those of children stay."""
        users = self._users.get(policy)
        if users is None:
            return
        if users > 1:
            self._users[policy] = users - 1
        else:
            del self._users[policy]
            self.remove(policy)


def _exceptions(child: LoadedChild, index: int, local: IpAddress, remote: IpAddress) -> list[PolicyRule]:
    """The rules before the flow's own that leave traffic alone or drop it: they win here too."""
    found = []
    for rule in child.child.rules:
        if rule.action == Action.PROTECT:
            if rule.flow == index:
                break
            continue
        here, there = concrete(rule.local, local), concrete(rule.remote, remote)
        if here is not None and there is not None:
            found.append(PolicyRule(rule.action, here, there, 0))
    return found
