"""Imports point one way (docs/architecture.md), and the negotiation knows no I/O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "cygnet"

# What each part may import of Cygnet besides itself.
ALLOWED = {
    "wire": set[str](),
    "crypto": {"wire"},
    "policy": {"wire", "crypto"},
    "auth": {"wire", "crypto"},
    "ike": {"wire", "crypto", "policy", "auth"},
    "ipsec": {"wire", "crypto", "policy"},
    "dataplane": {"wire", "crypto", "policy", "ipsec"},
    "config": {"wire", "crypto", "policy", "auth", "ike"},
    "vici": {"wire", "crypto", "policy", "auth", "ike", "config"},
    "store": {"wire", "crypto", "policy", "auth", "ike", "config"},
    "testing": {"wire", "crypto", "policy", "auth", "ike", "config", "ipsec", "store"},
    "daemon": {"wire", "crypto", "policy", "auth", "ike", "config", "vici", "dataplane", "store"},
    "lab": set[str](),
    "cli": {"wire", "crypto", "policy", "auth", "ike", "config", "vici", "daemon", "lab"},
}

# A tool that knows nothing of the system.
EVERYWHERE = {"records"}

# The negotiation is a function of what it is told: these would let it look at the world.
WORLD = {
    "socket", "select", "selectors", "asyncio", "threading", "multiprocessing", "subprocess", "os", "time",
    "datetime", "logging", "random", "secrets", "signal", "pathlib", "io",
}  # fmt: skip
BLIND = ("wire", "policy", "ike")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if len(path.relative_to(SOURCE).parts) > 1)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_what_lies_beneath_it(path: Path) -> None:
    part = path.relative_to(SOURCE).parts[0]
    used = {name.split(".")[1] for name in imports(path) if name.startswith("cygnet.")}
    assert used - {part, *EVERYWHERE} <= ALLOWED[part]


@pytest.mark.parametrize("part", BLIND)
def test_the_negotiation_and_what_it_stands_on_know_no_io_and_no_clock(part: str) -> None:
    looked = {
        (str(path.relative_to(SOURCE)), name)
        for path in (SOURCE / part).rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] in WORLD
    }
    assert not looked


def test_no_assert_and_no_bare_except_stands_in_the_product() -> None:
    """`python -O` must behave the same, and no exception is swallowed unnamed."""
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.ExceptHandler) and node.type is None)
    ]
    assert not found


def test_no_shell_is_started_with_text() -> None:
    found = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.keyword) and node.arg == "shell")
        or (isinstance(node, ast.Attribute) and node.attr == "system")
    ]
    assert not found
