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
    rekey: bool = False
    """It was new keys that did not come about; what they were for goes on."""


class History:
    """The newest `SIZE` failures, oldest first."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=SIZE)

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)

    def forget_rekeys(self, connection: str, child: str) -> None:
        """A rekey has come about: earlier ones of the same that did not are of no interest any more."""
        done = (connection, child)
        if any(one.rekey and (one.connection, one.child) == done for one in self._entries):
            kept = [one for one in self._entries if not one.rekey or (one.connection, one.child) != done]
            self._entries = deque(kept, maxlen=SIZE)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, connection: str) -> tuple[Entry, ...]:
        return tuple([entry for entry in self._entries if entry.connection == connection])
