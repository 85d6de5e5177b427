"""Who used what, told to a RADIUS server (RFC 2866), and what that server tells us (RFC 5176).

    IKE SA up      -->  Start
    every interval -->  Interim-Update
    IKE SA down    -->  Stop, with the cause

A session is an IKE SA of a user (EAP), whatever it is rekeyed to. Octets are those of its Child SAs, the
finished ones included: counters are read every few seconds, for those of an SA that is gone are gone with it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cygnet.auth import radius
from cygnet.auth.radius import Attribute
from cygnet.config.requests import Radius
from cygnet.daemon.radius import Changes, Client
from cygnet.dataplane import messages as plane
from cygnet.ike import events
from cygnet.ike.errors import IkeError, Reason
from cygnet.ike.view import IkeSaView

POLL: Final = 5.0
"""Seconds between two looks at the counters; as much traffic may be missing in a Stop."""
MIN_INTERVAL: Final = 60.0
"""Shortest Acct-Interim-Interval that a server may ask for (RFC 2869, section 5.16)."""
START, STOP, INTERIM = 1, 2, 3
_CAUSES: Final = {
    Reason.PEER_CLOSED: 1, Reason.PEER_RESTARTED: 1, Reason.PEER_DEAD: 2, Reason.PEER_UNREACHABLE: 2,
    Reason.EXPIRED: 5, Reason.OPERATOR: 6, Reason.SHUTDOWN: 7, Reason.REPLACED: 1,
}  # fmt: skip
"""Acct-Terminate-Cause (RFC 2866, section 5.10): User Request, Lost Carrier, Session Timeout, Admin Reset,
Admin Reboot; else NAS Error."""
_NAS_ERROR: Final = 9


@dataclass(slots=True)
class Session:
    """One user's. Octets and packets by pair: the highest that was seen, in and out."""

    id: str
    view: IkeSaView
    began: float
    interval: float
    next_interim: float
    used: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)

    def total(self) -> tuple[int, ...]:
        """Octets in and out, packets in and out."""
        return tuple(sum(each) for each in zip((0, 0, 0, 0), *self.used.values(), strict=True))


