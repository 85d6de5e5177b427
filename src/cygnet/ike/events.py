"""Typed events: logs, the control socket's events, history and the ladder diagram are made from these alone.

Nothing here is formatted when it is made; who listens formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cygnet.ike.errors import Drop, Failure, Reason
from cygnet.ike.world import Path
from cygnet.records import dataclass

if TYPE_CHECKING:
    from cygnet.ike.view import ChildSaView, IkeSaView
    from cygnet.wire.message import Message
    from cygnet.wire.v1.message import Message as MessageV1


@dataclass(frozen=True, slots=True)
class MessageSeen:
    """A message left (`sent`) or arrived. `message` holds the payloads in clear, those inside SK included.

    `ike_sa` is the IKE SA's unique id, 0 before there is one. `repeat` marks retransmissions.
    """

    sent: bool
    path: Path
    message: Message | MessageV1
    ike_sa: int
    connection: str
    repeat: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """A datagram was dropped in silence. `detail` is fixed text or the parse error's, peer text escaped."""

    drop: Drop
    detail: str
    path: Path
    ike_sa: int


@dataclass(frozen=True, slots=True)
class IkeSaUp:
    sa: IkeSaView


@dataclass(frozen=True, slots=True)
class IkeSaDown:
    sa: IkeSaView
    failure: Failure


@dataclass(frozen=True, slots=True)
class IkeSaRekeyed:
    old: IkeSaView
    new: IkeSaView


@dataclass(frozen=True, slots=True)
class ChildSaUp:
    sa: IkeSaView
    child: ChildSaView


@dataclass(frozen=True, slots=True)
class ChildSaDown:
    sa: IkeSaView
    child: ChildSaView
    failure: Failure


@dataclass(frozen=True, slots=True)
class ChildSaRekeyed:
    sa: IkeSaView
    old: ChildSaView
    new: ChildSaView


@dataclass(frozen=True, slots=True)
class NegotiationFailed:
    """Something did not come about. `child` is empty when it concerns the IKE SA.

    `initiator` says which side began; `peer` is the peer's identity where it is known, else its address.
    `ike_sa` is the IKE SA on which it was tried, 0: none.
    """

    connection: str
    child: str
    initiator: bool
    path: Path | None
    peer: str
    failure: Failure
    ike_sa: int = 0


@dataclass(frozen=True, slots=True)
class OperationDone:
    """An `initiate`, `terminate` or `rekey` that a person asked for has ended. `failure` None is success."""

    operation: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Noted:
    """Worth a line in the log and nothing else happens: `code` is stable, `text` for people."""

    code: str
    text: str
    connection: str = ""
    ike_sa: int = 0


@dataclass(frozen=True, slots=True)
class CertificateExpires:
    """A certificate of ours, or of a CA that we trust (`ca`), ends soon, or has: `ends`, Unix seconds."""

    title: str
    ends: float
    ca: bool
    text: str


Event = (
    MessageSeen | Dropped | IkeSaUp | IkeSaDown | IkeSaRekeyed | ChildSaUp | ChildSaDown | ChildSaRekeyed
    | NegotiationFailed | OperationDone | Noted | CertificateExpires
)  # fmt: skip

__all__ = [
    "CertificateExpires",
    "ChildSaDown", "ChildSaRekeyed", "ChildSaUp", "Drop", "Dropped", "Event", "Failure", "IkeSaDown",
    "IkeSaRekeyed", "IkeSaUp", "MessageSeen", "NegotiationFailed", "Noted", "OperationDone", "Reason",
]  # fmt: skip
