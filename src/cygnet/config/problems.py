"""What is wrong with a configuration: file, line, key, what was found, what is allowed.

All problems of a configuration are collected and raised together as one `ConfigurationError`.
What was found is never shown for keys that hold secrets.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

KeyPath = tuple[str | int, ...]

SECRET_KEYS = frozenset({"secret", "hash", "pin", "data", "passphrase"})
MAX_FOUND = 80
"""Characters of a found value that an error shows."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """`line` counts from 1; 0 is the file as a whole. `file` is a path, or `control socket`."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `found` and `allowed` are empty where they say nothing new."""

    position: Position
    key: str
    text: str
    found: str = ""
    allowed: str = ""

    def __str__(self) -> str:
        parts = [f"{self.position}: "]
        if self.key:
            parts.append(f"{self.key}: ")
        parts.append(self.text)
        if self.found:
            parts.append(f"; found {self.found}")
        if self.allowed:
            parts.append(f"; allowed: {self.allowed}")
        return "".join(parts)


class ConfigurationError(Exception):
    """The configuration cannot be used; `problems` has at least one entry, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def dotted(path: KeyPath) -> str:
    """`connections.branch.children.net.local_ts[0]`; names with dots are quoted as TOML quotes them."""
    parts: list[str] = []
    for element in path:
        if isinstance(element, int):
            parts.append(f"[{element}]")
            continue
        name = f'"{element}"' if "." in element or not element else element
        parts.append(f".{name}" if parts else name)
    return "".join(parts)


def show(value: object, path: KeyPath = ()) -> str:
    """A found value for people: bounded, printable, and hidden where the key holds a secret."""
    if any(element in SECRET_KEYS for element in path):
        return "a value (not shown)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} octets"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list | tuple):
        if any(isinstance(item, dict | list | bytes) for item in value):
            return "a list"
        value = ", ".join(map(str, value))
    text = str(value)
    if len(text) > MAX_FOUND:
        text = text[: MAX_FOUND - 3] + "..."
    return repr(text) if isinstance(value, str) else text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, or empty."""
    matches = difflib.get_close_matches(name.lower().replace("-", "_"), list(known), n=1, cutoff=0.7)
    return matches[0] if matches else ""


@dataclass(slots=True)
class Complaints:
    """Problems by key path: the caller knows the files and lines."""

    found: list[tuple[KeyPath, str, str]] = field(default_factory=list)
    notes: list[tuple[KeyPath, str]] = field(default_factory=list)
    """Worth knowing, and no error."""

    def add(self, path: KeyPath, text: str, allowed: str = "") -> None:
        self.found.append((path, text, allowed))
