"""What IKEv2 may answer while something else is under way (RFC 7296, section 2.25): a pure function.

Who wins when both ends act at once is `ike.collisions`, which both versions share.
"""

from __future__ import annotations

from enum import IntEnum

from cygnet.ike.collisions import is_closing
from cygnet.ike.state import AttemptKind, ChildPhase, ChildSa, Phase, SaState
from cygnet.wire.numbers import Notify


class Request(IntEnum):
    """What a CREATE_CHILD_SA asks for."""

    CREATE_CHILD = 1
    REKEY_CHILD = 2
    REKEY_IKE = 3


def _ours(state: SaState, *kinds: AttemptKind) -> bool:
    return any(attempt.ours and attempt.kind in kinds for attempt in state.attempts)


def _follows(state: SaState, request: Request, child: ChildSa | None) -> bool:
    """Whether further key exchanges of our own rekey of the same are under way."""
    pair = child.pair if child is not None else 0
    kind = {Request.REKEY_IKE: AttemptKind.REKEY_IKE, Request.REKEY_CHILD: AttemptKind.REKEY_CHILD}.get(
        request
    )
    return any(a.ours and a.following and a.kind is kind and a.pair == pair for a in state.attempts)


def admit(state: SaState, request: Request, child: ChildSa | None) -> int:
    """0: proceed; else the notify that the request is refused with (RFC 7296, section 2.25).

    `child` is the one to be rekeyed, None if the peer named one that is not here.
    """
    if state.phase is not Phase.ESTABLISHED:
        # Rekeyed already, or closing: section 2.25.2.
        return Notify.TEMPORARY_FAILURE
    if any(not a.ours and a.kind is AttemptKind.REKEY_IKE for a in state.attempts):
        # The peer has rekeyed this IKE SA; nothing new begins on it (section 1.3.2).
        return Notify.TEMPORARY_FAILURE
    if _follows(state, request, child):
        # Both rekey, and the peer's request comes when ours is past its nonces (RFC 9370, section 2.2.4).
        return Notify.TEMPORARY_FAILURE
    if request is Request.REKEY_IKE:
        busy = _ours(state, AttemptKind.CREATE_CHILD, AttemptKind.REKEY_CHILD, AttemptKind.DELETE_CHILD)
        return Notify.TEMPORARY_FAILURE if busy else 0
    if _ours(state, AttemptKind.REKEY_IKE, AttemptKind.DELETE_IKE):
        return Notify.TEMPORARY_FAILURE
    if request is Request.REKEY_CHILD:
        if child is None:
            # It may be one that the peer made for us and whose answer is still on its way.
            coming = _ours(state, AttemptKind.CREATE_CHILD, AttemptKind.REKEY_CHILD)
            return Notify.TEMPORARY_FAILURE if coming else Notify.CHILD_SA_NOT_FOUND
        if child.phase is ChildPhase.DELETING or is_closing(state, child.pair):
            return Notify.TEMPORARY_FAILURE
        replaced_by_us = any(
            other.replaces == child.pair and other.outbound is None and not other.redundant
            for other in state.children
        )
        if child.phase is ChildPhase.REKEYED and replaced_by_us:
            # We rekeyed it, our Delete is about to leave.
            return Notify.TEMPORARY_FAILURE
    return 0
