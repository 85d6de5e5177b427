"""What an IKE SA is: immutable values, which hold bytes, numbers and tuples only, so that they can be stored.

The window (message ids, the answer kept) changes with every message and stands beside the state, for speed.
Concurrent exchanges meet in `attempts`: what is being created, rekeyed or closed, by whom, and the lowest
nonce known (RFC 7296, sections 2.8 and 2.25; the decisions are in `ike.collisions`).
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum, StrEnum
from functools import lru_cache

from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.crypto.ikev1 import Phase1Keys
from cygnet.crypto.kdf import IkeKeys
from cygnet.crypto.proposals import Proposal
from cygnet.ike.remote_access import Given, Lease
from cygnet.ike.world import Path
from cygnet.policy.sa import SaParameters, SaProtocol
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.records import dataclass
from cygnet.wire.numbers import Protocol


class Phase(StrEnum):
    """strongSwan's names. REKEYED: its children moved to a successor, only its Delete is left to come."""

    CONNECTING = "CONNECTING"
    ESTABLISHED = "ESTABLISHED"
    REKEYED = "REKEYED"
    DELETING = "DELETING"


class ChildPhase(StrEnum):
    """REKEYED: a newer pair carries its traffic. DELETING: our Delete is on its way."""

    INSTALLED = "INSTALLED"
    REKEYED = "REKEYED"
    DELETING = "DELETING"


@dataclass(frozen=True, slots=True)
class IkeSuite:
    """IANA numbers of what protects an IKE SA; `integrity` 0 with an AEAD.

    `additional`: (transform type, method) of each further key exchange, in order (RFC 9370).
    """

    encryption: int
    key_bits: int
    integrity: int
    prf: int
    key_exchange: int
    additional: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ChildSuite:
    """IANA numbers of what protects a Child SA; `key_exchange` 0 without PFS."""

    encryption: int
    key_bits: int
    integrity: int
    key_exchange: int
    esn: bool
    additional: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Isakmp:
    """What phase 1 of IKEv1 leaves for what follows. `encryption`, `key_bits`, `hash` and `authentication`
    are numbers of IKEv1's own registries.

    `last_block` is phase 1's last ciphertext block, which the IVs of later exchanges are made from (RFC 2409,
    appendix B), empty until phase 1 is over. `nat_t` is the vendor ID of the NAT traversal that both speak,
    empty: none. `dpd`: the peer answers R-U-THERE. `vendor_ids` are the peer's, as they came.
    `made`: when the keys were; what the peer proves in phase 1 it says later than that. `life`: the seconds
    that the peer keeps this SA, 0 when it has not said so. `contact`: it has said, behind aggressive mode and
    before its login, that it has no other SA with us.
    """

    encryption: int
    key_bits: int
    hash: int
    authentication: int
    keys: Phase1Keys
    last_block: bytes = b""
    nat_t: bytes = b""
    dpd: bool = False
    vendor_ids: tuple[bytes, ...] = ()
    made: float = 0.0
    life: int = 0
    contact: bool = False


@lru_cache(maxsize=256)
def ike_suite(
    encryption: int,
    key_bits: int,
    integrity: int,
    prf: int,
    key_exchange: int,
    additional: tuple[tuple[int, int], ...] = (),
) -> IkeSuite:
    """The same object for the same numbers: ten thousand SAs share a handful."""
    return IkeSuite(encryption, key_bits, integrity, prf, key_exchange, additional)


@lru_cache(maxsize=256)
def child_suite(
    encryption: int,
    key_bits: int,
    integrity: int,
    key_exchange: int,
    esn: bool,
    additional: tuple[tuple[int, int], ...] = (),
) -> ChildSuite:
    return ChildSuite(encryption, key_bits, integrity, key_exchange, esn, additional)


@dataclass(frozen=True, slots=True)
class Around:
    """AH around the ESP of a bundle: a pair of its own that is installed, rekeyed and removed with the other
    (RFC 4306, section 1.4)."""

    pair: int
    spi_in: int
    spi_out: int
    suite: ChildSuite


@dataclass(frozen=True, slots=True)
class Half:
    """The AH of a bundle, agreed on and not installed; its ESP comes until `expires_at` (0: at once)."""

    around: Around
    proposal: Proposal
    key_in: bytes = field(repr=False)
    key_out: bytes = field(repr=False)
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ChildSa:
    """A pair of SAs, or with `around` a bundle of two. Times are monotonic, 0 = never.

    `outbound` holds the parameters of an outbound SA that waits until the peer is known to hold the
    pair (RFC 7296, section 2.8). `replaces` is the pair that it was made to replace, 0 if none.
    `announced`: people were told that it is up; a rekey hands that on to the new pair. `deleted`: IKEv1's
    peer was told of its end, so it never serves again.
    `redundant`: lost a collision of rekeys and goes without a word. `policy` is the endpoint's
    number of the policy that its flow belongs to. `initiator`: we began the exchange that made it.
    `nonce` is the lowest of the two that made the first pair of its line: a rekey hands it on, so that both
    ends compare the same when a creation met one (see `ike.collisions.twin`).
    """

    pair: int
    name: str
    flow_index: int
    flow: int
    policy: int
    spi_in: int
    spi_out: int
    mode: int
    protocol: int
    encapsulated: bool
    suite: ChildSuite
    local_selectors: tuple[TrafficSelector, ...]
    remote_selectors: tuple[TrafficSelector, ...]
    installed: float
    rekey_at: float
    expires_at: float
    initiator: bool
    phase: ChildPhase = ChildPhase.INSTALLED
    nonce: bytes = b""
    outbound: SaParameters | None = None
    replaces: int = 0
    announced: bool = True
    redundant: bool = False
    deleted: bool = False
    around: Around | None = None

    @property
    def ike_protocol(self) -> int:
        """Its number in IKE's payloads."""
        return Protocol.AH if self.protocol == SaProtocol.AH else Protocol.ESP

    @property
    def halves(self) -> tuple[tuple[int, int, int], ...]:
        """(number in IKE's payloads, our SPI, the peer's) of each pair: two of a bundle."""
        own = (self.ike_protocol, self.spi_in, self.spi_out)
        if self.around is None:
            return (own,)
        return own, (Protocol.AH, self.around.spi_in, self.around.spi_out)

    @property
    def pairs(self) -> tuple[int, ...]:
        return (self.pair,) if self.around is None else (self.pair, self.around.pair)

    def is_named(self, protocol: int, spi: int) -> bool:
        """Whether the peer means it, by either half of a bundle."""
        return any((one, theirs) == (protocol, spi) for one, _, theirs in self.halves)


