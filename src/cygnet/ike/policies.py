"""Policies in force: one for each child from the moment it is loaded, before and beyond its SAs.

Where a connection is for one peer, all SAs of a child share its policy and flows. Where peers may come
from anywhere, each SA pair gets a policy and a flow of its own, made from what was negotiated, in front
of the child's: so traffic to one peer never takes another's SA. It goes with the last SA that uses it.

A child that speaks from a virtual address and is to be up always has a second policy, beneath all others:
while the first protects what comes from that address, what this host sends from its others stays here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cygnet.ike.configuration import Child, StartAction
from cygnet.ike.connections import Loaded, LoadedChild, any_of, make_policy, pairs_of, single_address, treated
from cygnet.ike.effects import InstallPolicy, RemovePolicy
from cygnet.policy.selectors import IpAddress, TrafficSelector, of_address, stand_in
from cygnet.policy.spd import Action, ChildRule, Policy, PolicyRule
from cygnet.records import replace

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint
    from cygnet.ike.sa import IkeSa

BENEATH: Final = (1 << 31) - 1
"""Priority behind which no child of the configuration stands."""
TRAPS: Final = (StartAction.TRAP, StartAction.TRAP_START)
Selectors = tuple[TrafficSelector, ...]
Ends = tuple[IpAddress | None, IpAddress | None]


class Policies:
    __slots__ = ("_beneath", "_gateway", "_in_force", "_users")

    def __init__(self, gateway: Endpoint) -> None:
        self._gateway = gateway
        self._in_force: dict[int, Policy] = {}
        # Of a child's policy that is for its virtual address alone: the one that discards the rest.
        self._beneath: dict[int, int] = {}
        # How many pairs use a policy that was made for one peer.
        self._users: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._in_force)

    # -- of children ---------------------------------------------------------------------------

    def load(self, loaded: Loaded) -> None:
        """Install what can be installed; what has not changed is left alone."""
        for child in loaded.children:
            self._rest(loaded, child)

    def addresses_gone(self, loaded: Loaded) -> None:
        """No SA of the connection has virtual addresses of ours any more."""
        for child in loaded.children:
            if not self._rest(loaded, child):
                self.remove(child.policy)

    def _rest(self, loaded: Loaded, child: LoadedChild) -> bool:
        """The policy of a child as it is without an SA; whether it can be known.

        Which virtual address we get is not known. What is to be up always protects whatever we send until
        then, from any address; what people bring up when they want it begins with its address.
        """
        connection = loaded.connection
        ends = single_address(connection.local_addrs), single_address(connection.remote_addrs)
        local, remote = _hosts(ends[0]), _hosts(ends[1])
        if connection.vips:
            local = any_of(connection.vips) if child.child.start_action is not StartAction.NONE else ()
        if connection.pools:
            remote = ()
        trap = child.child.start_action in TRAPS
        known = self._install(make_policy(connection, child, trap, ends, (local, remote)))
        # By now the child's own policy holds everything back again.
        self.remove(self._beneath.pop(child.policy, 0))
        return known

    def _discard_beneath(self, loaded: Loaded, child: LoadedChild, ends: Ends, remote: Selectors) -> None:
        """What the child is for does not leave from other addresses than its virtual one."""
        always_up = child.child.start_action is not StartAction.NONE
        if child.policy in self._beneath or not always_up or child.child.interface:
            return
        connection = loaded.connection
        made = make_policy(connection, child, False, ends, (any_of(connection.vips), remote))
        if made is not None:
            number = self._beneath[child.policy] = self._gateway.book.number()
            rules = [
                replace(rule, action=Action.DISCARD, flow=0) if rule.action is Action.PROTECT else rule
                for rule in made.rules
            ]
            self._install(replace(made, id=number, priority=BENEATH, rules=tuple(rules), trap=False))

    def _install(self, policy: Policy | None) -> bool:
        if policy is None:
            return False
        if self._in_force.get(policy.id) != policy:
            self._in_force[policy.id] = policy
            self._gateway.emit(InstallPolicy(policy))
        return True

    def arm_trap(self, loaded: Loaded, child: LoadedChild) -> None:
        """From now on traffic without an SA asks for one (`close_action`, `dpd_action` = trap)."""
        known = self._in_force.get(child.policy)
        if known is not None and not known.trap:
            self._install(replace(known, trap=True))

    def unload(self, loaded: Loaded) -> None:
        for child in loaded.children:
            self.remove(child.policy)
            self.remove(self._beneath.pop(child.policy, 0))

    def remove(self, policy: int) -> None:
        if self._in_force.pop(policy, None) is not None:
            self._gateway.emit(RemovePolicy(policy))

    # -- of SA pairs ---------------------------------------------------------------------------

    def use(
        self, sa: IkeSa, child: LoadedChild, index: int, local: Selectors, remote: Selectors
    ) -> tuple[int, int]:
        """(policy, flow) for a new pair; each needs its `unused`."""
        # During authentication the SA may still stand under another connection than the one that it is for.
        owner = self._gateway.book.owner(child.flows[index])
        loaded = self._gateway.book.get(owner.connection) if owner is not None else None
        connection = loaded.connection if loaded is not None else sa.connection
        state, path = sa.state, sa.state.path
        hosts = _hosts(*state.local_hosts), _hosts(*state.remote_hosts)
        one_peer = connection.remote_host or single_address(connection.remote_addrs) is not None
        if one_peer and not connection.pools:
            if loaded is not None and (connection.vips or child.policy not in self._in_force):
                trap, ends = child.child.start_action in TRAPS, (path.local, path.remote)
                if connection.vips:
                    self._discard_beneath(loaded, child, ends, hosts[1])
                self._install(make_policy(connection, child, trap, ends, hosts))
            return child.policy, child.flows[index]
        policy, flow = self._gateway.book.number(), self._gateway.book.number()
        rules = [*_exceptions(child, index, hosts), *pairs_of(Action.PROTECT, local, remote, flow)]
        name = f"{connection.name}/{child.child.name}"
        # In front of the child's own policy, which keeps what no peer has asked for from leaving in clear.
        priority = child.child.priority - 1
        made = Policy(policy, name, priority, tuple(rules), False, path.local, path.remote)
        self._install(treated(made, child.child))
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


def _hosts(*addresses: IpAddress | None) -> Selectors:
    return tuple([of_address(address) for address in addresses if address is not None])


def unprotected_before(child: Child, index: int) -> list[ChildRule]:
    """The rules before this flow's own that protect nothing."""
    own = next((at for at, rule in enumerate(child.rules) if rule.flow == index), len(child.rules))
    return [rule for rule in child.rules[:own] if rule.action != Action.PROTECT]


def _exceptions(child: LoadedChild, index: int, hosts: tuple[Selectors, Selectors]) -> list[PolicyRule]:
    """The rules before the flow's own that leave traffic alone or drop it: they win here too."""
    found = []
    for rule in unprotected_before(child.child, index):
        here, there = stand_in([rule.local], hosts[0]), stand_in([rule.remote], hosts[1])
        found += pairs_of(rule.action, here, there, 0)
    return found
