"""The door: cookies, half-open limits, and how often we answer strangers (RFC 7296, sections 2.6 and 2.21.4).

Nothing here costs more than a few octets for each datagram that comes from an address that nobody
has proved. Sources are IPv4 addresses and IPv6 /64 prefixes.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from cygnet.crypto.entropy import Entropy
from cygnet.policy.selectors import IpAddress

if TYPE_CHECKING:
    from cygnet.ike.sa import IkeSa

SECRET_LIFE: Final = 30.0
"""Seconds until a new cookie secret; the one before it stays good for as long again."""
MAX_SOURCES: Final = 4096
"""Sources that the rate limit remembers; beyond that the oldest is forgotten."""
MAX_FRAGMENTS: Final = 16 * 1024 * 1024
"""Octets of fragments that all half-open SAs together may hold; one message has 64 KB at most."""

Source = tuple[int, int]
Key = tuple[IpAddress, bytes, bytes]


def source_of(address: IpAddress) -> Source:
    """(IP version, the part of the address that one subscriber owns)."""
    return (4, int(address)) if address.version == 4 else (6, int(address) >> 64)


class Cookies:
    """Stateless cookies: nothing is remembered but two secrets."""

    __slots__ = ("_entropy", "_generation", "_made", "_new", "_old")

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._generation = 0
        self._made = 0.0
        self._new = b""
        self._old = b""

    def _rotate(self, now: float) -> None:
        if self._new and now < self._made + SECRET_LIFE:
            return
        # After a long calm the old secret is too old as well.
        self._old = self._new if now < self._made + 2 * SECRET_LIFE else b""
        self._new = self._entropy.octets(32)
        self._generation = (self._generation + 1) % 256
        self._made = now

    @staticmethod
    def _mac(secret: bytes, nonce: bytes, address: IpAddress, spi: bytes) -> bytes:
        return hashlib.blake2s(address.packed + spi + nonce, key=secret, digest_size=16).digest()

    def make(self, nonce: bytes, address: IpAddress, spi: bytes, now: float) -> bytes:
        """<version of the secret> | MAC(Ni | IPi | SPIi) (RFC 7296, section 2.6)."""
        self._rotate(now)
        return bytes((self._generation,)) + self._mac(self._new, nonce, address, spi)

    def good(self, cookie: bytes, nonce: bytes, address: IpAddress, spi: bytes, now: float) -> bool:
        """Whether we made this cookie for this request, lately."""
        self._rotate(now)
        if len(cookie) != 17:
            return False
        secret = self._new if cookie[0] == self._generation else self._old
        if not secret or (self._generation - cookie[0]) % 256 > 1:
            return False
        return hmac.compare_digest(self._mac(secret, nonce, address, spi), cookie[1:])


class HalfOpen:
    """IKE SAs that strangers began. A repeated first request is found here, by all of its octets.

    They also hold the fragments of messages that are not complete, so many octets in all.
    """

    __slots__ = ("_by_key", "_by_source", "_entries", "_held", "_octets")

    def __init__(self) -> None:
        self._by_key: dict[Key, IkeSa] = {}
        self._entries: dict[int, tuple[Key, Source]] = {}
        # Insertion-ordered: the oldest comes first.
        self._by_source: dict[Source, dict[int, IkeSa]] = {}
        self._held: dict[int, int] = {}
        self._octets = 0

    def __len__(self) -> int:
        return len(self._entries)

    def of_source(self, address: IpAddress) -> int:
        return len(self._by_source.get(source_of(address), ()))

    def oldest(self, address: IpAddress | None = None) -> IkeSa | None:
        """The first of those that are left, of all or of this address's source."""
        if address is not None:
            return next(iter(self._by_source.get(source_of(address), {}).values()), None)
        key = next(iter(self._entries.values()), None)
        return None if key is None else self._by_key.get(key[0])

    def hold(self, sa: IkeSa, octets: int) -> bool:
        """Whether this SA's fragments may be `octets` long now; notes it if so. Who is no stranger may."""
        number = sa.unique_id
        if number not in self._entries:
            return True
        held = self._held.get(number, 0)
        if octets > held and self._octets - held + octets > MAX_FRAGMENTS:
            return False
        self._octets += octets - held
        if octets:
            self._held[number] = octets
        else:
            self._held.pop(number, None)
        return True

    def find(self, address: IpAddress, spi: bytes, digest: bytes) -> IkeSa | None:
        return self._by_key.get((address, spi, digest))

    def add(self, sa: IkeSa, address: IpAddress, spi: bytes, digest: bytes) -> None:
        key, source = (address, spi, digest), source_of(address)
        self._by_key[key] = sa
        self._entries[sa.unique_id] = (key, source)
        self._by_source.setdefault(source, {})[sa.unique_id] = sa

    def release(self, sa: IkeSa) -> None:
        """It is established, or gone."""
        entry = self._entries.pop(sa.unique_id, None)
        if entry is None:
            return
        key, source = entry
        self._octets -= self._held.pop(sa.unique_id, 0)
        if self._by_key.get(key) is sa:
            del self._by_key[key]
        of_source = self._by_source[source]
        del of_source[sa.unique_id]
        if not of_source:
            del self._by_source[source]


class RateLimit:
    """A token bucket for each source, and as many sources as fit."""

    __slots__ = ("_buckets", "_burst", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[Source, tuple[float, float]] = {}

    def allows(self, address: IpAddress, now: float) -> bool:
        """Whether this source may have one more; takes it if so."""
        source = source_of(address)
        tokens, since = self._buckets.pop(source, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[source] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > MAX_SOURCES:
            del self._buckets[next(iter(self._buckets))]
        return allowed
