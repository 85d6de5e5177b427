"""Numbered packets both ways between two hosts, to see what a rekey, a restart, a failure loses."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cygnet.lab.namespaces import Namespace

SO_RCVBUFFORCE = 33
NUMBER = struct.Struct("!Q")
SETTLE, LATE = 1.0, 0.1
"""Seconds that packets under way have after the last was sent, and doubled ones once all have come."""


@dataclass(frozen=True, slots=True)
class Report:
    """What arrived of `sent` packets: there, and back as an echo. `longest_gap` is in seconds."""

    sent: int
    arrived: int
    echoed: int
    duplicated: int
    longest_gap: float

    @property
    def lost(self) -> int:
        return self.sent - min(self.arrived, self.echoed)


class Traffic:
    """UDP from `source` to `destination` (addresses in those namespaces), each packet echoed, until `stop`.

    One packet each `interval` seconds, of `size` octets.
    """

    def __init__(
        self,
        source: Namespace,
        source_address: str,
        destination: Namespace,
        destination_address: str,
        interval: float = 0.002,
        size: int = 200,
        port: int = 7007,
    ) -> None:
        self._interval, self._size = interval, size
        self._near = source.inside(lambda: _bound(source_address, 0))
        self._far = destination.inside(lambda: _bound(destination_address, port))
        self._target = (destination_address, port)
        self._stopping, self._settled = threading.Event(), threading.Event()
        self._sent = 0
        self._arrivals: set[int] = set()
        self._echoes: set[int] = set()
        self._duplicated = 0
        self._longest_gap = 0.0
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._send, self._echo, self._collect)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def echoed(self) -> int:
        """Echoes so far."""
        return len(self._echoes)

    def wait_for(self, echoes: int, timeout: float) -> bool:
        """Wait until so many echoes have come; False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.echoed < echoes:
            if time.monotonic() > deadline:
                return False
            self._stopping.wait(0.01)
        return True

    def stop(self) -> Report:
        self._stopping.set()
        self._threads[0].join()
        end = time.monotonic() + SETTLE
        while time.monotonic() < end and len(self._echoes) < self._sent:
            self._settled.wait(0.01)
        self._settled.wait(LATE)
        self._settled.set()
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()
        return Report(self._sent, len(self._arrivals), len(self._echoes), self._duplicated, self._longest_gap)

    def _send(self) -> None:
        following = time.monotonic()
        while not self._stopping.is_set():
            # Refused by a policy of this host: the packet counts as sent and lost.
            with contextlib.suppress(OSError):
                self._near.sendto(NUMBER.pack(self._sent).ljust(self._size, b"."), self._target)
            self._sent += 1
            following += self._interval
            self._stopping.wait(max(0.0, following - time.monotonic()))

    def _echo(self) -> None:
        for data, sender in _packets(self._far, self._settled):
            self._arrivals.add(NUMBER.unpack_from(data)[0])
            try:
                self._far.sendto(data, sender)
            except OSError:
                continue  # as in _send: the missing echo is counted

    def _collect(self) -> None:
        last = time.monotonic()
        for data, _ in _packets(self._near, self._settled):
            now = time.monotonic()
            self._longest_gap = max(self._longest_gap, now - last)
            last = now
            number = NUMBER.unpack_from(data)[0]
            self._duplicated += number in self._echoes
            self._echoes.add(number)


def _bound(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    # What waits while this process does not get its turn is not lost.
    with contextlib.suppress(PermissionError):
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    made.bind((address, port))
    return made


def _packets(source: socket.socket, settled: threading.Event) -> Iterator[tuple[bytes, Any]]:
    """Datagrams of a socket, until nothing more is waited for."""
    while not settled.is_set():
        if select.select([source], [], [], 0.05)[0]:
            try:
                yield source.recvfrom(65535)
            except ConnectionRefusedError:
                continue  # an ICMP error of the way, not a packet
