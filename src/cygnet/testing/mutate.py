"""Octets made wrong in the ways that break parsers: bits, lengths, counts, cuts, repeats, splices.

Structure-blind, but with the numbers that matter to IKE; the caller may let the header's length be
made to fit again, so that a mutation gets past the first check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

MAX_OCTETS: Final = 4096
_TELLING_8: Final = (0, 1, 2, 3, 4, 7, 8, 16, 32, 33, 40, 41, 46, 48, 53, 127, 128, 254, 255)
_TELLING_16: Final = (0, 1, 3, 4, 5, 7, 8, 9, 255, 256, 16388, 16393, 32767, 32768, 65534, 65535)


def _bit(data: bytearray, random: Random, other: bytes) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _octet(data: bytearray, random: Random, other: bytes) -> None:
    data[random.randrange(len(data))] = random.choice(_TELLING_8)


def _any_octet(data: bytearray, random: Random, other: bytes) -> None:
    data[random.randrange(len(data))] = random.randrange(256)


def _number(data: bytearray, random: Random, other: bytes) -> None:
    at = random.randrange(len(data))
    data[at : at + 2] = random.choice(_TELLING_16).to_bytes(2, "big")


def _near(data: bytearray, random: Random, other: bytes) -> None:
    """A length that is off by a little."""
    at = random.randrange(len(data))
    value = int.from_bytes(data[at : at + 2], "big") + random.choice((-4, -2, -1, 1, 2, 4))
    data[at : at + 2] = (value % 65536).to_bytes(2, "big")


def _cut(data: bytearray, random: Random, other: bytes) -> None:
    del data[random.randrange(len(data)) :]


def _remove(data: bytearray, random: Random, other: bytes) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.randrange(1, 24)]


def _insert(data: bytearray, random: Random, other: bytes) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = random.randbytes(random.randrange(1, 24))


def _repeat(data: bytearray, random: Random, other: bytes) -> None:
    at = random.randrange(len(data))
    piece = data[at : at + random.randrange(1, 64)]
    data[at:at] = piece * random.randrange(1, 5)


def _zero(data: bytearray, random: Random, other: bytes) -> None:
    at = random.randrange(len(data))
    size = min(random.randrange(1, 24), len(data) - at)
    data[at : at + size] = bytes((random.choice((0, 255)),)) * size


def _splice(data: bytearray, random: Random, other: bytes) -> None:
    data[random.randrange(len(data)) :] = other[random.randrange(len(other) + 1) :]


def _swap(data: bytearray, random: Random, other: bytes) -> None:
    size = random.randrange(1, 32)
    a, b = random.randrange(len(data)), random.randrange(len(data))
    first, second = data[a : a + size], data[b : b + size]
    if len(first) == len(second):
        data[a : a + size], data[b : b + size] = second, first


_WAYS: Final[tuple[Callable[[bytearray, Random, bytes], None], ...]] = (
    _bit, _octet, _any_octet, _number, _near, _near, _cut, _remove, _insert, _repeat, _zero, _splice, _swap,
)  # fmt: skip


def mutate(data: bytes, random: Random, others: Sequence[bytes] = (b"",)) -> bytes:
    """One to four mutations of `data`; `others` are what pieces may be taken from. Never above MAX_OCTETS."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        if not changed:
            break
        random.choice(_WAYS)(changed, random, random.choice(others))
    return bytes(changed[:MAX_OCTETS])


def with_fitting_length(datagram: bytes) -> bytes:
    """The IKE header's length made right, so that what lies behind it is looked at."""
    if len(datagram) < 28:
        return datagram
    return datagram[:24] + len(datagram).to_bytes(4, "big") + datagram[28:]
