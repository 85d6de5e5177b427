"""The parameters of one security association: what `ike` builds and the data plane consumes.

One `SaParameters` is one direction (RFC 4301, section 4.4.2: an SAD entry). A Child SA is a pair
of them that share `pair`. The inbound one is installed and acknowledged before the peer is told
its SPI; the outbound one is installed when the peer is known to hold it.
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum

from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.records import dataclass


class Direction(IntEnum):
    IN = 0
    OUT = 1


class Mode(IntEnum):
    TUNNEL = 1
    TRANSPORT = 2


class SaProtocol(IntEnum):
    """IP protocol numbers of the two IPsec protocols."""

    ESP = 50
    AH = 51


@dataclass(frozen=True, slots=True)
class UdpEncapsulation:
    """ESP inside UDP (RFC 3948): the port of this end and the port the peer is reached on."""

    local_port: int
    remote_port: int


@dataclass(frozen=True, slots=True)
class Volume:
    """A limit that the data plane counts; 0 means no limit. Soft asks for a rekey, hard removes the SA."""

    soft_bytes: int = 0
    hard_bytes: int = 0
    soft_packets: int = 0
    hard_packets: int = 0


@dataclass(frozen=True, slots=True)
class TunnelHeader:
    """How the outer header is made from the inner one (RFC 4301, section 5.1.2; RFC 6040)."""

    copy_dscp_out: bool = True
    copy_dscp_in: bool = False
    copy_ecn: bool = True
    copy_df: bool = True


@dataclass(frozen=True, slots=True)
class SaParameters:
    """One SA in one direction. Keys are octets in the lengths that the transforms want, salt included
    in `encryption_key` for AEADs and AES-CTR (RFC 4106, section 8.1); they are left out of `repr`.

    `local` and `remote` are the tunnel's ends as seen from this gateway, in both directions.
    `local_selectors` and `remote_selectors` are this gateway's side and the peer's, in both directions.
    `spi` is the destination's choice: ours for inbound, the peer's for outbound.
    `flow` names the flow (`policy.spd.PolicyRule.flow`) whose traffic this SA carries.
    `hard_seconds` is the age at which the data plane removes the SA by itself, 0 = never: the daemon's
    own timers come earlier, this one holds when the daemon is gone.
    """

    direction: Direction
    protocol: int
    mode: int
    spi: int
    pair: int
    flow: int
    local: IpAddress
    remote: IpAddress
    encapsulation: UdpEncapsulation | None
    encryption: int
    key_bits: int
    integrity: int
    encryption_key: bytes = field(repr=False)
    integrity_key: bytes = field(repr=False)
    esn: bool
    replay_window: int
    local_selectors: tuple[TrafficSelector, ...]
    remote_selectors: tuple[TrafficSelector, ...]
    volume: Volume = Volume()
    hard_seconds: float = 0.0
    header: TunnelHeader = TunnelHeader()
    notify_first_use: bool = False
