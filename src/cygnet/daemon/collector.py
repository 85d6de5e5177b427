"""When the cycle collector may run: young objects often and briefly, old ones only while nothing happens.

With thousands of SAs and connections one full collection stops the loop for a quarter of a second,
and Python starts one by itself whenever enough has been allocated. What the daemon drops is freed by
reference counts; cycles are the exception, so old ones can wait for a quiet moment.
"""

from __future__ import annotations

import gc

YOUNG, MIDDLE, NEVER = 5_000, 5, 1 << 30
"""Allocations until the young are looked at; how many times until their survivors are, 25,000 at most."""
QUIET = 5.0
"""Seconds without input that make a quiet moment."""
ENOUGH = 20
"""Collections of the middle generation since the last full one from which on one is worth its time."""
TOO_MUCH = 1_000
"""The same, for a daemon that never has a quiet moment: 25 million objects more than before."""


class Collector:
    """`busy(now)` at each input, `quiet(now)` now and then; monotonic seconds."""

    def __init__(self) -> None:
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        self._busy = 0.0

    def busy(self, now: float) -> None:
        self._busy = now

    def quiet(self, now: float) -> bool:
        """Collect everything if there is enough to look at and nobody waits, or too much; whether it did."""
        if gc.get_count()[2] < (ENOUGH if now - self._busy >= QUIET else TOO_MUCH):
            return False
        gc.collect()
        return True


def settle() -> None:
    """What is there now stays: leave it out of all later collections (gc.freeze)."""
    gc.collect()
    gc.freeze()
