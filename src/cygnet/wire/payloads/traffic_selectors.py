"""Traffic Selector payloads (RFC 7296, section 3.13).

Ranges that run backwards are refused here, so that no later part meets one; ports 65535..0 are
OPAQUE (RFC 4301, section 4.4.1.1) and legal. Selectors of unknown types are kept as octets.
"""

from __future__ import annotations

from struct import Struct
from typing import ClassVar, Final, Self

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import PayloadType, TsType

_HEAD: Final = Struct("!B3s")
_SELECTOR: Final = Struct("!BBH")
_PORTS: Final = Struct("!HH")
_ADDRESS_SIZE: Final = {TsType.IPV4_ADDR_RANGE: 4, TsType.IPV6_ADDR_RANGE: 16}


@dataclass(frozen=True, slots=True)
class WireSelector:
    """`first`..`last` are packed addresses, both inside; `protocol` 0 is any; ports 0..65535 are all."""

    ts_type: int
    protocol: int
    port_first: int
    port_last: int
    first: bytes
    last: bytes


@dataclass(frozen=True, slots=True)
class UnknownSelector:
    """`octet` is the second octet of the selector, the protocol where the type has one."""

    ts_type: int
    octet: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _TsPayload:
    selectors: tuple[WireSelector | UnknownSelector, ...]
    reserved: bytes = bytes(3)
    flags: int = 0

    @property
    def ranges(self) -> tuple[WireSelector, ...]:
        """The selectors of known types; the others may be passed over when narrowing."""
        return tuple([s for s in self.selectors if isinstance(s, WireSelector)])

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> Self:
        count, reserved = body.unpack(_HEAD)
        if not count:
            raise Malformed("no selectors")
        selectors = tuple([_parse_selector(body) for _ in range(count)])
        body.expect_end()
        return cls(selectors, reserved, flags)

    def emit(self) -> bytes:
        return _HEAD.pack(len(self.selectors), self.reserved) + b"".join(map(_emit_selector, self.selectors))


@dataclass(frozen=True, slots=True)
class TsiPayload(_TsPayload):
    payload_type: ClassVar[int] = PayloadType.TSI


@dataclass(frozen=True, slots=True)
class TsrPayload(_TsPayload):
    payload_type: ClassVar[int] = PayloadType.TSR


def _parse_selector(body: Cursor) -> WireSelector | UnknownSelector:
    ts_type, protocol, length = body.unpack(_SELECTOR)
    size = _ADDRESS_SIZE.get(ts_type)
    if size is None:
        return UnknownSelector(ts_type, protocol, body.take(length - 4))
    if length != 8 + 2 * size:
        raise Malformed(f"a selector of type {ts_type} with length {length}")
    port_first, port_last = body.unpack(_PORTS)
    first, last = body.take(size), body.take(size)
    if first > last:
        raise Malformed("a selector whose last address is below its first")
    if port_first > port_last and (port_first, port_last) != (65535, 0):
        raise Malformed("a selector whose last port is below its first")
    return WireSelector(ts_type, protocol, port_first, port_last, first, last)


def _emit_selector(selector: WireSelector | UnknownSelector) -> bytes:
    if isinstance(selector, UnknownSelector):
        return _SELECTOR.pack(selector.ts_type, selector.octet, 4 + len(selector.data)) + selector.data
    addresses = selector.first + selector.last
    if len(addresses) != 2 * _ADDRESS_SIZE.get(selector.ts_type, -1):
        raise ValueError(f"addresses of {len(addresses)} octets in a selector of type {selector.ts_type}")
    return (
        _SELECTOR.pack(selector.ts_type, selector.protocol, 8 + len(addresses))
        + _PORTS.pack(selector.port_first, selector.port_last)
        + addresses
    )
