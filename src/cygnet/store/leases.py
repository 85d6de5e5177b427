"""Address pools: who has which address, now (online) or as long as it can be kept (offline).

An identity that comes back gets the address it had. A new one gets an address that nobody has had, and
only when there is none left that of whoever has been away longest. An address in use is given a second
time only to the same identity: when it asks for it by name from the address and port where it has it (an
authentication anew; a second device behind the same NAT has another port), or when all else that it
holds is about to be closed.

Nothing here does I/O: `remember` is told every assignment, and what it kept comes back by `restore`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from cygnet.auth.identity import Identity
from cygnet.config.requests import Pool, implicit_pool
from cygnet.ike.effects import LeaseAddresses, Leased
from cygnet.ike.remote_access import Lease, NetworkSettings
from cygnet.policy.selectors import IpAddress

_T = TypeVar("_T")

RADIUS: Final = "radius"
"""In the place of a pool: the address that the RADIUS server says, which keeps the books of it."""
_FRAMED: Final = {4: "Framed-IP-Address", 6: "Framed-IPv6-Address"}
MAX_LEASES: Final = 1 << 16
"""Addresses of one pool that are remembered; beyond, those longest away are given to others."""
MAX_ONLINE_PER_IDENTITY: Final = 64
"""Addresses of one pool that one identity may hold at once."""

Remember = Callable[[str, IpAddress, Identity], None]
"""(pool, address, identity): it is theirs from now on."""


@dataclass(slots=True)
class Held:
    """An address that somebody has had. `users`: IKE SAs that hold it now; 0: offline. `since`: when that
    changed, in Unix seconds, 0 if before the daemon started."""

    identity: Identity
    users: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as people look at it; `leases`: (address, identity, online), in the order of addresses."""

    name: str
    base: IpAddress
    size: int
    online: int
    offline: int
    leases: tuple[tuple[IpAddress, Identity, bool], ...] = ()


@dataclass(slots=True)
class _Addresses:
    """One pool. Offsets count from its first address."""

    name: str
    first: IpAddress
    size: int
    held: dict[int, Held] = field(default_factory=dict)
    of_identity: dict[Identity, dict[int, None]] = field(default_factory=dict)
    offline: dict[int, None] = field(default_factory=dict)
    """Those nobody holds, longest away first."""
    fresh: int = 0
    """The lowest offset that has never been given in turn."""

    def address(self, offset: int) -> IpAddress:
        kind = IPv4Address if self.first.version == 4 else IPv6Address
        return kind(int(self.first) + offset)

    def offset(self, address: IpAddress) -> int | None:
        if address.version != self.first.version:
            return None
        offset = int(address) - int(self.first)
        return offset if 0 <= offset < self.size else None

    def online_of(self, identity: Identity) -> int:
        return sum(1 for offset in self.of_identity.get(identity, ()) if self.held[offset].users)

    # -- changes -------------------------------------------------------------------------------

    def assign(self, offset: int, identity: Identity) -> None:
        """It is this identity's, offline."""
        former = self.held.get(offset)
        if former is not None:
            self._disown(offset, former.identity)
        self.held[offset] = Held(identity)
        self.of_identity.setdefault(identity, {})[offset] = None
        self.offline[offset] = None

    def forget(self, offset: int) -> None:
        former = self.held.pop(offset)
        self._disown(offset, former.identity)

    def _disown(self, offset: int, identity: Identity) -> None:
        self.offline.pop(offset, None)
        theirs = self.of_identity[identity]
        theirs.pop(offset, None)
        if not theirs:
            del self.of_identity[identity]

    def use(self, offset: int, now: float) -> None:
        held = self.held[offset]
        held.users += 1
        held.since = now
        self.offline.pop(offset, None)

    def release(self, offset: int, now: float) -> None:
        held = self.held.get(offset)
        if held is None or not held.users:
            return
        held.users -= 1
        held.since = now
        if not held.users:
            self.offline[offset] = None
            identity = held.identity
            theirs = self.of_identity[identity]
            theirs[offset] = theirs.pop(offset)  # the newest is the first to be given again

    # -- choices -------------------------------------------------------------------------------

    def choose(self, request: LeaseAddresses, wanted: IpAddress, taken: set[int]) -> int | None:
        """The offset to give, assigned to the identity already or not; None if there is none."""
        identity = request.peer.user
        offset = self.offset(wanted)
        if offset is not None and offset not in taken:
            held = self.held.get(offset)
            if held is None or (held.identity == identity and self._may_have(wanted, held, request)):
                return offset
        for own in reversed(self.of_identity.get(identity, {})):
            if own not in taken and (not self.held[own].users or request.alone):
                return own
        if len(self.held) < MAX_LEASES:
            while self.fresh < self.size and self.fresh in self.held:
                self.fresh += 1
            if self.fresh < self.size:
                return self.fresh
        # Of those away only one of the same kind: nobodies' addresses (RFC 7619) are never another's.
        nobody = identity.is_nobody
        return next((one for one in self.offline if self.held[one].identity.is_nobody is nobody), None)

    def _may_have(self, wanted: IpAddress, held: Held, request: LeaseAddresses) -> bool:
        return not held.users or request.alone or Lease(self.name, wanted) in request.here


