"""What people asked for, until it is done: an operation may consist of several parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cygnet.ike.errors import Failure
from cygnet.ike.events import OperationDone

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint


class Operations:
    """Numbers from 1. The first part that fails is told; all parts are waited for."""

    __slots__ = ("_gateway", "_last", "_open")

    def __init__(self, gateway: Endpoint) -> None:
        self._gateway = gateway
        self._last = 0
        self._open: dict[int, tuple[int, Failure | None]] = {}

    def begin(self, parts: int) -> int:
        self._last += 1
        self._open[self._last] = (parts, None)
        return self._last

    def ended(self, operation: int, failure: Failure | None) -> None:
        """One part has ended."""
        entry = self._open.get(operation)
        if entry is None:
            return
        left, first = entry[0] - 1, entry[1] or failure
        if left > 0:
            self._open[operation] = (left, first)
            return
        del self._open[operation]
        self._gateway.event(OperationDone(operation, first))

    def __len__(self) -> int:
        return len(self._open)
