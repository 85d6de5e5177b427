"""Access lists: ordered rules that say which traffic is protected; the first that matches decides.

`permit` protects with this connection, `deny` leaves the packet alone (bypass). A list is the same thing
as an ordered SPD with traffic selectors (RFC 4301, section 4.4.1): `policy.expansion` turns it into
flows, what the peer is told, and rules, what is enforced here. The source of a rule is this gateway's
side, its destination the peer's.

A rule is one line or one mapping, both mean the same:

    10 permit tcp 10.1.0.0/16 10.2.0.0 0.0.255.255 eq 443
    rule 10 permit tcp source 10.1.0.0/16 destination 10.2.0.0 0.0.255.255 destination-port eq 443
    {number: 10, action: permit, protocol: tcp, source: 10.1.0.0/16, ..., destination_port: eq 443}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from cygnet.policy import names
from cygnet.policy.selectors import (
    PORT_MAX,
    PORT_MIN,
    BadSelector,
    TrafficSelector,
    everything,
    of_range,
    parse_addresses,
)

NUMBER_STEP = 10
MAX_NUMBER = (1 << 32) - 1
MAX_WILDCARD_RANGES = 256

PortRange = tuple[int, int]
ALL_PORTS: tuple[PortRange, ...] = ((PORT_MIN, PORT_MAX),)

KEYS = (
    "number",
    "action",
    "protocol",
    "source",
    "source_port",
    "destination",
    "destination_port",
    "icmp_type",
    "icmp_code",
    "description",
)


class BadAccessRule(ValueError):
    """A rule that cannot be read. `entry` is its place in the list, from 0; `key` the part at fault; `others`
    are those of the same list."""

    others: tuple[BadAccessRule, ...] = ()

    def __init__(self, key: str, found: object, allowed: str, entry: int = 0) -> None:
        super().__init__(f"{key}: found {found!r}, allowed: {allowed}")
        self.key = key
        self.found = str(found)
        self.allowed = allowed
        self.entry = entry


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One rule, read. `source` and `destination` are address ranges: any protocol, all ports.

    Ports are ranges, both ends inside. `types`: the range of ICMP type * 256 + code, or None.
    """

    number: int
    permit: bool
    protocol: int
    source: tuple[TrafficSelector, ...]
    destination: tuple[TrafficSelector, ...]
    source_ports: tuple[PortRange, ...] = ALL_PORTS
    destination_ports: tuple[PortRange, ...] = ALL_PORTS
    types: PortRange | None = None
    text: str = ""
    """As it was written, number apart; for people."""


@dataclass(frozen=True, slots=True)
class AccessList:
    """Rules in the order in which they are tried: by number."""

    name: str
    rules: tuple[AccessRule, ...]


