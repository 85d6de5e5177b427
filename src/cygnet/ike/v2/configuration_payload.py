"""The Configuration payload in both roles (RFC 7296, sections 2.19 and 3.15; RFC 8598).

Initiator                         Responder
CP(CFG_REQUEST)  -->
                             <--  CP(CFG_REPLY)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cygnet.ike import configuration_attributes as attributes
from cygnet.ike.remote_access import Given, Lease, NetworkSettings
from cygnet.policy.selectors import IpAddress
from cygnet.wire.numbers import CfgAttribute, CfgType
from cygnet.wire.payloads import ConfigAttribute, ConfigPayload

_HOST_PREFIX: Final = b"\x80"
"""An IPv6 address has the length of its prefix behind it (section 3.15.1): 128."""


# -- client -------------------------------------------------------------------------------------


def request(wanted: Iterable[IpAddress]) -> tuple[ConfigPayload, ...]:
    """CFG_REQUEST for these addresses, unspecified where any will do, and the settings that go with them."""
    asked = attributes.request(wanted)
    if not asked:
        return ()
    domains = ConfigAttribute(CfgAttribute.INTERNAL_DNS_DOMAIN, b"")
    return (ConfigPayload(CfgType.REQUEST, (*_with_prefixes(asked), domains)),)


def given(payload: ConfigPayload | None, wanted: Iterable[IpAddress]) -> Given:
    """What a CFG_REPLY gives us; of each family no more addresses than we asked for."""
    if payload is None or payload.cfg_type != CfgType.REPLY:
        return Given(())
    sent = payload.attributes
    return Given(attributes.addresses(sent, wanted), attributes.settings(sent))


# -- server -------------------------------------------------------------------------------------


def wanted(payload: ConfigPayload | None) -> tuple[IpAddress, ...]:
    """The addresses that a CFG_REQUEST asks for, unspecified ones where any will do."""
    if payload is None or payload.cfg_type != CfgType.REQUEST:
        return ()
    return attributes.wanted(payload.attributes)


def reply(
    payload: ConfigPayload | None, leases: Iterable[Lease], news: NetworkSettings
) -> tuple[ConfigPayload, ...]:
    """CFG_REPLY to a CFG_REQUEST; nothing where nothing was asked."""
    if payload is None or payload.cfg_type != CfgType.REQUEST:
        return ()
    told = _with_prefixes(attributes.told(leases, news))
    if any(one.type == CfgAttribute.INTERNAL_DNS_DOMAIN for one in payload.attributes):
        # RFC 8598, section 3.1: to those alone who ask.
        names = [name.encode() for name in news.domains]
        told += tuple([ConfigAttribute(CfgAttribute.INTERNAL_DNS_DOMAIN, name) for name in names])
    return (ConfigPayload(CfgType.REPLY, told),)


def acknowledge(payload: ConfigPayload | None) -> tuple[ConfigPayload, ...]:
    """CFG_ACK to a CFG_SET: empty, we take nothing that was not asked for (section 3.15)."""
    if payload is None or payload.cfg_type != CfgType.SET:
        return ()
    return (ConfigPayload(CfgType.ACK, ()),)


def _with_prefixes(many: Iterable[ConfigAttribute]) -> tuple[ConfigAttribute, ...]:
    is_six = CfgAttribute.INTERNAL_IP6_ADDRESS
    return tuple(
        [ConfigAttribute(a.type, a.value + _HOST_PREFIX) if a.type == is_six and a.value else a for a in many]
    )
