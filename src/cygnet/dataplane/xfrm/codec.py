"""XFRM messages as values: SAs, policies, selectors and events to octets and back (linux/xfrm.h).

Structures have the kernel's layout and this machine's byte order; addresses, ports and SPIs inside are in
network order. What the kernel sends is read by fixed offsets after its length was checked (`Malformed`
else); attributes are bounded by the message. Traps of the kernel's that the code below minds:

- XFRMA_IF_ID 0 is refused since 5.16: left out.
- Windows of more than 32, and extended sequence numbers, need XFRMA_REPLAY_ESN_VAL, at most 4096 wide;
  `replay_window` is 0 then.
- AH over IPv4 is padded to 8 octets unless XFRM_STATE_ALIGN4 says 4 (RFC 4302, section 3.3.3.2.1), which
  shows with the longer ICVs of SHA-2.
- No limit is all ones, not 0, for octets and packets; 0 for seconds.
"""

from __future__ import annotations

import functools
import struct
import sys
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, htons
from typing import NamedTuple

from cygnet.dataplane.xfrm.algorithms import Algorithm
from cygnet.dataplane.xfrm.netlink import CREATE, EXCLUSIVE, Message, attribute, attributes, number
from cygnet.policy.selectors import IpAddress

(
    NEW_SA, DEL_SA, GET_SA, NEW_POLICY, DEL_POLICY, GET_POLICY, ALLOC_SPI, ACQUIRE, EXPIRE, UPD_POLICY,
    UPD_SA, POL_EXPIRE, FLUSH_SA, FLUSH_POLICY, NEW_AE, GET_AE, REPORT, MIGRATE, NEW_SADINFO, GET_SADINFO,
    NEW_SPDINFO, GET_SPDINFO, MAPPING,
) = range(0x10, 0x27)  # fmt: skip
GROUP_ACQUIRE, GROUP_EXPIRE, GROUP_SA, GROUP_POLICY, GROUP_AEVENTS, GROUP_MAPPING = 1, 2, 3, 4, 5, 8
IN, OUT, FORWARD = 0, 1, 2
ALLOW, BLOCK = 0, 1
TRANSPORT, TUNNEL = 0, 1
ESP, AH, IPCOMP = 50, 51, 108
ENCAP_ESP_IN_UDP = 2
MAX_WINDOW = 4096
NO_LIMIT = (1 << 64) - 1
NO_ECN, DECAP_DSCP, NO_PMTU_DISC, AF_UNSPEC, ALIGN4, ESN = 1, 2, 4, 32, 64, 128
DONT_ENCAP_DSCP = 1
OFFLOAD_INBOUND, OFFLOAD_PACKET = 2, 4
AE_VALUES = 2 | 4
"""XFRM_AE_RVAL | XFRM_AE_LVAL."""

(
    _A_ALG_AUTH, _A_ALG_CRYPT, _A_ALG_COMP, _A_ENCAP, _A_TMPL, _A_LTIME_VAL, _A_REPLAY_VAL, _A_REPLAY_THRESH,
    _A_ETIMER_THRESH, _A_LASTUSED, _A_MIGRATE, _A_ALG_AEAD, _A_ALG_AUTH_TRUNC, _A_MARK, _A_TFCPAD,
    _A_REPLAY_ESN_VAL, _A_EXTRA_FLAGS, _A_OFFLOAD_DEV, _A_SET_MARK, _A_SET_MARK_MASK, _A_IF_ID, _A_SRCADDR,
) = (1, 2, 3, 4, 5, 9, 10, 11, 12, 15, 17, 18, 20, 21, 22, 23, 24, 28, 29, 30, 31, 13)  # fmt: skip

_SELECTOR = struct.Struct("=16s16sHHHHHBBB3xiI")
_ID = struct.Struct("=16s4sB3x")
_LIFETIME = struct.Struct("=8Q")
_USED = struct.Struct("=4Q")
_SA_TAIL = struct.Struct("=3I2IHBBB7x")
_SA_SIZE = 224
_POLICY_TAIL = struct.Struct("=IIBBBB4x")
_POLICY_SIZE = 168
_TEMPLATE = struct.Struct("=16s4sB3xH2x16sIBBBx3I")
_POLICY_ID = struct.Struct("=56sIB3x")
_SA_ID = struct.Struct("=16s4sHBx")
_AEVENT = struct.Struct("=24s16sII")
_REPLAY = struct.Struct("=III")
_REPLAY_ESN = struct.Struct("=6I")
_ENCAP = struct.Struct("=HHHxx16s")
_MAPPING = struct.Struct("=24sI16s16sHH")
_FOR_EVER = _LIFETIME.pack(*(NO_LIMIT,) * 4, 0, 0, 0, 0) + bytes(_USED.size)
_ANY = bytes(16)
_FAMILY = {4: AF_INET, 6: AF_INET6}
_VERSION: dict[int, int] = {AF_INET: 4, AF_INET6: 6}


