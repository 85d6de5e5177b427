"""`cygnet trace`: the ladder as it grows, from the daemon's events, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from types import FrameType
from typing import Any

from rich.markup import escape
from rich.text import Text

from cygnet.cli import ladder
from cygnet.cli.terminal import out
from cygnet.vici.client import Client
from cygnet.vici.codec import texts

EVENTS = ("ike-message", "ike-failure", "ike-drop", "ike-updown", "child-updown", "ike-rekey", "child-rekey")
QUIET = 0.3
"""Seconds of silence after which a trace that was told to end does."""
_NOT_NAMES = frozenset({"up", "reason", "detail", "ours", "theirs", "first"})


class _Told:
    """SIGTERM and SIGINT as something to wait for: nothing that has arrived is lost in an exception."""

    def __init__(self) -> None:
        self.stop = False
        self.wake, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> _Told:
        self._fd = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._before = {
            number: signal.signal(number, self._tell) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd)
        os.close(self.wake)
        os.close(self._wakeup)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self.stop = True


def trace(client: Client, *, connection: str, as_json: bool, brief: bool, drops: bool) -> None:
    """Show events until told to end. Raises `ViciError` when the daemon goes away."""
    wanted = tuple(event for event in EVENTS if drops or event != "ike-drop")
    show = _Json() if as_json else _Drawing(brief=brief)
    with _Told() as told:
        client.register(*wanted)
        show.started()
        sys.stdout.flush()
        while not told.stop:
            if client.pending() or client.fileno() in select.select([client.fileno(), told.wake], [], [])[0]:
                _show_next(client, show, connection)
        while _show_next(client, show, connection):
            pass


def _show_next(client: Client, show: _Json | _Drawing, connection: str) -> bool:
    """Show one event; False when none comes for a while."""
    found = client.next_event(QUIET)
    if found is None:
        return False
    event, message = found[0], texts(found[1])
    if not connection or connection in names_of(message):
        show.event(event, message)
        sys.stdout.flush()
    return True


def names_of(message: Mapping[str, Any]) -> set[str]:
    """The connections that an event is about; empty names nobody."""
    if "ike" in message:
        return {message["ike"]} if message["ike"] else set()
    return {key for key, value in message.items() if isinstance(value, dict) and key not in _NOT_NAMES}


class _Json:
    """One object a line."""

    def started(self) -> None:
        pass

    def event(self, event: str, message: Mapping[str, Any]) -> None:
        out.out(json.dumps({"event": event, **message}, ensure_ascii=False), highlight=False)


class _Drawing:
    """The ladder, this gateway on the left."""

    def __init__(self, *, brief: bool) -> None:
        self.brief = brief
        self.letters = ladder.Letters()
        self.between = ""

    def started(self) -> None:
        out.print("[dim]This gateway is on the left, the peer on the right. Ctrl-C ends.[/]")

    def event(self, event: str, message: Mapping[str, Any]) -> None:
        draw = getattr(self, "_" + event.replace("-", "_"))
        draw(message)

    def _ike_message(self, message: Mapping[str, Any]) -> None:
        width = min(out.width, 120)
        between = ladder.ends(message)
        if between != self.between:
            self.between = between
            out.print(f"\n[b]{escape(between)}[/]")
        out.print(f"[dim]{clock(message['time'])}  {escape(ladder.title(message))}[/]")
        style = "green" if message.get("direction") == "sent" else "cyan"
        lines = ladder.draw(message, self.letters, width=width, with_details=not self.brief)
        count = len(ladder.draw(message, self.letters, width=width, with_details=False))
        for number, line in enumerate(lines):
            out.print(Text(line, style=style if number < count else "dim"))

    def _ike_failure(self, message: Mapping[str, Any]) -> None:
        name = "/".join(part for part in (message.get("ike"), message.get("child")) if part) or "?"
        out.print(
            f"[red]{clock(message['time'])}  {escape(name)} failed: {escape(message['reason'])}:"
            f" {escape(message['detail'])}[/]"
        )

    def _ike_drop(self, message: Mapping[str, Any]) -> None:
        out.print(
            f"[yellow]{clock(message['time'])}  dropped from {escape(message['remote-host'])}:"
            f" {escape(message['drop'])}: {escape(message['detail'])}[/]"
        )

    def _ike_updown(self, message: Mapping[str, Any]) -> None:
        self._say(message, "IKE SA", "is up" if message.get("up") == "yes" else "is down")

    def _child_updown(self, message: Mapping[str, Any]) -> None:
        self._say(message, "Child SA", "is up" if message.get("up") == "yes" else "is down")

    def _ike_rekey(self, message: Mapping[str, Any]) -> None:
        self._say(message, "IKE SA", "is rekeyed")

    def _child_rekey(self, message: Mapping[str, Any]) -> None:
        self._say(message, "Child SA", "is rekeyed")

    def _say(self, message: Mapping[str, Any], what: str, text: str) -> None:
        for name in sorted(names_of(message)):
            body = message[name]
            children = ", ".join(body.get("child-sas", {}))
            reason = f": {message['reason']}" if message.get("reason") else ""
            of = f" {children} of" if children else ""
            out.print(f"[b]*** {what}{escape(of)} {escape(name)} {text}{escape(reason)}[/]")


def clock(wall: str) -> str:
    """`12:00:01.234` of Unix seconds as text."""
    return datetime.fromtimestamp(float(wall)).strftime("%H:%M:%S.%f")[:-3]
