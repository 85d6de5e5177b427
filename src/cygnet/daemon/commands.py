"""The control socket's commands, strongSwan's and Cygnet's own, and the events that its clients hear.

A command reads the endpoint's views or calls one of its verbs; what takes time (an initiation, the data
plane's counters) is awaited, so that a client's command waits and nothing else does. Shapes are
`vici.shapes`; loading is `loads`', lists of what can be used are `listings`'.

Cygnet's own: `list-failures` (history), `daemon-stats` (counters, drops, lag, faults), and the events
`ike-message`, `ike-failure`, `ike-drop`, `certificate-expires`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

from cygnet.daemon.control import Control
from cygnet.daemon.listings import Listings
from cygnet.daemon.loads import Loads
from cygnet.daemon.log import line_of, printable, told_at
from cygnet.daemon.process import Daemon, now
from cygnet.daemon.turns import Turns
from cygnet.dataplane import messages as plane
from cygnet.ike import events
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import Failure, IkeError
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.vici import messages, shapes
from cygnet.vici.codec import Outgoing, PacketType, encode_packet
from cygnet.vici.server import DONE, Client, CommandFailed, Handler, Request, ViciServer

try:
    VERSION = metadata.version("cygnet")
except metadata.PackageNotFoundError:
    VERSION = "0"

LOG_LEVEL = 1
"""What `log` events tell: messages too; silent drops have an event of their own."""
PAIRS_AT_ONCE = 500
HALF_OPEN = ("CREATED", "CONNECTING")
LOOK_WITHIN = 5.0
"""Seconds that whoever looks waits for the data plane's counters; without them the rest is shown."""


class Server(ViciServer):
    """The control socket's server, that says when who listens to what has changed."""

    changed: Callable[[], None] = staticmethod(lambda: None)

    def register(self, client: Client, event: str) -> bytes:
        answer = super().register(client, event)
        self.changed()
        return answer

    def unregister(self, client: Client, event: str) -> bytes:
        answer = super().unregister(client, event)
        self.changed()
        return answer

    def forget(self, client: Client) -> None:
        super().forget(client)
        self.changed()