class Leases:
    """All pools of a gateway. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float], remember: Remember | None = None) -> None:
        self._clock = clock
        self._remember = remember or (lambda pool, address, identity: None)
        self._pools: dict[str, Pool] = {}
        self._addresses: dict[str, _Addresses] = {}
        self._kept: dict[str, dict[IpAddress, Identity]] = {}
        """Of pools that are not loaded."""

    # -- pools ---------------------------------------------------------------------------------

    def load(self, pool: Pool) -> None:
        """A pool, new or changed. Addresses that are still in it stay with whom they were with."""
        new = _Addresses(pool.name, *_hosts_of(pool))
        former = self._addresses.get(pool.name)
        for address, identity in self._kept.pop(pool.name, {}).items():
            place = new.offset(address)
            if place is not None:
                new.assign(place, identity)
        for offset, held in former.held.items() if former is not None else ():
            place = new.offset(former.address(offset)) if former is not None else None
            if place is not None:
                new.assign(place, held.identity)
                new.held[place] = held
                if held.users:
                    new.offline.pop(place, None)
        self._pools[pool.name] = pool
        self._addresses[pool.name] = new

    def unload(self, name: str) -> None:
        """Nothing happens if there is none. Who has an address of it keeps that, and finds it again if the
        pool comes back."""
        self._pools.pop(name, None)
        former = self._addresses.pop(name, None)
        if former is not None:
            self._kept[name] = {former.address(o): held.identity for o, held in former.held.items()}

    def online(self, name: str) -> int:
        """How many addresses of a pool are in use."""
        addresses = self._addresses.get(name)
        return 0 if addresses is None else len(addresses.held) - len(addresses.offline)

    def __contains__(self, name: str) -> bool:
        return name in self._pools

    def pools(self) -> tuple[Pool, ...]:
        return tuple(self._pools.values())

    def restore(self, pool: str, address: IpAddress, identity: Identity) -> None:
        """An assignment of a former process; later ones win."""
        addresses = self._named(pool)
        if addresses is None:
            kept = self._kept.setdefault(pool, {})
            kept.pop(address, None)
            if len(kept) < MAX_LEASES:
                kept[address] = identity
            return
        offset = addresses.offset(address)
        if offset is not None and (offset in addresses.held or len(addresses.held) < MAX_LEASES):
            addresses.assign(offset, identity)

    @property
    def remembered(self) -> int:
        """How many assignments there are."""
        kept = sum(map(len, self._kept.values()))
        return kept + sum(len(addresses.held) for addresses in self._addresses.values())

    # -- leases --------------------------------------------------------------------------------

    def lease(self, request: LeaseAddresses) -> Leased:
        """As many of the wanted addresses as there are, and what the pools say about the network."""
        leases: list[Lease] = []
        taken: dict[str, set[int]] = {}
        refused = ""
        for wanted in request.wanted:
            lease = self._one(request, wanted, taken)
            if lease is None:
                refused = self._why_not(request, wanted)
            else:
                leases.append(lease)
        return Leased(tuple(leases), self.settings(request.pools), refused)

    def _one(self, request: LeaseAddresses, wanted: IpAddress, taken: dict[str, set[int]]) -> Lease | None:
        identity = request.peer.user
        if RADIUS in request.pools:
            framed = _framed(request, wanted.version)
            if framed is not None:
                return Lease(RADIUS, framed)
        for name in self._by_preference(request.pools, wanted):
            addresses = self._addresses[name]
            if addresses.online_of(identity) >= MAX_ONLINE_PER_IDENTITY:
                continue
            mine = taken.setdefault(name, set())
            offset = addresses.choose(request, wanted, mine)
            if offset is None:
                continue
            mine.add(offset)
            held = addresses.held.get(offset)
            address = addresses.address(offset)
            if held is None or held.identity != identity:
                addresses.assign(offset, identity)
                if not identity.is_nobody:
                    self._remember(name, address, identity)
            addresses.use(offset, self._clock())
            return Lease(name, address)
        return None

    def _by_preference(self, pools: Iterable[str], wanted: IpAddress) -> list[str]:
        """Pools of the family, the one that holds the wanted address first."""
        named = [(name, addresses) for name in pools if (addresses := self._named(name)) is not None]
        fitting = [(name, one) for name, one in named if one.first.version == wanted.version]
        return [name for name, _ in sorted(fitting, key=lambda pair: pair[1].offset(wanted) is None)]

    def _why_not(self, request: LeaseAddresses, wanted: IpAddress) -> str:
        names = self._by_preference(request.pools, wanted)
        if not names:
            return f"no pool of {', '.join(request.pools)} has IPv{wanted.version} addresses"
        return f"no address is left in {', '.join(names)}"

    def give_back(self, leases: Iterable[Lease]) -> None:
        """Whoever had them has ended."""
        for lease in leases:
            addresses = self._addresses.get(lease.pool)
            offset = addresses.offset(lease.address) if addresses is not None else None
            if addresses is not None and offset is not None:
                addresses.release(offset, self._clock())

    def _named(self, name: str) -> _Addresses | None:
        """The pool of this name; a name that is a range of addresses is a pool of these."""
        if name not in self._addresses:
            pool = implicit_pool(name)
            if pool is None:
                return None
            self.load(pool)
        return self._addresses[name]

    def settings(self, pools: Iterable[str]) -> NetworkSettings:
        """What these pools say about the network, each thing once."""
        known = [self._pools[name].settings for name in pools if name in self._pools]
        return NetworkSettings(
            dns=_union(one.dns for one in known),
            nbns=_union(one.nbns for one in known),
            dhcp=_union(one.dhcp for one in known),
            subnets=_union(one.subnets for one in known),
            excluded=_union(one.excluded for one in known),
            domains=_union(one.domains for one in known),
            banner=next((one.banner for one in known if one.banner), ""),
            save_password=any(one.save_password for one in known),
        )

    # -- looking -------------------------------------------------------------------------------

    def assignments(self) -> Iterator[tuple[str, IpAddress, Identity]]:
        """All, those longest away first: what is to be remembered."""
        for name, kept in self._kept.items():
            for address, identity in kept.items():
                if not identity.is_nobody:
                    yield name, address, identity
        for name, addresses in self._addresses.items():
            order = [*addresses.offline, *[o for o, held in addresses.held.items() if held.users]]
            for offset in order:
                identity = addresses.held[offset].identity
                if not identity.is_nobody:
                    yield name, addresses.address(offset), identity

    def views(self, name: str = "", *, leases: bool = False) -> Iterator[PoolView]:
        for one in self._addresses.values():
            if name in ("", one.name):
                shown = sorted(one.held.items()) if leases else ()
                online = len(one.held) - len(one.offline)
                yield PoolView(
                    one.name,
                    one.first,
                    one.size,
                    online,
                    len(one.offline),
                    tuple([(one.address(o), held.identity, held.users > 0) for o, held in shown]),
                )


def _framed(request: LeaseAddresses, family: int) -> IpAddress | None:
    """What RADIUS said; the all-ones and all-zeroes of RFC 2865, section 5.8, are no addresses."""
    values = [value for key, value in request.peer.attributes if key == _FRAMED[family]]
    if not values or len(values[0]) != (4 if family == 4 else 16):
        return None
    address: IpAddress = IPv4Address(values[0]) if family == 4 else IPv6Address(values[0])
    useless = address.is_unspecified or int(address) >= (1 << address.max_prefixlen) - 2
    return None if useless or address.is_multicast or address.is_loopback else address


def _union(many: Iterable[tuple[_T, ...]]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(one for each in many for one in each))


def _hosts_of(pool: Pool) -> tuple[IpAddress, int]:
    """First address and number of those that hosts may have: a network without its first and last, which
    are its own and broadcast's; a range whole."""
    first, last = pool.addresses.first, pool.addresses.last
    size = int(last) - int(first) + 1
    if size > 2 and size & (size - 1) == 0 and int(first) % size == 0:
        return first + 1, size - 2
    return first, size
