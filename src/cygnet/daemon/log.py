"""Log lines, made from events and from nothing else.

`line_of(event)` says in which group (strongSwan's: IKE, CHD, NET, DMN), how severe and at which level an
event is told. Nobody pays for a line that nobody reads: `told_at` is asked first, and `Sink.tell` makes
a line only if the rate limit lets it through.
Severities are for the log, as `options.log_level` names them; levels are strongSwan's, for `swanctl
--log` and `--initiate`: 0 what an operator must know, 1 what happens (messages), 2 silent drops.
Peer text is escaped (`printable`): one line stays one line, and no terminal is steered. `Sink` writes
to standard error without ever blocking the loop, with journald's priorities where the journal reads,
or as JSON objects.
"""

from __future__ import annotations

import json
import os
import select
import time
from dataclasses import dataclass
from enum import IntEnum

from cygnet.ike import events
from cygnet.ike.errors import Failure
from cygnet.ike.view import ChildSaView, IkeSaView
from cygnet.policy.selectors import format_selector
from cygnet.wire.message import Message
from cygnet.wire.numbers import Exchange, Notify, PayloadType
from cygnet.wire.payloads import NotifyPayload
from cygnet.wire.v1 import numbers as v1
from cygnet.wire.v1.message import Message as MessageV1
from cygnet.wire.v1.payloads import NotifyPayload as NotifyPayloadV1

MAX_LINE = 900
"""Characters of a line's text; the pipe takes a whole line without blocking (PIPE_BUF is 4096 octets)."""


class Severity(IntEnum):
    ERROR = 0
    WARNING = 1
    INFO = 2
    DEBUG = 3


