"""Selectors in the octets of a traffic selector payload, and back (RFC 7296, section 3.13.1)."""

from __future__ import annotations

from collections.abc import Iterable

from cygnet.policy.selectors import TrafficSelector
from cygnet.wire.numbers import TsType
from cygnet.wire.payloads import WireSelector

_TS_TYPE = {4: TsType.IPV4_ADDR_RANGE, 6: TsType.IPV6_ADDR_RANGE}
_FAMILY = {ts_type: family for family, ts_type in _TS_TYPE.items()}
_OCTETS = {4: 4, 6: 16}


def to_wire(selectors: Iterable[TrafficSelector]) -> tuple[WireSelector, ...]:
    return tuple(
        WireSelector(
            _TS_TYPE[one.family],
            one.protocol,
            one.port_first,
            one.port_last,
            one.first.to_bytes(_OCTETS[one.family]),
            one.last.to_bytes(_OCTETS[one.family]),
        )
        for one in selectors
    )


def from_wire(selectors: Iterable[object]) -> tuple[TrafficSelector, ...]:
    """Those of known types; the responder ignores the others (RFC 7296, section 2.9)."""
    return tuple(
        TrafficSelector(
            _FAMILY[one.ts_type],
            one.protocol,
            int.from_bytes(one.first),
            int.from_bytes(one.last),
            one.port_first,
            one.port_last,
        )
        for one in selectors
        if isinstance(one, WireSelector) and one.ts_type in _FAMILY
    )
