"""What should happen in the world: the only way out of the negotiation besides answers to the caller.

The daemon carries them out in order. `Ask` and `InstallSa` are questions: their answer comes back
through `Endpoint.resume(ask_id, result, now)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cygnet.ike.world import Path
from cygnet.policy.sa import SaParameters
from cygnet.policy.selectors import IpAddress
from cygnet.policy.spd import Policy
from cygnet.records import dataclass

if TYPE_CHECKING:
    from cygnet.ike.events import Event


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """`data` is the UDP payload as it goes out, non-ESP marker included on port 4500."""

    path: Path
    data: bytes


@dataclass(frozen=True, slots=True)
class InstallSa:
    """Answered with `Installed` or `InstallFailed`; `ask_id` 0 wants no answer."""

    ask_id: int
    sa: SaParameters


@dataclass(frozen=True, slots=True)
class UpdateSa:
    pair: int
    path: Path
    encapsulated: bool


@dataclass(frozen=True, slots=True)
class RemoveSa:
    """`direction` as in `policy.sa.Direction`; `linger` seconds of receiving only (inbound)."""

    direction: int
    spi: int
    remote: IpAddress
    pair: int
    linger: float


@dataclass(frozen=True, slots=True)
class InstallPolicy:
    """Put a child's policy into force, or replace it whole. It precedes and outlives its SAs."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class RemovePolicy:
    policy: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """Which addresses has this name? Answered with a tuple of `IpAddress`, empty if none."""

    host: str


@dataclass(frozen=True, slots=True)
class Route:
    """From which local address is this one reached? Answered with a tuple of `IpAddress`, empty if none."""

    remote: IpAddress


Question = Resolve | Route


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to the outside; `deadline` is monotonic. An unanswered one is resumed with `TimedOut`."""

    ask_id: int
    question: Question
    deadline: float


@dataclass(frozen=True, slots=True)
class Emit:
    event: Event


Effect = SendDatagram | InstallSa | UpdateSa | RemoveSa | InstallPolicy | RemovePolicy | Ask | Emit


@dataclass(frozen=True, slots=True)
class Installed:
    pass


@dataclass(frozen=True, slots=True)
class InstallFailed:
    error: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    pass
