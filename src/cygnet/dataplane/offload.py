"""Bursts: one large packet of a flow cut into segments (GSO), segments of a flow joined into one (GRO).

Out: `Burst` describes what a TUN read gave; `split` writes its segments as rows, each with room for
ESP around it. In: `joinable` says how many rows from one on are a flow in sequence with good
checksums and equal headers; `join` makes the one packet that the TUN takes. Field by field as
Linux does it (net/ipv4/tcp_offload.c, udp_offload.c), all rows at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cygnet.dataplane.tun import (
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    MAX_PACKET,
    NEEDS_CSUM,
    VNET,
    VNET_HEADER,
)
from cygnet.ipsec.checksum import complement, fix_ipv4_header, residue, store, swap
from cygnet.ipsec.rows import MAX_ROWS, Rows, Run

TCP, UDP = 6, 17
_FIN, _PSH, _ACK, _CWR = 0x01, 0x08, 0x10, 0x80
_ARANGE = np.arange(MAX_ROWS, dtype=np.uint64)
_U16 = np.uint64(0xFFFF)


class Burst(NamedTuple):
    """A packet larger than its segments: where it lies, how it is cut. Offsets count from the packet."""

    at: int
    length: int
    transport: int
    """Offset of the TCP or UDP header."""
    protocol: int
    header: int
    """Octets before the payload."""
    segment: int
    """Octets of payload in each segment but the last."""
    count: int  # type: ignore[assignment]  # tuple.count is of no use here


def burst(read: Rows, at: int, length: int, gso_type: int, segment: int, transport: int) -> Burst | None:
    """Judge a TUN read. The kernel's `hdr_len` is not believed: it may be the whole packet's length."""
    view = read.view
    kind = gso_type & ~GSO_ECN
    protocol = TCP if kind in (GSO_TCPV4, GSO_TCPV6) else UDP if kind == GSO_UDP_L4 else 0
    if not protocol or not segment or length > MAX_PACKET:
        return None
    minimum = 20 if view[at] >> 4 == 4 else 40
    if transport < minimum or length < transport + (20 if protocol == TCP else 8):
        return None
    if minimum == 20 and transport != (view[at] & 15) * 4:
        return None
    header = transport + ((view[at + transport + 12] >> 4) * 4 if protocol == TCP else 8)
    if header < transport + (20 if protocol == TCP else 8) or header >= length:
        return None
    return Burst(at, length, transport, protocol, header, segment, -(-(length - header) // segment))


def split(read: Rows, what: Burst, first: int, count: int, out: Rows, start: int, stride: int) -> int:
    """Write segments `first`..`first + count - 1` of a burst as rows of `out`, the first at `start`.
    Returns the octets of the last one written; all others have `header + segment`. The octets up to
    4 behind each row are written over."""
    at, transport, header, segment = what.at, what.transport, what.header, what.segment
    view = read.view
    payload = what.length - header
    final = first + count == what.count
    last = header + (payload - (what.count - 1) * segment if final else segment)
    full = header + segment
    version = view[at] >> 4
    tcp = what.protocol == TCP

    head = bytearray(view[at : at + header])
    flags = head[transport + 13] if tcp else 0
    if tcp:
        head[transport + 13] = flags & ~(_FIN | _PSH | _CWR)
        head[transport + 16 : transport + 18] = b"\0\0"
    else:
        head[transport + 4 : transport + 6] = (8 + segment).to_bytes(2, "big")
        head[transport + 6 : transport + 8] = b"\0\0"
    if version == 4:
        head[2:4] = full.to_bytes(2, "big")
        head[10:12] = b"\0\0"
    else:
        head[4:6] = (full - 40).to_bytes(2, "big")

    source = at + header + first * segment
    if final and last < full:
        # Sums are over full rows: what is behind the packet's end must count as nothing.
        read.buffer[at + what.length : source + count * segment] = bytes(full - last)
    rows = out.matrix(start, stride, full)[:count]
    rows[:, :header] = np.frombuffer(head, np.uint8)
    rows[:, header:] = read.matrix(source, segment, segment)[:count]
    steps = _ARANGE[:count] + np.uint64(first)
    if tcp:
        number = int.from_bytes(head[transport + 4 : transport + 8], "big")
        numbers = steps * np.uint64(segment) + np.uint64(number)
        out.column(start + transport + 4, stride, ">u4")[:count] = numbers & np.uint64(0xFFFFFFFF)
    if version == 4:
        identity = int.from_bytes(head[4:6], "big")
        identities = steps + np.uint64(identity) & _U16
        out.column(start + 4, stride, ">u2")[:count] = identities
        # In network order the header's sum without identification, plus that: RFC 1071 allows either order.
        head[4:6] = b"\0\0"
        base = swap(residue(memoryview(head)[:transport]))
        out.column(start + 10, stride, ">u2")[:count] = _U16 - (identities + np.uint64(base)) % _U16

    # What the last (first) segment alone has: the burst's FIN and PSH (CWR), and its own length.
    tail = start + (count - 1) * stride
    buffer = out.buffer
    if tcp:
        if final:
            buffer[tail + transport + 13] |= flags & (_FIN | _PSH)
        if first == 0:
            buffer[start + transport + 13] |= flags & _CWR
    if last < full:
        if version == 4:
            buffer[tail + 2 : tail + 4] = last.to_bytes(2, "big")
            fix_ipv4_header(buffer, tail, transport)
        else:
            buffer[tail + 4 : tail + 6] = (last - 40).to_bytes(2, "big")
        if not tcp:
            buffer[tail + transport + 4 : tail + transport + 6] = (last - transport).to_bytes(2, "big")

    _sum_rows(out, start, stride, count, full, transport, what.protocol, version, last)
    return last


def _sum_rows(
    out: Rows,
    start: int,
    stride: int,
    count: int,
    full: int,
    transport: int,
    protocol: int,
    version: int,
    last: int,
) -> None:
    """Transport checksums of equal packets; the fields are zero, so are the octets behind the last."""
    addresses = 12 if version == 4 else 8
    words = -(-(full - addresses) // 4)
    excess = words * 4 - (full - addresses)
    if excess:
        out.matrix(start + full, stride, excess)[:count] = 0
    pseudo = swap(protocol) + swap(full - transport)
    options = out.view[start + (20 if version == 4 else 40) : start + transport]
    if options:
        # They lie between the addresses and the transport header and are not of its sum.
        pseudo += 0xFFFF - residue(options)
    sums = np.add.reduce(out.matrix(start + addresses, stride, words, "<u4")[:count], axis=1, dtype=np.uint64)
    sums += np.uint64(pseudo)
    if last < full:
        sums[count - 1] += np.uint64(swap(last - transport) + 0xFFFF - swap(full - transport))
    field = start + transport + (16 if protocol == TCP else 6)
    out.column(field, stride, "<u2")[:count] = _U16 - sums % _U16


def finish_checksum(view: memoryview, at: int, length: int, start: int, offset: int) -> bool:
    """Do what NEEDS_CSUM leaves to do: the field holds the pseudo header's sum. False: no such field."""
    if start + offset + 2 > length:
        return False
    store(view, at + start + offset, complement(residue(view[at + start : at + length])))
    return True


