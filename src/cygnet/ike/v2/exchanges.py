"""Which exchange a wish of ours or a request of the peer's begins."""

from __future__ import annotations

from typing import Any

from cygnet.ike.errors import PeerMisbehaved, Reason
from cygnet.ike.state import ChildPhase
from cygnet.ike.steps import Context, Received, Steps
from cygnet.ike.v2 import create_child_sa, followup, informational, rekey_ike
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
from cygnet.wire.numbers import Exchange, Notify, Protocol
from cygnet.wire.payloads import DeletePayload

__all__ = ["begin", "closes", "serve"]


def begin(context: Context, wanted: Wanted) -> Steps[None] | None:
    """The exchange for what we want; None when it is moot by now."""
    match wanted:
        case CreateChild(name, index):
            covered = any(
                (child.name, child.flow_index) == (name, index) and child.phase is ChildPhase.INSTALLED
                for child in context.state.children
            )
            return None if covered else create_child_sa.create(context, wanted)
        case RekeyChild(pair):
            known = context.state.child(pair)
            # One that the peer is not known to hold yet was only just made: there is nothing to rekey.
            is_held = known is not None and known.outbound is None
            return create_child_sa.rekey(context, wanted) if is_held else None
        case DeleteChild(pair, failure):
            return informational.delete_child(context, pair, failure) if context.state.child(pair) else None
        case RekeyIke():
            return rekey_ike.rekey(context)
        case DeleteIke(failure):
            return informational.delete_ike(context, failure)
        case CheckLiveness():
            return informational.check_liveness(context)
        case CloseOther(number, failure):
            return informational.close_other(number, failure)
        case Report(notify, failure):
            return informational.report(context, notify, failure)


def closes(received: Received) -> bool:
    """Whether the message deletes the IKE SA that it came on."""
    return any(delete.protocol == Protocol.IKE for delete in received.message.all(DeletePayload))


def serve(context: Context, received: Received) -> Steps[Any]:
    """The exchange for a request on an established SA. Raises `PeerMisbehaved`."""
    match received.message.header.exchange:
        case Exchange.CREATE_CHILD_SA:
            return create_child_sa.respond(context, received)
        case Exchange.IKE_FOLLOWUP_KE:
            return followup.not_found()
        case Exchange.INFORMATIONAL:
            return informational.respond(context, received)
        case other:
            raise PeerMisbehaved(
                Reason.PEER_MISBEHAVED,
                f"{Exchange.name_of(other)} on an established SA",
                notify=Notify.INVALID_SYNTAX,
            )
