"""`cygnet check`: everything that is wrong with a configuration, or what it comes to."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Any

from cygnet.cli.terminal import complain, err, out
from cygnet.config.files import Ask
from cygnet.config.load import Loaded, load
from cygnet.config.problems import ConfigurationError, Problem
from cygnet.config.schema import json_schema


def check_file(path: Path, *, as_json: bool) -> bool:
    """Whether the configuration is right, having said what is wrong with it."""
    if as_json:
        return _check_json(path)
    # What a key holds is not what is looked at: nobody is asked to unlock it.
    loaded = load_or_complain(path, lambda _: None)
    if loaded is None:
        return False
    children = sum(len(connection.children) for connection in loaded.connections)
    flows = sum(len(child.flows) for connection in loaded.connections for child in connection.children)
    counts = (
        _count(len(loaded.connections), "connection"),
        _count(children, "child", "children"),
        f"{_count(flows, 'flow')} to protect",
        _count(len(loaded.secrets), "secret"),
        _count(len(loaded.keys), "private key"),
        _count(len(loaded.certificates), "certificate"),
    )
    out.print(f"{path} is right: {', '.join(counts)}", markup=False)
    return True


def ask_passphrase(path: Path) -> bytes | None:
    """Of an encrypted private key, from whoever sits there; None: they give none."""
    return getpass.getpass(f"Passphrase of {path} (none: it stays locked): ").encode() or None


def load_or_complain(path: Path, ask: Ask | None = None) -> Loaded | None:
    """The configuration, its warnings on standard error; None if it is wrong, its problems there."""
    try:
        loaded = load(path, ask=ask or (ask_passphrase if sys.stdin.isatty() else None))
    except ConfigurationError as error:
        for problem in error.problems:
            err.print(str(problem), markup=False)
        complain(f"{path}: {_count(len(error.problems), 'problem')}")
        return None
    for warning in loaded.warnings:
        err.print(f"warning: {warning}", markup=False)
    return loaded


def _check_json(path: Path) -> bool:
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    try:
        warnings = load(path, ask=lambda _: None).warnings
    except ConfigurationError as error:
        problems = error.problems
    answer = {
        "problems": [_as_json(one) for one in problems],
        "warnings": [_as_json(one) for one in warnings],
    }
    out.out(json.dumps(answer, indent=2, ensure_ascii=False), highlight=False)
    return not problems


def _as_json(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.position.file,
        "line": problem.position.line,
        "key": problem.key,
        "problem": problem.text,
        "found": problem.found,
        "allowed": problem.allowed,
    }


def print_schema() -> None:
    out.out(json.dumps(json_schema(), indent=2, ensure_ascii=False), highlight=False)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
