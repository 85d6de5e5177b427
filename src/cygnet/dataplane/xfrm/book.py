"""The SAs of ours that are in the kernel, found by what commands and events call them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from cygnet.dataplane.xfrm.codec import SaKey
from cygnet.dataplane.xfrm.states import Entry
from cygnet.policy.sa import Direction

K = TypeVar("K")


class Book:
    def __init__(self) -> None:
        self.pairs: dict[int, list[Entry]] = {}
        self._by_key: dict[SaKey, Entry] = {}
        self._by_spi: dict[tuple[int, int], list[Entry]] = {}
        self._outbound: dict[int, list[Entry]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Entry]:
        for entries in self.pairs.values():
            yield from entries

    def add(self, entry: Entry) -> None:
        self.pairs.setdefault(entry.pair, []).append(entry)
        self._by_spi.setdefault((int(entry.direction), entry.spi), []).append(entry)
        if entry.direction == Direction.OUT:
            self._outbound.setdefault(entry.flow, []).append(entry)
        for key in entry.keys:
            self._by_key[key] = entry

    def remove(self, entry: Entry) -> None:
        """Nothing happens if it is not there."""
        _drop(self.pairs, entry.pair, entry)
        _drop(self._by_spi, (int(entry.direction), entry.spi), entry)
        _drop(self._outbound, entry.flow, entry)
        for key in entry.keys:
            if self._by_key.get(key) is entry:
                del self._by_key[key]

    def rekeyed(self, entry: Entry, keys: tuple[SaKey, ...]) -> None:
        """It has other ends, hence another place in the kernel."""
        for key in entry.keys:
            self._by_key.pop(key, None)
        entry.keys = keys
        for key in keys:
            self._by_key[key] = entry

    def at(self, key: SaKey) -> Entry | None:
        return self._by_key.get(key)

    def keys(self) -> set[SaKey]:
        return set(self._by_key)

    def find(self, direction: int, spi: int, remote: bytes, pair: int) -> Entry | None:
        """The SA of this direction and SPI with the peer `remote`, of this pair if one is named (not 0)."""
        for entry in self._by_spi.get((direction, spi), ()):
            if pair in (0, entry.pair) and (direction == Direction.IN or entry.remote.packed == remote):
                return entry
        return None

    def flows(self) -> tuple[int, ...]:
        """Those that have an outbound SA."""
        return tuple(self._outbound)

    def outbound(self, flow: int) -> Entry | None:
        """The newest of a flow."""
        entries = self._outbound.get(flow)
        return entries[-1] if entries else None


def _drop(index: dict[K, list[Entry]], group: K, entry: Entry) -> None:
    left = [one for one in index.get(group, ()) if one is not entry]
    if left:
        index[group] = left
    else:
        index.pop(group, None)
