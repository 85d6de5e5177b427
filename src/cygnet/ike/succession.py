"""One IKE SA takes over from another: successors made, adopted, dismissed (RFC 7296, 2.8.2 and 2.18).

A successor exists from the exchange that made it; it comes into use by a handover, in which children
and queued requests move in one change. Of two that were made at once, one is dismissed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cygnet.ike import children, reconnect, running, upkeep
from cygnet.ike.changes import Adopt, ChangePhase, ForgetAttempt, Handover, UseKeys
from cygnet.ike.errors import Failure, Reason
from cygnet.ike.events import IkeSaRekeyed
from cygnet.ike.state import AttemptKind, ChildSa, Phase, SaState
from cygnet.ike.wanted import CheckLiveness, DeleteIke, RekeyIke

if TYPE_CHECKING:
    from cygnet.ike.endpoint import Endpoint
    from cygnet.ike.sa import IkeSa

REKEYED_PATIENCE: Final = 60.0
"""Seconds until we delete a rekeyed IKE SA ourselves, if the peer whose task it is does not."""
REKEYED: Final = Failure(Reason.REPLACED, "rekeyed")


def create_successor(gateway: Endpoint, sa: IkeSa, original_initiator: bool, keys: UseKeys) -> int:
    """The IKE SA that takes over from this one once `Handover` says so (RFC 7296, section 2.18)."""
    old = sa.state
    now = gateway.now.monotonic
    state = SaState(
        phase=Phase.ESTABLISHED,
        original_initiator=original_initiator,
        spi_i=keys.spi_i,
        spi_r=keys.spi_r,
        path=keys.path,
        created=now,
        suite=keys.suite,
        keys=keys.keys,
        nat_local=old.nat_local,
        nat_remote=old.nat_remote,
        forced=old.forced,
        fragmentation=old.fragmentation,
        nonce=keys.nonce,
        local_id=old.local_id,
        peer=old.peer,
        established=now,
        began=old.began,
    )
    state = upkeep.with_deadlines(state, sa.connection, old, gateway.entropy)
    return gateway.create(type(sa), sa.connection, state, sa.unique_id).unique_id


def handover(gateway: Endpoint, sa: IkeSa, before: SaState, number: int) -> None:
    """Children and queued requests move, all at once."""
    successor = gateway.by_number.get(number)
    if successor is None:
        gateway.give_back(before, sa.unique_id)
        return
    successor.parent = 0
    successor.connection = sa.connection
    gateway.join_connection(successor)
    successor.commit((Adopt(before.children, before.leases, before.given),))
    gateway.clients.move(sa.unique_id, number)
    for child in before.children:
        if child.outbound is not None and not child.replaces and not child.redundant:
            # Who waited on the old IKE SA to send on it has gone with that.
            running.begin_local(successor, children.activate(successor, child.pair))
    # What the rekey itself has done, or what was about the old one alone, does not move.
    moving = [w for w in sa.queue or () if w.operation or not isinstance(w, RekeyIke | CheckLiveness)]
    for wanted in moving:
        if isinstance(wanted, RekeyIke):
            gateway.operation_ended(wanted.operation, None)
        else:
            running.enqueue(successor, wanted)
    sa.queue = None
    successor.later, sa.later = sa.later, ()
    running.postpone(sa, DeleteIke(REKEYED), gateway.now.monotonic + REKEYED_PATIENCE)
    gateway.leave_peer(sa)
    gateway.leave_connection(sa)
    reconnect.follow(gateway, sa, number)
    gateway.join_peer(successor)
    gateway.touch(successor)
    gateway.history.forget_rekeys(sa.connection.name, "")
    gateway.event(IkeSaRekeyed(sa.view(), successor.view()))


def relieve(gateway: Endpoint, sa: IkeSa, gone: ChildSa) -> None:
    """A pair ends: one of the same flow that waits on another IKE SA with this peer (it was authenticated
    anew) is sent on from now on."""
    for other in gateway.others_of_peer(sa):
        for child in other.state.children:
            if child.flow == gone.flow and child.outbound is not None and not child.replaces:
                running.begin_local(other, children.activate(other, child.pair))


def dismiss(gateway: Endpoint, number: int, *, ours: bool) -> None:
    """A successor that lost (RFC 7296, section 2.8.2) is closed by whoever began it, without a word to
    people; the other side waits for that, in measure."""
    sa = gateway.by_number.get(number)
    if sa is None:
        return
    sa.parent = 0
    sa.commit((ChangePhase(Phase.REKEYED),))
    if ours:
        running.enqueue(sa, DeleteIke(REKEYED))
    else:
        running.postpone(sa, DeleteIke(REKEYED), gateway.now.monotonic + REKEYED_PATIENCE)


def adopt_on_use(gateway: Endpoint, sa: IkeSa) -> None:
    """The peer uses the successor that it made: it has decided the collision of rekeys for it."""
    parent = gateway.by_number.get(sa.parent)
    sa.parent = 0
    if parent is not None and any(a.result == sa.unique_id for a in parent.state.attempts):
        parent.commit((Handover(sa.unique_id),))


def abandon(gateway: Endpoint, number: int) -> None:
    """A successor that lost, or whose exchange failed: it was never in use."""
    sa = gateway.by_number.get(number)
    if sa is not None:
        gateway.forget(sa)


def closing(gateway: Endpoint, sa: IkeSa, failure: Failure, *, telling: bool = False) -> None:
    """It is about to end, its children still stand: what has to come up again is noted now.

    `telling`: the peer will hear of it; what it may have rekeyed to is closed with it."""
    theirs = [a for a in sa.state.attempts if not a.ours and a.kind is AttemptKind.REKEY_IKE]
    for attempt in theirs:
        if telling:
            dismiss(gateway, attempt.result, ours=True)
        else:
            abandon(gateway, attempt.result)
    sa.commit(tuple(map(ForgetAttempt, theirs)))
    parent = gateway.by_number.get(sa.parent)
    if parent is not None:
        # The peer gives up its rekey of that one: what is left of it is what was before.
        given_up = [a for a in parent.state.attempts if not a.ours and a.result == sa.unique_id]
        parent.commit(tuple([ForgetAttempt(a) for a in given_up if a.kind is AttemptKind.REKEY_IKE]))
    if sa.state.phase is Phase.CONNECTING:
        if sa.state.original_initiator:
            gateway.reconnecting.failed(sa, failure)
    else:
        gateway.reconnecting.lost(sa, failure)
