"""What a gateway gives a remote client, whichever IKE version asks: addresses, and news of the network.

A gateway leases addresses out of pools to peers that have proved who they are (`effects.LeaseAddresses`);
a client is given addresses and uses them while an IKE SA holds them (`clients`).
"""

from __future__ import annotations

from typing import Final

from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.records import dataclass

MAX_ADDRESSES: Final = 8
"""Addresses that one IKE SA may have."""


@dataclass(frozen=True, slots=True)
class Lease:
    """An address out of a pool, in a peer's hands."""

    pool: str
    address: IpAddress


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """What a client is told about the network behind the gateway.

    `subnets` are reached through the tunnel, `excluded` are not; the Child SA's selectors decide, these
    inform. `domains`: names that the `dns` servers answer for, the first is the client's own.
    `banner` is shown to the user; `save_password`: the client may keep the user's password.
    """

    dns: tuple[IpAddress, ...] = ()
    nbns: tuple[IpAddress, ...] = ()
    dhcp: tuple[IpAddress, ...] = ()
    subnets: tuple[TrafficSelector, ...] = ()
    excluded: tuple[TrafficSelector, ...] = ()
    domains: tuple[str, ...] = ()
    banner: str = ""
    save_password: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What a gateway gave us."""

    addresses: tuple[IpAddress, ...]
    settings: NetworkSettings = NetworkSettings()


@dataclass(frozen=True, slots=True)
class HostConfiguration:
    """How this host is set up for all that it was given: addresses on the tunnel's device, name servers
    and the domains that these are asked about; without domains, about everything. `translations`: networks
    whose hosts go into the tunnel under an address of ours."""

    addresses: tuple[IpAddress, ...] = ()
    dns: tuple[IpAddress, ...] = ()
    domains: tuple[str, ...] = ()
    translations: tuple[tuple[TrafficSelector, IpAddress], ...] = ()
