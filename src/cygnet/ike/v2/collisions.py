"""Who wins when both ends act at once (RFC 7296, sections 2.8.1, 2.8.2, 2.25): pure functions.

Exchanges never know each other; they meet in the state's record of attempts. `admit` decides on a
request, `redundant` on an answer, `successors` on a Delete.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from cygnet.ike.state import Attempt, AttemptKind, ChildPhase, ChildSa, Phase, SaState
from cygnet.wire.numbers import Notify

AT_ONCE: Final = 30.0
"""Seconds within which two creations of the same by the two ends are taken for one: a first message may
be lost a few times."""


class Request(IntEnum):
    """What a CREATE_CHILD_SA asks for."""

    CREATE_CHILD = 1
    REKEY_CHILD = 2
    REKEY_IKE = 3


def _ours(state: SaState, *kinds: AttemptKind) -> bool:
    return any(attempt.ours and attempt.kind in kinds for attempt in state.attempts)


def is_closing(state: SaState, pair: int) -> bool:
    """Our own Delete of this child is on its way."""
    return any(a.ours and a.kind is AttemptKind.DELETE_CHILD and a.pair == pair for a in state.attempts)


def is_rekeying(state: SaState, pair: int) -> bool:
    """Our own rekey of this child is on its way."""
    return any(a.ours and a.kind is AttemptKind.REKEY_CHILD and a.pair == pair for a in state.attempts)


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


def rival(state: SaState, kind: AttemptKind, pair: int) -> Attempt | None:
    """The peer's attempt at the same thing, which we answered while ours was open."""
    for attempt in state.attempts:
        if not attempt.ours and attempt.kind is kind and attempt.pair == pair:
            return attempt
    return None


def loses(nonce: bytes, other: bytes) -> bool:
    """The SA made with the lowest of the four nonces is closed by whoever began it. Octet by octet;
    a nonce that ends first is the lower one (RFC 7296, section 2.8.1): the order of Python's bytes."""
    return nonce < other


def twin(state: SaState, child: ChildSa) -> ChildSa | None:
    """Another pair for the same flow that came up at about the same time: one of them is too many."""
    for other in state.children:
        if (
            (other.name, other.flow_index) == (child.name, child.flow_index)
            and other.phase is ChildPhase.INSTALLED
            and other.nonce
            and abs(other.installed - child.installed) <= AT_ONCE
        ):
            return other
    return None


def successors(state: SaState, pairs: Iterable[int]) -> list[int]:
    """The pairs made by the peer to replace these, which wait to be sent on."""
    replaced = set(pairs)
    return [
        child.pair
        for child in state.children
        if child.replaces in replaced and child.outbound is not None and child.pair not in replaced
    ]
