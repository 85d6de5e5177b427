"""How tests wait: for a condition, looked at again and again, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float, what: str | Callable[[], str] = "") -> T:
    """What the condition gave as soon as it held; fails after `seconds`, with `what`, a log for example."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)  # between looks; the condition is what is waited for
    return found
