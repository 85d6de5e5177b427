"""The channel between supervisor and daemon, both ends: words, some with a descriptor.

    to the daemon:      stop · pair (a new data plane's) · configuration (a bundle)
    to the supervisor:  ready · alive, once a second · reloaded · refused WHY (of a configuration) ·
                        kept (what was loaded since the start, in another file) ·
                        stuck (the data plane says nothing any more)

A supervisor that is gone takes the daemon with it, without a goodbye to the peers: whoever is
started next goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

SIGN_OF_LIFE = 1.0
MAX_WORD = 64
PLANE_BUFFER = 4 << 20
SO_SNDBUFFORCE = 32


def plane_pair() -> tuple[socket.socket, socket.socket]:
    """The pair between data plane and daemon, with room for several of the largest messages each way."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        for option in (socket.SO_SNDBUF, SO_SNDBUFFORCE):  # forced where the privilege is there
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, option, PLANE_BUFFER)
    return ends


class Leash:
    """The supervisor's end, of one daemon at a time; `heard()` is called when `hear` has something to say."""

    def __init__(self, selector: selectors.BaseSelector, heard: Callable[[], None]) -> None:
        self._selector, self._heard = selector, heard
        self.ours: socket.socket | None = None

    def renew(self) -> socket.socket:
        """A new channel; the daemon's end is for it to inherit, and for the caller to close then."""
        self.close()
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self._selector.register(self.ours, selectors.EVENT_READ, self._heard)
        return theirs

    def close(self) -> None:
        if self.ours is not None:
            self._selector.unregister(self.ours)
            self.ours.close()
            self.ours = None

    def tell(self, word: bytes, *descriptors: int) -> None:
        if self.ours is not None:
            with contextlib.suppress(OSError):  # it is dead, or will be found silent
                socket.send_fds(self.ours, [word], descriptors)

    def hear(self) -> tuple[str, str, list[int]]:
        """A word, its text, descriptors; empty when the daemon has closed its end, and ours is closed too."""
        data, descriptors = b"", list[int]()
        if self.ours is not None:
            with contextlib.suppress(OSError):
                data, descriptors, _, _ = socket.recv_fds(self.ours, 1 << 16, 1)
        if not data:
            self.close()
        word, _, text = data.decode(errors="replace").partition(" ")
        return word, text, descriptors


class Supervised:
    """The daemon's end: `stop()`, `gone()`, `new_pair(socket)`, `new_configuration(fd)` are called."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: socket.socket,
        *,
        stop: Callable[[], None],
        gone: Callable[[], None],
        new_pair: Callable[[socket.socket], None],
        new_configuration: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._stop = stop
        self._gone = gone
        self._new_pair = new_pair
        self._new_configuration = new_configuration
        channel.setblocking(False)
        loop.add_reader(channel, self._readable)
        self._timer = loop.call_soon(self._live)

    def say(self, word: bytes, text: str = "") -> None:
        """`ready`, `reloaded`, or `refused` with the reason. A supervisor that does not read misses it."""
        with contextlib.suppress(OSError):
            self._channel.send(word + b" " + text.encode(errors="replace")[:60_000])

    def hand_over(self, descriptor: int) -> bool:
        """What was loaded since the start is there from now on; False: the supervisor does not read."""
        try:
            socket.send_fds(self._channel, [b"kept"], [descriptor])
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._channel)
        self._channel.close()

    def _live(self) -> None:
        self.say(b"alive")
        self._timer = self._loop.call_later(SIGN_OF_LIFE, self._live)

    def _readable(self) -> None:
        try:
            word, descriptors, _, _ = socket.recv_fds(self._channel, MAX_WORD, 4)
        except BlockingIOError:
            return
        except OSError:
            word, descriptors = b"", []
        if word == b"stop":
            self._stop()
        elif word == b"pair" and descriptors:
            self._new_pair(socket.socket(fileno=descriptors.pop()))
        elif word == b"configuration" and descriptors:
            self._new_configuration(descriptors.pop())
        elif not word:
            self._loop.remove_reader(self._channel)
            self._gone()
        for descriptor in descriptors:
            os.close(descriptor)
