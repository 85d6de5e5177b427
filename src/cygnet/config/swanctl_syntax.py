"""The syntax of swanctl.conf: sections, settings, includes and references (strongswan.conf(5), SYNTAX).

    section  := name [: reference, ...] { settings }
    keyvalue := key = value
    include pattern

Values run to the end of the line, to `#` or to `}`; words are joined by one space; `"..."` keeps its
spaces and knows the escapes of C. A later section of the same name, in another block of its parent or
in an included file, extends the first and its values replace earlier ones; the same name twice in one
pair of braces is a mistake and said to be one.
A reference inherits from the section that it names, own settings first.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cygnet.config.problems import ConfigurationError, KeyPath, Position, Problem
from cygnet.config.tree import Tree, nearest

MAX_DEPTH = 32
"""Nesting of sections, includes, and references."""
MAX_FILES = 10_000
MAX_FILE_SIZE = 64 << 20

_NAME_END = frozenset(' \t\r\n#{}=:,"')
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}


class _SyntaxProblem(Exception):
    def __init__(self, line: int, text: str, allowed: str = "") -> None:
        super().__init__(text)
        self.line = line
        self.text = text
        self.allowed = allowed


@dataclass(slots=True)
class _Section:
    """Values and sections in the order of the file; `references` are absolute names with their place."""

    position: Position
    values: dict[str, tuple[str, Position]] = field(default_factory=dict)
    sections: dict[str, _Section] = field(default_factory=dict)
    references: list[tuple[str, Position]] = field(default_factory=list)


@dataclass(slots=True)
class _Scanner:
    """Text and a place in it. Newlines matter after values only."""

    text: str
    at: int = 0
    line: int = 1

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def skip_space(self, newlines: bool = True) -> None:
        text, end = self.text, len(self.text)
        while self.at < end:
            character = text[self.at]
            if character == "#":
                stop = text.find("\n", self.at)
                self.at = end if stop < 0 else stop
            elif character == "\n":
                if not newlines:
                    return
                self.line += 1
                self.at += 1
            elif character in " \t\r":
                self.at += 1
            else:
                return

    def name(self) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in _NAME_END:
            self.at += 1
        return self.text[start : self.at]

    def quoted(self) -> str:
        """A `"..."` string, the opening quote at `at`."""
        opened = self.line
        self.at += 1
        parts: list[str] = []
        while True:
            character = self.peek()
            if not character:
                raise _SyntaxProblem(opened, "a quoted string is not closed", 'a closing "')
            self.at += 1
            if character == '"':
                return "".join(parts)
            if character == "\n":
                self.line += 1
            if character == "\\":
                character = self.peek()
                self.at += 1
                if character == "\n":
                    self.line += 1
                    continue
                character = _ESCAPES.get(character, character)
            parts.append(character)

    def words(self) -> Iterator[str]:
        """The words of a value: up to the end of the line, `#` or `}`."""
        while True:
            while self.peek() in (" ", "\t", "\r"):
                self.at += 1
            character = self.peek()
            if character in ("", "\n", "#", "}"):
                return
            if character == '"':
                yield self.quoted()
                continue
            start = self.at
            while self.at < len(self.text) and self.text[self.at] not in ' \t\r\n#}"':
                self.at += 1
            yield self.text[start : self.at]


class _Reader:
    def __init__(self, root: _Section) -> None:
        self.problems: list[Problem] = []
        self.files = 0
        self.root = root

    def read_file(self, path: Path, into: _Section, depth: int) -> None:
        self.files += 1
        if self.files > MAX_FILES:
            raise ConfigurationError(
                [Problem(Position(str(path)), "", f"more than {MAX_FILES} files included")]
            )
        try:
            if path.stat().st_size > MAX_FILE_SIZE:
                raise ConfigurationError([Problem(Position(str(path)), "", "is larger than 64 MiB")])
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            self.problems.append(Problem(Position(str(path)), "", f"cannot be read: {error.strerror}"))
            return
        except UnicodeDecodeError as error:
            self.problems.append(
                Problem(Position(str(path)), "", f"is not UTF-8 text (at octet {error.start})")
            )
            return
        self.read_text(text, str(path), into, depth)

    def read_text(self, text: str, file: str, into: _Section, depth: int) -> None:
        scanner = _Scanner(text)
        try:
            self._settings(scanner, file, into, depth, closing=False)
        except _SyntaxProblem as error:
            self.problems.append(Problem(Position(file, error.line), "", error.text, allowed=error.allowed))

    def _settings(self, scanner: _Scanner, file: str, into: _Section, depth: int, closing: bool) -> None:
        if depth > MAX_DEPTH:
            raise _SyntaxProblem(scanner.line, f"sections are nested deeper than {MAX_DEPTH}")
        opened = scanner.line
        seen: dict[str, int] = {}
        while True:
            scanner.skip_space()
            if not scanner.peek():
                if closing:
                    raise _SyntaxProblem(opened, "a section is not closed", "a closing }")
                return
            if scanner.peek() == "}":
                if not closing:
                    raise _SyntaxProblem(scanner.line, "a } closes nothing")
                scanner.at += 1
                return
            self._statement(scanner, file, into, depth, seen)

    def _statement(
        self, scanner: _Scanner, file: str, into: _Section, depth: int, seen: dict[str, int]
    ) -> None:
        line = scanner.line
        name = scanner.name()
        if not name:
            raise _SyntaxProblem(
                line, f"a name is expected; found {scanner.peek()!r}", "name = value, name {"
            )
        scanner.skip_space(newlines=False)
        if name == "include" and scanner.peek() not in ("=", "{", ":"):
            self._include(scanner, file, into, depth)
            return
        # The brace may stand on a line of its own, the equal sign may not.
        if scanner.peek() in ("\n", ""):
            scanner.skip_space()
        mark = scanner.peek()
        position = Position(file, line)
        if mark == "=":
            self._once(name, seen, position)
            scanner.at += 1
            into.values[name] = (" ".join(scanner.words()), position)
            return
        references: list[tuple[str, Position]] = []
        if mark == ":":
            references = self._references(scanner, file)
            mark = scanner.peek()
        if mark != "{":
            raise _SyntaxProblem(line, f"after {name!r} stands neither = nor {{", "name = value, name {")
        if into is not self.root:
            self._once(name, seen, position)
        scanner.at += 1
        section = into.sections.setdefault(name, _Section(position))
        section.references.extend(references)
        self._settings(scanner, file, section, depth + 1, closing=True)

    def _once(self, name: str, seen: dict[str, int], position: Position) -> None:
        if "." in name:
            raise _SyntaxProblem(
                position.line, f"the name {name!r} holds a dot", 'names without . , : { } = " #'
            )
        if name in seen:
            self.problems.append(Problem(position, name, f"stands here twice, first in line {seen[name]}"))
        seen.setdefault(name, position.line)

    def _references(self, scanner: _Scanner, file: str) -> list[tuple[str, Position]]:
        references = []
        while scanner.peek() in (":", ","):
            scanner.at += 1
            scanner.skip_space()
            position = Position(file, scanner.line)
            name = scanner.name()
            if not name:
                raise _SyntaxProblem(position.line, "a section's name is expected after : or ,")
            references.append((name, position))
            scanner.skip_space()
        return references

    def _include(self, scanner: _Scanner, file: str, into: _Section, depth: int) -> None:
        line = scanner.line
        pattern = " ".join(scanner.words())
        if not pattern:
            raise _SyntaxProblem(line, "include names no file", "include conf.d/*.conf")
        absolute = os.path.join(os.path.dirname(os.path.abspath(file)), pattern)
        paths = sorted(glob.glob(absolute))
        if not paths and not glob.has_magic(pattern):
            self.problems.append(Problem(Position(file, line), "include", f"there is no file {pattern!r}"))
        for path in paths:
            if depth + 1 > MAX_DEPTH:
                raise _SyntaxProblem(line, f"files are included deeper than {MAX_DEPTH}")
            self.read_file(Path(path), into, depth + 1)


class _Resolver:
    """Sections with their references followed: own settings first, then inherited, left to right."""

    def __init__(self, root: _Section, problems: list[Problem]) -> None:
        self.root = root
        self.problems = problems
        self.lines: dict[KeyPath, Position] = {}
        self.templates: set[str] = set()

    def tree(self) -> dict[str, Any]:
        return self._merge((self.root,), (), frozenset())

    def _expand(self, section: _Section, following: frozenset[str]) -> list[tuple[_Section, frozenset[str]]]:
        found = [(section, following)]
        for name, position in section.references:
            if name in following or len(following) > MAX_DEPTH:
                self.problems.append(Problem(position, name, "refers to itself"))
                continue
            target = self._find(name)
            if target is None:
                self.problems.append(Problem(position, name, "is referred to, but there is no such section"))
                continue
            self.templates.add(name.split(".")[0])
            found.extend(self._expand(target, following | {name}))
        return found

    def _find(self, name: str) -> _Section | None:
        section: _Section | None = self.root
        for part in name.split("."):
            section = section.sections.get(part) if section is not None else None
        return section

    def _merge(
        self, layers: tuple[_Section, ...], path: KeyPath, following: frozenset[str]
    ) -> dict[str, Any]:
        """Earlier layers win. An empty value clears the key, so that its default applies."""
        if len(path) > MAX_DEPTH:
            return {}
        expanded = [entry for layer in layers for entry in self._expand(layer, following)]
        result: dict[str, Any] = {}
        cleared: set[str] = set()
        inner: dict[str, list[_Section]] = {}
        seen = following
        for section, names in expanded:
            seen |= names
            for key, (value, position) in section.values.items():
                if key in result or key in cleared:
                    continue
                self.lines.setdefault((*path, key), position)
                if value:
                    result[key] = value
                else:
                    cleared.add(key)
            for key, subsection in section.sections.items():
                self.lines.setdefault((*path, key), subsection.position)
                inner.setdefault(key, []).append(subsection)
        for key, layers_of in inner.items():
            if key in result:
                self.problems.append(
                    Problem(
                        self.lines[(*path, key)], key, "is both a value and a section", allowed="one of them"
                    )
                )
                continue
            result[key] = self._merge(tuple(layers_of), (*path, key), seen)
        return result


def read_swanctl(path: Path, text: str | None = None) -> Tree:
    """The tree of a swanctl.conf and all that it includes. `text` replaces the file's content.

    Raises `ConfigurationError` with every syntax error, unreadable or missing include, unknown
    reference, and repeated key.
    """
    root = _Section(Position(str(path)))
    reader = _Reader(root)
    if text is None:
        reader.read_file(path, root, 0)
    else:
        reader.read_text(text, str(path), root, 0)
    resolver = _Resolver(root, reader.problems)
    data = resolver.tree()
    if reader.problems:
        raise ConfigurationError(sorted(set(reader.problems), key=lambda problem: problem.position))
    for template in resolver.templates - {
        "connections",
        "secrets",
        "pools",
        "authorities",
        "acls",
        "options",
    }:
        del data[template]
    lines, fallback = resolver.lines, Position(str(path))

    def where(wanted: KeyPath) -> Position:
        return nearest(lines, wanted, fallback)

    return Tree(data, where, lambda wanted: where(wanted).file)
