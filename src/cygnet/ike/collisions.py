"""Who wins when both ends act at once (RFC 7296, sections 2.8.1 and 2.8.2): pure functions.

Exchanges never know each other; they meet in the state's record of attempts. `rival` and `twin` find
the other one's, `loses` decides on an answer, `successors` on a Delete. IKEv1 has no rules of its own
for collisions: it decides as IKEv2 does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cygnet.ike.state import Attempt, AttemptKind, ChildPhase, ChildSa, SaState

AT_ONCE: Final = 30.0
"""Seconds within which two creations of the same by the two ends are taken for one: a first message may
be lost a few times."""


def is_closing(state: SaState, pair: int) -> bool:
    """Our own Delete of this child is on its way."""
    return any(a.ours and a.kind is AttemptKind.DELETE_CHILD and a.pair == pair for a in state.attempts)


def is_rekeying(state: SaState, pair: int) -> bool:
    """Our own rekey of this child is on its way."""
    return any(a.ours and a.kind is AttemptKind.REKEY_CHILD and a.pair == pair for a in state.attempts)


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
    """Another pair for the same that came up at about the same time: one of them is too many. A peer may
    narrow one flow of ours to several pairs; those are no twins."""
    for other in state.children:
        if (
            (other.name, other.flow_index) == (child.name, child.flow_index)
            and (other.local_selectors, other.remote_selectors)
            == (child.local_selectors, child.remote_selectors)
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
