"""Who wants to be woken when: one heap for the whole gateway, entries deleted lazily.

Each SA has one entry, its earliest deadline, under its number: the heap never holds an SA alive.
An entry counts only while it is the one that `_armed` remembers; stale ones are skipped when they
come up, and swept when they outnumber the live ones.
"""

from __future__ import annotations

import heapq
from typing import Final, Generic, TypeVar

_SLACK: Final = 64


K = TypeVar("K", int, str)


class Timers(Generic[K]):
    """Keys are numbers of SAs, or names."""

    __slots__ = ("_armed", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, K]] = []
        self._armed: dict[K, float] = {}

    def arm(self, key: K, due: float | None) -> None:
        """Wake `key` at `due` (monotonic seconds) instead of whatever was set before; None: not at all."""
        if due is None:
            self._armed.pop(key, None)
            return
        if self._armed.get(key) == due:
            return
        self._armed[key] = due
        heapq.heappush(self._heap, (due, key))
        if len(self._heap) > 2 * len(self._armed) + _SLACK:
            self._heap = [(when, armed) for armed, when in self._armed.items()]
            heapq.heapify(self._heap)

    def due(self, key: K) -> float | None:
        """When this key will be woken."""
        return self._armed.get(key)

    def next(self) -> float | None:
        """The earliest deadline."""
        heap = self._heap
        while heap and self._armed.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> K | None:
        """A key whose deadline has come, disarmed; None when there is no more."""
        due = self.next()
        if due is None or due > now:
            return None
        key = heapq.heappop(self._heap)[1]
        del self._armed[key]
        return key

    def __len__(self) -> int:
        return len(self._armed)
