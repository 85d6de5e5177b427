"""Read-only pictures of live SAs, made when someone looks: what events, status and VICI show."""

from __future__ import annotations

from typing import Any

from cygnet.auth.identity import Identity
from cygnet.ike.state import Around
from cygnet.ike.world import Path
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.records import dataclass


@dataclass(frozen=True, slots=True)
class ChildSaView:
    """Algorithms are IANA numbers, 0 where there is none; times are monotonic, 0 = never."""

    name: str
    rule: str
    pair: int
    flow: int
    state: str
    mode: int
    protocol: int
    encapsulated: bool
    spi_in: int
    spi_out: int
    encryption: int
    key_bits: int
    integrity: int
    key_exchange: int
    esn: bool
    local_selectors: tuple[TrafficSelector, ...]
    remote_selectors: tuple[TrafficSelector, ...]
    installed: float
    rekey_at: float
    expires_at: float
    additional_key_exchanges: tuple[int, ...] = ()
    around: Around | None = None
    """The AH of a bundle."""


@dataclass(frozen=True, slots=True)
class IkeSaView:
    """`state` and child `state` are strongSwan's names (CONNECTING, ESTABLISHED, REKEYING, DELETING ...)."""

    unique_id: int
    connection: str
    version: int
    state: str
    initiator: bool
    initiator_spi: int
    responder_spi: int
    path: Path
    local_id: Identity | None
    remote_id: Identity | None
    nat_local: bool
    nat_remote: bool
    nat_fake: bool
    encryption: int
    key_bits: int
    integrity: int
    prf: int
    key_exchange: int
    established: float
    rekey_at: float
    expires_at: float
    children: tuple[ChildSaView, ...]
    local_vips: tuple[IpAddress, ...] = ()
    """Virtual addresses: ours that the peer gave us, the peer's that it has of us."""
    remote_vips: tuple[IpAddress, ...] = ()
    remote_eap_id: Identity | None = None
    remote_vendor_ids: tuple[bytes, ...] = ()
    """IKEv1: what the peer said about itself, as it came."""
    remote_attributes: tuple[tuple[str, Any], ...] = ()
    """What a RADIUS server said of the user."""
    additional_key_exchanges: tuple[int, ...] = ()
    """The further methods, in the order in which they were done (RFC 9370)."""