class Malformed(Exception):
    """The kernel sent less than its structures are long: another kernel's, or no kernel's."""


# -- values (tuples where tens of thousands are made and looked up) --------------------------------


class Selector(NamedTuple):
    """xfrm_selector: addresses are prefixes, ports are values under masks; for ICMP the source port is the
    type and the destination port the code. `family` 0: everything."""

    family: int = 0
    source: int = 0
    source_length: int = 0
    destination: int = 0
    destination_length: int = 0
    protocol: int = 0
    source_port: int = 0
    source_mask: int = 0
    destination_port: int = 0
    destination_mask: int = 0


class Template(NamedTuple):
    """What a policy asks of an SA. Addresses None: any (inbound, and transport mode)."""

    protocol: int
    mode: int
    reqid: int
    source: IpAddress | None = None
    destination: IpAddress | None = None
    family: int = 0
    """Of the outer header; 0: the selector's."""
    optional: bool = False


class PolicyKey(NamedTuple):
    """What makes two of the kernel's policies the same one."""

    direction: int
    selector: bytes
    if_id: int = 0
    mark: tuple[int, int] = (0, 0)


class Verdict(NamedTuple):
    priority: int
    action: int
    templates: tuple[Template, ...] = ()


class SaKey(NamedTuple):
    """By which the kernel finds an SA."""

    destination: IpAddress
    spi: int
    protocol: int


class Limits(NamedTuple):
    """0: none. `ledger` are two numbers below 2**62 that are ours to keep: see `lifetime`."""

    soft_bytes: int = 0
    hard_bytes: int = 0
    soft_packets: int = 0
    hard_packets: int = 0
    hard_seconds: int = 0
    ledger: tuple[int, int] | None = None


class Encapsulation(NamedTuple):
    source_port: int
    destination_port: int


_EVERYTHING, _WITHOUT_END = Selector(), Limits()


@dataclass(frozen=True, slots=True)
class Offload:
    interface: int
    inbound: bool
    packet: bool


@dataclass(frozen=True, slots=True)
class Sa:
    """One SA as it is installed. `algorithms`: (attribute, octets) as made by `aead`, `cipher`, `mac`,
    `compression`. `window` in packets, 0: no replay protection; `esn` needs one."""

    key: SaKey
    source: IpAddress
    mode: int
    reqid: int
    algorithms: tuple[bytes, ...] = field(repr=False)
    selector: Selector = _EVERYTHING
    limits: Limits = _WITHOUT_END
    window: int = 0
    esn: bool = False
    flags: int = 0
    extra_flags: int = 0
    encapsulation: Encapsulation | None = None
    tfc_padding: int = 0
    set_mark: tuple[int, int] | None = None
    if_id: int = 0
    offload: Offload | None = None
    tell_each: int = 0
    """Packets after which an event (NEW_AE) is sent, to those in the group; 0: none is."""


@dataclass(frozen=True, slots=True)
class SaSeen:
    """One SA as the kernel tells it. `body` is its whole message, keys included: never shown."""

    key: SaKey
    source: IpAddress
    mode: int
    reqid: int
    family: int
    limits: Limits
    octets: int
    packets: int
    used_at: int
    """Seconds since 1970 of the first packet, 0: none yet."""
    replayed: int
    forged: int
    sequence_in: int
    sequence_out: int
    encapsulation: Encapsulation | None
    if_id: int
    mark: int
    """That sealed packets carry."""
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PolicySeen:
    key: PolicyKey
    index: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Acquired:
    """A packet met a policy without an SA; `reqid` is its template's."""

    reqid: int
    selector: Selector


@dataclass(frozen=True, slots=True)
class Moved:
    """An authentic packet came from elsewhere."""

    key: SaKey
    source: IpAddress
    port: int


# -- selectors ------------------------------------------------------------------------------------