def parse_access_list(name: str, entries: Iterable[str | Mapping[str, object]]) -> AccessList:
    """Rules without a number get the next multiple of ten. Raises the first BadAccessRule with all others."""
    rules: dict[int, AccessRule] = {}
    wrong: list[BadAccessRule] = []
    last = 0
    for entry, given in enumerate(entries):
        following = (last // NUMBER_STEP + 1) * NUMBER_STEP
        try:
            rule = parse_rule(given, following)
            if wrong and rule.number == following:
                continue  # it may have none of its own, and what it would get is not known any more
            if rule.number in rules:
                raise BadAccessRule("number", rule.number, "a number that no other rule of the list has")
        except BadAccessRule as error:
            error.entry = entry
            wrong.append(error)
            continue
        rules[rule.number] = rule
        last = max(last, rule.number)
    if wrong:
        wrong[0].others = tuple(wrong[1:])
        raise wrong[0]
    return AccessList(name, tuple(rules[number] for number in sorted(rules)))


def parse_rule(given: str | Mapping[str, object], number: int = NUMBER_STEP) -> AccessRule:
    """One rule; `number` is what it gets if it names none. Raises BadAccessRule."""
    fields = _fields_of_line(given) if isinstance(given, str) else _fields_of_mapping(given)
    if "number" in fields:
        number = _number("number", fields["number"], MAX_NUMBER, 1)
    action = fields.get("action", "")
    if action not in ("permit", "deny"):
        raise BadAccessRule("action", action, "permit, deny")
    protocol = names.protocol_number(fields.get("protocol", "any"))
    if protocol is None:
        raise BadAccessRule("protocol", fields["protocol"], "any, a name such as tcp, or a number to 255")
    source = _addresses("source", fields.get("source", "any"))
    destination = _addresses("destination", fields.get("destination", "any"))
    source, destination = _same_families(source, destination, protocol)
    source_ports = _ports("source_port", fields.get("source_port"), protocol)
    destination_ports = _ports("destination_port", fields.get("destination_port"), protocol)
    types = _types(fields.get("icmp_type"), fields.get("icmp_code"), protocol)
    text = given.strip() if isinstance(given, str) else _line_of(fields)
    return AccessRule(
        number,
        action == "permit",
        protocol,
        source,
        destination,
        source_ports,
        destination_ports,
        types,
        text,
    )


# -- the two spellings, to one dictionary of texts --------------------------------------------------


def _fields_of_mapping(given: Mapping[str, object]) -> dict[str, str]:
    fields = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in KEYS:
            raise BadAccessRule(key, value, "one of " + ", ".join(KEYS))
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise BadAccessRule(key, value, "text or a number")
        fields[name] = str(value).strip()
    fields.pop("description", None)
    return fields


def _fields_of_line(line: str) -> dict[str, str]:
    words = line.lower().split()
    fields: dict[str, str] = {}
    if words and words[0] == "rule":
        words.pop(0)
    if words and words[0].isascii() and words[0].isdecimal():
        fields["number"] = words.pop(0)
    fields["action"] = words.pop(0) if words else ""
    if not words:
        raise BadAccessRule("protocol", "", "permit|deny PROTOCOL SOURCE DESTINATION, as in docs/policy.md")
    fields["protocol"] = words.pop(0)
    # Cisco writes places in order, Huawei writes keywords: a keyword says where the next value goes.
    places = ["source", "destination"]
    side = ""
    while words:
        word = words.pop(0)
        if word in ("source", "destination"):
            side = _claim(fields, word, line)
            fields[word] = _take_address(words)
        elif word in ("source-port", "destination-port"):
            key = _claim(fields, word.replace("-", "_"), line)
            fields[key] = _take_port(words)
        elif word == "icmp-type":
            _take_types(words, fields, line)
        elif word in _PORT_OPERATORS and side:
            key = _claim(fields, f"{side}_port", line)
            fields[key] = _take_port([word, *words])
            del words[: len(fields[key].split()) - 1]
        elif side == "destination" and _is_icmp(fields["protocol"]):
            words.insert(0, word)
            _take_types(words, fields, line)
        else:
            side = next((place for place in places if place not in fields), "")
            if not side:
                raise BadAccessRule("rule", word, "nothing more: the rule is complete before it")
            words.insert(0, word)
            fields[side] = _take_address(words)
    return fields


_PORT_OPERATORS = {"eq": 1, "range": 2, "lt": 1, "gt": 1, "neq": 1}


def _claim(fields: dict[str, str], key: str, line: str) -> str:
    if key in fields:
        raise BadAccessRule(key, line, "each part once")
    return key


def _is_icmp(protocol: str) -> bool:
    return names.protocol_number(protocol) in (names.ICMP, names.ICMPV6)


def _take_address(words: list[str]) -> str:
    if not words:
        raise BadAccessRule("source or destination", "", _ADDRESS_ALLOWED)
    taken = words.pop(0)
    if taken == "host":
        return words.pop(0) if words else ""
    if taken not in _ANY_WORDS and "/" not in taken and "-" not in taken and words and _is_mask(words[0]):
        taken += " " + words.pop(0)
    return taken


def _is_mask(word: str) -> bool:
    return word == "0" or (
        word[:1] in "0123456789abcdef:" and ("." in word or ":" in word) and "/" not in word
    )


def _take_port(words: list[str]) -> str:
    count = _PORT_OPERATORS.get(words[0], 0) if words else 0
    if words and not count:
        return words.pop(0)
    taken = words[: count + 1]
    del words[: count + 1]
    return " ".join(taken)


def _take_types(words: list[str], fields: dict[str, str], line: str) -> None:
    _claim(fields, "icmp_type", line)
    if not words:
        raise BadAccessRule("icmp_type", "", "a type, then optionally a code")
    fields["icmp_type"] = words.pop(0)
    if words and words[0].isdecimal():
        fields["icmp_code"] = words.pop(0)


def _line_of(fields: Mapping[str, str]) -> str:
    parts = [fields.get("action", ""), fields.get("protocol", "any")]
    for side in ("source", "destination"):
        parts.append(fields.get(side, "any"))
        if f"{side}_port" in fields:
            parts.append(fields[f"{side}_port"])
    parts += [fields[key] for key in ("icmp_type", "icmp_code") if key in fields]
    return " ".join(parts)


# -- values -----------------------------------------------------------------------------------------

_ANY_WORDS = {"any": (4, 6), "any4": (4,), "any6": (6,)}
_ADDRESS_ALLOWED = (
    "any, any4, any6, an address, a prefix 10.1.0.0/16, an address with a wildcard mask "
    "10.1.0.0 0.0.255.255, or a range 10.1.0.5-10.1.0.9"
)


def _number(key: str, text: str, largest: int, least: int = 0) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and least <= int(text) <= largest):
        raise BadAccessRule(key, text, f"a number from {least} to {largest}")
    return int(text)


def _addresses(key: str, text: str) -> tuple[TrafficSelector, ...]:
    words = text.lower().split()
    if words[:1] == ["host"]:
        words = words[1:]
    if len(words) == 1 and words[0] in _ANY_WORDS:
        return tuple(everything(family) for family in _ANY_WORDS[words[0]])
    try:
        if len(words) == 1:
            return (parse_addresses(words[0]),)
        if len(words) == 2:
            return _wildcard(key, words[0], words[1])
    except BadSelector:
        pass
    raise BadAccessRule(key, text, _ADDRESS_ALLOWED)


