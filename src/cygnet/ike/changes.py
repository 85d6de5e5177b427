"""What exchanges hand back, and the one function that makes the next state of an SA from the last.

`transition` takes all changes or none: an exchange never touches the SA.
"""

from __future__ import annotations

from dataclasses import field

from cygnet.auth.identity import Identity
from cygnet.auth.peer import AuthenticatedPeer
from cygnet.crypto.kdf import IkeKeys
from cygnet.ike.configuration import Connection
from cygnet.ike.errors import Failure
from cygnet.ike.remote_access import Given, Lease
from cygnet.ike.state import (
    Attempt,
    ChildSa,
    Half,
    IkeSuite,
    Isakmp,
    Phase,
    SaState,
)
from cygnet.ike.world import Path
from cygnet.records import dataclass, replace


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
class NoteContact:
    """IKEv1: before its login the peer says that it has no other SA with us."""


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
class AddHalf:
    """The peer has made the AH of a bundle; it waits for its ESP. One is enough: the peer makes one bundle
    at a time, so what it left unfinished goes."""

    half: Half


@dataclass(frozen=True, slots=True)
class DropHalves:
    """The ESP of these bundles does not come; by our SPIs of their AH."""

    spis: tuple[int, ...]


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
    UseKeys | ChangeKeys | Establish | Lend | Unlend | Take | AddChild | ChangeChild | DropChild | AddHalf
    | DropHalves | NoteAttempt | ForgetAttempt | MeetPeer | UseIsakmpKeys | EndPhase1 | NoteLife | NoteContact
    | MoveChildren | NoteEarlyDelete | ChangePhase | ChangePath | Postpone | PostponeReauthentication
    | Handover | Adopt
)  # fmt: skip


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
            halves = tuple([half for half in state.halves if half.around != child.around])
            return _taking_over(replace(state, children=(*state.children, child), halves=halves), child)
        case AddHalf(half):
            return replace(state, halves=(half,))
        case DropHalves(spis):
            left = tuple([half for half in state.halves if half.around.spi_in not in spis])
            return replace(state, halves=left)
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
            return replace(state, phase=phase, halves=())
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
                halves=(),
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
        case NoteContact():
            if state.isakmp is None:
                raise ImpossibleChange("phase 1 without keys")
            return replace(state, isakmp=replace(state.isakmp, contact=True))
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
