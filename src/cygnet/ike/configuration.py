"""What a gateway is configured to do, as immutable values: `config` builds them, `ike` obeys them.

Names and defaults are swanctl's (swanctl.conf(5)) where it has them. Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cygnet.auth.identity import Identity
from cygnet.auth.revocation import Policy
from cygnet.crypto.proposals import Proposal
from cygnet.policy.sa import Mode, SaProtocol, TunnelHeader
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.policy.spd import ChildRule, Flow
from cygnet.wire.numbers import Protocol


class AuthClass(StrEnum):
    PSK = "psk"
    PUBKEY = "pubkey"
    EAP = "eap"
    NULL = "null"
    """Nothing is proved (RFC 7619); the only round of its side. Of `remote`, `id` is `Identity.nobody()`."""
    XAUTH = "xauth"
    """IKEv1: a login after phase 1; the only round of its side: hybrid, phase 1 proves nothing of it."""


class Unique(StrEnum):
    """What a second IKE SA with the same pair of identities does to the first (swanctl `unique`)."""

    NEVER = "never"
    NO = "no"
    KEEP = "keep"
    REPLACE = "replace"


class StartAction(StrEnum):
    NONE = "none"
    TRAP = "trap"
    START = "start"
    TRAP_START = "trap|start"


class SendCert(StrEnum):
    ALWAYS = "always"
    IFASKED = "ifasked"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class LocalAuth:
    """How this gateway proves who it is. `certificates` are DER, the end entity's first.

    `id` None: the certificate's subject, or the local address. `schemes` limits the signature schemes
    (`crypto.signatures.SignatureScheme` names such as "rsa/pss-sha256"); empty: any the key can do.
    """

    method: AuthClass
    id: Identity | None = None
    certificates: tuple[bytes, ...] = ()
    public_keys: tuple[bytes, ...] = ()
    """Public keys (DER) in place of certificates (RFC 7670)."""
    schemes: tuple[str, ...] = ()
    eap_methods: tuple[int, ...] = ()
    """EAP: the method types that we take, best first; empty: any that we have."""
    eap_inside: str = ""
    """EAP-TTLS: what we say inside instead of EAP: `pap` or `mschapv2`."""
    eap_id: Identity | None = None
    """EAP: our name there; None: `id`."""
    aaa_id: Identity | None = None
    """EAP with TLS: whose certificate the server must have; None: the gateway's identity."""
    xauth_id: Identity | None = None
    """XAUTH: as whom we log in; None: `id`."""


@dataclass(frozen=True, slots=True)
class RemoteAuth:
    """How the peer must prove who it is. `id` may hold wildcards; None accepts any identity.

    `certificates`: the peer's must be one of these (DER). `ca_certificates`: its chain must end in one
    of these; empty: any CA loaded.
    """

    method: AuthClass
    id: Identity | None = None
    certificates: tuple[bytes, ...] = ()
    ca_certificates: tuple[bytes, ...] = ()
    public_keys: tuple[bytes, ...] = ()
    """The peer must have one of these keys (DER), with whatever certificate or none (RFC 7670)."""
    schemes: tuple[str, ...] = ()
    eap_methods: tuple[int, ...] = ()
    """EAP: the method types that we offer, best first."""
    radius: bool = False
    """EAP: a RADIUS server authenticates."""
    eap_id: Identity | None = None
    """EAP and XAUTH: the names that are taken, a pattern; None: any."""
    groups: tuple[str, ...] = ()
    """The user must be a member of one of these; empty: of any or none."""
    xauth: int = 0
    """XAUTH: how the peer must log in (`wire.v1.numbers.XauthType`)."""
    revocation: Policy = Policy.RELAXED
    """How much must be known of whether its certificates were revoked."""


@dataclass(frozen=True, slots=True)
class AddressRange:
    """One entry of `local_addrs`/`remote_addrs`: an address (first == last), a prefix or a range."""

    first: IpAddress
    last: IpAddress


@dataclass(frozen=True, slots=True)
class Manual:
    """SPIs and keys of a child that nobody negotiates; `in` is what this gateway receives with."""

    spi_in: int
    spi_out: int
    encryption_key_in: bytes = field(repr=False)
    integrity_key_in: bytes = field(repr=False)
    encryption_key_out: bytes = field(repr=False)
    integrity_key_out: bytes = field(repr=False)
    replay_window: int = 0


