"""Reading `cygnet.toml` and what it includes into one tree.

    include = ["conf.d/*.toml"]

Included files add sections; a name that stands in two files is an error that names both, because
with access lists and connections a silent winner is a hole in a policy.
"""

from __future__ import annotations

import glob
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cygnet.config.locate import toml_lines
from cygnet.config.problems import ConfigurationError, KeyPath, Position, Problem, dotted, show
from cygnet.config.swanctl_syntax import MAX_FILE_SIZE, MAX_FILES
from cygnet.config.tree import Tree, nearest

_LINE = re.compile(r" \(at line (\d+), column (\d+)\)")
_MERGED_SECTIONS = ("connections", "acls", "secrets", "pools", "authorities")


@dataclass(slots=True)
class _Files:
    problems: list[Problem] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list, repr=False)
    owners: dict[KeyPath, int] = field(default_factory=dict)
    """Which file (index into `texts`) brought a top-level section or a named thing in it."""
    lines: dict[int, dict[KeyPath, int]] = field(default_factory=dict)

    def file(self, path: KeyPath) -> str:
        return self.texts[self.owner(path)][0]

    def owner(self, path: KeyPath) -> int:
        return self.owners.get(path[:2], self.owners.get(path[:1], 0))

    def position(self, path: KeyPath) -> Position:
        return self.position_in(self.owner(path), path)

    def position_in(self, number: int, path: KeyPath) -> Position:
        file, text = self.texts[number]
        if number not in self.lines:
            self.lines[number] = toml_lines(text)
        return Position(file, nearest(self.lines[number], path, 0))


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _LINE.search(str(error))
        line = int(match[1]) if match else text.count("\n") + 1
        reason = _LINE.sub("", str(error)).replace(" (at end of document)", "; the file ends too early")
        raise ConfigurationError(
            [Problem(Position(file, line), "", f"is not TOML: {reason[:200]}")]
        ) from None
    except RecursionError:
        raise ConfigurationError([Problem(Position(file), "", "is nested too deeply")]) from None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_SIZE:
            raise ConfigurationError([Problem(Position(str(path)), "", "is larger than 64 MiB")])
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            [Problem(Position(str(path)), "", f"cannot be read: {error.strerror}")]
        ) from None
    except UnicodeDecodeError as error:
        text = f"is not UTF-8 text (at octet {error.start})"
        raise ConfigurationError([Problem(Position(str(path)), "", text)]) from None


def read_toml(path: Path, text: str | None = None) -> Tree:
    """The tree of a TOML configuration and all that it includes. `text` replaces the file's content.

    Raises `ConfigurationError` for syntax errors, unreadable includes, and names in two files.
    """
    files = _Files()
    data: dict[str, Any] = {}
    _add(files, data, path, _read(path) if text is None else text, included=False)
    if files.problems:
        raise ConfigurationError(files.problems)
    return Tree(data, files.position, files.file)


def _add(files: _Files, data: dict[str, Any], path: Path, text: str, included: bool) -> None:
    number = len(files.texts)
    files.texts.append((str(path), text))
    try:
        found = _parse(text, str(path))
    except ConfigurationError as error:
        files.problems.extend(error.problems)
        return
    patterns = found.pop("include", [])
    for key, value in found.items():
        _merge(files, data, number, key, value)
    if isinstance(patterns, str):
        patterns = [patterns]
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        files.problems.append(
            Problem(
                files.position_in(number, ("include",)), "include", "must be file names",
                show(patterns), '["conf.d/*.toml"]',
            )
        )  # fmt: skip
        return
    if patterns and included:
        files.problems.append(
            Problem(
                files.position_in(number, ("include",)),
                "include",
                "stands in an included file",
                allowed="only in the first file",
            )
        )
        return
    for pattern in patterns:
        _include(files, data, path, number, pattern)


def _include(files: _Files, data: dict[str, Any], path: Path, number: int, pattern: str) -> None:
    paths = sorted(glob.glob(os.path.join(path.parent, pattern)))
    if not paths and not glob.has_magic(pattern):
        files.problems.append(
            Problem(files.position_in(number, ("include",)), "include", f"there is no file {pattern!r}")
        )
    for name in paths:
        if len(files.texts) >= MAX_FILES:
            raise ConfigurationError(
                [Problem(Position(str(path)), "include", f"more than {MAX_FILES} files")]
            )
        try:
            _add(files, data, Path(name), _read(Path(name)), included=True)
        except ConfigurationError as error:
            files.problems.extend(error.problems)


def _merge(files: _Files, data: dict[str, Any], number: int, key: str, value: Any) -> None:
    known = data.get(key)
    if known is None:
        data[key] = dict(value) if isinstance(value, dict) else value
        files.owners[(key,)] = number
        if isinstance(value, dict):
            files.owners.update({(key, name): number for name in value})
        return
    if key not in _MERGED_SECTIONS or not isinstance(known, dict) or not isinstance(value, dict):
        _twice(files, number, (key,))
        return
    for name, entry in value.items():
        if name in known:
            _twice(files, number, (key, name))
            continue
        known[name] = entry
        files.owners[(key, name)] = number


def _twice(files: _Files, number: int, path: KeyPath) -> None:
    first = files.position(path)
    files.problems.append(
        Problem(
            files.position_in(number, path),
            dotted(path),
            f"exists already, at {first}",
            allowed="one of them",
        )
    )