def _wildcard(key: str, address_text: str, mask_text: str) -> tuple[TrafficSelector, ...]:
    """Bits set in the mask may be anything. The run of them at the low end is one range, each further
    bit doubles the number of ranges."""
    try:
        address = ip_address(address_text)
        mask = IPv4Address(0) if mask_text == "0" and address.version == 4 else ip_address(mask_text)
    except ValueError:
        raise BadAccessRule(key, f"{address_text} {mask_text}", _ADDRESS_ALLOWED) from None
    if address.version != mask.version:
        raise BadAccessRule(key, f"{address_text} {mask_text}", "address and wildcard mask of one family")
    free = int(mask)
    low = free & ~(free + 1)  # the run of ones at the low end
    scattered = free & ~low
    count = 1 << scattered.bit_count()
    if count > MAX_WILDCARD_RANGES:
        raise BadAccessRule(
            key,
            f"{address_text} {mask_text}",
            f"a wildcard mask that makes at most {MAX_WILDCARD_RANGES} ranges, this one makes {count}",
        )
    base = int(address) & ~free
    kind = type(address)
    starts = []
    part = 0
    for _ in range(count):
        starts.append(base | part)
        part = (part - scattered) & scattered  # the next subset of the scattered bits, ascending
    return tuple(of_range(kind(start), kind(start + low)) for start in starts)


def _same_families(
    source: tuple[TrafficSelector, ...], destination: tuple[TrafficSelector, ...], protocol: int
) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    """Both sides of a packet are of one family, and ICMP and ICMPv6 each belong to one."""
    families = {one.family for one in source} & {one.family for one in destination}
    if not families:
        raise BadAccessRule("destination", "another family than the source", "both IPv4 or both IPv6")
    only = {names.ICMP: 4, names.ICMPV6: 6}.get(protocol)
    if only is not None:
        if only not in families:
            name = names.protocol_name(protocol)
            raise BadAccessRule("protocol", name, f"icmp with IPv4, icmpv6 with IPv6: {name} is IPv{only}'s")
        families = {only}
    return (
        tuple(one for one in source if one.family in families),
        tuple(one for one in destination if one.family in families),
    )


def _ports(key: str, text: str | None, protocol: int) -> tuple[PortRange, ...]:
    if text is None or text.lower() == "any":
        return ALL_PORTS
    if protocol not in names.PROTOCOLS_WITH_PORTS:
        allowed = "ports with tcp, udp, sctp, dccp or udplite only"
        raise BadAccessRule(key, text, allowed)
    words = text.lower().split()
    operator = words[0] if words and words[0] in _PORT_OPERATORS else ""
    operands = words[1:] if operator else [part for word in words for part in word.split("-", 1)]
    numbers = [names.port_number(word) for word in operands]
    ports = [number for number in numbers if number is not None]
    found: tuple[PortRange, ...] = ()
    if len(ports) == len(numbers) == 1 and operator != "range":
        found = _operated(operator, ports[0])
    elif len(ports) == len(numbers) == 2 and operator in ("", "range") and ports[0] <= ports[1]:
        found = ((ports[0], ports[1]),)
    if not found:
        raise BadAccessRule(key, text, "eq N, range N N, lt N, gt N, neq N, N, N-N, any; that leave a port")
    return found


def _operated(operator: str, port: int) -> tuple[PortRange, ...]:
    below, above = (PORT_MIN, port - 1), (port + 1, PORT_MAX)
    ranges = {"lt": (below,), "gt": (above,), "neq": (below, above)}.get(operator, ((port, port),))
    return tuple(one for one in ranges if one[0] <= one[1])


def _types(type_text: str | None, code_text: str | None, protocol: int) -> PortRange | None:
    if type_text is None and code_text is None:
        return None
    if protocol not in (names.ICMP, names.ICMPV6):
        raise BadAccessRule("icmp_type", type_text or "", "types with icmp and icmpv6 only")
    if type_text is None:
        raise BadAccessRule("icmp_code", code_text, "a code together with icmp_type")
    if type_text.lower() == "any":
        return None
    kind = names.icmp_type_number(type_text, protocol)
    if kind is None:
        allowed = "0 to 255, " + ", ".join(names.icmp_type_names(protocol))
        raise BadAccessRule("icmp_type", type_text, allowed)
    if code_text is None or code_text.lower() == "any":
        return kind * 256, kind * 256 + 255
    code = _number("icmp_code", code_text, 255)
    return kind * 256 + code, kind * 256 + code


def sides(rule: AccessRule) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    """The rule as selectors of source and destination. ICMP types stand on both sides: RFC 4301,
    4.4.1.3 B, may be sent and may be received."""
    source_ports, destination_ports = rule.source_ports, rule.destination_ports
    if rule.types is not None:
        source_ports = destination_ports = (rule.types,)
    return _side(rule.source, rule.protocol, source_ports), _side(
        rule.destination, rule.protocol, destination_ports
    )


def _side(
    where: Sequence[TrafficSelector], protocol: int, ports: Sequence[PortRange]
) -> tuple[TrafficSelector, ...]:
    return tuple(
        TrafficSelector(one.family, protocol, one.first, one.last, first, last)
        for one in where
        for first, last in ports
    )
