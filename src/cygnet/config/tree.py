"""A configuration as read, before it is judged: nested dictionaries, and where each key stands.

Every spelling ends here: `toml_syntax`, `swanctl_syntax` and the control socket's dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cygnet.config.problems import KeyPath, Position


@dataclass(frozen=True, slots=True)
class Tree:
    """`data` holds dict, list, str, int, float, bool, bytes. `where` gives the position of a key path,
    or of its closest parent that has one; it may have to look for it, `file` (the path's file alone) not."""

    data: dict[str, Any] = field(repr=False)
    where: Callable[[KeyPath], Position]
    file: Callable[[KeyPath], str]


_T = TypeVar("_T")


def nearest(known: Mapping[KeyPath, _T], path: KeyPath, fallback: _T) -> _T:
    """What is known of `path`, or of its closest parent of which something is."""
    for length in range(len(path), 0, -1):
        found = known.get(path[:length])
        if found is not None:
            return found
    return fallback