def packed_selector(selector: Selector) -> bytes:
    octets = 4 if selector.family == 4 else 16
    return _SELECTOR.pack(
        selector.destination.to_bytes(octets).ljust(16, b"\0"),
        selector.source.to_bytes(octets).ljust(16, b"\0"),
        htons(selector.destination_port),
        htons(selector.destination_mask),
        htons(selector.source_port),
        htons(selector.source_mask),
        _FAMILY.get(selector.family, 0),
        selector.destination_length,
        selector.source_length,
        selector.protocol,
        0,
        0,
    )


def family_of(packed: bytes) -> int:
    """4 or 6; 0 for everything."""
    return _VERSION.get(int.from_bytes(packed[40:42], sys.byteorder), 0)


def selector_from(data: bytes) -> Selector:
    """Raises Malformed."""
    if len(data) < _SELECTOR.size:
        raise Malformed("a selector")
    (to, from_, dport, dmask, sport, smask, family, to_length, from_length, protocol, _, _) = (
        _SELECTOR.unpack_from(data)
    )
    version = _VERSION.get(family, 0)
    octets = 4 if version == 4 else 16
    return Selector(
        version, int.from_bytes(from_[:octets]), from_length, int.from_bytes(to[:octets]), to_length,
        protocol, htons(sport), htons(smask), htons(dport), htons(dmask),
    )  # fmt: skip


def _address(octets: bytes, version: int) -> IpAddress:
    return IPv4Address(octets[:4]) if version == 4 else IPv6Address(octets[:16])


def address_of(value: int, version: int) -> IpAddress:
    return IPv4Address(value) if version == 4 else IPv6Address(value)


def _octets(address: IpAddress | None) -> bytes:
    return _ANY if address is None else address.packed.ljust(16, b"\0")


# -- policies -------------------------------------------------------------------------------------


def policy_message(key: PolicyKey, verdict: Verdict, index: int, *, replace: bool) -> Message:
    """Install a policy; without `replace` one that is there already is an error (EEXIST)."""
    tail = _POLICY_TAIL.pack(verdict.priority, index, key.direction, verdict.action, 0, 0)
    body = key.selector + _FOR_EVER + tail + _packed_templates(verdict.templates)
    if key.if_id or key.mark[1]:
        body += _policy_suffix(key)
    return Message(UPD_POLICY if replace else NEW_POLICY, body, CREATE)


def policy_removal(key: PolicyKey) -> Message:
    return Message(DEL_POLICY, _POLICY_ID.pack(key.selector, 0, key.direction) + _policy_suffix(key))


def _policy_suffix(key: PolicyKey) -> bytes:
    found = number(_A_IF_ID, key.if_id) if key.if_id else b""
    return found + (attribute(_A_MARK, struct.pack("=II", *key.mark)) if key.mark[1] else b"")


@functools.lru_cache(maxsize=256)
def _packed_templates(templates: tuple[Template, ...]) -> bytes:
    """The same for two directions, and asked for one after the other."""
    packed = b"".join(_packed_template(one) for one in templates)
    return attribute(_A_TMPL, packed) if packed else b""


def _packed_template(template: Template) -> bytes:
    every = 0xFFFFFFFF
    return _TEMPLATE.pack(
        _octets(template.destination), bytes(4), template.protocol, _FAMILY.get(template.family, 0),
        _octets(template.source), template.reqid, template.mode, 0, int(template.optional),
        every, every, every,
    )  # fmt: skip


def _template_from(data: bytes) -> Template:
    to, _, protocol, family, from_, reqid, mode, _, optional, _, _, _ = _TEMPLATE.unpack(data)
    version = _VERSION.get(family, 0)
    return Template(
        protocol, mode, reqid,
        None if from_ == _ANY else _address(from_, version),
        None if to == _ANY else _address(to, version),
        version, bool(optional),
    )  # fmt: skip


def policy_from(body: bytes) -> PolicySeen:
    """Raises Malformed."""
    if len(body) < _POLICY_SIZE:
        raise Malformed("a policy")
    priority, index, direction, action, _, _ = _POLICY_TAIL.unpack_from(body, 152)
    extra = attributes(body, _POLICY_SIZE)
    found = extra.get(_A_TMPL, b"")
    templates = tuple(
        _template_from(found[at : at + _TEMPLATE.size])
        for at in range(0, len(found) - _TEMPLATE.size + 1, _TEMPLATE.size)
    )
    key = PolicyKey(direction, body[: _SELECTOR.size], _u32(extra, _A_IF_ID), _mark(extra))
    return PolicySeen(key, index, Verdict(priority, action, templates))


