"""The outer header in tunnel mode: DSCP, ECN and DF (RFC 4301, section 5.1.2; RFC 6040).

The kernel writes the outer header itself; what is decided here reaches it as socket options.
"""

from __future__ import annotations

from cygnet.ipsec.checksum import fix_ipv4_header
from cygnet.policy.sa import TunnelHeader

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3

# RFC 6040, figure 4: row inner, column outer; None: drop.
_DECAPSULATED: tuple[tuple[int | None, ...], ...] = (
    (NOT_ECT, NOT_ECT, NOT_ECT, None),
    (ECT_1, ECT_1, ECT_1, CE),
    (ECT_0, ECT_1, ECT_0, CE),
    (CE, CE, CE, CE),
)


def traffic_class(view: memoryview, at: int) -> int:
    """The TOS octet or traffic class of the IP packet at `at`."""
    if view[at] >> 4 == 4:
        return view[at + 1]
    return (view[at] & 15) << 4 | view[at + 1] >> 4


def dont_fragment(view: memoryview, at: int) -> bool:
    """DF of an IPv4 packet; IPv6 is never fragmented on its way."""
    return view[at] >> 4 != 4 or bool(view[at + 6] & 0x40)


def outer_df(header: TunnelHeader, inner: bool) -> bool:
    """DF of the outer header, of a packet whose own is `inner` (RFC 4301, section 8.1)."""
    return inner if header.copy_df else header.set_df


def outer_traffic_class(inner: int, header: TunnelHeader) -> int:
    dscp = inner & 0xFC if header.copy_dscp_out else 0
    return dscp | inner & 3 if header.copy_ecn else dscp


def decapsulate(view: memoryview, at: int, outer: int, header: TunnelHeader) -> bool:
    """Carry the outer DSCP and ECN over to the inner packet, as the SA says; False: drop (CE on Not-ECT)."""
    inner = traffic_class(view, at)
    ecn: int | None = inner & 3
    if header.copy_ecn:
        ecn = _DECAPSULATED[inner & 3][outer & 3]
        if ecn is None:
            return False
    dscp = outer & 0xFC if header.copy_dscp_in else inner & 0xFC
    new = dscp | (ecn or 0)
    if new == inner:
        return True
    if view[at] >> 4 == 4:
        view[at + 1] = new
        fix_ipv4_header(view, at, (view[at] & 15) * 4)
    else:
        view[at] = 0x60 | new >> 4
        view[at + 1] = (new & 15) << 4 | view[at + 1] & 15
    return True


def changes_inner(outer: int, header: TunnelHeader) -> bool:
    """Whether an outer traffic class can change any inner one: mostly it cannot, and nobody need look."""
    return (header.copy_ecn and outer & 3 in (ECT_1, CE)) or header.copy_dscp_in
