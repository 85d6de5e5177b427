"""Policies in force: one for each child from the moment it is loaded, before and beyond its SAs.

A policy whose rules need to know the tunnel's ends (`dynamic`, and a peer that may come from
anywhere) is put into force with the first SA that tells them, and goes with the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cygnet.ike.configuration import StartAction
from cygnet.ike.connections import Loaded, LoadedChild, make_policy, single_address
from cygnet.ike.effects import InstallPolicy, RemovePolicy
from cygnet.policy.selectors import IpAddress
from cygnet.policy.spd import Policy

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint


class Policies:
    __slots__ = ("_gateway", "_in_force")

    def __init__(self, gateway: Endpoint) -> None:
        self._gateway = gateway
        self._in_force: dict[int, Policy] = {}

    def load(self, loaded: Loaded) -> None:
        """Install what can be installed; what has not changed is left alone."""
        for child in loaded.children:
            local = single_address(loaded.connection.local_addrs)
            remote = single_address(loaded.connection.remote_addrs)
            self._put(loaded, child, local, remote)

    def _put(
        self, loaded: Loaded, child: LoadedChild, local: IpAddress | None, remote: IpAddress | None
    ) -> None:
        trap = child.child.start_action in (StartAction.TRAP, StartAction.TRAP_START)
        name = f"{loaded.connection.name}/{child.child.name}"
        policy = make_policy(child, child.policy, name, trap, local, remote)
        if policy is not None and self._in_force.get(policy.id) != policy:
            self._in_force[policy.id] = policy
            self._gateway.emit(InstallPolicy(policy))

    def used(self, loaded: Loaded, child: LoadedChild, local: IpAddress, remote: IpAddress) -> None:
        """An SA of this child is about to be installed between these ends."""
        if child.policy not in self._in_force:
            self._put(loaded, child, local, remote)

    def unused(self, policy: int) -> None:
        """An SA of this policy is gone."""

    def unload(self, loaded: Loaded) -> None:
        for child in loaded.children:
            self.remove(child.policy)

    def remove(self, policy: int) -> None:
        if self._in_force.pop(policy, None) is not None:
            self._gateway.emit(RemovePolicy(policy))
