"""The daemon's end of the channel to its supervisor: words come in, signs of life go out.

A supervisor that is gone takes the daemon with it, without a goodbye to the peers: whoever is
started next goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

SIGN_OF_LIFE = 1.0
MAX_WORD = 64


class Supervised:
    """`stop()`, `gone()`, `new_pair(socket)` and `new_configuration(descriptor)` are called as words come."""

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
