"""This host as a client: the addresses that gateways gave us on the TUN, and their name servers.

Each order names everything that is to be there. Addresses of ours are told from an operator's by their
flags: whole length, and without the prefix route that nobody needs (IFA_F_NOPREFIXROUTE).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address

from cygnet.dataplane.nftables import KernelError, nft
from cygnet.dataplane.resolver import Resolver, ResolverRefused
from cygnet.dataplane.rtnetlink import RouteSocket
from cygnet.policy.selectors import IpAddress, TrafficSelector, format_addresses

NAT_TABLE = "cygnet_nat"
Translation = tuple[TrafficSelector, IpAddress]
"""A network, and the address that its hosts have in the tunnel."""


def _translation_table(device: str, translations: Sequence[Translation]) -> str:
    """nftables' script: the table with these rules and no others, or no table at all."""
    lines = [f"add table inet {NAT_TABLE}", f"delete table inet {NAT_TABLE}"]
    if translations:
        lines.append(f"add table inet {NAT_TABLE}")
        chain = "type nat hook postrouting priority 100; policy accept;"
        lines.append(f"add chain inet {NAT_TABLE} postrouting {{ {chain} }}")
    for network, address in translations:
        family = "ip" if network.family == 4 else "ip6"
        lines.append(
            f'add rule inet {NAT_TABLE} postrouting oifname "{device}" '
            f"{family} saddr {format_addresses(network)} snat {family} to {address}"
        )
    return "\n".join(lines) + "\n"


class Host:
    """`device`: the TUN's name. `changed` is called when addresses have: routes have sources."""

    def __init__(self, device: str, resolver: str, changed: Callable[[], None]) -> None:
        self._device = device
        self._resolver = Resolver(device, resolver)
        self._changed = changed
        self._translations: tuple[Translation, ...] = ()
        self._servers: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def recover(self) -> str:
        """Take back the servers that a process which crashed left behind; why that failed, else nothing."""
        try:
            self._resolver.recover()
        except ResolverRefused as error:
            return str(error)
        return ""

    def configure(
        self,
        addresses: Collection[IpAddress],
        gone: Collection[IpAddress] | None,
        servers: Sequence[IpAddress],
        domains: Sequence[str],
        translations: Sequence[Translation],
    ) -> None:
        """These addresses, and those `gone` no more (None: no others of ours); these servers and translations
        and no others. Raises KernelError, ResolverRefused."""
        if self._change_addresses(set(addresses), gone):
            self._changed()
        if tuple(translations) != self._translations or gone is None:
            nft(_translation_table(self._device, translations))
            self._translations = tuple(translations)
        wanted = tuple(map(str, servers)), tuple(domains)
        if wanted != self._servers:
            self._resolver.use(*wanted)
            self._servers = wanted

    def _change_addresses(self, wanted: set[IpAddress], unwanted: Collection[IpAddress] | None) -> bool:
        try:
            index = socket.if_nametoindex(self._device)
            sock = RouteSocket()
            try:
                present = {
                    (IPv4Address if one.family == 4 else IPv6Address)(one.address)
                    for one in sock.host_addresses(index)
                }
                others = present - wanted
                come, gone = wanted - present, others if unwanted is None else others.intersection(unwanted)
                sock.add_addresses(index, come)
                sock.delete_addresses(index, gone)
            finally:
                sock.close()
        except OSError as error:
            raise KernelError(f"the virtual addresses were refused: {error.strerror}") from error
        return bool(come or gone)

    def clear(self) -> None:
        """As if we had never been given anything. Raises KernelError, ResolverRefused."""
        self.configure((), None, (), (), ())
