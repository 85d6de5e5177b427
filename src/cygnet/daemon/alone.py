"""One Cygnet a network namespace: the kernel's table, routes and sets are shared by whoever runs in it.

A second one would write rules for its own TUN and ports over the first one's, and sweep its routes as those
of a dead process: what is protected would leave in clear. So the supervisor holds, as long as it lives, an
abstract unix socket, a name that belongs to the network namespace and that no mount or directory hides.
Anybody may take that name: who holds it without being root or ourselves could not run a Cygnet, and does not
keep one from running.
"""

from __future__ import annotations

import os
import socket
import struct
import time

NAME = b"\0cygnet"
_HELD_WITHIN = 0.5
"""Seconds from binding the name to listening on it, at most, or from a holder's death to a free name."""
_PEER = struct.Struct("=iII")


class Taken(Exception):
    """Another Cygnet runs in this network namespace; one sentence. `pid`: 0 if not to be seen from here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        which = f" (process {pid})" if pid else ""
        super().__init__(f"another Cygnet is running in this network namespace{which}")


class Stranger(Exception):
    """The name is held by somebody who is neither root nor we; one sentence."""


def hold() -> socket.socket:
    """Ours until it is closed; readable means: call `let_go_of_callers`. Raises Taken, Stranger."""
    until = time.monotonic() + _HELD_WITHIN
    while True:
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            ours.bind(NAME)
            ours.listen()
            return ours
        except OSError:
            ours.close()
        holder = _holder()
        if holder is not None:
            raise Taken(holder)
        if time.monotonic() > until:
            raise Stranger("whether another Cygnet runs here is not known: the name for that does not answer")
        os.sched_yield()


def running() -> int | None:
    """The process id of the Cygnet of this network namespace (0: not to be seen from here), None if there is
    none."""
    try:
        return _holder()
    except Stranger:
        return None


def let_go_of_callers(ours: socket.socket) -> None:
    """Who asked has its answer by then; the queue must not fill."""
    try:
        ours.accept()[0].close()
    except OSError:
        return


def _holder() -> int | None:
    """Raises Stranger. Whom the kernel names is who listened, not whoever was given the descriptor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(NAME)
        except OSError:
            return None
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(peer)
    if uid not in (0, os.geteuid()):
        raise Stranger(f"user {uid} (process {pid}) holds Cygnet's name in this network namespace")
    return int(pid)