class Accounting:
    """Listens to the daemon's events. `counters(pairs, answer)` reads the data plane's; `terminate(number)`
    closes an IKE SA."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: Client,
        counters: Callable[[tuple[int, ...], Callable[[plane.Report | None], None]], None],
        pair_of: Callable[[int], int | None],
        terminate: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._client = client
        self._counters = counters
        self._pair_of = pair_of
        self._terminate = terminate
        self.sessions: dict[int, Session] = {}
        self._tasks: set[asyncio.Task[bool]] = set()
        self._poll: asyncio.TimerHandle | None = None
        self._changes: asyncio.BaseTransport | None = None
        self._opening: asyncio.Task[None] | None = None

    def load(self, settings: Radius) -> None:
        former = self._client.settings
        self._client.load(settings)
        if (settings.dae_port, settings.dae_address, settings.dae_secret) == (
            former.dae_port, former.dae_address, former.dae_secret,
        ):  # fmt: skip
            return
        if self._changes is not None:
            self._changes.close()
            self._changes = None
        if settings.dae_port:
            self._opening = self._loop.create_task(self._listen(settings))

    async def _listen(self, settings: Radius) -> None:
        local = (str(settings.dae_address or "0.0.0.0"), settings.dae_port)  # noqa: S104 - what is configured
        try:
            self._changes, _ = await self._loop.create_datagram_endpoint(
                lambda: Changes(settings.dae_secret, self.obey, self._client.counters, time.time),
                local_addr=local,
            )
        except OSError as error:
            self._client.note("radius-listen", f"port {settings.dae_port} for RADIUS: {error.strerror}")

    def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        if self._changes is not None:
            self._changes.close()
        self._client.close()

    # -- events --------------------------------------------------------------------------------

    def hear(self, event: events.Event) -> None:
        match event:
            case events.IkeSaUp(sa) if sa.remote_eap_id is not None and self._client.settings.accounting:
                self._begin(sa)
            case events.IkeSaRekeyed(old, new) if old.unique_id in self.sessions:
                session = self.sessions.pop(old.unique_id)
                session.view = new
                self.sessions[new.unique_id] = session
            case events.IkeSaDown(sa, failure) if sa.unique_id in self.sessions:
                session = self.sessions.pop(sa.unique_id)
                self._record(session, STOP, _CAUSES.get(failure.reason, _NAS_ERROR))

    def _begin(self, sa: IkeSaView) -> None:
        now = self._loop.time()
        interval = self._client.settings.interval
        asked = [value for name, value in sa.remote_attributes if name == "Acct-Interim-Interval"]
        if asked and len(asked[0]) == 4:
            interval = max(float(int.from_bytes(asked[0], "big")), MIN_INTERVAL)
        session = Session(secrets.token_hex(8), sa, now, interval, now + interval)
        self.sessions[sa.unique_id] = session
        self._record(session, START)
        if self._poll is None:
            self._poll = self._loop.call_later(POLL, self._look)

    # -- counters ------------------------------------------------------------------------------

    def seen(self, live: dict[int, IkeSaView]) -> None:
        """The IKE SAs as they are now: which pairs belong to whom."""
        for number, session in self.sessions.items():
            if number in live:
                session.view = live[number]
                for child in session.view.children:
                    session.used.setdefault(child.pair, (0, 0, 0, 0))

    views: Callable[[], dict[int, IkeSaView]] = staticmethod(dict)
    """Who lives; the daemon sets it."""

    def _look(self) -> None:
        self._poll = None
        if not self.sessions:
            return
        self.seen(self.views())
        pairs = tuple(pair for session in self.sessions.values() for pair in session.used)
        if pairs:
            self._counters(pairs, self._counted)
        else:
            self._interims()
        self._poll = self._loop.call_later(POLL, self._look)

    def _counted(self, report: plane.Report | None) -> None:
        if isinstance(report, plane.Counters):
            owners = {pair: session for session in self.sessions.values() for pair in session.used}
            for one in report.pairs:
                pair = self._pair_of(one.pair)
                session = owners.get(pair) if pair is not None else None
                if session is not None and pair is not None:
                    now = (one.bytes_in, one.bytes_out, one.packets_in, one.packets_out)
                    before = session.used[pair]
                    session.used[pair] = tuple(map(max, before, now))  # type: ignore[assignment]
        self._interims()

    def _interims(self) -> None:
        now = self._loop.time()
        for session in self.sessions.values():
            if session.interval and now >= session.next_interim:
                session.next_interim = now + session.interval
                self._record(session, INTERIM)

    # -- records -------------------------------------------------------------------------------

    def _record(self, session: Session, status: int, cause: int = 0) -> None:
        task = self._loop.create_task(self._client.account(tuple(self._pairs(session, status, cause))))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pairs(self, session: Session, status: int, cause: int) -> list[radius.Pair]:
        view = session.view
        user = view.remote_eap_id
        pairs = [
            (Attribute.ACCT_STATUS_TYPE, radius.number(status)),
            (Attribute.ACCT_SESSION_ID, session.id.encode()),
            (Attribute.USER_NAME, user.data if user is not None else b""),
            (Attribute.NAS_PORT, radius.number(view.unique_id)),
            (Attribute.NAS_PORT_TYPE, radius.number(radius.VIRTUAL)),
            (Attribute.NAS_PORT_ID, view.connection.encode()),
            (Attribute.ACCT_AUTHENTIC, radius.number(radius.BY_RADIUS)),
            (Attribute.CALLED_STATION_ID, str(view.path.local).encode()),
            (Attribute.CALLING_STATION_ID, str(view.path.remote).encode()),
            (Attribute.EVENT_TIMESTAMP, radius.number(int(time.time()))),
            radius.address(view.path.local),
        ]
        pairs += [(Attribute.CLASS, value) for name, value in view.remote_attributes if name == "Class"]
        for vip in view.remote_vips:
            kind = Attribute.FRAMED_IP_ADDRESS if vip.version == 4 else Attribute.FRAMED_IPV6_ADDRESS
            pairs.append((kind, vip.packed))
        if status != START:
            received, sent, packets_in, packets_out = session.total()
            pairs += [
                (Attribute.ACCT_SESSION_TIME, radius.number(int(self._loop.time() - session.began))),
                (Attribute.ACCT_INPUT_OCTETS, radius.number(received)),
                (Attribute.ACCT_OUTPUT_OCTETS, radius.number(sent)),
                (Attribute.ACCT_INPUT_GIGAWORDS, radius.number(received >> 32)),
                (Attribute.ACCT_OUTPUT_GIGAWORDS, radius.number(sent >> 32)),
                (Attribute.ACCT_INPUT_PACKETS, radius.number(packets_in)),
                (Attribute.ACCT_OUTPUT_PACKETS, radius.number(packets_out)),
            ]
        if cause:
            pairs.append((Attribute.ACCT_TERMINATE_CAUSE, radius.number(cause)))
        return pairs

    def idle(self) -> bool:
        """Whether no record is on its way."""
        return not self._tasks

    # -- what the server tells us ----------------------------------------------------------------

    def obey(self, request: radius.DynamicRequest) -> bool:
        """Close the sessions that are named, or set how long they may last; False: there is none."""
        found = self._named(request.attributes)
        for number in found:
            try:
                if request.code == radius.DISCONNECT_REQUEST:
                    self._terminate(number)
                else:
                    self._change(number, request.attributes)
            except IkeError:
                return False
        return bool(found)

    def _named(self, named: dict[str, list[bytes]]) -> list[int]:
        """Sessions that fit all that is named: by session, by user, by address. Nothing named: none."""
        live = {number: view for number, view in self.views().items() if view.remote_eap_id is not None}
        for name, fits in (
            ("Acct-Session-Id", self._has_id),
            ("User-Name", _has_name),
            ("Calling-Station-Id", _has_address),
            ("Framed-IP-Address", _has_vip),
        ):
            for value in named.get(name, []):
                live = {number: view for number, view in live.items() if fits(view, value)}
        keys = ("Acct-Session-Id", "User-Name", "Calling-Station-Id", "Framed-IP-Address")
        return list(live) if any(name in named for name in keys) else []

    def _has_id(self, view: IkeSaView, value: bytes) -> bool:
        session = self.sessions.get(view.unique_id)
        return session is not None and session.id.encode() == value

    def _change(self, number: int, named: dict[str, list[bytes]]) -> None:
        """CoA: Session-Timeout counts from now; Acct-Interim-Interval from the next record."""
        session = self.sessions.get(number)
        for value in named.get("Session-Timeout", []):
            if len(value) == 4:
                self._loop.call_later(int.from_bytes(value, "big"), self._expire, number)
        for value in named.get("Acct-Interim-Interval", []):
            if session is not None and len(value) == 4:
                session.interval = max(float(int.from_bytes(value, "big")), MIN_INTERVAL)

    def _expire(self, number: int) -> None:
        if number in self.views():
            self._terminate(number)


def _has_name(view: IkeSaView, value: bytes) -> bool:
    return view.remote_eap_id is not None and view.remote_eap_id.data.lower() == value.lower()


def _has_address(view: IkeSaView, value: bytes) -> bool:
    return str(view.path.remote).encode() == value


def _has_vip(view: IkeSaView, value: bytes) -> bool:
    return any(vip.packed == value for vip in view.remote_vips)