def finish_checksums(rows: Rows, at: int, gap: int, count: int, length: int, start: int, offset: int) -> bool:
    """The same for `count` packets `gap` apart. The octets up to 4 behind each are written over."""
    if start + offset + 2 > length or start % 4:
        return False
    words = -(-(length - start) // 4)
    excess = words * 4 - (length - start)
    if excess:
        rows.matrix(at + length, gap, excess)[:count] = 0
    sums = np.add.reduce(rows.matrix(at + start, gap, words, "<u4")[:count], axis=1, dtype=np.uint64)
    rows.column(at + start + offset, gap, "<u2")[:count] = _U16 - sums % _U16
    return True


class Kind(NamedTuple):
    """What rows that may be joined look like."""

    version: int
    protocol: int
    transport: int
    header: int


_masks: dict[Kind, npt.NDArray[np.uint32]] = {}


def kind_of(view: memoryview, at: int, length: int) -> Kind | None:
    """The kind of the packet at `at` if such packets can be joined at all: TCP with nothing but ACK and PSH,
    UDP with a checksum; no IP options or extension headers, no fragments, and DF where it exists."""
    if length < 29:
        return None
    if view[at] == 0x45:
        if view[at + 6] != 0x40 or view[at + 7] or view[at + 2] << 8 | view[at + 3] != length:
            return None
        protocol, transport = view[at + 9], 20
    elif view[at] >> 4 == 6 and length >= 49:
        if view[at + 4] << 8 | view[at + 5] != length - 40:
            return None
        protocol, transport = view[at + 6], 40
    else:
        return None
    here = at + transport
    if protocol == TCP:
        if length < transport + 20 or view[here + 13] & ~_PSH != _ACK:
            return None
        header = transport + (view[here + 12] >> 4) * 4
        if header < transport + 20 or header >= length:
            return None
        return Kind(view[at] >> 4, TCP, transport, header)
    if protocol == UDP:
        if view[here + 4] << 8 | view[here + 5] != length - transport or not (
            view[here + 6] | view[here + 7]
        ):
            return None
        return Kind(view[at] >> 4, UDP, transport, transport + 8)
    return None


def _mask(kind: Kind) -> npt.NDArray[np.uint32]:
    """All ones for header octets that the full segments of one burst share, in words of 32 bits."""
    kept = _masks.get(kind)
    if kept is None:
        octets = np.full(kind.header, 0xFF, np.uint8)
        if kind.version == 4:
            octets[4:6] = 0  # identification
            octets[10:12] = 0
        at = kind.transport
        if kind.protocol == TCP:
            octets[at + 4 : at + 8] = 0  # sequence number
            octets[at + 16 : at + 18] = 0
        else:
            octets[at + 6 : at + 8] = 0
        kept = _masks[kind] = octets.view(np.uint32)
    return kept


def joinable(rows: Rows, run: Run, first: int, kind: Kind) -> int:
    """How many packets from row `first` of `run` on form one burst: alike, in sequence, checksums right.
    A shorter packet, or one with PSH where those before have none, can only be the last. At least 1."""
    start, stride = run.start + first * run.stride, run.stride
    segment = run.length - kind.header
    remaining = min(run.count - first, (MAX_PACKET - kind.header) // segment)
    shorter = first + remaining == run.count and run.last < run.length
    count = remaining - 1 if shorter else remaining
    if count > 1:
        count = _alike(rows, start, stride, count, kind, segment)
    last = run.length
    if 0 < count < remaining:
        size = run.last if first + count == run.count - 1 else run.length
        if _may_end(rows.view, start + (count - 1) * stride, start + count * stride, size, kind, segment):
            count, last = count + 1, size
    if count < 2:
        return 1
    good = _checksums_right(rows, start, stride, count, run.length, last, kind)
    return count if good.all() else max(1, int(good.argmin()))


def _alike(rows: Rows, start: int, stride: int, count: int, kind: Kind, segment: int) -> int:
    """How many full rows from the first on have its header and follow each other."""
    heads = rows.matrix(start, stride, kind.header // 4, "<u4")[:count]
    different = ((heads[1:] ^ heads[:-1]) & _mask(kind)).any(axis=1)
    if kind.protocol == TCP:
        numbers = rows.column(start + kind.transport + 4, stride, ">u4")[:count].tolist()
        if numbers != list(range(numbers[0], numbers[0] + count * segment, segment)):
            values = np.array(numbers, np.uint32)
            different |= values[1:] - values[:-1] != segment
    else:
        different |= rows.column(start + kind.transport + 6, stride, "<u2")[1:count] == 0
    return int(different.argmax()) + 1 if different.any() else count


def _may_end(view: memoryview, before: int, at: int, length: int, kind: Kind, segment: int) -> bool:
    """May the packet at `at` be the last of the burst of which the one at `before` is the last but one?"""
    if length <= kind.header or kind_of(view, at, length) != kind:
        return False
    transport, header = kind.transport, kind.header
    same = [(0, 2), (6, 10), (12, 20)] if kind.version == 4 else [(0, 4), (6, 40)]
    same.append((transport, transport + 4))
    if kind.protocol == TCP:
        same += [
            (transport + 8, transport + 13),
            (transport + 14, transport + 16),
            (transport + 18, header),
        ]
        here, there = (
            int.from_bytes(view[p + transport + 4 : p + transport + 8], "big") for p in (at, before)
        )
        if here != there + segment & 0xFFFFFFFF:
            return False
    return all(view[before + a : before + b] == view[at + a : at + b] for a, b in same)


def _checksums_right(
    rows: Rows, start: int, stride: int, count: int, length: int, last: int, kind: Kind
) -> npt.NDArray[Any]:
    """Per row. Of the IP headers only the first is checked: it is the one that goes on."""
    addresses = 12 if kind.version == 4 else 8
    words = -(-(length - addresses) // 4)
    excess = words * 4 - (length - addresses)
    if excess:
        rows.matrix(start + length, stride, excess)[:count] = 0
    if last < length:
        tail = start + (count - 1) * stride
        rows.buffer[tail + last : tail + length] = bytes(length - last)
    sums = np.add.reduce(
        rows.matrix(start + addresses, stride, words, "<u4")[:count], axis=1, dtype=np.uint64
    )
    sums += np.uint64(swap(kind.protocol) + swap(length - kind.transport))
    if last < length:
        sums[count - 1] += np.uint64(swap(last - kind.transport) + 0xFFFF - swap(length - kind.transport))
    good: npt.NDArray[Any] = sums % _U16 == 0
    if kind.version == 4 and residue(rows.view[start : start + 20]):
        good[0] = False
    return good


def join(rows: Rows, run: Run, first: int, count: int, kind: Kind, out: Rows) -> int:
    """Write rows `first`..`first + count - 1` as one burst with vnet header to the begin of `out`;
    returns its octets. Rows were found `joinable`."""
    start, stride = run.start + first * run.stride, run.stride
    header, transport = kind.header, kind.transport
    segment = run.length - header
    last = (run.last if first + count == run.count else run.length) - header
    total = header + (count - 1) * segment + last
    buffer, view = out.buffer, rows.view
    tail = start + (count - 1) * stride
    at = VNET
    buffer[at : at + header] = view[start : start + header]
    body = at + header
    out.matrix(body, segment, segment)[: count - 1] = rows.matrix(start + header, stride, segment)[
        : count - 1
    ]
    end = VNET + total
    buffer[end - last : end] = view[tail + header : tail + header + last]
    if kind.version == 4:
        buffer[at + 2 : at + 4] = total.to_bytes(2, "big")
        fix_ipv4_header(buffer, at)
        pseudo = residue(out.view[at + 12 : at + 20])
        gso = GSO_TCPV4
    else:
        buffer[at + 4 : at + 6] = (total - 40).to_bytes(2, "big")
        pseudo = residue(out.view[at + 8 : at + 40])
        gso = GSO_TCPV6
    here = at + transport
    if kind.protocol == TCP:
        buffer[here + 13] |= view[tail + transport + 13] & _PSH
        offset = 16
    else:
        buffer[here + 4 : here + 6] = (total - transport).to_bytes(2, "big")
        offset, gso = 6, GSO_UDP_L4
    pseudo += swap(kind.protocol) + swap(total - transport)
    store(buffer, here + offset, pseudo % 0xFFFF)
    VNET_HEADER.pack_into(buffer, 0, NEEDS_CSUM, gso, header, segment, transport, offset)
    return end
