"""A child of the supervisor: started with given descriptors, deaths counted, a pause before each restart."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import deque

DEATHS, WITHIN = 5, 60.0
"""A child that dies so often in so many seconds is not started again."""
PAUSES = (0.0, 0.0, 0.2, 0.5, 1.0, 2.0)


class Child:
    """One of our own modules as a process: `python -m cygnet.NAME`.

    It gets a session of its own: Ctrl-C in the terminal is the supervisor's to handle, who stops
    the children in their order.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.due = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._deaths: deque[float] = deque(maxlen=DEATHS)

    def start(self, arguments: list[str], descriptors: list[int]) -> None:
        command = [sys.executable, "-m", f"cygnet.{self.name}", *arguments]
        self.process = subprocess.Popen(
            command, pass_fds=descriptors, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def reap(self) -> str:
        """How it ended, if it has since the last call; `due` (monotonic) says when it may start again."""
        status = None if self.process is None else self.process.poll()
        if status is None:
            return ""
        now = time.monotonic()
        self.process = None
        self._deaths.append(now)
        recent = sum(now - death < WITHIN for death in self._deaths)
        self.due = now + PAUSES[min(recent, len(PAUSES) - 1)]
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    @property
    def hopeless(self) -> bool:
        return len(self._deaths) == DEATHS and self._deaths[-1] - self._deaths[0] < WITHIN

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