@dataclass(frozen=True, slots=True)
class Child:
    """A child: its flows become SA pairs, its rules the SPD. Rules without flows: mode pass or drop.

    `life_time` etc. 0: off. Actual rekey time is `rekey_time` minus a random part of `rand_time`.
    """

    name: str
    proposals: tuple[Proposal, ...]
    flows: tuple[Flow, ...]
    rules: tuple[ChildRule, ...]
    mode: Mode = Mode.TUNNEL
    rekey_time: float = 3600.0
    life_time: float = 3960.0
    rand_time: float = 360.0
    rekey_bytes: int = 0
    life_bytes: int = 0
    rand_bytes: int = 0
    rekey_packets: int = 0
    life_packets: int = 0
    rand_packets: int = 0
    start_action: StartAction = StartAction.NONE
    close_action: StartAction = StartAction.NONE
    dpd_action: StartAction = StartAction.NONE
    replay_window: int = 32
    priority: int = 0
    header: TunnelHeader = field(default_factory=TunnelHeader)
    ipcomp: bool = False
    tfc_padding: int = 0
    dummy_interval: float = 0.0
    interface: str = ""
    if_id: int = 0
    mark: int = 0
    hw_offload: str = "no"
    """These as in `policy.sa.SaParameters`."""
    around: tuple[Proposal, ...] = ()
    """A bundle: what of AH goes around the ESP of `proposals`; empty: none."""
    manual: Manual | None = None
    """Not None: keyed by hand, one proposal of one choice each, one flow."""

    @property
    def protocols(self) -> tuple[int, ...]:
        """As in `policy.spd.Policy`: that of the first proposal, or both of a bundle."""
        if self.around:
            return SaProtocol.ESP, SaProtocol.AH
        first_is_ah = bool(self.proposals) and self.proposals[0].protocol == Protocol.AH
        return (SaProtocol.AH if first_is_ah else SaProtocol.ESP,)


@dataclass(frozen=True, slots=True)
class Connection:
    """`local_addrs` empty: any address. `remote_addrs` empty and `remote_host` "": any peer (responder only).

    `remote_host` is a DNS name that is resolved each time the connection is initiated.
    `encap` None: as `Options.encapsulate` says.
    """

    name: str
    proposals: tuple[Proposal, ...]
    local: tuple[LocalAuth, ...]
    remote: tuple[RemoteAuth, ...]
    children: tuple[Child, ...]
    version: int = 2
    local_addrs: tuple[AddressRange, ...] = ()
    remote_addrs: tuple[AddressRange, ...] = ()
    remote_host: str = ""
    local_port: int = 500
    remote_port: int = 500
    encap: bool | None = None
    unique: Unique = Unique.NO
    rekey_time: float = 14400.0
    over_time: float = 1440.0
    rand_time: float = 1440.0
    reauth_time: float = 0.0
    dpd_delay: float = 0.0
    dpd_on_demand: bool = False
    keyingtries: int = 1
    send_cert: SendCert = SendCert.IFASKED
    send_certreq: bool = True
    ocsp: str = "reply"
    """OCSP in IKE (RFC 4806): `request` it of the peer, `reply` with ours where it asks, `both`, `never`."""
    childless: str = "allow"
    fragmentation: str = "yes"
    vips: tuple[IpAddress, ...] = ()
    """Virtual addresses that we ask the peer for; an unspecified one: any of its family."""
    translate: tuple[TrafficSelector, ...] = ()
    """Networks behind us whose hosts go out under our virtual address."""
    pools: tuple[str, ...] = ()
    """Names of the pools that peers get addresses and settings from, or addresses themselves."""
    ppk_id: Identity | None = None
    """The postquantum pre-shared key that we use as initiator, and the only one that we take (RFC 8784)."""
    ppk_required: bool = False
    aggressive: bool = False
    """IKEv1: aggressive mode instead of main mode, in either role."""
    dpd_timeout: float = 150.0
    """IKEv1: how long a peer may leave DPD unanswered."""
    pull: bool = True
    """IKEv1: the client asks for its settings; else the gateway sends them."""


@dataclass(frozen=True, slots=True)
class Retransmission:
    """t(n) = timeout * base ** n between sends, `tries` retransmissions, then the peer is unreachable."""

    timeout: float = 4.0
    base: float = 1.8
    tries: int = 5
    jitter: float = 0.0
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class Options:
    """What belongs to the whole gateway (strongswan.conf's charon section, where it has them)."""

    retransmission: Retransmission = field(default_factory=Retransmission)
    half_open_timeout: float = 30.0
    cookie_threshold: int = 30
    cookie_threshold_per_source: int = 3
    block_threshold: int = 5
    init_limit_half_open: int = 10_000
    keep_alive: float = 20.0
    delete_rekeyed_delay: float = 5.0
    fragment_size: int = 1280
    port: int = 500
    port_nat_t: int = 4500
    aggressive_psk: bool = False
    """IKEv1: answer aggressive mode with a pre-shared key. Whoever asks gets what a key can be guessed
    from."""
    hash_and_url: bool = False
    """Certificates by hash and URL: fetched, and sent so (RFC 7296, section 3.6)."""
    encapsulate: bool = False
    """Force UDP encapsulation where a connection does not say: userspace engines move it in batches."""
