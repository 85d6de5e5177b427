"""Names of IP protocols, ports and ICMP types, as people write them in policies.

A fixed table instead of /etc/protocols and /etc/services: a configuration means the same on every
machine, and nothing here does I/O. Any number can be written where a name can.
"""

from __future__ import annotations

ICMP = 1
TCP = 6
UDP = 17
DCCP = 33
ICMPV6 = 58
SCTP = 132
MOBILITY = 135
UDP_LITE = 136

PROTOCOLS_WITH_PORTS = frozenset({TCP, UDP, DCCP, SCTP, UDP_LITE})
PROTOCOLS_WITH_TYPES = frozenset({ICMP, ICMPV6, MOBILITY})
"""One 16-bit field, type * 256 + code, stands in for both ports (RFC 4301, section 4.4.1.1)."""

_PROTOCOLS = {
    "icmp": ICMP,
    "igmp": 2,
    "ipip": 4,
    "tcp": TCP,
    "egp": 8,
    "udp": UDP,
    "dccp": DCCP,
    "ipv6": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": ICMPV6,
    "eigrp": 88,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": SCTP,
    "mobility": MOBILITY,
    "udplite": UDP_LITE,
}
_PROTOCOL_ALIASES = {
    "ipv6-icmp": ICMPV6,
    "icmp6": ICMPV6,
    "ipencap": 4,
    "ipinip": 4,
    "mobility-header": MOBILITY,
}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}

_SERVICES = {
    "ftp-data": 20,
    "ftp": 21,
    "ssh": 22,
    "telnet": 23,
    "smtp": 25,
    "domain": 53,
    "dns": 53,
    "bootps": 67,
    "bootpc": 68,
    "tftp": 69,
    "http": 80,
    "www": 80,
    "kerberos": 88,
    "pop3": 110,
    "sunrpc": 111,
    "ntp": 123,
    "imap": 143,
    "snmp": 161,
    "snmptrap": 162,
    "bgp": 179,
    "ldap": 389,
    "https": 443,
    "isakmp": 500,
    "syslog": 514,
    "ldaps": 636,
    "imaps": 993,
    "pop3s": 995,
    "l2tp": 1701,
    "radius": 1812,
    "nfs": 2049,
    "mysql": 3306,
    "ipsec-nat-t": 4500,
    "sip": 5060,
    "postgresql": 5432,
}

_ICMP_TYPES = {
    "echo-reply": 0,
    "unreachable": 3,
    "source-quench": 4,
    "redirect": 5,
    "echo": 8,
    "echo-request": 8,
    "router-advertisement": 9,
    "router-solicitation": 10,
    "time-exceeded": 11,
    "parameter-problem": 12,
    "timestamp-request": 13,
    "timestamp-reply": 14,
}
_ICMPV6_TYPES = {
    "unreachable": 1,
    "packet-too-big": 2,
    "time-exceeded": 3,
    "parameter-problem": 4,
    "echo": 128,
    "echo-request": 128,
    "echo-reply": 129,
    "router-solicitation": 133,
    "router-advertisement": 134,
    "neighbor-solicitation": 135,
    "neighbor-advertisement": 136,
    "redirect": 137,
}


def protocol_number(text: str) -> int | None:
    """0 (any) for `any` and `ip`; None if it is neither a known name nor 0 to 255."""
    word = text.lower()
    if word in ("any", "ip"):
        return 0
    number = _PROTOCOLS.get(word, _PROTOCOL_ALIASES.get(word))
    return number if number is not None else _number(word, 255)


def protocol_name(number: int) -> str:
    return _PROTOCOL_NAMES.get(number, str(number))


def port_number(text: str) -> int | None:
    """None if it is neither a known service name nor 0 to 65535."""
    word = text.lower()
    number = _SERVICES.get(word)
    return number if number is not None else _number(word, 65535)


def icmp_type_number(text: str, protocol: int) -> int | None:
    """None if it is neither a known type of that protocol nor 0 to 255."""
    word = text.lower()
    number = (_ICMPV6_TYPES if protocol == ICMPV6 else _ICMP_TYPES).get(word)
    return number if number is not None else _number(word, 255)


def icmp_type_names(protocol: int) -> tuple[str, ...]:
    return tuple(_ICMPV6_TYPES if protocol == ICMPV6 else _ICMP_TYPES)


def _number(text: str, largest: int) -> int | None:
    # isdecimal alone would let other scripts' digits through; int() of a long run of them is slow.
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    number = int(text)
    return number if number <= largest else None
