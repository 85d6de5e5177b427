"""The control socket's client: blocking, one command at a time, events beside it.

    with Client.connect(path) as client:
        answer = client.request("version")
        client.register("ike-updown", "child-updown")
        event, message = client.next_event()

Values come as octets; `codec.texts` makes them text. Every failure is a `ViciError` whose text is one
sentence for a person.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cygnet.vici.codec import (
    MAX_PACKET,
    Message,
    Outgoing,
    Packet,
    PacketType,
    decode_packet,
    encode_packet,
    texts,
)
from cygnet.wire.cursor import Malformed

WINDOW: Final = 32
"""Commands of a `pipeline` that may be unanswered; the server takes 64 before it stops reading."""


class ViciError(Exception):
    """Something is wrong between us and the daemon."""


class NotRunning(ViciError):
    """Nobody listens on the control socket."""


class NotPermitted(ViciError):
    """The control socket may not be used by this user."""


class ConnectionLost(ViciError):
    """The daemon went away, or broke the protocol."""


class TimedOut(ViciError):
    """The daemon did not answer in time."""


class Unknown(ViciError):
    """The daemon does not know this command or event."""


class Refused(ViciError):
    """The command was not done. `answer` is all that the daemon said, as text."""

    def __init__(self, errmsg: str, answer: Message) -> None:
        super().__init__(errmsg)
        self.answer = answer


OnEvent = Callable[[str, Message], None]


class Client:
    """A connection to a control socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._early: deque[tuple[str, Message]] = deque()

    @classmethod
    def connect(cls, path: Path | str, timeout: float = 10.0) -> Self:
        """Connect. Raises `NotRunning`, `NotPermitted`, `ViciError`."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
                raise NotRunning(f"no Cygnet is running here: nobody listens on {path}") from None
            if isinstance(error, PermissionError):
                raise NotPermitted(f"you may not use the control socket {path}") from None
            if error.errno == errno.EAGAIN or isinstance(error, TimeoutError):
                raise TimedOut(f"the daemon behind {path} does not take connections") from None
            raise ViciError(f"the control socket {path} cannot be used: {error.strerror or error}") from None
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    # -- commands ---------------------------------------------------------------------------------

    def request(
        self,
        command: str,
        message: Outgoing | None = None,
        *,
        timeout: float | None = 60.0,
        on_event: OnEvent | None = None,
        events: tuple[str, ...] = (),
    ) -> Message:
        """Do a command and return its answer. `events` are registered for its duration and go to `on_event`.

        `timeout` None waits for ever. Raises `Refused` if the answer says `success` other than yes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for event in events:
            self._register(event, deadline, on_event)
        self._send(encode_packet(PacketType.CMD_REQUEST, command, message), deadline)
        packet = self._answer(deadline, on_event)
        message = _answer_to(command, packet)
        for event in events:
            self._send(encode_packet(PacketType.EVENT_UNREGISTER, event), deadline)
            self._answer(deadline, on_event)
        return _judged(command, message)

    def pipeline(
        self, commands: Iterable[tuple[str, Outgoing]], *, timeout: float = 60.0
    ) -> Iterator[tuple[str, Message]]:
        """Do many commands with short answers in their order, each sent before the one before is answered;
        (command, answer) as they come. `timeout` is for each answer. Raises `Refused` for the first that is
        refused, when those that were sent with it are answered as well."""
        source, waiting = iter(commands), deque[str]()
        refusal: Refused | None = None
        while True:
            deadline = time.monotonic() + timeout
            if refusal is None and len(waiting) <= WINDOW // 2:
                batch = list(islice(source, WINDOW - len(waiting)))
                waiting.extend(command for command, _ in batch)
                packets = [encode_packet(PacketType.CMD_REQUEST, *one) for one in batch]
                self._send(b"".join(packets), deadline)
            if not waiting:
                break
            command = waiting.popleft()
            message = _answer_to(command, self._answer(deadline, None))
            try:
                judged = _judged(command, message)
            except Refused as error:
                refusal = refusal or error
                continue
            yield command, judged
        if refusal is not None:
            raise refusal

    def stream(
        self, command: str, event: str, message: Outgoing | None = None, *, timeout: float | None = 60.0
    ) -> list[Message]:
        """Do a command that answers with events; their messages."""
        found: list[Message] = []
        self.request(
            command, message, timeout=timeout, events=(event,),
            on_event=lambda name, content: found.append(content) if name == event else None,
        )  # fmt: skip
        return found

    def register(self, *events: str) -> None:
        """Ask for events; `next_event` gives them, those that come meanwhile too."""
        for event in events:
            self._register(
                event, time.monotonic() + 60.0, lambda name, content: self._early.append((name, content))
            )

    def pending(self) -> bool:
        """Whether an event may be had without waiting for the daemon."""
        whole = len(self._buffer) >= 4 and len(self._buffer) >= 4 + int.from_bytes(self._buffer[:4], "big")
        return bool(self._early) or whole

    def next_event(self, timeout: float | None = None) -> tuple[str, Message] | None:
        """The next event, or None when `timeout` seconds bring none. Raises `ConnectionLost`."""
        if self._early:
            return self._early.popleft()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                packet = self._receive(deadline)
            except TimedOut:
                return None
            if packet.type is PacketType.EVENT:
                return packet.name, packet.message

    def _register(self, event: str, deadline: float | None, on_event: OnEvent | None) -> None:
        self._send(encode_packet(PacketType.EVENT_REGISTER, event), deadline)
        if self._answer(deadline, on_event).type is not PacketType.EVENT_CONFIRM:
            raise Unknown(f"the daemon does not know the event {event}")

    def _answer(self, deadline: float | None, on_event: OnEvent | None) -> Packet:
        """The next packet that is no event."""
        while True:
            packet = self._receive(deadline)
            if packet.type is not PacketType.EVENT:
                return packet
            if on_event is not None:
                on_event(packet.name, packet.message)

    # -- octets -----------------------------------------------------------------------------------

    def _arm(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut("the daemon did not answer in time")
        self._socket.settimeout(left)

    def _send(self, packet: bytes, deadline: float | None) -> None:
        try:
            self._arm(deadline)
            self._socket.sendall(packet)
        except TimeoutError:
            raise TimedOut("the daemon did not take the command in time") from None
        except OSError as error:
            raise ConnectionLost(f"the daemon closed the control socket: {error.strerror}") from None

    def _receive(self, deadline: float | None) -> Packet:
        """The next packet; when it does not come whole in time, what came of it stays."""
        self._fill(4, deadline)
        length = int.from_bytes(self._buffer[:4], "big")
        if length > MAX_PACKET:
            raise ConnectionLost(f"the daemon sent a packet of {length} octets")
        self._fill(4 + length, deadline)
        data = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        try:
            return decode_packet(data)
        except Malformed as error:
            raise ConnectionLost(f"the daemon sent what cannot be parsed: {error}") from None

    def _fill(self, count: int, deadline: float | None) -> None:
        while len(self._buffer) < count:
            try:
                self._arm(deadline)
                data = self._socket.recv(65536)
            except TimeoutError:
                raise TimedOut("the daemon did not answer in time") from None
            except OSError as error:
                raise ConnectionLost(f"the daemon closed the control socket: {error.strerror}") from None
            if not data:
                raise ConnectionLost("the daemon closed the control socket")
            self._buffer += data


def _answer_to(command: str, packet: Packet) -> Message:
    if packet.type is PacketType.CMD_UNKNOWN:
        raise Unknown(f"the daemon does not know the command {command}")
    if packet.type is not PacketType.CMD_RESPONSE:
        raise ConnectionLost(f"the daemon answered {command} with {packet.type.name}")
    return packet.message


def _judged(command: str, message: Message) -> Message:
    if message.get("success", b"yes") != b"yes":
        answer = texts(message)
        raise Refused(str(answer.get("errmsg") or f"{command} failed"), answer)
    return message


def single(messages: list[Message]) -> Iterator[tuple[str, Any]]:
    """The sections of streamed messages, each of which holds one or more of them by name."""
    for message in messages:
        yield from message.items()
