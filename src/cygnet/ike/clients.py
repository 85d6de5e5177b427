"""What we were given as a client, by IKE SA, and how this host is to be set up for all of it.

Two SAs may hold the same address for a while (a reauthentication); it goes with the last of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cygnet.ike.configuration import Connection
from cygnet.ike.effects import Configure
from cygnet.ike.remote_access import Given, HostConfiguration
from cygnet.policy.selectors import IpAddress, TrafficSelector

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint


class Clients:
    """Every change is told the world, each time as a whole."""

    __slots__ = ("_gateway", "_given", "_last", "_told")

    def __init__(self, gateway: Endpoint) -> None:
        self._gateway = gateway
        self._given: dict[int, tuple[Connection, Given]] = {}
        self._last: dict[str, tuple[IpAddress, ...]] = {}
        self._told = HostConfiguration()

    def wanted(self, connection: str, vips: tuple[IpAddress, ...]) -> tuple[IpAddress, ...]:
        """What to ask for: where any address will do, the one that we had last, or still have."""
        had = list(self._last.get(connection, ()))
        asked = []
        for vip in vips:
            known = next((one for one in had if one.version == vip.version), None)
            if int(vip) == 0 and known is not None:
                had.remove(known)
                asked.append(known)
            else:
                asked.append(vip)
        return tuple(asked)

    def take(self, number: int, connection: Connection, given: Given) -> None:
        """An IKE SA was given this; `tell` makes it so."""
        self._given[number] = connection, given
        self._last[connection.name] = given.addresses

    def move(self, old: int, new: int) -> None:
        """One IKE SA took over from another."""
        if old in self._given:
            self._given[new] = self._given.pop(old)

    def drop(self, number: int) -> None:
        """An IKE SA is gone; what no other holds goes with it."""
        if number not in self._given:
            return
        name = self._given.pop(number)[0].name
        loaded = self._gateway.book.get(name)
        if loaded is not None and all(other.name != name for other, _ in self._given.values()):
            self._gateway.policies.addresses_gone(loaded)
        if self.configuration() != self._told:
            self.tell(0)

    def forget(self, connection: str) -> None:
        """A connection was unloaded: what it had is nothing to ask for again."""
        self._last.pop(connection, None)

    def tell(self, ask_id: int) -> None:
        """Have the host set up as it must be now; `ask_id` 0 wants no answer."""
        self._told = self.configuration()
        self._gateway.emit(Configure(ask_id, self._told))

    def configuration(self) -> HostConfiguration:
        """All of it together, in the order in which it was given. A tunnel that answers for all names
        leaves no domain to be asked elsewhere."""
        all_given = [given for _, given in self._given.values()]
        addresses = dict.fromkeys(address for given in all_given for address in given.addresses)
        dns = dict.fromkeys(server for given in all_given for server in given.settings.dns)
        with_servers = [given.settings.domains for given in all_given if given.settings.dns]
        domains = dict.fromkeys(name for names in with_servers for name in names) if all(with_servers) else {}
        return HostConfiguration(tuple(addresses), tuple(dns), tuple(domains), self._translations())

    def _translations(self) -> tuple[tuple[TrafficSelector, IpAddress], ...]:
        """Each network under the first address of its family."""
        found: dict[TrafficSelector, IpAddress] = {}
        for connection, given in self._given.values():
            for network in connection.translate:
                same = [one for one in given.addresses if one.version == network.family]
                if same:
                    found.setdefault(network, same[0])
        return tuple(found.items())
