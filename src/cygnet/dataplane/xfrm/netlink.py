"""XFRM netlink sockets: requests many to a datagram, dumps, and what the kernel tells unasked.

A batch costs one system call in and, where all goes well, one out: only its last request asks for an
acknowledgement, refusals come by themselves and say which request they are about. They carry the kernel's
own words (NLMSGERR_ATTR_MSG) where it has any.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

NETLINK_XFRM = 6
REQUEST, ACK, DUMP, CREATE, EXCLUSIVE = 1, 4, 0x300, 0x400, 0x200
BATCH = 32768
"""Octets of requests in one datagram; were all refused, the refusals would still fit the receive buffer."""
GETS = 64
"""Questions in one datagram: each is answered by about a kilobyte."""
MAX_DUMP = 4_000_000
"""Answers that one dump may have: more is not a kernel that we know."""
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_CAPPED, _EXTENDED = 0x100, 0x200
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BUFFER = 8 << 20
_LARGEST = 1 << 18
_SO_RCVBUFFORCE, _SOL_NETLINK, _CAP_ACK, _EXT_ACK = 33, 270, 10, 11
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 1, 2
_SO_ATTACH_FILTER = 26
_ATTR_MSG = 1


class Message(NamedTuple):
    """A request, or one message of an answer: its type and what follows the netlink header."""

    kind: int
    body: bytes
    flags: int = 0


class NetlinkError(OSError):
    """The kernel's refusal of one request, in its own words where it gave any."""


class XfrmSocket:
    """Requests and answers, in the network namespace of the thread that makes it. Methods raise OSError."""

    def __init__(self) -> None:
        self._socket = _socket()
        for option in (_CAP_ACK, _EXT_ACK):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0
        self.port = int(self._socket.getsockname()[0])
        """By which the kernel's events say who made a change: it takes that from the request's header."""

    def close(self) -> None:
        self._socket.close()

    def change(self, messages: Sequence[Message]) -> list[NetlinkError | None]:
        """All are tried, in order; the refusal of each, None where it was carried out."""
        refusals: list[NetlinkError | None] = []
        for batch in _batches(messages):
            refusals += self._exchange(batch)
        return refusals

    def change_one(self, message: Message) -> None:
        """Raises NetlinkError."""
        (refusal,) = self.change([message])
        if refusal is not None:
            raise refusal

    def ask(self, messages: Sequence[Message]) -> list[bytes | None]:
        """The answer to each question; None where there is no such thing."""
        answers: list[bytes | None] = []
        for start in range(0, len(messages), GETS):
            answers += self._asked(messages[start : start + GETS])
        return answers

    def dump(self, kind: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        """(type, body) of each. Raises NetlinkError."""
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        head = _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | DUMP, self._sequence, self.port)
        self._socket.send(head + body)
        for _ in range(MAX_DUMP):
            for answer, flags, sequence, content in parse(self._socket.recv(_LARGEST)):
                if sequence != self._sequence:
                    continue
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    raise _refusal(content, flags)
                yield answer, content
        raise NetlinkError(errno.EMSGSIZE, "a dump without an end")

    def _exchange(self, batch: Sequence[Message]) -> list[NetlinkError | None]:
        first = self._sequence + 1
        last = first + len(batch) - 1
        requests = [
            self._packed(message, ACK if number == last else 0, number)
            for number, message in enumerate(batch, first)
        ]
        self._sequence = last & 0xFFFFFFFF
        self._socket.send(b"".join(requests))
        refusals: list[NetlinkError | None] = [None] * len(batch)
        while True:
            for answer, flags, sequence, content in parse(self._socket.recv(_LARGEST)):
                place = (sequence - first) & 0xFFFFFFFF
                if answer != _ERROR or place >= len(batch):
                    continue
                if content[:4] != bytes(4):
                    refusals[place] = _refusal(content, flags)
                if sequence == self._sequence:
                    return refusals

    def _packed(self, message: Message, flags: int, number: int) -> bytes:
        length = _HEADER.size + len(message.body)
        flags |= message.flags | REQUEST
        return _HEADER.pack(length, message.kind, flags, number & 0xFFFFFFFF, self.port) + message.body

    def _asked(self, batch: Sequence[Message]) -> list[bytes | None]:
        first = self._sequence + 1
        requests = [self._packed(message, 0, number) for number, message in enumerate(batch, first)]
        self._sequence = first + len(batch) - 1 & 0xFFFFFFFF
        self._socket.send(b"".join(requests))
        answers: list[bytes | None] = [None] * len(batch)
        left = len(batch)
        while left:
            for answer, flags, sequence, content in parse(self._socket.recv(_LARGEST)):
                place = (sequence - first) & 0xFFFFFFFF
                if place >= len(batch):
                    continue
                left -= 1
                if answer != _ERROR:
                    answers[place] = content
                elif -struct.unpack_from("=i", content)[0] not in (errno.ESRCH, errno.ENOENT):
                    raise _refusal(content, flags)
        return answers


