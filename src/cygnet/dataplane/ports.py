"""Ports: a TUN device each, and the policy of what goes in and out of it.

The first is the policy-based tunnels' own: the kernel's routes and guard bring it what the policies protect.
Others are route-based: a connection names a device, the data plane makes it, and the operator routes into it
whatever the connection's selectors allow. No route and no guard is made for those; what closes the way is the
device itself, which outlives the process (it is persistent): as long as the policy is not removed, what is
routed there has no other way out, and without a process or an SA it is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from cygnet.dataplane.messages import InterfaceCounters
from cygnet.dataplane.rtnetlink import RouteSocket
from cygnet.dataplane.tun import Device, Offloads, TunUnavailable, open_tun
from cygnet.policy.spd import Action, Policy, Spd

ALIAS = "cygnet route-based"
"""What marks a device as ours to the process that comes after."""
_TUNSETPERSIST = 0x400454CB
_STATISTICS = Path("/proc/net/dev")
"""Not /sys, which shows the namespace that it was mounted in."""


class Port:
    """`name` is empty for the policy-based tunnels' own, as in `policy.sa.SaParameters.interface`."""

    def __init__(self, name: str, tun: int, spd: Spd) -> None:
        self.name = name
        self.tun = tun
        self.spd = spd
        self.mtu = 0


class RouteBased(Port):
    """A named device of its own. Raises TunUnavailable if it cannot be made."""

    def __init__(self, name: str, mtu: int, *, bursts: bool) -> None:
        super().__init__(name, open_tun(name), Spd(Action.DISCARD))
        self._device = Device(self.tun)
        self.offloads = Offloads()
        fcntl.ioctl(self.tun, _TUNSETPERSIST, 1)
        with contextlib.closing(RouteSocket()) as netlink:
            netlink.set_alias(socket.if_nametoindex(name), ALIAS)
        self._device.start(mtu, self.offloads, bursts=bursts)
        self.mtu = mtu

    def set_mtu(self, mtu: int) -> None:
        if mtu != self.mtu:
            self.mtu = mtu
            self._device.set_mtu(mtu)

    def set_burst_size(self, octets: int) -> None:
        self._device.set_burst_size(octets)

    def close(self) -> None:
        """The policy is gone, and with it the device and every route into it."""
        fcntl.ioctl(self.tun, _TUNSETPERSIST, 0)
        os.close(self.tun)

    def counters(self, drops: dict[str, int]) -> InterfaceCounters:
        """The kernel's statistics, which see it from the host's side: what we write is received there."""
        return interface_counters(self.name, drops)


class Ports:
    """All of them. `opened` and `closing` are told of route-based ones."""

    def __init__(self, own: Port, *, bursts: bool) -> None:
        self.own = own
        self._bursts = bursts
        self._route_based: dict[str, RouteBased] = {}
        self._of_policy: dict[int, str] = {}

    def get(self, name: str) -> Port | None:
        return self._route_based.get(name) if name else self.own

    @property
    def route_based(self) -> tuple[RouteBased, ...]:
        return tuple(self._route_based.values())

    def holds(self, policy: int) -> bool:
        """Is it a route-based one's?"""
        return policy in self._of_policy

    def put(self, policy: Policy, mtu: int) -> RouteBased:
        """Raises TunUnavailable."""
        if self._of_policy.get(policy.id, policy.interface) != policy.interface:
            self.remove(policy.id)
        port = self._route_based.get(policy.interface)
        if port is None:
            port = self._route_based[policy.interface] = RouteBased(
                policy.interface, mtu, bursts=self._bursts
            )
        port.spd.put(policy)
        self._of_policy[policy.id] = policy.interface
        return port

    def remove(self, policy: int) -> RouteBased | None:
        """The port that went with its last policy."""
        name = self._of_policy.pop(policy, None)
        port = self._route_based.get(name or "")
        if name is None or port is None:
            return None
        port.spd.remove(policy)
        if len(port.spd):
            return None
        return self._route_based.pop(name)

    def policies(self) -> list[Policy]:
        return [policy for port in self._route_based.values() for policy in port.spd]

    def sweep(self) -> None:
        """Devices that a former process left and no policy asks for go."""
        with contextlib.closing(RouteSocket()) as netlink:
            aliases = netlink.aliases()
        for name, alias in aliases.items():
            if alias == ALIAS and name not in self._route_based:
                with contextlib.suppress(OSError, TunUnavailable):
                    left = open_tun(name)
                    fcntl.ioctl(left, _TUNSETPERSIST, 0)
                    os.close(left)


def interface_counters(name: str, drops: dict[str, int]) -> InterfaceCounters:
    """Zeros if there is no such device."""
    bytes_in, packets_in, bytes_out, packets_out = _statistics().get(name, (0, 0, 0, 0))
    return InterfaceCounters(name, bytes_in, packets_in, bytes_out, packets_out, drops)


def _statistics() -> dict[str, tuple[int, int, int, int]]:
    """Octets and packets received, then sent, of each link in this network namespace."""
    found = {}
    for line in _STATISTICS.read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        columns = [int(number) for number in numbers.split()]
        found[name.strip()] = columns[0], columns[1], columns[8], columns[9]
    return found
