"""Long work on the loop in slices: whoever walks thousands of things lets the others run in between."""

from __future__ import annotations

import asyncio
import time

SLICE = 0.004
"""Seconds: a fifth of what the loop may be late (B22)."""


class Turns:
    """`await give()` in each step; the loop gets its turn when `SLICE` seconds have passed."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def give(self) -> None:
        if time.monotonic() - self._since > SLICE:
            await asyncio.sleep(0)
            self._since = time.monotonic()
