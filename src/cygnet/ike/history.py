"""What went wrong lately: a ring of reasons, never of messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cygnet.ike.errors import Failure

SIZE: Final = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """`wall` is Unix seconds; `child` empty: the IKE SA; `peer` its identity or address as text."""

    wall: float
    connection: str
    child: str
    initiator: bool
    peer: str
    failure: Failure


class History:
    """The newest `SIZE` failures, oldest first."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=SIZE)

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, connection: str) -> tuple[Entry, ...]:
        return tuple([entry for entry in self._entries if entry.connection == connection])
