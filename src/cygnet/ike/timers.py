"""Who wants to be woken when: one heap for the whole gateway, entries deleted lazily.

Each SA has one entry, its earliest deadline, under its number: the heap never holds an SA alive.
An entry counts only while it is the one that `_armed` remembers; stale ones are skipped when they
come up, and swept when they outnumber the live ones.
"""

from __future__ import annotations

import heapq
from typing import Final

_SLACK: Final = 64


class Timers:
    __slots__ = ("_armed", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._armed: dict[int, float] = {}

    def arm(self, key: int, due: float | None) -> None:
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

    def next(self) -> float | None:
        """The earliest deadline."""
        heap = self._heap
        while heap and self._armed.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> int | None:
        """A key whose deadline has come, disarmed; None when there is no more."""
        due = self.next()
        if due is None or due > now:
            return None
        key = heapq.heappop(self._heap)[1]
        del self._armed[key]
        return key

    def __len__(self) -> int:
        return len(self._armed)