def deleted_policy_from(body: bytes) -> PolicyKey | None:
    """What a DEL_POLICY event is about; None if it does not say."""
    at = _POLICY_ID.size
    if len(body) < at:
        return None
    extra = attributes(body, at)
    inner = extra.get(7, b"")  # XFRMA_POLICY, which says most; mark and interface stand beside it
    selector, _, direction = _POLICY_ID.unpack_from(body)
    if len(inner) >= _POLICY_SIZE:
        selector, direction = inner[: _SELECTOR.size], _POLICY_TAIL.unpack_from(inner, 152)[2]
    return PolicyKey(direction, selector, _u32(extra, _A_IF_ID), _mark(extra))


def _mark(extra: dict[int, bytes]) -> tuple[int, int]:
    found = extra.get(_A_MARK, b"")
    if len(found) < 8:
        return 0, 0
    value, mask = struct.unpack_from("=II", found)
    return value, mask


# -- SAs ------------------------------------------------------------------------------------------


def aead(one: Algorithm) -> bytes:
    head = struct.pack("=64sII", one.name.encode(), 8 * len(one.key), one.icv_bits)
    return attribute(_A_ALG_AEAD, head + one.key)


def cipher(one: Algorithm) -> bytes:
    return attribute(_A_ALG_CRYPT, struct.pack("=64sI", one.name.encode(), 8 * len(one.key)) + one.key)


def mac(one: Algorithm) -> bytes:
    head = struct.pack("=64sII", one.name.encode(), 8 * len(one.key), one.icv_bits)
    return attribute(_A_ALG_AUTH_TRUNC, head + one.key)


def deflate() -> bytes:
    return attribute(_A_ALG_COMP, struct.pack("=64sI", b"deflate", 0))


def lifetime(limits: Limits) -> bytes:
    """The ledger stands in the lifetimes counted from the first use, as numbers of seconds that no machine
    lives to see: the kernel keeps with the SA whose it is, for whoever comes after this process."""
    ours = (0, 0) if limits.ledger is None else tuple(1 << 62 | value for value in limits.ledger)
    return _LIFETIME.pack(
        limits.soft_bytes or NO_LIMIT, limits.hard_bytes or NO_LIMIT,
        limits.soft_packets or NO_LIMIT, limits.hard_packets or NO_LIMIT,
        0, limits.hard_seconds, *ours,
    )  # fmt: skip


def _limits_from(body: bytes, at: int) -> Limits:
    values = [0 if value == NO_LIMIT else value for value in _LIFETIME.unpack_from(body, at)]
    low, high = values[6], values[7]
    ours = low >> 62 == high >> 62 == 1
    ledger = (low & (1 << 62) - 1, high & (1 << 62) - 1) if ours else None
    return Limits(values[0], values[1], values[2], values[3], values[5], ledger)


def sa_message(sa: Sa, *, replace: bool = False) -> Message:
    """Install an SA; without `replace` one with this SPI at this destination is an error (EEXIST)."""
    version = sa.key.destination.version
    wide = sa.esn or sa.window > 32
    body = bytearray(packed_selector(sa.selector))
    body += _ID.pack(_octets(sa.key.destination), sa.key.spi.to_bytes(4), sa.key.protocol)
    body += _octets(sa.source) + lifetime(sa.limits) + bytes(_USED.size)
    flags = sa.flags | (ESN if sa.esn else 0)
    window = 0 if wide else sa.window
    body += _SA_TAIL.pack(0, 0, 0, 0, sa.reqid, _FAMILY[version], sa.mode, window, flags)
    body += b"".join(sa.algorithms)
    if wide:
        size = min(max(sa.window, 32), MAX_WINDOW)
        words = (size + 31) // 32
        body += attribute(_A_REPLAY_ESN_VAL, _REPLAY_ESN.pack(words, 0, 0, 0, 0, size) + bytes(4 * words))
    if sa.encapsulation is not None:
        body += attribute(_A_ENCAP, _packed_encapsulation(sa.encapsulation))
    for kind, value in (
        (_A_EXTRA_FLAGS, sa.extra_flags), (_A_TFCPAD, sa.tfc_padding), (_A_IF_ID, sa.if_id)
    ):  # fmt: skip
        if value:
            body += number(kind, value)
    if sa.set_mark is not None:
        body += number(_A_SET_MARK, sa.set_mark[0]) + number(_A_SET_MARK_MASK, sa.set_mark[1])
    if sa.offload is not None:
        flags = OFFLOAD_INBOUND * sa.offload.inbound | OFFLOAD_PACKET * sa.offload.packet
        body += attribute(_A_OFFLOAD_DEV, struct.pack("=iB3x", sa.offload.interface, flags))
    # Without these the kernel would tell every second packet to whoever listens.
    body += number(_A_REPLAY_THRESH, sa.tell_each) + number(_A_ETIMER_THRESH, 0)
    return Message(UPD_SA if replace else NEW_SA, bytes(body), CREATE | EXCLUSIVE)