class AttemptKind(IntEnum):
    CREATE_CHILD = 1
    REKEY_CHILD = 2
    DELETE_CHILD = 3
    REKEY_IKE = 4
    DELETE_IKE = 5


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one end is doing. Ours lasts as long as our exchange; the peer's (a rekey that we answered)
    until the matter is decided.

    `pair` is the Child SA concerned, 0 for the IKE SA. `nonce` is the lowest known of the exchange.
    `result` is what came of it: the new pair, or the number of the new IKE SA; 0 while open.
    `following`: CREATE_CHILD_SA is done and further key exchanges follow it (RFC 9370, section 2.2.4).
    """

    kind: AttemptKind
    ours: bool
    pair: int = 0
    nonce: bytes = b""
    result: int = 0
    following: bool = False


@dataclass(frozen=True, slots=True)
class SaState:
    """`original_initiator`: we started the exchange that made this SA. `fragmentation`: the peer reassembles.

    `began`: we sent the very first message, before any rekey: it never changes.
    `nonce` is the lowest of the two that made it: two SAs that were set up at once are told apart
    by it. `deleted_early` are SPIs that the peer deleted before its answer that creates them came
    (they matter only while an attempt of ours is open). `leases`: addresses that the peer has of us;
    `given`: what we have of the peer.
    """

    phase: Phase
    original_initiator: bool
    spi_i: bytes
    spi_r: bytes
    path: Path
    created: float
    suite: IkeSuite | None = None
    keys: IkeKeys | None = None
    isakmp: Isakmp | None = None
    nat_local: bool = False
    nat_remote: bool = False
    forced: bool = False
    fragmentation: bool = False
    nonce: bytes = b""
    local_id: Identity | None = None
    peer: AuthenticatedPeer | None = None
    established: float = 0.0
    rekey_at: float = 0.0
    reauth_at: float = 0.0
    expires_at: float = 0.0
    children: tuple[ChildSa, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    deleted_early: tuple[int, ...] = ()
    successor: int = 0
    began: bool = False
    ends_at: float = 0.0
    """When the peer's authentication holds no longer, whatever is rekeyed (RFC 4478); 0: never."""
    version: int = 2
    leases: tuple[Lease, ...] = ()
    given: Given | None = None
    halves: tuple[Half, ...] = ()

    @property
    def local_spi(self) -> bytes:
        return self.spi_i if self.original_initiator else self.spi_r

    @property
    def remote_spi(self) -> bytes:
        return self.spi_r if self.original_initiator else self.spi_i

    @property
    def encapsulated(self) -> bool:
        """ESP goes inside UDP: a NAT was seen, or one end pretended one (RFC 7296, section 2.23)."""
        return self.nat_local or self.nat_remote or self.forced

    @property
    def local_hosts(self) -> tuple[IpAddress, ...]:
        """What `dynamic` means on our side: the addresses that we were given, else our end of the tunnel."""
        return self.given.addresses if self.given is not None and self.given.addresses else (self.path.local,)

    @property
    def remote_hosts(self) -> tuple[IpAddress, ...]:
        """What `dynamic` means on the peer's side."""
        return tuple([lease.address for lease in self.leases]) or (self.path.remote,)

    def child(self, pair: int) -> ChildSa | None:
        for child in self.children:
            if child.pair == pair:
                return child
        return None

    def owner(self, pair: int) -> ChildSa | None:
        """The Child SA that this pair is, or is the AH of."""
        for child in self.children:
            if pair in child.pairs:
                return child
        return None

    def child_by_spi_out(self, spi: int) -> ChildSa | None:
        """The peer names a Child SA by the SPI that it receives on (RFC 7296, sections 1.3.3 and 1.4.1)."""
        for child in self.children:
            if child.spi_out == spi or (child.around is not None and child.around.spi_out == spi):
                return child
        return None


@dataclass(frozen=True, slots=True)
class Window:
    """Message ids of both directions, window 1 (RFC 7296, sections 2.2 and 2.3), and the last answer.

    `answered` is the digest of the request (of its first fragment) that `answer`'s datagrams answered.
    `iv` counts every sealed datagram: no nonce is used twice with a key.
    """

    next_out: int = 0
    next_in: int = 0
    iv: int = 0
    answered: bytes = b""
    answer: tuple[bytes, ...] = field(default=(), repr=False)
