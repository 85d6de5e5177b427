"""The control socket's server: commands one at a time for each client, events to whoever registered.

    server = ViciServer(listener, handlers)
    await server.start()
    server.raise_event("ike-updown", message)

A client can cost no more than two packets in and `MAX_BACKLOG` octets out: who does not read, who stops
in the middle of a packet, and who sends what cannot be parsed is disconnected. A handler that fails in a
way that nobody foresaw answers `success=no` and is reported to `on_error`; it takes nothing else with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cygnet.config.problems import ConfigurationError
from cygnet.vici.codec import (
    MAX_PACKET,
    Message,
    Outgoing,
    Packet,
    PacketType,
    Unencodable,
    decode_packet,
    encode_packet,
)
from cygnet.wire.cursor import Malformed

MAX_CLIENTS = 256
MAX_BACKLOG = 1 << 20
"""Octets that wait for a client to read; beyond it is disconnected."""
HIGH_WATER = 1 << 17
"""Octets that wait before a streaming command pauses."""
BREATH = 16
"""Packets of a streaming command after which others get their turn: thousands of SAs are told in one."""
STALLED_AFTER = 30.0
"""Seconds that half a packet, or a full backlog of a streaming command, may stand still."""
MAX_ERRMSG = 60_000
"""Octets of an error's text: a configuration with ten thousand errors does not fit into one value."""
MAX_QUEUED = 64
"""Packets that a client may send ahead of their answers."""

EVENTS = frozenset({
    "log", "control-log", "list-sa", "list-policy", "list-conn", "list-cert", "list-authority",
    "ike-updown", "ike-rekey", "ike-update", "child-updown", "child-rekey", "alert",
    "ike-message", "ike-failure", "ike-drop", "certificate-expires",
})  # fmt: skip
"""Events to register for: strongSwan's, and ours (`ike-message` and what follows it)."""


class CommandFailed(Exception):
    """The command cannot be done; the text becomes `errmsg`. `details` go into the answer beside it."""

    def __init__(self, errmsg: str, details: Outgoing | None = None) -> None:
        super().__init__(errmsg)
        self.errmsg = errmsg
        self.details = details or {}


@dataclass(frozen=True, slots=True)
class Request:
    """A command: its name, its message (values are octets), and the client that gave it."""

    name: str
    message: Message = field(repr=False)
    client: Client

    def wants(self, event: str) -> bool:
        """Whether this client registered for the event."""
        return event in self.client.registered

    async def stream(self, event: str, message: Outgoing) -> None:
        """Send an event to this client alone, if it registered for it; waits while it is slow to read."""
        if event in self.client.registered:
            await self.client.send_slowly(encode_packet(PacketType.EVENT, event, message))

    def text(self, key: str, default: str = "") -> str:
        """A value of the message as text. Raises `CommandFailed` if it is none."""
        value = self.message.get(key)
        if value is None:
            return default
        if isinstance(value, str):
            return value
        try:
            return cast(bytes, value).decode()
        except (UnicodeDecodeError, AttributeError):
            raise CommandFailed(f"{key}: must be text") from None

    def number(self, key: str, default: int) -> int:
        """A value of the message as a whole number. Raises `CommandFailed` if it is none."""
        text = self.text(key)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise CommandFailed(f"{key}: must be a whole number; found {text[:40]!r}") from None

    def flag(self, key: str) -> bool:
        """Whether a value is yes."""
        return self.text(key).lower() in ("yes", "true", "enabled", "1")


Handler = Callable[[Request], Awaitable[Outgoing]]
"""Does a command; what it returns is the answer. Raises `CommandFailed`."""
DONE: Outgoing = {"success": "yes"}


