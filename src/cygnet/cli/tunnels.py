"""`up`, `down`, `rekey`: from a name to the daemon's command, its progress, and what came of it."""

from __future__ import annotations

import contextlib
import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import typer
from rich.markup import escape

from cygnet.cli.terminal import FAILED, TOO_LATE, complain, err, fail, out
from cygnet.config.problems import did_you_mean
from cygnet.vici.client import Client, Refused, single
from cygnet.vici.codec import Message, texts

SLACK = 10.0
"""Seconds that the daemon may take beyond the time it was given."""


@dataclass(frozen=True, slots=True)
class Target:
    """A connection, and a child of it or "" for the whole."""

    ike: str
    child: str = ""

    def __str__(self) -> str:
        return f"{self.ike}/{self.child}" if self.child else self.ike


def configured(client: Client, ike: str = "") -> dict[str, dict[str, Any]]:
    """The connections that the daemon has, by name."""
    message = {"ike": ike} if ike else {}
    return dict(single([texts(entry) for entry in client.stream("list-conns", "list-conn", message)]))


def find(client: Client, name: str, ike: str, child: str) -> list[Target]:
    """What names on the command line mean: `name` is a connection, a child, or CONNECTION/CHILD.

    Ends the command if there is nothing of that name, or several.
    """
    if name and not ike and not child:
        conns = configured(client)
        if name in conns:
            return [Target(name)]
        found = [Target(conn, name) for conn, body in conns.items() if name in body.get("children", {})]
        if len(found) == 1:
            return found
        if found:
            several = ", ".join(str(target) for target in found)
            fail(f"{name} is a child of several connections, name one of them: {several}", FAILED)
        conn, _, part = name.partition("/")
        if part and part in conns.get(conn, {}).get("children", {}):
            return [Target(conn, part)]
        _unknown(name, [*conns, *(known for body in conns.values() for known in body.get("children", {}))])
    if not ike and not child:
        fail("name a connection or a child, or give --ike or --child", 2)
    if ike:
        conns = configured(client, ike)
        if ike not in conns:
            _unknown(ike, list(configured(client)))
        children = conns[ike].get("children", {})
        if child and child not in children:
            _unknown(child, list(children))
        return [Target(ike, child)]
    return find(client, child, "", "") if child else []


def _unknown(name: str, known: list[str]) -> NoReturn:
    guess = did_you_mean(name, known)
    text = f"there is no connection and no child named {name}"
    if guess:
        text += f"; did you mean {guess}?"
    elif not known:
        text += "; nothing is configured"
    fail(text)


def children_of(client: Client, target: Target) -> list[str]:
    """The children that `up CONNECTION` brings up; none: the IKE SA alone."""
    if target.child:
        return [target.child]
    body = configured(client, target.ike).get(target.ike, {})
    modes = {name: child.get("mode", "TUNNEL") for name, child in body.get("children", {}).items()}
    return [name for name, mode in modes.items() if mode not in ("PASS", "DROP")]


# -- the commands -------------------------------------------------------------------------------------


def up(client: Client, target: Target, timeout: float) -> None:
    """Negotiate; ends the command with a failure and its reason if that does not come about."""
    for child in children_of(client, target) or [""]:
        one = Target(target.ike, child)
        message: dict[str, Any] = {"ike": one.ike, "loglevel": "1", "timeout": str(round(timeout * 1000))}
        if child:
            message["child"] = child
        _command(
            client,
            "initiate",
            message,
            timeout,
            f"{one} is being negotiated",
            f"{one} did not come up",
        )
        out.print(f"[green]{escape(str(one))} is up[/]")
        _show_up(client, one)


def _show_up(client: Client, target: Target) -> None:
    for name, sa in single(
        [texts(entry) for entry in client.stream("list-sas", "list-sa", {"ike": target.ike})]
    ):
        if name != target.ike:
            continue
        for child in sa.get("child-sas", {}).values():
            if child.get("name") == target.child and child.get("state") == "INSTALLED":
                selectors = f"{' '.join(child['local-ts'])} === {' '.join(child['remote-ts'])}"
                out.print(f"  {escape(selectors)}  [dim]{escape(algorithms(child))}[/]")


