"""AH around ESP with IKEv1: two proposals of one number in one quick mode (RFC 2408, section 4.2).

    SA -> Proposal 1: AH, its SPI, transforms
          Proposal 1: ESP, its SPI, transforms

Each half is chosen among its own transforms, both have the one group of the exchange, and the answer holds
one of each. Both come, are rekeyed and go together: they are one `ike.state.ChildSa`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from cygnet.crypto.proposals import Proposal
from cygnet.ike.errors import LocalMisuse, PeerIncompatible, Reason
from cygnet.ike.v1.lifetimes import Lifetime
from cygnet.ike.v1.proposals import (
    MAX_OFFERED,
    Phase2Choice,
    Phase2Key,
    acceptable_phase2,
    check_phase2_answer,
    first_of,
    offer_phase2,
    outside,
    phase2_attributes,
    phase2_difference,
    phase2_keys,
)
from cygnet.records import replace
from cygnet.wire.v1 import payloads as wire
from cygnet.wire.v1.numbers import Encapsulation, Notify, Protocol

ANY_MODE: Final = (Encapsulation.TUNNEL, Encapsulation.TRANSPORT)


def _around_keys(proposals: Sequence[Proposal], group: int) -> tuple[Phase2Key, ...]:
    """AH's of a bundle: with the group of its ESP, as the one KE payload serves both."""
    keys = [(*key[:3], group, key[4]) for key in phase2_keys(proposals)]
    return tuple(dict.fromkeys(keys))


def offer(
    esp: Sequence[Proposal],
    ah: Sequence[Proposal],
    spis: tuple[bytes, bytes],
    encapsulation: int,
    life: Lifetime,
    group: int,
) -> wire.SaPayload:
    """AH around ESP: two proposals of one number, in the order of their headers (RFC 2408, section 4.2).

    `spis`: of ESP and of AH; the rest, and what is raised, as for `offer_phase2`. Both say the same mode.
    """
    inner = offer_phase2(esp, spis[0], encapsulation, life, group).proposals[0]
    keys = _around_keys(ah, group)
    if not keys:
        raise LocalMisuse(Reason.CHILD_PROPOSAL_MISMATCH, "no configured AH proposal can be said in IKEv1")
    outer = tuple(
        [
            wire.Transform(at, key[1][0], phase2_attributes(key, encapsulation, life))
            for at, key in enumerate(keys[:MAX_OFFERED], 1)
        ]
    )
    return wire.SaPayload((wire.Proposal(inner.number, Protocol.AH, spis[1], outer), inner))


def select(
    offered: wire.SaPayload,
    esp: Sequence[Proposal],
    ah: Sequence[Proposal],
    encapsulations: Collection[int],
    group: int,
) -> Phase2Choice:
    """The responder's choice where it wants AH around ESP: two proposals of one number, the first of each.
    What AH says of its mode says nothing of the packet: some say the inner one's, some transport.
    Raises `PeerIncompatible` with the difference."""
    accepted = acceptable_phase2(tuple(esp)), frozenset(_around_keys(ah, group))
    for number in dict.fromkeys(p.number for p in offered.proposals):
        both = [p for p in offered.proposals if p.number == number]
        if sorted(p.protocol for p in both) != [Protocol.AH, Protocol.ESP]:
            continue
        outer, inner = sorted(both, key=lambda p: p.protocol)
        around = first_of(outer, accepted[1], ANY_MODE, group)
        within = first_of(inner, accepted[0], encapsulations, group)
        if around is not None and within is not None:
            return replace(within, around=around)
        if within is None:
            why = phase2_difference(esp, wire.SaPayload((inner,)), encapsulations, group)
        else:
            why = phase2_difference(ah, wire.SaPayload((outer,)), ANY_MODE, group)
        break
    else:
        first = "peer offers no bundle of AH and ESP, you accept nothing else; first difference: bundle"
        whole = phase2_difference((*esp, *ah), offered, encapsulations, group)
        why = replace(whole, first=first)
    raise PeerIncompatible(
        Reason.CHILD_PROPOSAL_MISMATCH, why.first, notify=Notify.NO_PROPOSAL_CHOSEN, difference=why
    )


def check_answer(offered: wire.SaPayload, accepted: wire.SaPayload) -> Phase2Choice:
    """The initiator's check of AH and ESP under one number, each as `check_phase2_answer` wants it, with one
    key exchange for both. Raises `PeerMisbehaved`."""
    both = sorted(accepted.proposals, key=lambda p: p.protocol)
    if [p.protocol for p in both] != [Protocol.AH, Protocol.ESP] or both[0].number != both[1].number:
        raise outside("something else than AH and ESP together")
    around, within = (check_phase2_answer(offered, wire.SaPayload((one,))) for one in both)
    if around.group != within.group:
        raise outside("two groups for one key exchange")
    return replace(within, around=around)
