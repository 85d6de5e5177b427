"""The ladder: IKE messages drawn as RFC 7296 draws them, this gateway left, the peer right.

    HDR(A,0), SAi1, KEi, Ni  -->
                                 <--  HDR(A,B), SAr1, KEr, Nr
    HDR(A,B), SK {IDi, AUTH, SAi2, TSi, TSr}  -->

Pure: messages (the `ike-message` event as text) to lines. Letters stand for SPIs, two for each IKE SA.
"""

from __future__ import annotations

import textwrap
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_LETTERS = 1000
"""SPIs that keep their letter; the oldest is forgotten first."""
_NO_SPI = "0" * 16


@dataclass(slots=True)
class Letters:
    """A letter for each SPI, in the order in which they appear: A to Z, then A1 to Z1 and so on."""

    known: OrderedDict[str, str] = field(default_factory=OrderedDict)
    given: int = 0

    def of(self, spi: str) -> str:
        if spi == _NO_SPI:
            return "0"
        if spi in self.known:
            self.known.move_to_end(spi)
            return self.known[spi]
        round_, letter = divmod(self.given, 26)
        self.given += 1
        self.known[spi] = chr(ord("A") + letter) + (str(round_) if round_ else "")
        if len(self.known) > MAX_LETTERS:
            self.known.popitem(last=False)
        return self.known[spi]


def header(message: Mapping[str, Any], letters: Letters) -> str:
    """`HDR(A,B)`: the SPIs that the message carries."""
    return f"HDR({letters.of(message['initiator-spi'])},{letters.of(message['responder-spi'])})"


def payloads(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The payloads in their order."""
    sections = message.get("payloads", {})
    return [sections[key] for key in sorted(sections, key=int)]


def contents(message: Mapping[str, Any], letters: Letters) -> str:
    """`HDR(A,B), SK {IDi, AUTH, SAi2, TSi, TSr}`."""
    notations = ", ".join(payload.get("notation", "?") for payload in payloads(message))
    if message.get("version") == "1.0":
        # RFC 2409, section 3.2: the star says that what follows is encrypted.
        star = "*" if message.get("protected") == "yes" else ""
        return f"{header(message, letters)}{star}, {notations}"
    if message.get("protected") == "yes":
        notations = f"SK {{{notations}}}"  # also around nothing: RFC 7296, section 1.4
    return f"{header(message, letters)}, {notations}" if notations else header(message, letters)


def title(message: Mapping[str, Any]) -> str:
    """`IKE_SA_INIT request 0`, what it belongs to, and between whom."""
    kind = " response" if message.get("response") == "yes" else " request"
    if message.get("version") == "1.0":
        kind = ""
    words = [f"{message.get('exchange', '?')}{kind} {message.get('message-id', '?')}"]
    if message.get("ike"):
        words.append(f"of {message['ike']}[{message.get('ikesa-uniqueid', '0')}]")
    if message.get("repeat") == "yes":
        words.append("(again)")
    return " ".join(words)


def ends(message: Mapping[str, Any]) -> str:
    """`192.0.2.1[500] ... 192.0.2.2[500]`, this gateway first."""
    here, there = (f"{message[f'{side}-host']}[{message[f'{side}-port']}]" for side in ("local", "remote"))
    return f"{here} ... {there}"


def details(message: Mapping[str, Any], width: int) -> list[str]:
    """What the payloads say, a line or more for each that says anything."""
    shown = [payload for payload in payloads(message) if payload.get("detail")]
    column = min(max((len(payload["notation"]) for payload in shown), default=0), 12)
    lines = []
    for payload in shown:
        label = payload["notation"]
        for text in payload["detail"]:
            first = f"{label:<{column}}  "
            rest = " " * (column + 2)
            lines.extend(_wrap(text, width, first, rest))
            label = ""
    return lines


def draw(
    message: Mapping[str, Any], letters: Letters, *, width: int = 100, with_details: bool = True
) -> list[str]:
    """The lines of one message: its arrow, and under it what the payloads say."""
    sent = message.get("direction") == "sent"
    room = max(width * 3 // 4, 40)
    text = contents(message, letters)
    if sent:
        lines = _wrap(text, room - 5, "", "      ")
        lines[-1] += "  -->"
    else:
        lines = _wrap(text, room - 5, "<--  ", " " * 11)
        margin = width - max(map(len, lines))
        lines = [" " * max(margin, 0) + line for line in lines]
    if with_details:
        indent = " " * (4 if sent else max(width - room, 0) + 4)
        lines.extend(indent + line for line in details(message, room - 8))
    return lines


def _wrap(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, max(width, 20), initial_indent=first, subsequent_indent=rest,
        break_long_words=False, break_on_hyphens=False,
    ) or [first]  # fmt: skip


def diagram(
    messages: Sequence[Mapping[str, Any]], *, width: int = 100, with_details: bool = False
) -> list[str]:
    """A whole exchange, or several: titles and arrows."""
    letters = Letters()
    lines: list[str] = []
    between = ""
    for message in messages:
        if ends(message) != between:
            between = ends(message)
            lines.append(between)
        lines.append(title(message))
        lines.extend(draw(message, letters, width=width, with_details=with_details))
    return lines