def _packed_encapsulation(one: Encapsulation) -> bytes:
    return _ENCAP.pack(ENCAP_ESP_IN_UDP, htons(one.source_port), htons(one.destination_port), _ANY)


def moved_sa_message(
    seen: SaSeen, source: IpAddress, destination: IpAddress, encapsulation: Encapsulation | None, skip: int
) -> Message:
    """An SA like the one seen, keys, numbers and window and all, between other ends. `skip` is added to the
    next outgoing sequence number: for packets that leave between the look and the move."""
    head = bytearray(seen.body[:_SA_SIZE])
    _ID.pack_into(head, 56, _octets(destination), seen.key.spi.to_bytes(4), seen.key.protocol)
    head[80:96] = _octets(source)
    used = bytes(head[160:192])
    struct.pack_into("=H", head, 212, _FAMILY[destination.version])
    parts = [bytes(head)]
    for kind, value in attributes(seen.body, _SA_SIZE).items():
        if kind in (_A_ENCAP, _A_LASTUSED, _A_LTIME_VAL, _A_ALG_AUTH):
            continue  # ALG_AUTH repeats ALG_AUTH_TRUNC for older programs
        if kind == _A_REPLAY_VAL and len(value) >= _REPLAY.size:
            out, inward, bitmap = _REPLAY.unpack_from(value)
            value = _REPLAY.pack(min(out + skip * bool(out), 0xFFFFFFFF), inward, bitmap)
        elif kind == _A_REPLAY_ESN_VAL and len(value) >= _REPLAY_ESN.size:
            value = _skipped_esn(value, skip)
        parts.append(attribute(kind, value))
    if encapsulation is not None:
        parts.append(attribute(_A_ENCAP, _packed_encapsulation(encapsulation)))
    parts += [attribute(_A_LTIME_VAL, used), number(_A_REPLAY_THRESH, 0), number(_A_ETIMER_THRESH, 0)]
    return Message(NEW_SA, b"".join(parts), CREATE | EXCLUSIVE)


def _skipped_esn(value: bytes, skip: int) -> bytes:
    words, out, inward, out_high, in_high, window = _REPLAY_ESN.unpack_from(value)
    whole = out_high << 32 | out
    if whole:
        whole = min(whole + skip, (1 << 64) - 1)
    head = _REPLAY_ESN.pack(words, whole & 0xFFFFFFFF, inward, whole >> 32, in_high, window)
    return head + value[_REPLAY_ESN.size :]


def _sa_id(key: SaKey) -> bytes:
    family = _FAMILY[key.destination.version]
    return _SA_ID.pack(_octets(key.destination), key.spi.to_bytes(4), family, key.protocol)


def sa_removal(key: SaKey) -> Message:
    return Message(DEL_SA, _sa_id(key))


def sa_question(key: SaKey) -> Message:
    return Message(GET_SA, _sa_id(key))


def spi_request(
    source: IpAddress, destination: IpAddress, protocol: int, mode: int, reqid: int, low: int, high: int
) -> Message:
    """ALLOC_SPI: the kernel chooses an SPI between these and holds it."""
    body = bytearray(packed_selector(Selector()))
    body += _ID.pack(_octets(destination), bytes(4), protocol) + _octets(source)
    body += bytes(_LIFETIME.size + _USED.size)
    body += _SA_TAIL.pack(0, 0, 0, 0, reqid, _FAMILY[destination.version], mode, 0, 0)
    return Message(ALLOC_SPI, bytes(body) + struct.pack("=II", low, high))