class Events:
    """What the kernel tells: of `groups`, the message types in `kinds`, and not what `except_port` has done.

    A filter in the kernel keeps the rest away: the installation of ten thousand SAs wakes nobody.
    """

    def __init__(self, groups: Iterable[int], kinds: Sequence[int], except_port: int) -> None:
        self._socket = _socket()
        self._socket.setblocking(False)
        _attach(self._socket, _filter(kinds, except_port))
        for group in groups:
            self.join(group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def join(self, group: int) -> None:
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def leave(self, group: int) -> None:
        self._socket.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, group)

    def read(self, limit: int = 256) -> tuple[list[tuple[int, bytes]], bool]:
        """(type, body) of what waits, up to `limit` datagrams; and whether some were lost before."""
        found: list[tuple[int, bytes]] = []
        lost = False
        for _ in range(limit):
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            found += [(kind, body) for kind, _, _, body in parse(data)]
        return found, lost


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_XFRM)
    try:
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
            with contextlib.suppress(OSError):
                made.setsockopt(socket.SOL_SOCKET, option, _RECEIVE_BUFFER)
        made.bind((0, 0))
    except OSError:
        made.close()
        raise
    return made


def _batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    batch: list[Message] = []
    size = 0
    for message in messages:
        batch.append(message)
        size += _HEADER.size + len(message.body)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def parse(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, body) of each message of a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def attributes(body: bytes, at: int) -> dict[int, bytes]:
    """From offset `at` on, by type; the last of a type counts."""
    found = {}
    while at + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[at + 4 : at + length]
        at += length + 3 & ~3
    return found


def _refusal(content: bytes, flags: int) -> NetlinkError:
    code = -struct.unpack_from("=i", content)[0]
    words = os.strerror(code)
    if flags & _EXTENDED and len(content) >= 4 + _HEADER.size:
        # The request's header follows the code, its body too unless the kernel left that out.
        length = _HEADER.unpack_from(content, 4)[0]
        start = 4 + (_HEADER.size if flags & _CAPPED else length + 3 & ~3)
        said = attributes(content, start).get(_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
        words = f"{said} ({words})" if said else words
    return NetlinkError(code, words)


# -- the filter: classic BPF over the netlink header, whose fields are in this machine's order ---------

_LD_W, _LD_H, _JEQ, _RET = 0x20, 0x28, 0x15, 0x06


def _filter(kinds: Sequence[int], except_port: int) -> bytes:
    """Take a message whose port is not `except_port` and whose type is among `kinds`."""

    def swapped(value: int, form: str) -> int:
        return int.from_bytes(struct.pack(form, value), "big")

    def instruction(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, true, false, k)

    count = len(kinds)
    program = [instruction(_LD_W, 12), instruction(_JEQ, swapped(except_port, "=I"), count + 1, 0)]
    program.append(instruction(_LD_H, 4))
    program += [instruction(_JEQ, swapped(kind, "=H"), count - place, 0) for place, kind in enumerate(kinds)]
    return b"".join([*program, instruction(_RET, 0), instruction(_RET, 0xFFFFFFFF)])


def _attach(sock: socket.socket, program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HL", len(program) // 8, ctypes.addressof(held)),
    )