_PRIORITY = {Severity.ERROR: "<3>", Severity.WARNING: "<4>", Severity.INFO: "<6>", Severity.DEBUG: "<7>"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `code` is stable, for rate limits and for readers of JSON."""

    group: str
    severity: Severity
    level: int
    code: str
    text: str
    connection: str = ""
    ike_sa: int = 0


_TOLD: dict[type, tuple[Severity, int]] = {
    events.MessageSeen: (Severity.DEBUG, 1),
    events.Dropped: (Severity.DEBUG, 2),
    events.Noted: (Severity.INFO, 1),
    events.NegotiationFailed: (Severity.WARNING, 0),
    events.CertificateExpires: (Severity.WARNING, 0),
}


_CODES: dict[type, str] = {
    events.MessageSeen: "message",
    events.IkeSaUp: "ike-up",
    events.IkeSaDown: "ike-down",
    events.IkeSaRekeyed: "ike-rekeyed",
    events.ChildSaUp: "child-up",
    events.ChildSaDown: "child-down",
    events.ChildSaRekeyed: "child-rekeyed",
    events.NegotiationFailed: "failed",
    events.CertificateExpires: "certificate-expires",
}


def code_of(event: events.Event) -> str:
    """The code of the event's line, "" if it has none."""
    if type(event) is events.Dropped:
        return f"drop-{event.drop}"
    if type(event) is events.Noted:
        return event.code
    return _CODES.get(type(event), "")


def told_at(event: events.Event) -> tuple[Severity, int]:
    """Severity and level of an event's line."""
    return _TOLD.get(type(event), (Severity.INFO, 0))


def line_of(event: events.Event) -> Line | None:
    """The line of an event; None where others tell of it."""
    code = code_of(event)
    match event:
        case events.MessageSeen():
            verb = "sent" if event.sent else "received"
            again = " again" if event.repeat else ""
            preposition = "to" if event.sent else "from"
            peer = f"{event.path.remote}[{event.path.remote_port}]"
            text = f"{verb}{again} {describe(event.message)} {preposition} {peer}"
            return Line("NET", Severity.DEBUG, 1, code, text, event.connection, event.ike_sa)
        case events.Dropped():
            detail = f": {event.detail}" if event.detail else ""
            peer = f"{event.path.remote}[{event.path.remote_port}]"
            text = f"dropped {event.drop} from {peer}{detail}"
            return Line("NET", Severity.DEBUG, 2, code, text, "", event.ike_sa)
        case events.IkeSaUp():
            text = f"IKE_SA {_ike_name(event.sa)} established between {_ends(event.sa)}"
            return _ike(event.sa, code, text)
        case events.IkeSaDown():
            text = f"IKE_SA {_ike_name(event.sa)} down: {_why(event.failure)}"
            return _ike(event.sa, code, text)
        case events.IkeSaRekeyed():
            text = f"IKE_SA {_ike_name(event.new)} rekeyed, replaces {_ike_name(event.old)}"
            return _ike(event.new, code, text)
        case events.ChildSaUp():
            text = f"CHILD_SA {_child_name(event.child)} established: {_carries(event.child)}"
            return _ike(event.sa, code, text, "CHD")
        case events.ChildSaDown():
            text = f"CHILD_SA {_child_name(event.child)} down: {_why(event.failure)}"
            return _ike(event.sa, code, text, "CHD")
        case events.ChildSaRekeyed():
            text = f"CHILD_SA {_child_name(event.new)} rekeyed, replaces {_child_name(event.old)}"
            return _ike(event.sa, code, text, "CHD")
        case events.NegotiationFailed():
            what = f"{event.connection or 'no connection'}{'/' if event.child else ''}{event.child}"
            side = "to" if event.initiator else "from"
            text = (
                f"negotiation of {what} {side} {event.peer or 'unknown peer'} failed: {_why(event.failure)}"
            )
            return Line("IKE", Severity.WARNING, 0, code, text, event.connection, event.ike_sa)
        case events.Noted():
            return Line("IKE", Severity.INFO, 1, code, event.text, event.connection, event.ike_sa)
        case events.CertificateExpires():
            return Line("CFG", Severity.WARNING, 0, code, event.text)
        case events.OperationDone():
            return None


def describe(message: Message | MessageV1) -> str:
    """A message on one line in the notation of RFC 7296, 1.2: `IKE_SA_INIT request 0 [SA KE N(COOKIE)]`; of
    IKEv1, whose messages are neither requests nor answers: `QUICK_MODE 1234 [HASH SA NONCE ID ID]`."""
    if isinstance(message, MessageV1):
        return _describe_v1(message)
    header = message.header
    names = []
    for payload in message.payloads:
        if type(payload) is NotifyPayload:
            names.append(f"N({Notify.name_of(payload.type)})")
        else:
            names.append(PayloadType.name_of(payload.payload_type))
    kind = "response" if header.response else "request"
    return f"{Exchange.name_of(header.exchange)} {kind} {header.message_id} [{' '.join(names)}]"


def _describe_v1(message: MessageV1) -> str:
    names = [
        f"N({v1.Notify.name_of(payload.type)})"
        if isinstance(payload, NotifyPayloadV1)
        else v1.PayloadType.name_of(payload.payload_type)
        for payload in message.payloads
    ]
    return f"{v1.Exchange.name_of(message.header.exchange)} {message.header.message_id} [{' '.join(names)}]"


def printable(text: str, limit: int = MAX_LINE) -> str:
    """`text` on one line, without control characters or lone surrogates; shortened to `limit` characters."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Bucket:
    """So many lines of one kind at once, and then so many a second; counts what it held back."""

    __slots__ = ("_at", "_left", "held")

    BURST = 20.0
    RATE = 5.0

    def __init__(self, now: float) -> None:
        self._left = self.BURST
        self._at = now
        self.held = 0

    def take(self, now: float) -> bool:
        self._left = min(self.BURST, self._left + (now - self._at) * self.RATE)
        self._at = now
        if self._left < 1.0:
            self.held += 1
            return False
        self._left -= 1.0
        return True


class Sink:
    """Writes lines to a descriptor, up to a severity, rate limited by code.

    A reader that does not read costs lines (`lost` counts them), never time.
    """

    MAX_CODES = 256

    def __init__(self, upto: Severity = Severity.INFO, *, as_json: bool = False, descriptor: int = 2) -> None:
        self.upto = upto
        self._json = as_json
        self._descriptor = descriptor
        self._journal = _is_journal(descriptor)
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)
        self._buckets: dict[str, Bucket] = {}
        self.lost = 0
        self.held = 0

    def tell(self, event: events.Event) -> None:
        """An event's line, if it has one, if it is severe enough and if there are not too many."""
        code = code_of(event)
        if not code or told_at(event)[0] > self.upto:
            return
        suffix = self._admit(code)
        line = None if suffix is None else line_of(event)
        if line is not None:
            self._put(self._render(line, f"{printable(line.text)}{suffix}"))

    def write(self, line: Line) -> None:
        if line.severity > self.upto:
            return
        suffix = self._admit(line.code)
        if suffix is not None:
            self._put(self._render(line, printable(line.text) + suffix))

    def _admit(self, code: str) -> str | None:
        """None: one too many; else what the line says about those held back before it."""
        now = time.monotonic()
        bucket = self._buckets.get(code)
        if bucket is None:
            if len(self._buckets) >= self.MAX_CODES:
                self._buckets.clear()
            bucket = self._buckets[code] = Bucket(now)
        if not bucket.take(now):
            self.held += 1
            return None
        held, bucket.held = bucket.held, 0
        return f" ({held} more like this were not logged)" if held else ""

    def _render(self, line: Line, text: str) -> str:
        if self._json:
            record: dict[str, object] = {
                "time": round(time.time(), 3), "group": line.group, "severity": line.severity.name.lower(),
                "code": line.code, "text": text,
            }  # fmt: skip
            if line.connection:
                record["connection"] = line.connection
            if line.ike_sa:
                record["ike_sa"] = line.ike_sa
            return json.dumps(record, ensure_ascii=False)
        where = f"<{printable(line.connection, 64)}|{line.ike_sa}> " if line.connection or line.ike_sa else ""
        if self._journal:
            return f"{_PRIORITY[line.severity]}[{line.group}] {where}{text}"
        return f"{time.strftime('%H:%M:%S')} [{line.group}] {where}{text}"

    def _put(self, text: str) -> None:
        try:
            if not self._ready.poll(0):
                self.lost += 1
                return
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            self.lost += 1


def _is_journal(descriptor: int) -> bool:
    """Is the descriptor the one that systemd connected to the journal (systemd.exec(5), JOURNAL_STREAM)?"""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def _ike(sa: IkeSaView, code: str, text: str, group: str = "IKE") -> Line:
    return Line(group, Severity.INFO, 0, code, text, sa.connection, sa.unique_id)


def _ike_name(sa: IkeSaView) -> str:
    return f"{sa.connection}[{sa.unique_id}]"


def _ends(sa: IkeSaView) -> str:
    return f"{sa.path.local}[{sa.local_id or ''}]...{sa.path.remote}[{sa.remote_id or ''}]"


def _child_name(child: ChildSaView) -> str:
    return f"{child.name}{{{child.pair}}}"


def _carries(child: ChildSaView) -> str:
    local = " ".join(format_selector(s) for s in child.local_selectors)
    remote = " ".join(format_selector(s) for s in child.remote_selectors)
    return f"SPIs {child.spi_in:08x}_i {child.spi_out:08x}_o, {local} === {remote}"


def _why(failure: Failure) -> str:
    text = f"{failure.reason} ({failure.detail})" if failure.detail else str(failure.reason)
    difference = failure.difference
    if difference is not None and (difference.ours or difference.theirs):
        text += (
            f"; we offer {difference.ours or 'nothing'}; peer offers {difference.theirs or '(not revealed)'}"
        )
    return text