def event_threshold(key: SaKey, source: IpAddress, reqid: int, tell_each: int) -> Message:
    """NEW_AE: from now on an event each `tell_each` packets, 0: none."""
    body = _AEVENT.pack(_sa_id(key), _octets(source), 0, reqid)
    return Message(NEW_AE, body + number(_A_REPLAY_THRESH, tell_each), 0x100)


def values_question(key: SaKey) -> Message:
    """GET_AE: counters and replay state alone, without keys."""
    return Message(GET_AE, _AEVENT.pack(_sa_id(key), _ANY, AE_VALUES, 0))


def sa_from(body: bytes) -> SaSeen:
    """Raises Malformed."""
    if len(body) < _SA_SIZE:
        raise Malformed("an SA")
    _, replayed, forged, _, reqid, family, mode, _, _ = _SA_TAIL.unpack_from(body, 192)
    version = _VERSION.get(family, 6)
    to, spi, protocol = _ID.unpack_from(body, 56)
    octets, packets, _, used_at = _USED.unpack_from(body, 160)
    extra = attributes(body, _SA_SIZE)
    out, inward = _sequences(extra)
    encapsulation = None
    if len(extra.get(_A_ENCAP, b"")) >= _ENCAP.size:
        _, source_port, destination_port, _ = _ENCAP.unpack_from(extra[_A_ENCAP])
        encapsulation = Encapsulation(htons(source_port), htons(destination_port))
    return SaSeen(
        SaKey(_address(to, version), int.from_bytes(spi), protocol), _address(body[80:96], version), mode,
        reqid, version, _limits_from(body, 96), octets, packets, used_at, replayed, forged, inward, out,
        encapsulation, _u32(extra, _A_IF_ID), _u32(extra, _A_SET_MARK), body,
    )  # fmt: skip


def _sequences(extra: dict[int, bytes]) -> tuple[int, int]:
    """(last sent, highest received)."""
    value = extra.get(_A_REPLAY_ESN_VAL, b"")
    if len(value) >= _REPLAY_ESN.size:
        _, out, inward, out_high, in_high, _ = _REPLAY_ESN.unpack_from(value)
        return out_high << 32 | out, in_high << 32 | inward
    value = extra.get(_A_REPLAY_VAL, b"")
    if len(value) >= _REPLAY.size:
        out, inward, _ = _REPLAY.unpack_from(value)
        return out, inward
    return 0, 0


# -- events ---------------------------------------------------------------------------------------


def acquire_from(body: bytes) -> Acquired:
    """Raises Malformed."""
    if len(body) < 280:
        raise Malformed("an acquire")
    found = attributes(body, 280).get(_A_TMPL, b"")
    if len(found) < _TEMPLATE.size:
        raise Malformed("an acquire without templates")
    return Acquired(_template_from(found[: _TEMPLATE.size]).reqid, selector_from(body[40:96]))


def expire_from(body: bytes) -> tuple[SaSeen, bool]:
    """The SA and whether it is gone. Raises Malformed."""
    if len(body) < _SA_SIZE + 8:
        raise Malformed("an expiry")
    return sa_from(body[:_SA_SIZE]), bool(body[_SA_SIZE])


def mapping_from(body: bytes) -> Moved:
    """Raises Malformed."""
    if len(body) < _MAPPING.size:
        raise Malformed("a mapping")
    identity, _, _, new, _, port = _MAPPING.unpack_from(body)
    to, spi, family, protocol = _SA_ID.unpack(identity)
    version = _VERSION.get(family, 6)
    return Moved(
        SaKey(_address(to, version), int.from_bytes(spi), protocol), _address(new, version), htons(port)
    )


def key_from(body: bytes) -> SaKey | None:
    """Of what a DEL_SA or NEW_AE event is about."""
    if len(body) < _SA_ID.size:
        return None
    to, spi, family, protocol = _SA_ID.unpack_from(body)
    return SaKey(_address(to, _VERSION.get(family, 6)), int.from_bytes(spi), protocol)


def counts_from(body: bytes) -> tuple[int, ...]:
    """Of SADINFO: (SAs,); of SPDINFO: (in, out, forward) policies."""
    extra = attributes(body, 4)
    value = extra.get(1, b"")
    return struct.unpack(f"={len(value) // 4}I", value[: len(value) // 4 * 4])


def _u32(extra: dict[int, bytes], kind: int) -> int:
    value = extra.get(kind, b"")
    return int(struct.unpack_from("=I", value)[0]) if len(value) >= 4 else 0
