"""The guard around every input: an exception that escapes drops that input, and only that.

Each datagram, timer, frame and report runs through `Guard.run`. What escapes is counted by place,
and reported once per place with its trace of files and lines. The exception's own text is left
out: it may quote a secret or the peer (T46); its type and the place are enough to find it.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MAX_PLACES = 200
"""Places that are reported and counted apart; beyond, they are counted together."""


class Guard:
    """`report(what, summary, trace)` is called once per place; `escaped` counts by "what: place"."""

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        self._report = report
        self.escaped: Counter[str] = Counter()

    def run(self, what: str, function: Callable[..., T], *arguments: object) -> T | None:
        """The function's result, or None when it raised."""
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001 - the one place where nothing passes
            self.escape(what, error)
            return None

    def escape(self, what: str, error: BaseException) -> None:
        """Count, and report if new, an exception that was caught elsewhere (a task's, for example)."""
        summary = summarise(error)
        key = f"{what}: {summary}"
        if key not in self.escaped and len(self.escaped) >= MAX_PLACES:
            key = "elsewhere"
        self.escaped[key] += 1
        if self.escaped[key] == 1:
            self._report(what, summary, trace(error))

    @property
    def total(self) -> int:
        return self.escaped.total()


def tell_no_texts(name: str) -> None:
    """Let this process's last word, should it fall, be places as well: Python's own would quote texts."""

    def fall(_: type[BaseException], error: BaseException, __: object) -> None:
        sys.stderr.write(f"the {name} process fell\n{trace(error)}\n")

    def ignored(what: sys.UnraisableHookArgs) -> None:
        if what.exc_value is not None:
            sys.stderr.write(f"ignored in the {name} process\n{trace(what.exc_value)}\n")

    sys.excepthook = fall
    sys.unraisablehook = ignored


def summarise(error: BaseException) -> str:
    """Type and place, nothing of the exception's text: `ValueError at driver.py:120`."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} at {os.path.basename(frames[0].filename)}:{frames[0].lineno}"


def trace(error: BaseException) -> str:
    """The chain of types and the frames as `file:line function`, oldest call first; no values, no texts."""
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        lines.append(type(current).__name__)
        lines.extend(
            f"  {frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(current.__traceback__)
        )
        current = current.__cause__ or current.__context__
    return "\n".join(lines)
