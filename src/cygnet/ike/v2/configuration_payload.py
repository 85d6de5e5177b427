"""The Configuration payload in both roles (RFC 7296, sections 2.19 and 3.15; RFC 8598).

    Initiator                         Responder
    CP(CFG_REQUEST)  -->
                                 <--  CP(CFG_REPLY)

Pure functions between payloads and what they mean. What a peer sends is bounded and judged here: an
address that no host can have, a domain that is no name, a mask with holes count as not sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cygnet.ike.remote_access import MAX_ADDRESSES, Given, Lease, NetworkSettings
from cygnet.policy.selectors import IpAddress, TrafficSelector, prefixes
from cygnet.wire.numbers import CfgAttribute, CfgType
from cygnet.wire.payloads import ConfigAttribute, ConfigPayload

MAX_SERVERS: Final = 16
MAX_SUBNETS: Final = 255
MAX_DOMAINS: Final = 64
"""Of each kind that we take from one gateway, the first."""

_ADDRESS: Final = {4: CfgAttribute.INTERNAL_IP4_ADDRESS, 6: CfgAttribute.INTERNAL_IP6_ADDRESS}
_DNS: Final = {4: CfgAttribute.INTERNAL_IP4_DNS, 6: CfgAttribute.INTERNAL_IP6_DNS}
_SUBNET: Final = {4: CfgAttribute.INTERNAL_IP4_SUBNET, 6: CfgAttribute.INTERNAL_IP6_SUBNET}
_DHCP: Final = {4: CfgAttribute.INTERNAL_IP4_DHCP, 6: CfgAttribute.INTERNAL_IP6_DHCP}
_NBNS: Final = {4: CfgAttribute.INTERNAL_IP4_NBNS}
_DOMAIN: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*",
    re.I | re.A,
)
"""What may go into a resolver's configuration: letters, digits, hyphens, dots."""


# -- client -------------------------------------------------------------------------------------


def request(wanted: Iterable[IpAddress]) -> tuple[ConfigPayload, ...]:
    """CFG_REQUEST for these addresses, unspecified where any will do, and the settings that go with them."""
    asked = tuple(wanted)
    if not asked:
        return ()
    families = tuple(dict.fromkeys(address.version for address in asked))
    attributes = [ConfigAttribute(_ADDRESS[a.version], _packed(a) if int(a) else b"") for a in asked]
    attributes += [ConfigAttribute(kind[family], b"") for kind in (_DNS, _SUBNET) for family in families]
    attributes += [ConfigAttribute(CfgAttribute.INTERNAL_DNS_DOMAIN, b"")]
    return (ConfigPayload(CfgType.REQUEST, tuple(attributes)),)


def given(payload: ConfigPayload | None, wanted: Iterable[IpAddress]) -> Given:
    """What a CFG_REPLY gives us; of each family no more addresses than we asked for."""
    if payload is None or payload.cfg_type != CfgType.REPLY:
        return Given(())
    asked = [address.version for address in wanted]
    ours: list[IpAddress] = []
    for attribute in payload.attributes:
        address = _host(attribute, _ADDRESS)
        if address is not None and address.version in asked and address not in ours:
            asked.remove(address.version)
            ours.append(address)
    return Given(tuple(ours), settings(payload))


def settings(payload: ConfigPayload) -> NetworkSettings:
    """All that it says about the network besides our addresses."""
    sent = payload.attributes
    domains = [a.value for a in sent if a.type == CfgAttribute.INTERNAL_DNS_DOMAIN]
    return NetworkSettings(
        dns=_hosts(sent, _DNS),
        nbns=_hosts(sent, _NBNS),
        dhcp=_hosts(sent, _DHCP),
        subnets=tuple(dict.fromkeys(_subnets(sent)))[:MAX_SUBNETS],
        domains=tuple(dict.fromkeys(_names(domains)))[:MAX_DOMAINS],
    )


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
    """RFC 8598, section 3.1: names in presentation format, without a trailing dot."""
    for value in values:
        name = value.decode("ascii", "replace").rstrip(".")
        if _DOMAIN.fullmatch(name):
            yield name.lower()


# -- server -------------------------------------------------------------------------------------


def wanted(payload: ConfigPayload | None) -> tuple[IpAddress, ...]:
    """The addresses that a CFG_REQUEST asks for, unspecified ones where any will do."""
    if payload is None or payload.cfg_type != CfgType.REQUEST:
        return ()
    asked: list[IpAddress] = []
    for attribute in payload.attributes:
        if attribute.type == _ADDRESS[4]:
            asked.append(_host(attribute, _ADDRESS) or IPv4Address(0))
        elif attribute.type == _ADDRESS[6]:
            asked.append(_host(attribute, _ADDRESS) or IPv6Address(0))
    return tuple(asked[:MAX_ADDRESSES])


def reply(
    payload: ConfigPayload | None, leases: Iterable[Lease], news: NetworkSettings
) -> tuple[ConfigPayload, ...]:
    """CFG_REPLY to a CFG_REQUEST; nothing where nothing was asked."""
    if payload is None or payload.cfg_type != CfgType.REQUEST:
        return ()
    attributes = [ConfigAttribute(_ADDRESS[one.address.version], _packed(one.address)) for one in leases]
    for kinds, hosts in ((_DNS, news.dns), (_NBNS, news.nbns), (_DHCP, news.dhcp)):
        attributes += [ConfigAttribute(kinds[h.version], h.packed) for h in hosts if h.version in kinds]
    attributes += [_subnet(subnet.family, *prefix) for subnet in news.subnets for prefix in prefixes(subnet)]
    if any(one.type == CfgAttribute.INTERNAL_DNS_DOMAIN for one in payload.attributes):
        # RFC 8598, section 3.1: to those alone who ask.
        domains = [name.encode() for name in news.domains]
        attributes += [ConfigAttribute(CfgAttribute.INTERNAL_DNS_DOMAIN, name) for name in domains]
    return (ConfigPayload(CfgType.REPLY, tuple(attributes)),)


def acknowledge(payload: ConfigPayload | None) -> tuple[ConfigPayload, ...]:
    """CFG_ACK to a CFG_SET: empty, we take nothing that was not asked for (section 3.15)."""
    if payload is None or payload.cfg_type != CfgType.SET:
        return ()
    return (ConfigPayload(CfgType.ACK, ()),)


def _packed(address: IpAddress) -> bytes:
    return address.packed if address.version == 4 else address.packed + b"\x80"


def _subnet(family: int, first: int, length: int) -> ConfigAttribute:
    if family == 4:
        mask = (0xFFFFFFFF << 32 - length) & 0xFFFFFFFF
        return ConfigAttribute(_SUBNET[4], first.to_bytes(4, "big") + mask.to_bytes(4, "big"))
    return ConfigAttribute(_SUBNET[6], first.to_bytes(16, "big") + bytes((length,)))
