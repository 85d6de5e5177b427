"""Where randomness comes from: the system in production, a seed in simulation.

Everything random that the negotiation needs (SPIs, nonces, private keys, jitter) is drawn from one
`Entropy` that its caller hands in, so that a run can be repeated from its seed. The library's own
generators are used only with `SystemEntropy`, which is the same source by another way.
"""

from __future__ import annotations

import hashlib
import os
import random
from typing import Protocol

# Seeded by the system once: jitter is no secret and not worth a system call.
_JITTER = random.Random()


class Entropy(Protocol):
    def octets(self, count: int) -> bytes:
        """`count` octets that nobody can predict."""
        ...

    def uniform(self) -> float:
        """A number in [0, 1); for jitter, not for secrets."""
        ...


class SystemEntropy:
    """The operating system's generator."""

    __slots__ = ()

    def octets(self, count: int) -> bytes:
        return os.urandom(count)

    def uniform(self) -> float:
        return _JITTER.random()


class SeededEntropy:
    """SHA-256 in counter mode over a seed: the same seed, the same run. For simulation only."""

    __slots__ = ("_counter", "_seed")

    def __init__(self, seed: int) -> None:
        self._seed = b"cygnet seeded entropy %d " % seed
        self._counter = 0

    def octets(self, count: int) -> bytes:
        blocks = []
        for _ in range(0, count, 32):
            blocks.append(hashlib.sha256(self._seed + self._counter.to_bytes(8, "big")).digest())
            self._counter += 1
        return b"".join(blocks)[:count]

    def uniform(self) -> float:
        return int.from_bytes(self.octets(7), "big") / (1 << 56)
