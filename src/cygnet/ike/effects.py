"""What should happen in the world: the only way out of the negotiation besides answers to the caller.

The daemon carries them out in order. `Ask` and `InstallSa` are questions: their answer comes back
through `Endpoint.resume(ask_id, result, now)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cygnet.auth.ask import AuthQuestion
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.ike.remote_access import HostConfiguration, Lease, NetworkSettings
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


@dataclass(frozen=True, slots=True)
class LeaseAddresses:
    """Addresses out of these pools for a peer that has proved who it is. Answered with `Leased`.

    `wanted`: one entry for each address, an unspecified one of its family where any will do. `here`: what the
    same user holds already over other SAs from the same outer address and port, as one device does that
    authenticates anew. `alone`: whatever else this identity holds is about to be closed.
    """

    peer: AuthenticatedPeer
    pools: tuple[str, ...]
    wanted: tuple[IpAddress, ...]
    here: tuple[Lease, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class LookAtTraffic:
    """How long ago have these pairs carried anything? Answered with `Traffic`."""

    pairs: tuple[int, ...]


Question = Resolve | Route | LeaseAddresses | LookAtTraffic | AuthQuestion


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to the outside; `deadline` is monotonic. An unanswered one is resumed with `TimedOut`."""

    ask_id: int
    question: Question
    deadline: float


@dataclass(frozen=True, slots=True)
class ReturnAddresses:
    """What was leased is free again, though it is kept for the same identity as long as it can be."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Configure:
    """Set this host up so and no other way. Answered with `Installed` or `InstallFailed`; `ask_id` 0 wants
    no answer."""

    ask_id: int
    host: HostConfiguration


@dataclass(frozen=True, slots=True)
class Emit:
    event: Event


Effect = (
    SendDatagram | InstallSa | UpdateSa | RemoveSa | InstallPolicy | RemovePolicy | Ask
    | ReturnAddresses | Configure | Emit
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Installed:
    pass


@dataclass(frozen=True, slots=True)
class InstallFailed:
    error: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    pass


@dataclass(frozen=True, slots=True)
class Traffic:
    """Seconds since the last packet of either direction, infinite if there was none."""

    inbound: float
    outbound: float


@dataclass(frozen=True, slots=True)
class Leased:
    """What could be leased, in the order of what was wanted, and what the pools tell clients besides.
    `refused` says why an address is missing."""

    leases: tuple[Lease, ...]
    settings: NetworkSettings
    refused: str = ""
