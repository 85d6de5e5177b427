"""Traffic selectors: which packets, as ranges of addresses and ports (RFC 7296, section 3.13.1; RFC 4301, 4.4.1).

A selector is one side of a flow: a protocol, a range of addresses of one family, a range of ports.
For ICMP the "port" is type * 256 + code (RFC 4301, section 4.4.1.1). Access lists, the SPD and the
traffic selectors of IKE are all built from these.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

IpAddress = IPv4Address | IPv6Address

ANY_PROTOCOL = 0
PORT_MIN, PORT_MAX = 0, 65535


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """`first`..`last` are addresses as integers, both inside; `family` is 4 or 6; `protocol` 0 is any.

    Ports 0..65535 are all ports. OPAQUE (RFC 4301, 4.4.1.1) is port_first 65535, port_last 0.
    """

    family: int
    protocol: int
    first: int
    last: int
    port_first: int = PORT_MIN
    port_last: int = PORT_MAX


@dataclass(frozen=True, slots=True)
class DynamicSelector:
    """The tunnel's own end, whatever address it turns out to have (swanctl's `dynamic`)."""

    protocol: int = ANY_PROTOCOL
    port_first: int = PORT_MIN
    port_last: int = PORT_MAX


AnySelector = TrafficSelector | DynamicSelector
