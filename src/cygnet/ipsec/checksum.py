"""The Internet checksum (RFC 1071).

Sums, here and over rows in dataplane.offload, are taken over little-endian words of 32 bits: 2^16 is
1 modulo 65535, so the width of the word does not matter, and byte order only swaps the result.
`swap` brings a host number into that order.
"""

from __future__ import annotations

_SMALL = 256
"""Octets up to which Python's integers beat numpy's fixed cost."""


def swap(value: int) -> int:
    """A 16-bit number as a little-endian reader of network order sees it."""
    return (value >> 8 | value << 8) & 0xFFFF


def residue(data: memoryview) -> int:
    """The sum of `data` (even or odd length) modulo 65535, in little-endian order."""
    if len(data) <= _SMALL:
        return int.from_bytes(data, "little") % 0xFFFF
    # Here, for it takes long to load, and the supervisor, which opens devices, never comes here.
    import numpy as np

    even = len(data) & ~3
    total = int(np.frombuffer(data[:even], np.uint32).sum(dtype=np.uint64))
    if even != len(data):
        total += int.from_bytes(data[even:], "little")
    return total % 0xFFFF


def complement(total: int) -> int:
    """The checksum field for a little-endian sum: what makes the whole sum to zero; 0 comes out as 0xFFFF."""
    return 0xFFFF - total % 0xFFFF


def store(buffer: bytearray | memoryview, at: int, value: int) -> None:
    buffer[at] = value & 0xFF
    buffer[at + 1] = value >> 8


def fix_ipv4_header(buffer: bytearray | memoryview, at: int, header: int = 20) -> None:
    """Write the checksum of the IPv4 header of `header` octets at `at`."""
    buffer[at + 10] = buffer[at + 11] = 0
    total = int.from_bytes(memoryview(buffer)[at : at + header], "little") % 0xFFFF
    store(buffer, at + 10, 0xFFFF - total)
