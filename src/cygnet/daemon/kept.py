"""What was loaded since the start, kept where the daemon's death does not reach: a file in memory.

    record:  length (4 octets) · msgpack [kind, name, message]      message nil: unloaded
    kind "":  everything before, the configuration of the start too, is void

The supervisor holds the file open and never looks into it; the daemon writes each change into it before
anyone is told that it is done, and a daemon that is started again reads it after the configuration of the
start. So what was in force is in force again, secrets are never on a disk, and no policy's guard is swept
away because nobody remembers it. A record that was cut short was never answered: it ends the reading.

What has grown far beyond what is in force is written anew into another file, which the supervisor is handed;
it takes all that it is handed before it starts another daemon.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

MAX_KEPT = 1 << 28
GROWN = 8 << 20
"""Octets beyond twice of what is in force, from which on the file is written anew."""

Key = tuple[str, str]
"""The command that loads something, and what that is called."""


class Change(NamedTuple):
    kind: str
    name: str
    message: dict[str, Any] | None


def create() -> int:
    """The descriptor of an empty file. Raises OSError."""
    return os.memfd_create("cygnet-loaded", os.MFD_CLOEXEC)


def read(descriptor: int) -> list[Change]:
    """All changes, oldest first."""
    data = os.pread(descriptor, min(os.fstat(descriptor).st_size, MAX_KEPT), 0)
    changes, at = [], 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        changes.append(_decoder.decode(data[at + 4 : end]))
        at = end
    return changes


class Kept:
    """The daemon's end. `hand_over(fd)`: give the supervisor another file; False: it takes none now."""

    def __init__(self, descriptor: int, hand_over: Callable[[int], bool]) -> None:
        self._descriptor = descriptor
        self._hand_over = hand_over
        self._length = _whole(descriptor)
        self._compact_at = GROWN + 2 * self._length
        self._loaded: dict[Key, bytes] = {}
        """What is in force, as the records that load it."""

    def start_with(self, loaded: Iterable[Change]) -> None:
        """These are in force, as the configuration and the file say already."""
        self._loaded = {(one.kind, one.name): _record(one) for one in loaded}

    def load(self, kind: str, name: str, message: Mapping[str, Any]) -> None:
        """Raises OSError when there is no memory."""
        record = _record(Change(kind, name, dict(message)))
        if self._loaded.get((kind, name)) != record:
            self._loaded[kind, name] = record
            self._write(record)

    def unload(self, kind: str, name: str) -> None:
        """Raises OSError when there is no memory."""
        if self._loaded.pop((kind, name), None) is not None:
            self._write(_record(Change(kind, name, None)))

    def _write(self, record: bytes) -> None:
        if self._length + len(record) > self._compact_at:
            self._write_anew()
            return
        self._append(record)

    def _append(self, data: bytes) -> None:
        if self._length + len(data) > MAX_KEPT:
            raise OSError(errno.EFBIG, "there is too much of it")
        view, at = memoryview(data), self._length
        while view:
            written = os.pwrite(self._descriptor, view, at)
            view, at = view[written:], at + written
        self._length = at

    def _write_anew(self) -> None:
        data = b"".join([_record(Change("", "", None)), *self._loaded.values()])
        former, length, self._compact_at = self._descriptor, self._length, GROWN + 2 * len(data)
        self._descriptor, self._length = create(), 0
        try:
            self._append(data)
            handed_over = self._hand_over(self._descriptor)
        except OSError:
            handed_over = False
        if handed_over:
            os.close(former)
            return
        os.close(self._descriptor)
        self._descriptor, self._length = former, length
        self._append(data)
        self._compact_at = self._length + GROWN + len(data)


def _whole(descriptor: int) -> int:
    """Where the last whole record ends: what was cut short after it is written over."""
    size, at = os.fstat(descriptor).st_size, 0
    while at + 4 <= size:
        end = at + 4 + int.from_bytes(os.pread(descriptor, 4, at), "big")
        if end > size:
            break
        at = end
    os.ftruncate(descriptor, at)
    return at


def _record(change: Change) -> bytes:
    body = msgspec.msgpack.encode(change)
    return len(body).to_bytes(4, "big") + body


_decoder = msgspec.msgpack.Decoder(Change)
