"""Where a TOML key stands: `tomllib` gives values without lines, this maps key paths to lines.

It scans text that `tomllib` has accepted, so it need not judge, only count; it runs when there is
something to complain about and never otherwise.
"""

from __future__ import annotations

import re
import tomllib

from cygnet.config.problems import KeyPath

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]+")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")


class _Scan:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.counted = 0
        self.line = 1
        self.lines: dict[KeyPath, int] = {}
        self.tables: dict[KeyPath, int] = {}
        """How many `[[...]]` of a name there were."""

    def line_here(self) -> int:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    def note(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self.line_here())

    def key(self) -> KeyPath:
        parts: list[str | int] = []
        while True:
            self.skip(_BLANK)
            if self.text[self.at] in "\"'":
                parts.extend(tomllib.loads(f"{self.skip(_STRING)} = 0"))
            else:
                parts.append(self.skip(_BARE))
            self.skip(_BLANK)
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def document(self) -> None:
        prefix: KeyPath = ()
        while True:
            self.skip(_SPACE)
            if self.at >= len(self.text):
                return
            if self.text.startswith("[", self.at):
                prefix = self.header()
            else:
                self.pair(prefix)

    def header(self) -> KeyPath:
        double = self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        path = self.resolve(self.key())
        if double:
            number = self.tables.get(path, 0)
            self.tables[path] = number + 1
            path = (*path, number)
        self.noted(path)
        self.at += 2 if double else 1
        return path

    def resolve(self, path: KeyPath) -> KeyPath:
        """`[a.b]` below `[[a]]` means its last element."""
        result: KeyPath = ()
        for element in path[:-1]:
            result = (*result, element)
            if result in self.tables:
                result = (*result, self.tables[result] - 1)
        return (*result, path[-1])

    def noted(self, path: KeyPath) -> None:
        for length in range(1, len(path) + 1):
            self.note(path[:length])

    def pair(self, prefix: KeyPath) -> None:
        path = prefix + self.key()
        self.noted(path)
        self.at += 1
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.skip(_SPACE)
        self.note(path)
        start = self.text[self.at]
        if start in "\"'":
            self.skip(_STRING)
        elif start == "[":
            self.array(path)
        elif start == "{":
            self.table(path)
        else:
            self.skip(_SCALAR)

    def array(self, path: KeyPath) -> None:
        self.at += 1
        number = 0
        while True:
            self.skip(_SPACE)
            if self.text[self.at] == "]":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.value((*path, number))
            number += 1

    def table(self, path: KeyPath) -> None:
        self.at += 1
        while True:
            self.skip(_SPACE)
            if self.text[self.at] == "}":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.pair(path)


def toml_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each key path in TOML text that `tomllib` accepts; elements of arrays by index."""
    scan = _Scan(text)
    scan.document()
    return scan.lines
