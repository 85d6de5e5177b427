"""What waits its turn: our own requests, one at a time."""

from __future__ import annotations

from cygnet.ike.errors import Failure
from cygnet.records import dataclass


@dataclass(frozen=True, slots=True)
class CreateChild:
    """A Child SA for a flow of the connection's child `name`. `operation`: who asked for it, 0 nobody."""

    name: str
    index: int
    operation: int = 0


@dataclass(frozen=True, slots=True)
class RekeyChild:
    pair: int
    operation: int = 0


@dataclass(frozen=True, slots=True)
class DeleteChild:
    pair: int
    failure: Failure
    operation: int = 0


@dataclass(frozen=True, slots=True)
class RekeyIke:
    operation: int = 0


@dataclass(frozen=True, slots=True)
class DeleteIke:
    failure: Failure
    operation: int = 0


@dataclass(frozen=True, slots=True)
class CheckLiveness:
    """`contact`: behind IKEv1's aggressive mode, that this is our only SA with the peer is told with it, if
    it is true."""

    operation: int = 0
    contact: bool = False


@dataclass(frozen=True, slots=True)
class CloseOther:
    """Close another IKE SA with the same peer, now that this one is known to serve."""

    number: int
    failure: Failure
    operation: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the peer an error that its answer caused, and close (RFC 7296, section 2.21.2)."""

    notify: int
    failure: Failure
    operation: int = 0


Wanted = CreateChild | RekeyChild | DeleteChild | RekeyIke | DeleteIke | CheckLiveness | CloseOther | Report
"""Our own requests, one at a time (window 1); they move along when the IKE SA is rekeyed."""
