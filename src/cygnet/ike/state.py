"""What an IKE SA is: immutable values, and the one function that makes the next from the last.

`SaState` holds bytes, numbers and tuples only, so that it can be stored. Exchanges read it and
hand back `Change`s; `transition` makes the next state of all of them or of none. The window
(message ids, the answer kept) changes with every message and stands beside it, for speed.

Concurrent exchanges meet in `attempts`: what is being created, rekeyed or closed, by whom, and the
lowest nonce known (RFC 7296, sections 2.8 and 2.25; the decisions are in `ike.collisions`).
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum, StrEnum
from functools import lru_cache

from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.crypto.ikev1 import Phase1Keys
from cygnet.crypto.kdf import IkeKeys
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import Failure
from cygnet.ike.remote_access import Given, Lease
from cygnet.ike.world import Path
from cygnet.policy.sa import SaParameters, SaProtocol
from cygnet.policy.selectors import IpAddress, TrafficSelector
from cygnet.records import dataclass, replace
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
    that the peer keeps this SA, 0 when it has not said so.
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
class ChildSa:
    """A pair of SAs. Times are monotonic, 0 = never.

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

    @property
    def ike_protocol(self) -> int:
        """Its number in IKE's payloads."""
        return Protocol.AH if self.protocol == SaProtocol.AH else Protocol.ESP


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

    def child_by_spi_out(self, spi: int) -> ChildSa | None:
        """The peer names a Child SA by the SPI that it receives on (RFC 7296, sections 1.3.3 and 1.4.1)."""
        for child in self.children:
            if child.spi_out == spi:
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


# -- changes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MeetPeer:
    """IKEv1's responder has chosen its cookie."""

    spi_r: bytes


@dataclass(frozen=True, slots=True)
class UseIsakmpKeys:
    """Phase 1 of IKEv1 has agreed on keys, or learned what goes with them."""

    spi_i: bytes
    spi_r: bytes
    suite: IkeSuite
    isakmp: Isakmp
    nat_local: bool
    nat_remote: bool
    forced: bool
    fragmentation: bool
    nonce: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class EndPhase1:
    """Its last message is sent or accepted: IVs are made from this block now."""

    last_block: bytes


@dataclass(frozen=True, slots=True)
class NoteLife:
    """IKEv1: the peer keeps this phase 1 SA only so many seconds; of an established one, what comes of it."""

    seconds: int
    rekey_at: float = 0.0
    reauth_at: float = 0.0
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class MoveChildren:
    """IKEv1: the Child SAs go on under another phase 1 of the same peer (its number)."""

    heir: int


@dataclass(frozen=True, slots=True)
class UseKeys:
    """IKE_SA_INIT is done: everything from here on is protected."""

    spi_i: bytes
    spi_r: bytes
    suite: IkeSuite
    keys: IkeKeys
    nat_local: bool
    nat_remote: bool
    forced: bool
    fragmentation: bool
    nonce: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class ChangeKeys:
    """A further key exchange is done (RFC 9370, section 2.2.2), or a pre-shared key went into the keys."""

    keys: IkeKeys = field(repr=False)


