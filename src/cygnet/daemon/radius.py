"""RADIUS over UDP: requests to servers that take turns when one is silent, and requests that they send us.

A request is sent a few times, each wait 1.4 times the last; then the next server is asked, and the silent one
is passed over for a minute. A conversation that a server has begun goes on with that one only: another does
not know it. What does not verify is dropped and counted, and the wait goes on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from cygnet.auth import radius
from cygnet.auth.ask import AskRadius, RadiusAnswer
from cygnet.auth.radius import Attribute
from cygnet.config.requests import Radius, RadiusServer

BACKOFF = 1.4
PASSED_OVER = 60.0
"""Seconds that a server which did not answer is asked last."""
MAX_PENDING = 256
"""Requests in flight to one port of a server: the identifier has 8 bits."""
STALE = 300.0
"""Seconds that a Disconnect-Request or CoA-Request may be old (RFC 5176, section 6.3)."""


class Port(asyncio.DatagramProtocol):
    """One port of one server."""

    def __init__(self, server: RadiusServer, counters: Counter[str]) -> None:
        self.server = server
        self.counters = counters
        self.transport: asyncio.DatagramTransport | None = None
        self._waiting: dict[int, tuple[Callable[[bytes], Any], asyncio.Future[Any]]] = {}
        self._next = secrets.randbelow(256)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Python's own is of another class before 3.12.
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: Any) -> None:
        waiting = self._waiting.get(data[1]) if len(data) > 1 else None
        if waiting is None:
            self.counters["unexpected"] += 1
            return
        judge, future = waiting
        try:
            answer = judge(data)
        except radius.Invalid:
            self.counters["invalid"] += 1
            return
        if not future.done():
            future.set_result(answer)

    def error_received(self, error: Exception) -> None:
        self.counters["unreachable"] += 1

    async def exchange(
        self,
        make: Callable[[int], radius.Request],
        judge: Callable[[radius.Request, bytes], Any],
        settings: Radius,
    ) -> Any:
        """The verified answer, or None after `tries` transmissions."""
        if self.transport is None or len(self._waiting) >= MAX_PENDING:
            return None
        while self._next in self._waiting:
            self._next = (self._next + 1) % 256
        identifier, self._next = self._next, (self._next + 1) % 256
        request = make(identifier)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[identifier] = (lambda data: judge(request, data), future)
        wait = settings.timeout
        try:
            for _ in range(settings.tries):
                self.transport.sendto(request.octets)
                done, _ = await asyncio.wait([future], timeout=wait)
                if done:
                    return future.result()
                wait *= BACKOFF
            return None
        finally:
            del self._waiting[identifier]


class Client:
    """The servers of the `radius` section. `note(code, text)` is told when one falls silent."""

    def __init__(self, loop: asyncio.AbstractEventLoop, note: Callable[[str, str], None]) -> None:
        self._loop = loop
        self.note = note
        self.settings = Radius()
        self.counters: Counter[str] = Counter()
        self._ports: dict[tuple[str, bool], Port] = {}
        self._silent: dict[str, float] = {}

    def load(self, settings: Radius) -> None:
        """Other servers from now on; what is under way with the old ones ends unanswered."""
        if settings == self.settings:
            return
        self.close()
        self.settings = settings
        self._silent.clear()

    def close(self) -> None:
        for port in self._ports.values():
            if port.transport is not None:
                port.transport.close()
        self._ports.clear()

    async def access(self, question: AskRadius) -> RadiusAnswer | None:
        """The answer of the first server that gives one; None: none does."""
        own = (Attribute.NAS_IDENTIFIER, self.settings.nas_identifier.encode())
        for server in self._order(question.server):
            port = await self._port(server, accounting=False)

            def make(identifier: int, server: RadiusServer = server) -> radius.Request:
                pairs = (*question.attributes, own)
                return radius.access_request(identifier, server.secret, pairs, question.eap, question.state)

            def judge(request: radius.Request, data: bytes, server: RadiusServer = server) -> RadiusAnswer:
                return radius.judge_access(request, data, server.name)

            answer = await port.exchange(make, judge, self.settings)
            if isinstance(answer, RadiusAnswer):
                self._silent.pop(server.name, None)
                return answer
            self._is_silent(server)
        return None

    async def account(self, pairs: tuple[radius.Pair, ...]) -> bool:
        """Whether a server has taken the record."""
        own = (Attribute.NAS_IDENTIFIER, self.settings.nas_identifier.encode())
        for server in self._order(""):
            port = await self._port(server, accounting=True)

            def make(identifier: int, server: RadiusServer = server) -> radius.Request:
                return radius.accounting_request(identifier, server.secret, (*pairs, own))

            def judge(request: radius.Request, data: bytes) -> bool:
                radius.judge_accounting(request, data)
                return True

            if await port.exchange(make, judge, self.settings):
                return True
            self._is_silent(server)
        return False

    def _order(self, only: str) -> list[RadiusServer]:
        """The servers to ask, in turn: those that were silent lately last."""
        if only:
            return [server for server in self.settings.servers if server.name == only]
        now = self._loop.time()
        return sorted(self.settings.servers, key=lambda one: self._silent.get(one.name, 0.0) > now)

    def _is_silent(self, server: RadiusServer) -> None:
        if self._silent.get(server.name, 0.0) <= self._loop.time():
            self.note("radius-silent", f"RADIUS server {server.name} ({server.address}) does not answer")
        self._silent[server.name] = self._loop.time() + PASSED_OVER

    async def _port(self, server: RadiusServer, *, accounting: bool) -> Port:
        known = self._ports.get((server.name, accounting))
        if known is not None:
            return known
        port = Port(server, self.counters)
        self._ports[server.name, accounting] = port
        number = server.acct_port if accounting else server.auth_port
        try:
            await self._loop.create_datagram_endpoint(lambda: port, remote_addr=(str(server.address), number))
        except OSError as error:
            self.note("radius-unreachable", f"RADIUS server {server.name}: {error.strerror}")
        return port


class Changes(asyncio.DatagramProtocol):
    """Disconnect-Request and CoA-Request of those who know the secret (RFC 5176). `obey(request)` says
    whether it was done. A repeat gets the same answer and is not obeyed twice."""

    def __init__(
        self,
        secret: bytes,
        obey: Callable[[radius.DynamicRequest], bool],
        counters: Counter[str],
        wall: Callable[[], float],
    ) -> None:
        self._secret = secret
        self._obey = obey
        self._counters = counters
        self._wall = wall
        self._transport: asyncio.DatagramTransport | None = None
        self._answered: dict[bytes, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: Any) -> None:
        if self._transport is None:
            return
        answer = self._answered.get(data)
        if answer is None:
            try:
                request = radius.read_dynamic(data, self._secret)
            except radius.Invalid:
                self._counters["change-invalid"] += 1
                return
            if request.timestamp and abs(request.timestamp - self._wall()) > STALE:
                self._counters["change-stale"] += 1
                return
            done = self._obey(request)
            # 503: session context not found (RFC 5176, section 3.6).
            answer = radius.answer_dynamic(request, done=done, error_cause=0 if done else 503)
            if len(self._answered) >= MAX_PENDING:
                self._answered.pop(next(iter(self._answered)))
            self._answered[data] = answer
        self._transport.sendto(answer, peer)
