"""What systemd is told (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names, if it does."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def tell(*assignments: str) -> None:
    """Send `READY=1`, `STATUS=...` and the like. Never raises, never waits: systemd is not our judge."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if name[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect("\0" + name[1:] if name[0] == "@" else name)
        sock.send("\n".join(assignments).encode())


def reloading() -> None:
    """Type=notify-reload wants the moment too, on the monotonic clock in microseconds."""
    tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between two signs of life, half of what systemd allows; None if it does not ask (for us)."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(allowed) / 2_000_000
