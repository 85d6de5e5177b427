"""Configuration attributes: what both IKE versions ask and tell with them (RFC 7296, 3.15.1; RFC 8598).

Pure functions between attributes and what they mean. What a peer sends is bounded and judged here: an
address that no host can have, a domain that is no name, a mask with holes count as not sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cygnet.ike.remote_access import MAX_ADDRESSES, Lease, NetworkSettings
from cygnet.policy.selectors import IpAddress, TrafficSelector, prefixes
from cygnet.wire.numbers import CfgAttribute
from cygnet.wire.payloads import ConfigAttribute

MAX_SERVERS: Final = 16
MAX_SUBNETS: Final = 255
MAX_DOMAINS: Final = 64
"""Of each kind that we take from one gateway, the first."""

ADDRESS: Final = {4: CfgAttribute.INTERNAL_IP4_ADDRESS, 6: CfgAttribute.INTERNAL_IP6_ADDRESS}
_DNS: Final = {4: CfgAttribute.INTERNAL_IP4_DNS, 6: CfgAttribute.INTERNAL_IP6_DNS}
_SUBNET: Final = {4: CfgAttribute.INTERNAL_IP4_SUBNET, 6: CfgAttribute.INTERNAL_IP6_SUBNET}
_DHCP: Final = {4: CfgAttribute.INTERNAL_IP4_DHCP, 6: CfgAttribute.INTERNAL_IP6_DHCP}
_NBNS: Final = {4: CfgAttribute.INTERNAL_IP4_NBNS}
_DOMAIN: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*",
    re.I | re.A,
)
"""What may go into a resolver's configuration: letters, digits, hyphens, dots."""


Attributes = tuple[ConfigAttribute, ...]


# -- client -------------------------------------------------------------------------------------


def request(wanted: Iterable[IpAddress]) -> Attributes:
    """These addresses, unspecified where any will do, and the settings that go with them."""
    asked = tuple(wanted)
    families = tuple(dict.fromkeys(address.version for address in asked))
    attributes = [ConfigAttribute(ADDRESS[a.version], a.packed if int(a) else b"") for a in asked]
    attributes += [ConfigAttribute(kind[family], b"") for kind in (_DNS, _SUBNET) for family in families]
    return tuple(attributes)


def addresses(attributes: Iterable[ConfigAttribute], wanted: Iterable[IpAddress]) -> tuple[IpAddress, ...]:
    """The addresses that we are given; of each family no more than we asked for."""
    asked = [address.version for address in wanted]
    ours: list[IpAddress] = []
    for attribute in attributes:
        address = _host(attribute, ADDRESS)
        if address is not None and address.version in asked and address not in ours:
            asked.remove(address.version)
            ours.append(address)
    return tuple(ours)


def settings(attributes: Iterable[ConfigAttribute]) -> NetworkSettings:
    """All that they say about the network besides our addresses."""
    sent = tuple(attributes)
    named = [a.value for a in sent if a.type == CfgAttribute.INTERNAL_DNS_DOMAIN]
    return NetworkSettings(
        dns=_hosts(sent, _DNS),
        nbns=_hosts(sent, _NBNS),
        dhcp=_hosts(sent, _DHCP),
        subnets=tuple(dict.fromkeys(_subnets(sent)))[:MAX_SUBNETS],
        domains=domains(named),
    )


def domains(values: Iterable[bytes]) -> tuple[str, ...]:
    """The names among them, without a trailing dot (RFC 8598, section 3.1)."""
    return tuple(dict.fromkeys(_names(values)))[:MAX_DOMAINS]


def _hosts(attributes: Iterable[ConfigAttribute], kinds: dict[int, int]) -> tuple[IpAddress, ...]:
    found = [host for one in attributes if (host := _host(one, kinds)) is not None]
    return tuple(dict.fromkeys(found))[:MAX_SERVERS]


def _host(attribute: ConfigAttribute, kinds: dict[int, int]) -> IpAddress | None:
    """The attribute's address, if it is one of these kinds and an address that a host can have."""
    address: IpAddress
    if attribute.type == kinds.get(4) and len(attribute.value) == 4:
        address = IPv4Address(attribute.value)
    elif attribute.type == kinds.get(6) and len(attribute.value) in (16, 17):
        # An IPv6 address has its prefix length behind it, a server's has not (section 3.15.1).
        address = IPv6Address(attribute.value[:16])
    else:
        return None
    useless = (
        address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
        or address == IPv4Address("255.255.255.255")
    )  # fmt: skip
    return None if useless else address


def _subnets(attributes: Iterable[ConfigAttribute]) -> Iterator[TrafficSelector]:
    for attribute in attributes:
        if attribute.type == CfgAttribute.INTERNAL_IP4_SUBNET and len(attribute.value) == 8:
            mask = int.from_bytes(attribute.value[4:], "big")
            free = ~mask & 0xFFFFFFFF
            if not free & (free + 1):
                first = int.from_bytes(attribute.value[:4], "big") & mask
                yield TrafficSelector(4, 0, first, first | free)
        elif attribute.type == CfgAttribute.INTERNAL_IP6_SUBNET and len(attribute.value) == 17:
            free = (1 << max(128 - attribute.value[16], 0)) - 1
            first = int.from_bytes(attribute.value[:16], "big") & ~free
            yield TrafficSelector(6, 0, first, first | free)


def _names(values: Iterable[bytes]) -> Iterator[str]:
    for value in values:
        name = value.decode("ascii", "replace").rstrip(".")
        if _DOMAIN.fullmatch(name):
            yield name.lower()


# -- server -------------------------------------------------------------------------------------


def wanted(attributes: Iterable[ConfigAttribute]) -> tuple[IpAddress, ...]:
    """The addresses that are asked for, unspecified ones where any will do."""
    asked: list[IpAddress] = []
    for attribute in attributes:
        if attribute.type == ADDRESS[4]:
            asked.append(_host(attribute, ADDRESS) or IPv4Address(0))
        elif attribute.type == ADDRESS[6]:
            asked.append(_host(attribute, ADDRESS) or IPv6Address(0))
    return tuple(asked[:MAX_ADDRESSES])


def told(leases: Iterable[Lease], news: NetworkSettings) -> Attributes:
    """The addresses that are leased, and what both versions can say about the network."""
    attributes = [ConfigAttribute(ADDRESS[one.address.version], one.address.packed) for one in leases]
    for kinds, hosts in ((_DNS, news.dns), (_NBNS, news.nbns), (_DHCP, news.dhcp)):
        attributes += [ConfigAttribute(kinds[h.version], h.packed) for h in hosts if h.version in kinds]
    attributes += [_subnet(subnet.family, *prefix) for subnet in news.subnets for prefix in prefixes(subnet)]
    return tuple(attributes)


def _subnet(family: int, first: int, length: int) -> ConfigAttribute:
    if family == 4:
        mask = (0xFFFFFFFF << 32 - length) & 0xFFFFFFFF
        return ConfigAttribute(_SUBNET[4], first.to_bytes(4, "big") + mask.to_bytes(4, "big"))
    return ConfigAttribute(_SUBNET[6], first.to_bytes(16, "big") + bytes((length,)))
