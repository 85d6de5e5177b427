"""Leases in the state directory: read once at the start, one line for each assignment from then on.

A directory that cannot be written costs the memory of the next start and nothing else; it is told once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cygnet.auth.identity import Identity
from cygnet.policy.selectors import IpAddress
from cygnet.store.journal import Journal
from cygnet.store.leases import Leases


class LeaseFile:
    """`directory`: a descriptor, -1 keeps nothing. `leases`: the pools that it keeps. `note(code, text)` is
    told of trouble."""

    def __init__(self, directory: int, note: Callable[[str, str], None]) -> None:
        self.leases = Leases(time.time, self._assigned)
        self._journal = Journal(directory) if directory >= 0 else None
        self._note = note

    def read(self) -> None:
        """What was kept; pools that are loaded later find theirs."""
        if self._journal is None:
            return
        try:
            for assignment in self._journal.read():
                self.leases.restore(*assignment)
            self._shorten(self._journal)
        except OSError as error:
            self._give_up(error)

    def _assigned(self, pool: str, address: IpAddress, identity: Identity) -> None:
        if self._journal is None:
            return
        try:
            self._journal.append((pool, address, identity))
            self._shorten(self._journal)
        except OSError as error:
            self._give_up(error)

    def _shorten(self, journal: Journal) -> None:
        if journal.is_long(self.leases.remembered):
            journal.rewrite(self.leases.assignments())

    def _give_up(self, error: OSError) -> None:
        self._journal = None
        self._note("leases-not-kept", f"leases are not kept over a restart: {error}")
