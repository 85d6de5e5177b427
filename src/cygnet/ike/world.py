"""What the negotiation is told about the world: when it is, and on which path a datagram came."""

from __future__ import annotations

from cygnet.policy.selectors import IpAddress
from cygnet.records import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Instant:
    """`monotonic` seconds drive timers; `wall` (Unix seconds) judges certificates and stored lifetimes."""

    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True)
class Path:
    """Addresses and UDP ports of one datagram, from this gateway's side whichever way it travels."""

    local: IpAddress
    local_port: int
    remote: IpAddress
    remote_port: int

    def __str__(self) -> str:
        return f"{self.local}[{self.local_port}]...{self.remote}[{self.remote_port}]"