def algorithms(sa: Mapping[str, Any]) -> str:
    """`AES_GCM_16-256 PRF_HMAC_SHA2_384 CURVE_25519`."""
    cipher = sa.get("encr-alg", "")
    if cipher and sa.get("encr-keysize"):
        cipher += f"-{sa['encr-keysize']}"
    words = [cipher, sa.get("integ-alg", ""), sa.get("prf-alg", ""), sa.get("dh-group", "")]
    words += [str(sa[key]) for key in (f"ke{number}" for number in range(1, 8)) if key in sa]
    return " ".join(word for word in words if word)


def down(client: Client, message: dict[str, Any], what: str, timeout: float, force: bool) -> None:
    """Close SAs."""
    message = {**message, "timeout": str(round(timeout * 1000)), "loglevel": "1"}
    if force:
        message["force"] = "yes"
    answer = _command(
        client, "terminate", message, timeout, f"{what} is being closed", f"{what} was not closed"
    )
    count = int(answer.get("terminated") or answer.get("matches") or 1)
    out.print(f"{escape(what)} is down ({count} SA{'s' if count != 1 else ''} closed)")


def rekey(client: Client, message: dict[str, Any], what: str, timeout: float, reauth: bool) -> None:
    """Replace the keys of SAs."""
    message = {**message, "timeout": str(round(timeout * 1000)), "wait": "yes"}
    if reauth:
        message["reauth"] = "yes"
    answer = _command(
        client, "rekey", message, timeout, f"{what} is being rekeyed", f"{what} was not rekeyed"
    )
    count = int(answer.get("matches", "1"))
    out.print(f"{escape(what)} is rekeyed ({count} SA{'s' if count != 1 else ''})")


def _command(
    client: Client,
    command: str,
    message: Mapping[str, Any],
    timeout: float,
    doing: str,
    failed: str,
) -> Message:
    """A command that takes time, its log lines as progress. Shows why it failed, and ends then."""
    with _progress(doing) as line:
        try:
            answer = client.request(
                command,
                message,
                timeout=timeout + SLACK if timeout else None,
                events=("control-log",),
                on_event=lambda event, content: line(texts(content).get("msg", "")),
            )
        except Refused as error:
            refused = error
        else:
            return texts(answer)
    complain(f"{failed}: {refused}")
    explain(refused.answer)
    raise typer.Exit(TOO_LATE if "it goes on" in str(refused) else FAILED)


@contextlib.contextmanager
def _progress(doing: str) -> Iterator[Callable[[str], None]]:
    """A spinner with the last log line on a terminal; the lines themselves elsewhere."""
    if not err.is_terminal:
        yield lambda text: err.print(f"  {text}", markup=False)
        return
    with err.status(escape(doing)) as status:

        def show(text: str) -> None:
            err.print(f"  [dim]{escape(text)}[/]")
            status.update(escape(doing))

        yield show


def explain(failure: Mapping[str, Any]) -> None:
    """The two offers side by side, as far as the wire revealed them, and where they first differ."""
    for line in reasons(failure, err.width):
        err.print(line, markup=False)
    if failure.get("allowed"):
        err.print(f"  there are: {', '.join(failure['allowed'])}", markup=False)


def reasons(failure: Mapping[str, Any], width: int) -> list[str]:
    """Lines that show the two offers in columns, and the first difference; none where nothing is known."""
    lines = []
    ours, theirs = failure.get("ours", ""), failure.get("theirs", "")
    if ours or theirs:
        column = min((width - 6) // 2, 70)
        left = ["this gateway", *_wrapped(ours or "(nothing)", column)]
        right = ["the peer", *_wrapped(theirs or "(not revealed)", column)]
        lines = [
            f"  {mine:<{column}}  {yours}".rstrip()
            for mine, yours in itertools.zip_longest(left, right, fillvalue="")
        ]
    if failure.get("first"):
        text = failure["first"]
        if "first difference:" not in text:
            text = f"first difference: {text}"
        lines.extend(textwrap.wrap(text, width - 2, initial_indent="  ", subsequent_indent="    "))
    return lines


def _wrapped(offer: str, column: int) -> list[str]:
    """One paragraph for each proposal, broken between algorithms and never within one."""
    lines: list[str] = []
    for proposal in offer.split(", "):
        text = proposal.replace("/", " ") if proposal.startswith(("IKE:", "ESP:", "AH:")) else proposal
        lines.extend(
            textwrap.wrap(
                text, column, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
        )
    return lines