class Client(asyncio.Protocol):
    """One connection. Packets wait in `_packets` until the command before them is answered."""

    def __init__(self, server: ViciServer) -> None:
        self.server = server
        self.registered: set[str] = set()
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._packets: deque[bytes] = deque()
        self._busy: asyncio.Task[None] | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self._sent = 0

    # -- asyncio's side ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        if len(self.server.clients) >= MAX_CLIENTS:
            self.transport.abort()
            return
        self.server.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.clients.discard(self)
        self.server.forget(self)
        self._cancel_stall()
        self._writable.set()
        self.transport = None
        if self._busy is not None:
            self._busy.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._cut()
        if self._buffer and self._stall is None and not self._paused:
            loop = asyncio.get_running_loop()
            self._stall = loop.call_later(STALLED_AFTER, self.disconnect)
        elif not self._buffer:
            self._cancel_stall()

    # -- packets in -------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Take whole packets out of the buffer, as many as may wait."""
        while len(self._buffer) >= 4 and len(self._packets) < MAX_QUEUED:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > MAX_PACKET:
                self.disconnect()
                return
            if len(self._buffer) < 4 + length:
                break
            self._packets.append(bytes(self._buffer[4 : 4 + length]))
            del self._buffer[: 4 + length]
            self._cancel_stall()
            if self._waiting() > MAX_PACKET:
                break
        self._pace()
        if self._packets and self._busy is None:
            self._busy = asyncio.get_running_loop().create_task(self._work())

    def _waiting(self) -> int:
        return sum(map(len, self._packets))

    def _pace(self) -> None:
        """Stop reading from a client that is far ahead of its answers; go on when it is not."""
        full = len(self._packets) >= MAX_QUEUED or self._waiting() > MAX_PACKET
        if self.transport is None or full == self._paused:
            return
        self._paused = full
        if full:
            self._cancel_stall()
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    async def _work(self) -> None:
        """Answer the packets in order, then end."""
        try:
            while self._packets and self.transport is not None:
                await self._answer(self._packets.popleft())
                self._cut_again()
        finally:
            self._busy = None

    def _cut_again(self) -> None:
        if self._paused:
            self._cut()

    async def _answer(self, data: bytes) -> None:
        try:
            packet = decode_packet(data)
        except Malformed:
            self.disconnect()
            return
        if packet.type is PacketType.CMD_REQUEST:
            await self.send_slowly(await self.server.command(self, packet))
        elif packet.type is PacketType.EVENT_REGISTER:
            await self.send_slowly(self.server.register(self, packet.name))
        elif packet.type is PacketType.EVENT_UNREGISTER:
            await self.send_slowly(self.server.unregister(self, packet.name))
        else:
            self.disconnect()

    # -- packets out ------------------------------------------------------------------------------

    def send(self, packet: bytes) -> None:
        """Send without waiting; a client that has let too much pile up is disconnected."""
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() + len(packet) > MAX_BACKLOG:
            self.disconnect()
            return
        self.transport.write(packet)

    async def send_slowly(self, packet: bytes) -> None:
        """Send when the client has read enough of what went before. It has `STALLED_AFTER` seconds."""
        self._sent += 1
        if self._sent % BREATH == 0:
            await asyncio.sleep(0)
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(STALLED_AFTER):
                    await self._writable.wait()
            except TimeoutError:
                self.disconnect()
        self.send(packet)

    def disconnect(self) -> None:
        self._cancel_stall()
        if self.transport is not None:
            self.transport.abort()

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


class ViciServer:
    """`where`: a path that is bound here (mode 0600), or a socket that is bound already.

    `on_error` is told of exceptions that no handler should let out.
    """

    def __init__(
        self,
        where: Path | socket.socket,
        handlers: Mapping[str, Handler],
        *,
        events: frozenset[str] = EVENTS,
        on_error: Callable[[str, Exception], None] = lambda command, error: None,
    ) -> None:
        self.where = where
        self.handlers = handlers
        self.events = events
        self.on_error = on_error
        self.clients: set[Client] = set()
        self._listeners: dict[str, set[Client]] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to listen. Raises OSError."""
        loop = asyncio.get_running_loop()
        listener = self.where if isinstance(self.where, socket.socket) else bind(self.where)
        self._server = await loop.create_unix_server(lambda: Client(self), sock=listener)

    async def close(self) -> None:
        """Stop listening and disconnect everybody."""
        if self._server is not None:
            self._server.close()
        for client in tuple(self.clients):
            client.disconnect()
        if isinstance(self.where, Path):
            with contextlib.suppress(FileNotFoundError):
                self.where.unlink()

    # -- events -----------------------------------------------------------------------------------

    def listening(self, event: str) -> bool:
        """Whether anybody registered for the event: nothing need be made for nobody."""
        return bool(self._listeners.get(event))

    def raise_event(self, event: str, message: Outgoing) -> None:
        """Send an event to all who registered for it. Never waits."""
        listeners = self._listeners.get(event)
        if not listeners:
            return
        try:
            packet = encode_packet(PacketType.EVENT, event, message)
        except Unencodable as error:
            self.on_error(event, error)
            return
        for client in tuple(listeners):
            client.send(packet)

    def register(self, client: Client, event: str) -> bytes:
        if event not in self.events:
            return encode_packet(PacketType.EVENT_UNKNOWN)
        client.registered.add(event)
        self._listeners.setdefault(event, set()).add(client)
        return encode_packet(PacketType.EVENT_CONFIRM)

    def unregister(self, client: Client, event: str) -> bytes:
        if event not in client.registered:
            return encode_packet(PacketType.EVENT_UNKNOWN)
        client.registered.discard(event)
        self._listeners[event].discard(client)
        return encode_packet(PacketType.EVENT_CONFIRM)

    def forget(self, client: Client) -> None:
        for event in client.registered:
            self._listeners[event].discard(client)
        client.registered.clear()

    # -- commands ---------------------------------------------------------------------------------

    async def command(self, client: Client, packet: Packet) -> bytes:
        """Do a command; the packet that answers it."""
        handler = self.handlers.get(packet.name)
        if handler is None:
            return encode_packet(PacketType.CMD_UNKNOWN)
        try:
            answer = await handler(Request(packet.name, packet.message, client))
            return encode_packet(PacketType.CMD_RESPONSE, message=answer)
        except CommandFailed as error:
            return _failure(error.errmsg, error.details)
        except ConfigurationError as error:
            return _failure(str(error), {})
        except Exception as error:  # noqa: BLE001 - a command takes nothing else with it (security.md I2)
            self.on_error(packet.name, error)
            return _failure("internal error; the log says more", {})


def _failure(errmsg: str, details: Outgoing) -> bytes:
    text = errmsg.encode()[:MAX_ERRMSG].decode(errors="ignore")
    answer: dict[str, Any] = {"success": "no", "errmsg": text, **details}
    return encode_packet(PacketType.CMD_RESPONSE, message=answer)


def bind(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600; one that a dead server left behind is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise OSError(errno.EADDRINUSE, f"{path} is in use")
            path.unlink()
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
