"""Which exchange a wish of ours or a message of the peer's begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cygnet.ike import collisions, running
from cygnet.ike.children import REDUNDANT, REPLACED
from cygnet.ike.errors import PeerMisbehaved, Reason
from cygnet.ike.state import ChildPhase
from cygnet.ike.steps import Steps
from cygnet.ike.v1 import deletes, informational, mode_config, phase1, quick_mode
from cygnet.ike.v1.halves import halves
from cygnet.ike.v1.protection import isakmp_of
from cygnet.ike.v1.steps import Received
from cygnet.ike.wanted import (
    CheckLiveness,
    CloseOther,
    CreateChild,
    DeleteChild,
    DeleteIke,
    RekeyChild,
    RekeyIke,
    Report,
    Wanted,
)
from cygnet.records import replace
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.numbers import Exchange, Notify
from cygnet.wire.v1.payloads import AttributesPayload, DeletePayload, NotifyPayload

if TYPE_CHECKING:
    from cygnet.ike.v1.sa import IkeV1Sa

CLOSE_LATER: Final = 1.0
"""Seconds until it is seen again whether a phase 1 SA that was replaced may go."""
TELL_LATER: Final = 10.0
"""Seconds until it is seen again whether this is the only phase 1 SA with the peer."""
MAX_SEQUENCE: Final = 0x7FFFFFFF
"""R-U-THERE numbers begin below (RFC 3706, section 6.2)."""


def begin(sa: IkeV1Sa, wanted: Wanted) -> Steps[None] | None:
    """The exchange for what we want; None when it is moot by now."""
    state = sa.state
    match wanted:
        case CreateChild(name, index):
            covered = any(
                (child.name, child.flow_index) == (name, index) and child.phase is ChildPhase.INSTALLED
                for child in state.children
            )
            return None if covered else quick_mode.create(sa, wanted)
        case RekeyChild(pair):
            known = state.child(pair)
            is_held = known is not None and known.outbound is None
            return (
                quick_mode.rekey(sa, wanted) if is_held and not collisions.is_rekeying(state, pair) else None
            )
        case DeleteChild(pair, failure):
            doomed = state.child(pair)
            if doomed is None:
                return None
            # It may serve on because what was to replace it was given up.
            revived = doomed.phase is ChildPhase.INSTALLED and failure in (REDUNDANT, REPLACED)
            return None if revived else informational.delete_child(sa, pair, failure)
        case RekeyIke():
            return None
        case DeleteIke(failure):
            return informational.delete_ike(sa, failure, sa.farewell)
        case CheckLiveness(_, contact):
            told = _contact(sa) if contact else ()
            if contact and not told and any(other.tells for other in sa.siblings()):
                # That one was begun at once with this, and is not known to have come to be.
                running.postpone(sa, wanted, sa.now.monotonic + TELL_LATER)
            return _liveness(sa, told) if told or not contact else None
        case CloseOther(number, failure):
            other = sa.gateway.by_number.get(number)
            if isinstance(other, type(sa)) and not other.close_at and other.tells:
                # Nobody else could tell it any more.
                running.postpone(sa, replace(wanted, operation=0), sa.now.monotonic + CLOSE_LATER)
                return None
            asked = _liveness(sa) if isakmp_of(state).dpd else None
            return informational.close_other(asked, number, failure)
        case Report(notify, failure):
            return informational.report(sa, notify, failure)


def _contact(sa: IkeV1Sa) -> tuple[NotifyPayload, ...]:
    """INITIAL-CONTACT, if this is our only SA with the peer."""
    local, peer = sa.state.local_id, sa.state.peer
    if local is None or peer is None:
        return ()
    return phase1.initial_contact(sa, sa.connection, local, peer.user)


def _liveness(sa: IkeV1Sa, told: tuple[NotifyPayload, ...] = ()) -> Steps[None] | None:
    """R-U-THERE with the next number, behind what is told with it, which its answer shows to have come. If
    the peer does not answer it: once what is told, alone; None if that is nothing."""
    if not isakmp_of(sa.state).dpd:
        return informational.inform(sa, *told) if told else None
    if sa.dpd_sent < 0:
        sa.dpd_sent = int.from_bytes(sa.entropy.octets(4), "big") & MAX_SEQUENCE
    else:
        sa.dpd_sent += 1
    return informational.check_liveness(sa, sa.dpd_sent, told)


def _claim(sa: IkeV1Sa, message: Message) -> None:
    """A Delete may come over any phase 1 of the peer's: what it closes is brought here first."""
    spis = {int.from_bytes(spi, "big") for one in message.all(DeletePayload) for spi in one.spis}
    for other in sa.siblings() if spis else ():
        if any(theirs in spis for child in other.state.children for _, _, theirs in child.halves):
            other.give(sa)


def serve(sa: IkeV1Sa, received: Received) -> Steps[None]:
    """The exchange for a message that HASH proves. Raises `PeerMisbehaved`."""
    message = received.message
    match message.header.exchange:
        case Exchange.QUICK_MODE:
            return quick_mode.respond(sa, received)
        case Exchange.TRANSACTION:
            return mode_config.respond(sa, sa.connection, message.one(AttributesPayload))
        case Exchange.INFORMATIONAL:
            _claim(sa, message)
            contact = message.notify(Notify.INITIAL_CONTACT)
            if contact is not None and contact.spi == informational.cookies(sa):
                sa.peer_has_no_other()
            sequence = sa.dpd_heard
            asked = message.notify(Notify.R_U_THERE)
            if asked is not None and len(asked.data) == 4:
                sa.dpd_heard = max(sequence, int.from_bytes(asked.data, "big"))
            gone = message.all(DeletePayload)
            shown = deletes.echoes(sa, gone)
            for half in [(one.protocol, spi) for one in gone for spi in one.spis]:
                child = sa.state.child_by_spi_out(int.from_bytes(half[1], "big"))
                if child is not None and not collisions.is_closing(sa.state, child.pair):
                    for buried, ours in halves(child):
                        deletes.bury(sa, buried, ours)
            return informational.respond(sa, received, sequence, shown)
        case other:
            raise PeerMisbehaved(Reason.PEER_MISBEHAVED, f"{Exchange.name_of(other)} on an established SA")