@dataclass(frozen=True, slots=True)
class Establish:
    """The peer has proved who it is. The only way to ESTABLISHED, and it takes the proof.

    `connection` is the one that the proof was judged by. `initial_contact`: the peer says that it has
    no other IKE SA with us (RFC 7296, section 2.4)."""

    peer: AuthenticatedPeer
    connection: Connection
    local_id: Identity
    now: float
    rekey_at: float
    reauth_at: float
    expires_at: float
    initial_contact: bool = False
    ends_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Lend:
    """These addresses are leased to the peer that proved who it is."""

    peer: AuthenticatedPeer
    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Unlend:
    """The peer does not want these addresses."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Take:
    """The peer gave us this."""

    given: Given


@dataclass(frozen=True, slots=True)
class AddChild:
    child: ChildSa


@dataclass(frozen=True, slots=True)
class ChangeChild:
    """Replace the child of the same pair."""

    child: ChildSa


@dataclass(frozen=True, slots=True)
class DropChild:
    """`failure` None: the pair goes without a word (replaced, or redundant)."""

    pair: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class NoteAttempt:
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class ForgetAttempt:
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class NoteEarlyDelete:
    spi: int


@dataclass(frozen=True, slots=True)
class ChangePhase:
    phase: Phase


@dataclass(frozen=True, slots=True)
class ChangePath:
    """An authentic message came on another path (NAT rebinding, or the move to port 4500)."""

    path: Path


@dataclass(frozen=True, slots=True)
class Postpone:
    """Try the rekey of the IKE SA (pair 0) or of a child again at this time."""

    pair: int
    at: float


@dataclass(frozen=True, slots=True)
class PostponeReauthentication:
    """Authenticate anew at this time."""

    at: float


@dataclass(frozen=True, slots=True)
class Handover:
    """Children and queued requests move to the successor (its number), all at once."""

    successor: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """The other half of a handover: the successor takes the children, and the addresses of both ends."""

    children: tuple[ChildSa, ...]
    leases: tuple[Lease, ...] = ()
    given: Given | None = None


Change = (
    UseKeys | ChangeKeys | Establish | Lend | Unlend | Take | AddChild | ChangeChild | DropChild | NoteAttempt
    | ForgetAttempt | MeetPeer | UseIsakmpKeys | EndPhase1 | NoteLife | MoveChildren | NoteEarlyDelete
    | ChangePhase | ChangePath | Postpone | PostponeReauthentication | Handover | Adopt
)  # fmt: skip


# -- what waits its turn ------------------------------------------------------------------------


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
    operation: int = 0


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


class ImpossibleChange(Exception):
    """A change that does not fit the state: a mistake of ours, never reachable from the wire."""


def transition(state: SaState, changes: tuple[Change, ...]) -> SaState:
    """The state after all `changes`; raises ImpossibleChange, and then nothing has changed."""
    for change in changes:
        state = _changed(state, change)
    return _tidy(state) if state.attempts or state.deleted_early else state


def _changed(state: SaState, change: Change) -> SaState:
    match change:
        case AddChild(child):
            if state.child(child.pair) is not None or state.peer is None:
                raise ImpossibleChange(f"child {child.pair} cannot be added")
            return _taking_over(replace(state, children=(*state.children, child)), child)
        case ChangeChild(child):
            if state.child(child.pair) is None:
                raise ImpossibleChange(f"no child {child.pair}")
            changed = tuple([child if c.pair == child.pair else c for c in state.children])
            return _taking_over(replace(state, children=changed), child)
        case DropChild(pair, _):
            return replace(state, children=tuple([c for c in state.children if c.pair != pair]))
        case NoteAttempt(attempt):
            return replace(state, attempts=(*state.attempts, attempt))
        case ForgetAttempt(attempt):
            return replace(state, attempts=tuple([a for a in state.attempts if a != attempt]))
        case NoteEarlyDelete(spi):
            return replace(state, deleted_early=(*state.deleted_early[-15:], spi))
        case ChangePhase(phase):
            return replace(state, phase=phase)
        case ChangePath(path):
            return replace(state, path=path)
        case Postpone(0, at):
            return replace(state, rekey_at=at)
        case Postpone(pair, at):
            known = state.child(pair)
            return state if known is None else _changed(state, ChangeChild(replace(known, rekey_at=at)))
        case PostponeReauthentication(at):
            return replace(state, reauth_at=at)
        case Lend(_, leases):
            return replace(state, leases=(*state.leases, *leases))
        case Unlend(leases):
            return replace(state, leases=tuple([one for one in state.leases if one not in leases]))
        case Take(given):
            return replace(state, given=given)
        case Adopt(children, leases, given):
            return replace(
                state,
                children=(*state.children, *children),
                leases=(*state.leases, *leases),
                given=given or state.given,
            )
        case Handover(successor):
            return replace(
                state,
                phase=Phase.REKEYED,
                children=(),
                successor=successor,
                attempts=(),
                leases=(),
                given=None,
            )
        case UseKeys():
            return replace(
                state,
                spi_i=change.spi_i,
                spi_r=change.spi_r,
                suite=change.suite,
                keys=change.keys,
                nat_local=change.nat_local,
                nat_remote=change.nat_remote,
                forced=change.forced,
                fragmentation=change.fragmentation,
                nonce=change.nonce,
                path=change.path,
            )
        case UseIsakmpKeys():
            return replace(
                state,
                spi_i=change.spi_i,
                spi_r=change.spi_r,
                suite=change.suite,
                isakmp=change.isakmp,
                nat_local=change.nat_local,
                nat_remote=change.nat_remote,
                forced=change.forced,
                fragmentation=change.fragmentation,
                nonce=change.nonce,
                path=change.path,
            )
        case MeetPeer(spi_r):
            return replace(state, spi_r=spi_r)
        case EndPhase1(last_block):
            if state.isakmp is None:
                raise ImpossibleChange("phase 1 without keys")
            return replace(state, isakmp=replace(state.isakmp, last_block=last_block))
        case NoteLife(seconds, rekey_at, reauth_at, expires_at):
            if state.isakmp is None:
                raise ImpossibleChange("phase 1 without keys")
            return replace(
                state,
                isakmp=replace(state.isakmp, life=seconds),
                rekey_at=rekey_at,
                reauth_at=reauth_at,
                expires_at=expires_at,
            )
        case MoveChildren():
            return replace(state, children=(), leases=())
        case ChangeKeys(keys):
            return replace(state, keys=keys)
        case Establish():
            if state.phase is not Phase.CONNECTING or (state.keys is None and state.isakmp is None):
                raise ImpossibleChange(f"{state.phase} cannot become established")
            return replace(
                state,
                phase=Phase.ESTABLISHED,
                peer=change.peer,
                local_id=change.local_id,
                established=change.now,
                rekey_at=change.rekey_at,
                reauth_at=change.reauth_at,
                expires_at=change.expires_at,
                ends_at=change.ends_at,
            )


def taken_over(state: SaState, child: ChildSa) -> ChildSa | None:
    """The announced pair whose place `child` takes: what it replaces, or what that one was to replace."""
    known = state.child(child.replaces)
    for _ in state.children:
        if known is None or known.announced:
            break
        known = state.child(known.replaces)
    return known if known is not None and known.announced else None


def _taking_over(state: SaState, child: ChildSa) -> SaState:
    """Of the pairs that carry one flow during a rekey, one is announced: an end is told once (C8)."""
    old = taken_over(state, child) if child.announced else None
    if old is None:
        return state
    return replace(
        state, children=tuple([replace(c, announced=False) if c is old else c for c in state.children])
    )


def _tidy(state: SaState) -> SaState:
    """Forget what can matter no more: the peer's rekey of a child that is gone and that we are not
    rekeying ourselves (C45: a stale one would spoil the next rekey), early deletes without an attempt."""
    open_pairs = {attempt.pair for attempt in state.attempts if attempt.ours}
    known = {child.pair for child in state.children}
    attempts = tuple(
        [
            attempt
            for attempt in state.attempts
            if attempt.ours or not attempt.pair or attempt.pair in known or attempt.pair in open_pairs
        ]
    )
    early = state.deleted_early if open_pairs else ()
    if len(attempts) == len(state.attempts) and early == state.deleted_early:
        return state
    return replace(state, attempts=attempts, deleted_early=early)