class Commands:
    """`handlers` for the server; `attach` it afterwards, for events go out through it.

    `log_messages`: the log wants messages too, whoever listens. `options`: the fingerprint of those that the
    daemon was started with.
    """

    def __init__(self, daemon: Daemon, control: Control, *, log_messages: bool = False) -> None:
        self.daemon = daemon
        self.control = control
        self._log_messages = log_messages
        self.drops: Counter[str] = Counter()
        self.options = ""
        self._server: Server | None = None
        self._operations: dict[int, asyncio.Future[Failure | None]] = {}
        self._watching: dict[Client, tuple[int, str]] = {}
        daemon.listeners.append(self.hear)
        self.handlers: dict[str, Handler] = {
            "version": self.version,
            "stats": self.stats,
            "daemon-stats": self.daemon_stats,
            "list-failures": self.list_failures,
            "initiate": self.initiate,
            "terminate": self.terminate,
            "rekey": self.rekey,
            "list-sas": self.list_sas,
            "list-conns": self.list_conns,
            "list-policies": self.list_policies,
            **Loads(control, daemon.leases).handlers,
            **Listings(control).handlers,
        }

    def attach(self, server: Server) -> None:
        self._server = server
        server.changed = self._observe
        self._observe()

    def _observe(self) -> None:
        """Messages are decoded a second time for whoever watches, and only then."""
        server = self._server
        heard = server is not None and any(
            server.listening(name) for name in ("ike-message", "log", "control-log")
        )
        self.daemon.endpoint.observe = heard or self._log_messages

    # -- looking -------------------------------------------------------------------------------

    async def version(self, request: Request) -> Outgoing:
        system = os.uname()
        return {
            "daemon": "cygnet",
            "version": VERSION,
            "sysname": system.sysname,
            "release": system.release,
            "machine": system.machine,
        }

    async def stats(self, request: Request) -> Outgoing:
        states: Counter[str] = Counter()
        turns = Turns()
        for sa in self.daemon.endpoint.sas():
            states[sa.state] += 1
            await turns.give()
        since = self.daemon.started
        none = {"critical": "0", "high": "0", "medium": "0", "low": "0"}
        return {
            "uptime": {
                "running": f"{int(time.monotonic() - since.monotonic)} seconds",
                "since": time.strftime("%b %d %H:%M:%S %Y", time.localtime(since.wall)),
            },
            "workers": {"total": "1", "idle": "0", "active": none},
            "queues": none,
            "scheduled": "0",
            "ikesas": {
                "total": str(states.total()),
                "half-open": str(sum(states[state] for state in HALF_OPEN)),
            },
            "plugins": ["cygnet"],
        }

    async def daemon_stats(self, request: Request) -> Outgoing:
        """Counters by part, datagrams dropped by reason, escaped exceptions by place, the loop's lag."""
        daemon = self.daemon
        report = await self._counters(())
        engine, why = daemon.engine
        return {
            "engine": engine,
            "engine-why": why,
            "options": self.options,
            "dataplane-silent": "" if report else f"{max(daemon.plane.silent, LOOK_WITHIN):.0f} s",
            "offloads": [name for name, on in (report.offloads if report else {}).items() if on],
            "lanes": _texts(daemon.lanes.counters),
            "dataplane-pair": _texts(daemon.plane.counters),
            "daemon": _texts(daemon.counters),
            "radius": _texts(daemon.radius.counters),
            "fetches": _texts(daemon.fetcher.counters),
            "drops": _texts(self.drops),
            "escaped": _texts(daemon.guard.escaped),
            "expiring": [one.text(time.time()) for one in daemon.expiring()],
            "dataplane-drops": _texts(report.drops if report else {}),
            "interfaces": {
                one.name: {
                    "bytes-in": str(one.bytes_in),
                    "packets-in": str(one.packets_in),
                    "bytes-out": str(one.bytes_out),
                    "packets-out": str(one.packets_out),
                    "drops": _texts(one.drops),
                }
                for one in (report.interfaces if report else ())
            },
            "lag-ms": {
                "p50": f"{daemon.lag.quantile(0.5) * 1000:.0f}",
                "p99": f"{daemon.lag.quantile(0.99) * 1000:.0f}",
                "worst": f"{daemon.lag.worst * 1000:.1f}",
            },
        }

    async def list_failures(self, request: Request) -> Outgoing:
        """What failed, newest last, one `ike-failure` event each; `ike` and `child` narrow it down."""
        ike, child = request.text("ike"), request.text("child")
        for entry in tuple(self.daemon.endpoint.history):
            if ike in ("", entry.connection) and child in ("", entry.child):
                event = events.NegotiationFailed(
                    entry.connection, entry.child, entry.initiator, None, entry.peer, entry.failure
                )
                await request.stream("ike-failure", shapes.ike_failure(event, entry.wall))
        return DONE

    async def list_sas(self, request: Request) -> Outgoing:
        found = [*await self._matching(request), *self._manual(request)]
        pairs = tuple(child.pair for _, children in found for child in children)
        traffic = await self._traffic(pairs) if pairs else {}
        instant = time.monotonic()
        for sa, children in found:
            shape = shapes.list_sa(sa, instant, traffic)
            if len(children) != len(sa.children):
                kept = {shapes.child_key(child) for child in children}
                body = shape[sa.connection]
                body["child-sas"] = {key: value for key, value in body["child-sas"].items() if key in kept}
            await request.stream("list-sa", shape)
        return DONE

    async def list_conns(self, request: Request) -> Outgoing:
        only = request.text("ike")
        for connection in tuple(self.control.connections.values()):
            if only in ("", connection.name):
                await request.stream("list-conn", shapes.list_conn(connection))
        return DONE

    async def list_policies(self, request: Request) -> Outgoing:
        """Policies in force: `trap` those of tunnels, `pass` and `drop`; none of the flags: all of them."""
        wanted = {mode for mode in ("drop", "pass", "trap") if request.flag(mode)} or {"drop", "pass", "trap"}
        ike, only = request.text("ike"), request.text("child")
        in_force = {policy.name for policy in self.daemon.policies.values()}
        for connection in tuple(self.control.connections.values()):
            for child in connection.children:
                if f"{connection.name}/{child.name}" not in in_force:
                    continue
                mode = {"PASS": "pass", "DROP": "drop"}.get(shapes.child_mode(child), "trap")
                if mode in wanted and ike in ("", connection.name) and only in ("", child.name):
                    await request.stream("list-policy", shapes.list_policy(connection.name, child))
        return DONE

    # -- doing ---------------------------------------------------------------------------------

    async def initiate(self, request: Request) -> Outgoing:
        """`child`, and `ike` where that is not clear; `ike` alone: the IKE SA. Waits until up or failed."""
        child, ike = request.text("child"), request.text("ike")
        connection = self._connection_for(ike, child)
        with self._watch(request, connection.name):
            started = self._start(self.daemon.endpoint.initiate, connection.name, child)
            await self._wait(request, [started])
        return DONE

    async def terminate(self, request: Request) -> Outgoing:
        """Whole IKE SAs (`ike`, `ike-id`), or children (`child`, `child-id`) of them."""
        found = await self._matching(request, needed=True)
        force = request.flag("force")
        endpoint = self.daemon.endpoint
        targets: list[tuple[int, int]] = []
        for sa, children in found:
            if request.text("child") or request.text("child-id"):
                targets += [(sa.unique_id, child.pair) for child in children]
            else:
                targets.append((sa.unique_id, 0))
        with self._watch(request, found[0][0].connection):
            started = [self._start(endpoint.terminate, sa, pair, force) for sa, pair in targets]
            await self._wait(request, started)
        return {**DONE, "matches": str(len(targets)), "terminated": str(len(targets))}

    async def rekey(self, request: Request) -> Outgoing:
        """Children (`child`, `child-id`) or IKE SAs; answers at once, as strongSwan does, unless `wait`.
        `reauth`: the IKE SAs are set up anew, with their children, before the old ones go."""
        found = await self._matching(request, needed=True)
        endpoint = self.daemon.endpoint
        of_children = bool(request.text("child") or request.text("child-id"))
        if request.flag("reauth") and of_children:
            raise CommandFailed("reauth: is for an IKE SA, which takes its children along, not for a child")
        with self._watch(request, found[0][0].connection):
            if request.flag("reauth"):
                started = [self._start(endpoint.reauthenticate, sa.unique_id) for sa, _ in found]
            elif of_children:
                pairs = [(sa.unique_id, child.pair) for sa, children in found for child in children]
                started = [self._start(endpoint.rekey, sa, pair) for sa, pair in pairs]
            else:
                started = [self._start(endpoint.rekey, sa.unique_id, 0) for sa, _ in found]
            if request.flag("wait"):
                await self._wait(request, started)
        return {**DONE, "matches": str(len(started))}

    def _start(self, verb: Callable[..., int], *arguments: object) -> asyncio.Future[Failure | None]:
        """Ask the endpoint for an operation; its end comes as an event. Raises CommandFailed."""
        try:
            operation = verb(*arguments, now())
        except IkeError as error:
            raise CommandFailed(f"{error.reason}: {error.detail}", _details(error)) from error
        ended: asyncio.Future[Failure | None] = self.daemon.loop.create_future()
        self._operations[operation] = ended
        self.daemon.flush()
        return ended

    async def _wait(self, request: Request, operations: list[asyncio.Future[Failure | None]]) -> None:
        """For all of them, `timeout` ms at most (0: for ever; negative: not at all). Raises CommandFailed."""
        timeout = request.number("timeout", 0)
        if timeout < 0:
            return
        done, pending = await asyncio.wait(operations, timeout=timeout / 1000 if timeout else None)
        failures = [
            failure for operation in operations if operation in done and (failure := operation.result())
        ]
        if failures:
            raise CommandFailed(_sentence(failures[0]), shapes.failure(failures[0]))
        if pending:
            raise CommandFailed(f"not done after {timeout} ms; it goes on")

    # -- events --------------------------------------------------------------------------------

    def hear(self, event: events.Event) -> None:
        """Everything that happens comes by here: operations end, drops are counted, clients hear of it."""
        match event:
            case events.OperationDone():
                ended = self._operations.pop(event.operation, None)
                if ended is not None and not ended.done():
                    ended.set_result(event.failure)
                return
            case events.Dropped():
                self.drops[str(event.drop)] += 1
        if self._server is not None and self._server.clients:
            self._raise(self._server, event)

    def _raise(self, server: Server, event: events.Event) -> None:
        def heard(name: str) -> bool:
            return server.listening(name)

        instant = time.monotonic()
        match event:
            case events.MessageSeen() if heard("ike-message"):
                server.raise_event("ike-message", messages.ike_message(event, time.time()))
            case events.Dropped() if heard("ike-drop"):
                server.raise_event("ike-drop", shapes.ike_drop(event, time.time()))
            case events.CertificateExpires() if heard("certificate-expires"):
                server.raise_event("certificate-expires", shapes.certificate_expires(event))
            case events.NegotiationFailed() if heard("ike-failure"):
                server.raise_event("ike-failure", shapes.ike_failure(event, time.time()))
            case events.IkeSaUp() if heard("ike-updown"):
                server.raise_event("ike-updown", shapes.ike_updown(event.sa, True, instant))
            case events.IkeSaDown() if heard("ike-updown"):
                server.raise_event("ike-updown", shapes.ike_updown(event.sa, False, instant, event.failure))
            case events.ChildSaUp() if heard("child-updown"):
                server.raise_event("child-updown", shapes.child_updown(event.sa, event.child, True, instant))
            case events.ChildSaDown() if heard("child-updown"):
                shape = shapes.child_updown(event.sa, event.child, False, instant, failure=event.failure)
                server.raise_event("child-updown", shape)
            case events.IkeSaRekeyed() if heard("ike-rekey"):
                server.raise_event("ike-rekey", shapes.ike_rekey(event.old, event.new, instant))
            case events.ChildSaRekeyed() if heard("child-rekey"):
                server.raise_event("child-rekey", shapes.child_rekey(event.sa, event.old, event.new, instant))
        if self._watching or heard("log"):
            self._raise_line(server, event)

    def _raise_line(self, server: Server, event: events.Event) -> None:
        """The event's line for who follows the log (level 1), and for who waits for an operation."""
        level = told_at(event)[1]
        followers = [client for client, (upto, _) in self._watching.items() if level <= upto]
        if not followers and not (level <= LOG_LEVEL and server.listening("log")):
            return
        line = line_of(event)
        if line is None:
            return
        shape = shapes.log(line.group, line.level, printable(line.text), line.connection, line.ike_sa)
        if level <= LOG_LEVEL:
            server.raise_event("log", shape)
        if followers:
            packet = encode_packet(PacketType.EVENT, "control-log", shape)
            for client in followers:
                # What strangers try meanwhile has no connection, and is not what this one waits for.
                if line.connection == self._watching[client][1]:
                    client.send(packet)

    @contextlib.contextmanager
    def _watch(self, request: Request, connection: str) -> Iterator[None]:
        """While inside, the client is sent `control-log` lines about the connection, if it registered."""
        if not request.wants("control-log"):
            yield
            return
        self._watching[request.client] = (request.number("loglevel", 1), connection)
        try:
            yield
        finally:
            self._watching.pop(request.client, None)

    # -- finding -------------------------------------------------------------------------------

    def _connection_for(self, ike: str, child: str) -> Connection:
        """Raises CommandFailed."""
        if not ike and not child:
            raise CommandFailed("missing configuration name: give child, or ike")
        known = self.control.connections
        if ike:
            connection = known.get(ike)
            if connection is None:
                raise CommandFailed(
                    f"no-such-object: there is no connection {printable(ike, 80)}", _choice(known)
                )
            if child and all(one.name != child for one in connection.children):
                names = [one.name for one in connection.children]
                raise CommandFailed(
                    f"no-such-object: connection {printable(ike, 80)} has no child {printable(child, 80)}",
                    _choice(names),
                )
            return connection
        owners = [one for one in known.values() if any(c.name == child for c in one.children)]
        if not owners:
            names = [one.name for connection in known.values() for one in connection.children]
            raise CommandFailed(f"no-such-object: there is no child {printable(child, 80)}", _choice(names))
        return owners[0]

    async def _matching(
        self, request: Request, *, needed: bool = False
    ) -> list[tuple[IkeSaView, tuple[ChildSaView, ...]]]:
        """Live SAs that fit `ike`, `ike-id`, `child`, `child-id`. If `needed` and none: CommandFailed.

        What strangers began and proved nothing in is listed, and `needed` only by its number.
        """
        ike, child = request.text("ike"), request.text("child")
        ike_id, child_id = request.number("ike-id", 0), request.number("child-id", 0)
        if needed and not (ike or child or ike_id or child_id):
            raise CommandFailed("nothing is named: give ike, ike-id, child or child-id")
        found = []
        turns = Turns()
        for sa in self.daemon.endpoint.sas():
            await turns.give()
            if ike not in ("", sa.connection) or ike_id not in (0, sa.unique_id):
                continue
            if needed and not ike_id and not sa.initiator and sa.state in HALF_OPEN:
                continue
            children = sa.children
            if child or child_id:
                children = tuple(
                    one for one in children if child in ("", one.name) and child_id in (0, one.pair)
                )
                if not children:
                    continue
            found.append((sa, children))
        if needed and not found:
            raise CommandFailed("no-such-object: no matching SA is up", {"matches": "0"})
        return found

    def _manual(self, request: Request) -> list[tuple[IkeSaView, tuple[ChildSaView, ...]]]:
        """SAs keyed by hand that fit, each connection's together; they have no IKE SA to be named by."""
        ike, child = request.text("ike"), request.text("child")
        child_id = request.number("child-id", 0)
        found = []
        for sa in self.daemon.endpoint.keyed_by_hand():
            children = tuple(
                one for one in sa.children if child in ("", one.name) and child_id in (0, one.pair)
            )
            if ike in ("", sa.connection) and not request.number("ike-id", 0) and children:
                found.append((sa, children))
        return found

    async def _counters(self, pairs: tuple[int, ...]) -> plane.Counters | None:
        """None: the data plane does not answer, or not soon enough for somebody who looks."""
        if self.daemon.plane.silent > LOOK_WITHIN:
            return None
        answered: asyncio.Future[plane.Report | None] = self.daemon.loop.create_future()

        def answer(report: plane.Report | None) -> None:
            if not answered.done():
                answered.set_result(report)

        self.daemon.plane.read_counters(pairs, answer)
        await asyncio.wait((answered,), timeout=LOOK_WITHIN)
        report = answered.result() if answered.done() else None
        return report if isinstance(report, plane.Counters) else None

    async def _traffic(self, pairs: tuple[int, ...]) -> dict[int, shapes.Traffic]:
        """By the endpoint's pair numbers; asked for in portions that fit one message of the pair."""
        traffic: dict[int, shapes.Traffic] = {}
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            report = await self._counters(pairs[start : start + PAIRS_AT_ONCE])
            if report is None:
                break
            for one in report.pairs:
                pair = self.daemon.plane.names.endpoint_pair(one.pair)
                if pair is not None:
                    traffic[pair] = shapes.Traffic(
                        one.bytes_in,
                        one.packets_in,
                        one.use_in,
                        one.bytes_out,
                        one.packets_out,
                        one.use_out,
                        one.drops,
                    )
        return traffic


def _texts(counts: Mapping[str, int]) -> dict[str, str]:
    return {key: str(value) for key, value in sorted(counts.items())}


def _choice(names: Iterable[str]) -> dict[str, Any]:
    return {"allowed": list(names)[:100]}


def _details(error: IkeError) -> dict[str, Any]:
    return shapes.failure(Failure(error.reason, error.detail, error.difference))


def _sentence(failure: Failure) -> str:
    return f"{failure.reason}: {failure.detail}" if failure.detail else str(failure.reason)
