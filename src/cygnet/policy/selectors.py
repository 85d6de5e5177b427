"""Traffic selectors: which packets, as ranges of addresses and ports (RFC 7296, 3.13.1; RFC 4301, 4.4.1).

A selector is one side of a flow: a protocol, a range of addresses of one family, a range of ports.
For ICMP the "port" is type * 256 + code (RFC 4301, section 4.4.1.1). Access lists, the SPD and the
traffic selectors of IKE are all built from these. A flow is a list of selectors for each side; a
packet belongs to it if one selector of each side matches.

Selectors are sets, and the functions here are set algebra on them: `intersect`, `subtract`, `covers`,
`merge`. Protocol 0 means every protocol, 1 to 255. All ports include OPAQUE, the port that cannot be
seen (RFC 4301, 4.4.1: "ANY includes OPAQUE"); cutting ports out of "all" leaves ranges that do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range

from cygnet.policy import names
from cygnet.records import dataclass, replace

IpAddress = IPv4Address | IPv6Address

ANY_PROTOCOL = 0
PORT_MIN, PORT_MAX = 0, 65535
NO_PORT = -1
"""The port of a packet that shows none: a later fragment, or a protocol without ports."""

MAX_PIECES = 4096
"""Cutting selectors out of selectors stops here: the result would be of no use to anyone."""

_LAST_ADDRESS = {4: (1 << 32) - 1, 6: (1 << 128) - 1}


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


class BadSelector(ValueError):
    """A selector that cannot be read: what was found, and what is allowed."""


class TooManyPieces(Exception):
    """A difference of selectors needs more than `MAX_PIECES` ranges."""


# -- making ---------------------------------------------------------------------------------------


def everything(family: int) -> TrafficSelector:
    return TrafficSelector(family, ANY_PROTOCOL, 0, _LAST_ADDRESS[family])


def of_address(address: IpAddress) -> TrafficSelector:
    return TrafficSelector(address.version, ANY_PROTOCOL, int(address), int(address))


def of_range(first: IpAddress, last: IpAddress) -> TrafficSelector:
    """Raises BadSelector if the families differ or the range runs backwards."""
    if first.version != last.version or int(first) > int(last):
        raise BadSelector(f"{first}-{last} is not a range of addresses")
    return TrafficSelector(first.version, ANY_PROTOCOL, int(first), int(last))


def addresses(selector: TrafficSelector) -> tuple[IpAddress, IpAddress]:
    """The first and the last address."""
    kind = IPv4Address if selector.family == 4 else IPv6Address
    return kind(selector.first), kind(selector.last)


def prefixes(selector: TrafficSelector) -> tuple[tuple[int, int], ...]:
    """The address range as the fewest prefixes: (first address, prefix length) each."""
    bits = 32 if selector.family == 4 else 128
    size = selector.last - selector.first + 1
    if size & (size - 1) == 0 and selector.first & (size - 1) == 0:
        return ((selector.first, bits - size.bit_length() + 1),)
    first, last = addresses(selector)
    return tuple((int(net.network_address), net.prefixlen) for net in summarize_address_range(first, last))


def resolve(selector: AnySelector, address: IpAddress) -> TrafficSelector:
    """A dynamic selector becomes the one address; others stay as they are."""
    if isinstance(selector, TrafficSelector):
        return selector
    here = int(address)
    return TrafficSelector(
        address.version, selector.protocol, here, here, selector.port_first, selector.port_last
    )


def resolve_all(
    selectors: Iterable[AnySelector], addresses: Sequence[IpAddress]
) -> tuple[TrafficSelector, ...]:
    """A dynamic selector becomes one for each address."""
    return stand_in(selectors, [of_address(address) for address in addresses])


def stand_in(
    selectors: Iterable[AnySelector], hosts: Sequence[TrafficSelector]
) -> tuple[TrafficSelector, ...]:
    """A dynamic selector becomes the addresses of each of `hosts`, with its own protocol and ports."""
    resolved: list[TrafficSelector] = []
    for one in selectors:
        if isinstance(one, TrafficSelector):
            resolved.append(one)
        else:
            ports = one.port_first, one.port_last
            resolved += [TrafficSelector(h.family, one.protocol, h.first, h.last, *ports) for h in hosts]
    return tuple(resolved)


# -- text -----------------------------------------------------------------------------------------


def parse_selector(text: str) -> AnySelector:
    """swanctl's spelling: an address, prefix, range `a-b` or `dynamic`, then optionally `[protocol/port]`.

    Port: a number, a range `80-90`, a service name, `any`, `opaque`; for ICMP `type(code)` and
    `type`, or the 16-bit number (above 255, as swanctl writes it). Raises BadSelector.
    """
    body = text.strip()
    where, bracket, rest = body.partition("[")
    protocol, ports = ANY_PROTOCOL, (PORT_MIN, PORT_MAX)
    if bracket:
        if not rest.endswith("]"):
            raise BadSelector(f"{text!r}: the protocol and port must end with ']'")
        protocol, ports = _parse_protocol_and_ports(rest[:-1], text)
    where = where.strip()
    if where == "dynamic":
        return DynamicSelector(protocol, *ports)
    base = parse_addresses(where)
    return replace(base, protocol=protocol, port_first=ports[0], port_last=ports[1])


def parse_addresses(text: str) -> TrafficSelector:
    """An address, a prefix (bits beyond it are ignored, as swanctl does) or a range. Raises BadSelector."""
    allowed = "an address, a prefix such as 10.1.0.0/16, or a range such as 10.1.0.5-10.1.0.9"
    separator = ".." if ".." in text else "-"
    try:
        if separator in text:
            low, high = text.split(separator, 1)
            return of_range(ip_address(low.strip()), ip_address(high.strip()))
        net = ip_network(text, strict=False)
    except BadSelector:
        raise
    except ValueError:
        raise BadSelector(f"{text!r} is not {allowed}") from None
    return TrafficSelector(net.version, ANY_PROTOCOL, int(net.network_address), int(net.broadcast_address))


def _parse_protocol_and_ports(text: str, whole: str) -> tuple[int, tuple[int, int]]:
    name, slash, port = text.partition("/")
    protocol = names.protocol_number(name.strip() or "any")
    if protocol is None:
        raise BadSelector(f"{whole!r}: {name!r} is not a protocol name or a number from 0 to 255")
    port = port.strip().lower()
    if not slash or port in ("", "any"):
        return protocol, (PORT_MIN, PORT_MAX)
    if port == "opaque":
        return protocol, (PORT_MAX, PORT_MIN)
    number = names.port_number(port)
    if number is not None and not (protocol in names.PROTOCOLS_WITH_TYPES and number <= 255):
        return protocol, (number, number)
    low, dash, high = port.partition("-")
    first, last = _port_span(low, protocol), _port_span(high if dash else low, protocol)
    if first is None or last is None or first[0] > last[1]:
        wanted = "a type, type(code)" if protocol in names.PROTOCOLS_WITH_TYPES else "a port, a service name"
        raise BadSelector(f"{whole!r}: {port!r} is not {wanted}, a range of them, 'any' or 'opaque'")
    return protocol, (first[0], last[1])


def _port_span(text: str, protocol: int) -> tuple[int, int] | None:
    if protocol not in names.PROTOCOLS_WITH_TYPES:
        number = names.port_number(text.strip())
        return None if number is None else (number, number)
    kind_text, parenthesis, code_text = text.strip().partition("(")
    kind = names.icmp_type_number(kind_text, protocol)
    if kind is None:
        number = names.port_number(kind_text) if not parenthesis else None
        return None if number is None else (number, number)
    if not parenthesis:
        return kind * 256, kind * 256 + 255
    code = names.icmp_type_number(code_text[:-1], ANY_PROTOCOL) if code_text.endswith(")") else None
    return None if code is None else (kind * 256 + code, kind * 256 + code)


def format_selector(selector: AnySelector) -> str:
    """What `parse_selector` reads back as the same selector: `10.1.0.0/16[tcp/80]`."""
    where = "dynamic" if isinstance(selector, DynamicSelector) else format_addresses(selector)
    all_ports = is_any_port(selector)
    if selector.protocol == ANY_PROTOCOL and all_ports:
        return where
    protocol = "any" if selector.protocol == ANY_PROTOCOL else names.protocol_name(selector.protocol)
    return f"{where}[{protocol}]" if all_ports else f"{where}[{protocol}/{_format_ports(selector)}]"


def format_addresses(selector: TrafficSelector) -> str:
    first, last = addresses(selector)
    found = prefixes(selector)
    return f"{first}/{found[0][1]}" if len(found) == 1 else f"{first}-{last}"


def _format_ports(selector: AnySelector) -> str:
    first, last = selector.port_first, selector.port_last
    if is_opaque(selector):
        return "opaque"
    if selector.protocol not in names.PROTOCOLS_WITH_TYPES:
        return str(first) if first == last else f"{first}-{last}"
    kind, code = divmod(first, 256)
    if first == last:
        return f"{kind}({code})"
    if code == 0 and last & 255 == 255:
        return str(kind) if last >> 8 == kind else f"{kind}-{last >> 8}"
    return f"{kind}({code})-{last >> 8}({last & 255})"


# -- sets -----------------------------------------------------------------------------------------


def is_any_port(selector: AnySelector) -> bool:
    return selector.port_first == PORT_MIN and selector.port_last == PORT_MAX


def is_opaque(selector: AnySelector) -> bool:
    return selector.port_first > selector.port_last


def matches(selector: TrafficSelector, family: int, protocol: int, address: int, port: int) -> bool:
    """Does this side of a packet match? `port` is `NO_PORT` where it cannot be seen (RFC 4301, 4.4.1.1)."""
    return (
        selector.first <= address <= selector.last
        and selector.family == family
        and selector.protocol in (ANY_PROTOCOL, protocol)
        and matches_port(selector, port)
    )


def matches_port(selector: AnySelector, port: int) -> bool:
    if selector.port_first <= port <= selector.port_last:
        return True
    return port == NO_PORT and (is_any_port(selector) or is_opaque(selector))


def intersect(a: TrafficSelector, b: TrafficSelector) -> TrafficSelector | None:
    """What both select; None if that is nothing."""
    if a.family != b.family:
        return None
    protocol = intersect_protocols(a.protocol, b.protocol)
    first, last = max(a.first, b.first), min(a.last, b.last)
    if protocol is None or first > last:
        return None
    ports = _intersect_ports(a, b)
    return None if ports is None else TrafficSelector(a.family, protocol, first, last, *ports)


def intersect_protocols(a: int, b: int) -> int | None:
    """The protocol that both allow; None if there is none."""
    if a == b or b == ANY_PROTOCOL:
        return a
    return b if a == ANY_PROTOCOL else None


def _intersect_ports(a: TrafficSelector, b: TrafficSelector) -> tuple[int, int] | None:
    if is_any_port(a):
        return b.port_first, b.port_last
    if is_any_port(b):
        return a.port_first, a.port_last
    if is_opaque(a) or is_opaque(b):
        return (PORT_MAX, PORT_MIN) if is_opaque(a) and is_opaque(b) else None
    first, last = max(a.port_first, b.port_first), min(a.port_last, b.port_last)
    return (first, last) if first <= last else None


def contains(outer: TrafficSelector, inner: TrafficSelector) -> bool:
    """Is everything that `inner` selects selected by `outer`?"""
    return (
        outer.first <= inner.first
        and inner.last <= outer.last
        and outer.family == inner.family
        and outer.protocol in (ANY_PROTOCOL, inner.protocol)
        and _intersect_ports(outer, inner) == (inner.port_first, inner.port_last)
    )


def subtract(a: TrafficSelector, b: TrafficSelector) -> list[TrafficSelector]:
    """`a` without `b`, as disjoint selectors; [a] if they do not meet.

    Every protocol without one of them is the 254 others. All ports without some are what is left of
    0..65535; all ports without OPAQUE stay all ports, because no range says that.
    """
    common = intersect(a, b)
    if common is None or (is_opaque(common) and not is_opaque(a)):
        return [a]
    pieces = []
    if a.first < common.first:
        pieces.append(replace(a, last=common.first - 1))
    if common.last < a.last:
        pieces.append(replace(a, first=common.last + 1))
    middle = replace(a, first=common.first, last=common.last)
    if a.protocol != common.protocol:
        pieces += [replace(middle, protocol=p) for p in range(1, 256) if p != common.protocol]
        middle = replace(middle, protocol=common.protocol)
    if not is_opaque(a):
        if a.port_first < common.port_first:
            pieces.append(replace(middle, port_last=common.port_first - 1))
        if common.port_last < a.port_last:
            pieces.append(replace(middle, port_first=common.port_last + 1))
    return pieces


def subtract_all(
    selectors: Iterable[TrafficSelector], removed: Iterable[TrafficSelector], limit: int = MAX_PIECES
) -> list[TrafficSelector]:
    """What is left of `selectors`. Raises TooManyPieces if that takes more than `limit` ranges."""
    left = list(selectors)
    for taken in removed:
        left = [piece for one in left for piece in subtract(one, taken)]
        if len(left) > limit:
            raise TooManyPieces
    return left


def covers(outer: Sequence[TrafficSelector], inner: Iterable[TrafficSelector]) -> bool:
    """Do the selectors of `outer` together select everything that `inner` does?

    Differences of more than `MAX_PIECES` ranges count as not covered.
    """
    try:
        for one in inner:
            if not any(contains(whole, one) for whole in outer) and subtract_all([one], outer):
                return False
    except TooManyPieces:
        return False
    return True


def merge(selectors: Iterable[TrafficSelector]) -> tuple[TrafficSelector, ...]:
    """The same set with fewer selectors, where they hold or touch each other."""
    kept: list[TrafficSelector] = []
    for new in _merge_addresses(selectors):
        union, i = new, 0
        while i < len(kept):
            joined = _joined(kept[i], union)
            if joined is None:
                i += 1
            else:  # what has grown may touch one that was passed over
                del kept[i]
                union, i = joined, 0
        kept.append(union)
    return tuple(kept)


def _merge_addresses(selectors: Iterable[TrafficSelector]) -> list[TrafficSelector]:
    """Touching address ranges of the same protocol and ports joined, in one sorted pass."""
    alike: dict[tuple[int, int, int, int], list[TrafficSelector]] = {}
    for one in selectors:
        alike.setdefault((one.family, one.protocol, one.port_first, one.port_last), []).append(one)
    merged: list[TrafficSelector] = []
    for group in alike.values():
        group.sort(key=lambda one: one.first)
        current = group[0]
        for one in group[1:]:
            if one.first <= current.last + 1:
                current = replace(current, last=max(current.last, one.last))
            else:
                merged.append(current)
                current = one
        merged.append(current)
    return merged


def _joined(a: TrafficSelector, b: TrafficSelector) -> TrafficSelector | None:
    """Their union if one selector says it."""
    if a.family != b.family:
        return None
    if contains(a, b):
        return a
    if contains(b, a):
        return b
    if a.protocol != b.protocol:
        return None
    same_ports = (a.port_first, a.port_last) == (b.port_first, b.port_last)
    if same_ports and a.first <= b.last + 1 and b.first <= a.last + 1:
        return replace(a, first=min(a.first, b.first), last=max(a.last, b.last))
    if (a.first, a.last) == (b.first, b.last) and not (is_opaque(a) or is_opaque(b)):
        union = replace(
            a, port_first=min(a.port_first, b.port_first), port_last=max(a.port_last, b.port_last)
        )
        # All ports would take in OPAQUE, which neither has.
        if a.port_first <= b.port_last + 1 and b.port_first <= a.port_last + 1 and not is_any_port(union):
            return union
    return None
