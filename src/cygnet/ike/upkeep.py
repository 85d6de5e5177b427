"""What time and use do to an SA: rekeys, hard ends, liveness, keepalives, half-open SAs given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cygnet.crypto.entropy import Entropy
from cygnet.ike import children, collisions, reconnect, running
from cygnet.ike.changes import ChangeChild, DropChild, DropHalves, Postpone, PostponeReauthentication
from cygnet.ike.configuration import Connection
from cygnet.ike.effects import LookAtTraffic, SendDatagram, Traffic
from cygnet.ike.errors import Failure, Reason
from cygnet.ike.events import Noted
from cygnet.ike.lifetimes import ike_deadlines
from cygnet.ike.state import ChildPhase, Phase, SaState
from cygnet.ike.steps import Steps, ask, enqueue
from cygnet.ike.wanted import CheckLiveness, DeleteChild, RekeyChild
from cygnet.records import replace

if TYPE_CHECKING:
    from cygnet.ike.sa import IkeSa


REAUTHENTICATE_AGAIN: Final = 300.0
"""Seconds until another attempt to authenticate anew."""
LOOK_PATIENCE: Final = 10.0
"""Seconds that the data plane has to say when something was carried last."""
UNCONFIRMED_PAUSE: Final = 60.0
"""Seconds until a pair that the peer was not known to hold is rekeyed."""


def with_deadlines(state: SaState, connection: Connection, old: SaState, entropy: Entropy) -> SaState:
    """A rekeyed IKE SA has new lifetimes; when it authenticates anew stays as it was."""
    rekey_at, _, expires_at = ike_deadlines(connection, state.established, entropy)
    return replace(
        state, rekey_at=rekey_at, reauth_at=old.reauth_at, expires_at=expires_at, ends_at=old.ends_at
    )


def lifetimes_due(sa: IkeSa) -> None:
    """Whatever of this SA's times has come."""
    state, now = sa.state, sa.now.monotonic
    if state.phase is Phase.CONNECTING:
        if not state.original_initiator and now >= state.created + sa.options.half_open_timeout:
            missing = "to IKE_AUTH" if state.version == 2 else "with phase 1"
            give_up_half_open(sa, f"the peer did not go on {missing}")
        return
    if state.phase is not Phase.ESTABLISHED:
        return
    _children_due(sa)
    if state.ends_at and now >= state.ends_at:
        failure = Failure(Reason.EXPIRED, "the peer has not authenticated anew in the time that it was given")
        running.begin_closing(sa, failure)
        return
    if state.expires_at and now >= state.expires_at:
        running.begin_closing(sa, Failure(Reason.EXPIRED, "the lifetime of the IKE SA is over"))
        return
    if state.began and state.reauth_at and now >= state.reauth_at:
        # If it does not come about, there is another try before the hard end.
        sa.commit((PostponeReauthentication(now + REAUTHENTICATE_AGAIN),))
        reconnect.reauthenticate(sa.gateway, sa, 0)
    elif state.rekey_at and now >= state.rekey_at:
        sa.commit((Postpone(0, 0.0),))
        sa.rekey()
    _liveness_due(sa)
    if state.nat_local and sa.options.keep_alive > 0 and now >= sa.sent + sa.options.keep_alive:
        # RFC 3948, section 4: one octet, no marker.
        sa.sent = now
        sa.gateway.emit(SendDatagram(state.path, b"\xff"))


def give_up_half_open(sa: IkeSa, why: str) -> None:
    sa.gateway.event(Noted("half-open-expired", why, sa.connection.name, sa.unique_id))
    running.close(sa, Failure(Reason.PEER_UNREACHABLE, why), linger=False)


def _liveness_due(sa: IkeSa) -> None:
    """RFC 7296, section 2.4: any request asks whether the peer is alive; without one, an empty one."""
    delay = sa.patience
    if delay <= 0 or not sa.is_idle or sa.now.monotonic < max(sa.heard, sa.looked) + delay:
        return
    if sa.connection.dpd_on_demand and sa.confirmed:
        sa.looked = sa.now.monotonic
        running.begin_local(sa, _liveness_on_demand(sa, delay))
    else:
        running.enqueue(sa, CheckLiveness())


def _liveness_on_demand(sa: IkeSa, delay: float) -> Steps[None]:
    """RFC 3706, section 5.5: whether the peer lives is worth a question only to who sends and hears nothing.
    What nobody can say is asked."""
    pairs = tuple([child.pair for child in sa.state.children])
    if not pairs:
        return
    traffic = yield from ask(LookAtTraffic(pairs), LOOK_PATIENCE)
    if not isinstance(traffic, Traffic) or traffic.outbound < delay <= traffic.inbound:
        yield from enqueue(CheckLiveness())


def _children_due(sa: IkeSa) -> None:
    now = sa.now.monotonic
    left = tuple([half.around.spi_in for half in sa.state.halves if now >= half.expires_at])
    if left:
        sa.commit((DropHalves(left),))
        sa.gateway.touch(sa)
    for child in sa.state.children:
        if child.expires_at and now >= child.expires_at:
            child_expired(sa, child.pair, True, "seconds")
        elif child.rekey_at and now >= child.rekey_at:
            child_expired(sa, child.pair, False, "seconds")


def child_expired(sa: IkeSa, pair: int, hard: bool, why: str) -> None:
    """A soft end asks for a rekey, a hard one is the end; of either half of a bundle, for both."""
    child = sa.state.owner(pair)
    if child is None:
        return
    pair = child.pair
    if not hard:
        # C3: one that was replaced, or is being closed, is not rekeyed again.
        if child.rekey_at:
            sa.commit((Postpone(pair, 0.0),))
        if child.outbound is not None:
            # Only just made; if the peer does not use it soon, look again.
            sa.commit((Postpone(pair, sa.now.monotonic + UNCONFIRMED_PAUSE),))
        queued = any(isinstance(w, RekeyChild) and w.pair == pair for w in sa.queue or ())
        if child.phase is ChildPhase.INSTALLED and not queued and not collisions.is_rekeying(sa.state, pair):
            running.enqueue(sa, RekeyChild(pair))
        sa.gateway.touch(sa)
        return
    failure = Failure(Reason.EXPIRED, f"the lifetime of the Child SA is over ({why})")
    if child.phase is ChildPhase.REKEYED:
        # C4: the peer's Delete is overdue; what replaced it carries the traffic now.
        for successor in collisions.successors(sa.state, [pair]):
            running.begin_local(sa, children.activate(sa, successor))
        sa.commit((DropChild(pair, failure),))
        sa.gateway.touch(sa)
    elif child.phase is ChildPhase.INSTALLED:
        # Its time has come once; the Delete may have to wait for its turn.
        sa.commit((ChangeChild(replace(child, expires_at=0.0)),))
        running.enqueue(sa, DeleteChild(pair, failure), first=True)
