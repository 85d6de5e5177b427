"""A configuration as read, before it is judged: nested dictionaries, and where each key stands.

Every spelling ends here: `toml_syntax`, `swanctl_syntax` and the control socket's dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cygnet.config.problems import KeyPath, Position


@dataclass(frozen=True, slots=True)
class Tree:
    """`data` holds dict, list, str, int, float, bool, bytes. `where` gives the position of a key path,
    or of its closest parent that has one."""

    data: dict[str, Any]
    where: Callable[[KeyPath], Position]


def nearest(lines: dict[KeyPath, Position], path: KeyPath, fallback: Position) -> Position:
    """The position of `path` or of its closest known parent."""
    for length in range(len(path), 0, -1):
        found = lines.get(path[:length])
        if found is not None:
            return found
    return fallback
