"""The parameters of one security association: what `ike` builds and the data plane consumes.

One `SaParameters` is one direction (RFC 4301, section 4.4.2: an SAD entry). A Child SA is a pair
of them that share `pair`. The inbound one is installed and acknowledged before the peer is told
its SPI; the outbound one is installed when the peer is known to hold it.

What is around the inner packet, from the outside in (all parts but one of ESP and AH may be missing):

    IP header | UDP | AH | ESP | IPComp | inner packet (tunnel) or upper layers (transport)

AH around ESP is a bundle: two pairs, each with its SPIs, keys, counters and windows, linked by
`bundle`. The ESP pair has the bundle's mode, selectors and flow; the AH pair is the outer transform.
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
    set_df: bool = False
    """With `copy_df` off: DF is set on the outer header; both off: it is clear."""
    fragment_before: bool = False
    """An IPv4 packet without DF that does not fit is cut inside the tunnel, not the sealed one outside
    (RFC 4301, section 8.2.1 and appendix D)."""


OFFLOADS = ("no", "auto", "crypto", "packet")
TFC_TO_MTU = 0xFFFF
"""`tfc_padding`: as long as the path allows (swanctl's `mtu`)."""


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

    With AH `encryption` and `key_bits` are 0 and `encryption_key` is empty; GMAC's salt is the end of
    `integrity_key` (RFC 4543, section 5.4). Implicit IVs (RFC 8750) are a matter of the encryption's number.
    `replay_window` 0 turns the protection off: for manual SAs, whose numbers begin anew at each restart.
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
    ipcomp: int = 0
    """The CPI of this direction (RFC 3173), 0: no compression. The algorithm is always DEFLATE (RFC 2394),
    in whichever mode the SA has; packets that do not shrink go without the IPComp header."""
    tfc_padding: int = 0
    """Outbound ESP, tunnel mode: payloads are filled up to this many octets (RFC 4303, section 2.7), or
    to what fits (`TFC_TO_MTU`); 0: no. Not used if the peer sent ESP_TFC_PADDING_NOT_SUPPORTED."""
    dummy_interval: float = 0.0
    """Outbound ESP: seconds of silence after which a dummy packet goes out (RFC 4303, 2.6); 0: none does."""
    bundle: int = 0
    """AH around ESP: each names the other's pair. An ESP SA with a bundle sends only through the AH SA and
    takes only what came through it; an AH SA with a bundle carries nothing else. Both directions of the
    AH pair are installed first. AH's local and remote ends are ESP's; its mode is TRANSPORT, because the
    ESP packet already has its outer header."""
    manual: bool = False
    """Keys and SPIs from the configuration, no IKE. Refused with counter-mode ciphers (RFC 8221, section 3):
    a restart would repeat their IVs."""
    original_local: IpAddress | None = None
    original_remote: IpAddress | None = None
    """Transport mode behind a NAT, inbound: our address and the peer's as the peer knows them, which its
    TCP and UDP checksums were made with (RFC 3948, section 3.1.2). None: no NAT on that side; unspecified
    (0.0.0.0): there is one, and nobody told, so that checksums are made anew."""
    interface: str = ""
    """Route-based: the TUN device that this SA's traffic goes through; empty: policy-based."""
    if_id: int = 0
    """Route-based: the number of that interface (the kernel backend's XFRM if_id); 0: none."""
    mark: int = 0
    """Outbound: set on sealed packets (swanctl's `set_mark_out`), in the lower 16 bits of the fwmark; the
    upper ones are Cygnet's own. 0: none."""
    hw_offload: str = "no"
    """One of `OFFLOADS`: what of it the network device does; only the kernel has such devices."""
