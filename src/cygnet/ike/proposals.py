"""Configured proposals <-> SA payloads, and the choice between them (RFC 7296, sections 2.7 and 3.3).

The responder's `select` takes the first of *our* proposals that fits one of the peer's, and within it
our order of algorithms (strongSwan's `prefer_configured_proposals = yes`). The initiator's
`check_answer` accepts only what was offered, exactly one transform of each type. Where there is no
agreement, `difference` says where the two sides first part.

A transform type that a proposal leaves out means "none" where none is possible: integrity beside a
combined-mode cipher, key exchange and sequence numbers of ESP and AH (RFC 7296, section 3.3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cygnet.crypto.proposals import (
    ADDITIONAL,
    Proposal,
    Transform,
    distinct,
    format_proposal,
    has_additional,
    transform_name,
    without_key_exchange,
)
from cygnet.crypto.suites import is_aead
from cygnet.ike.errors import Difference, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.records import dataclass
from cygnet.wire import payloads as wire
from cygnet.wire.numbers import Encr, Notify, Protocol, TransformAttribute, TransformType

MAX_REMEMBERED: Final = 64
"""Transforms in an offer whose choice is remembered; strongSwan's default offer has about 60."""
SPI_SIZE: Final = {Protocol.IKE: 8, Protocol.AH: 4, Protocol.ESP: 4}
"""Octets of the SPI in a proposal; IKE_SA_INIT has none there (RFC 7296, section 3.3.1)."""

_ENCR, _INTEG, _PRF = TransformType.ENCR, TransformType.INTEG, TransformType.PRF
_KE, _ESN = TransformType.KE, TransformType.ESN

_TYPES: Final[dict[int, tuple[int, ...]]] = {
    Protocol.IKE: (_ENCR, _INTEG, _PRF, _KE, *ADDITIONAL),
    Protocol.AH: (_INTEG, _KE, _ESN, *ADDITIONAL),
    Protocol.ESP: (_ENCR, _INTEG, _KE, _ESN, *ADDITIONAL),
}
"""The order in which algorithms are compared and named to people."""
_OPTIONAL: Final[dict[int, frozenset[int]]] = {
    Protocol.IKE: frozenset((_INTEG, *ADDITIONAL)),
    Protocol.AH: frozenset((_KE, _ESN, *ADDITIONAL)),
    Protocol.ESP: frozenset((_INTEG, _KE, _ESN, *ADDITIONAL)),
}
"""Leaving these out means 0. (ESN is mandatory by the letter; peers that leave it out mean "no".)"""
_TITLE: Final = {
    _ENCR: "encryption",
    _INTEG: "integrity",
    _PRF: "PRF",
    _KE: "key exchange",
    _ESN: "sequence numbers",
    **{kind: f"additional key exchange {number}" for number, kind in enumerate(ADDITIONAL, 1)},
}
_VARIABLE_KEY: Final = frozenset(
    (
        Encr.RC5_CBC, Encr.CAST_CBC, Encr.BLOWFISH_CBC, Encr.AES_CBC, Encr.AES_CTR, Encr.AES_CCM_8,
        Encr.AES_CCM_12, Encr.AES_CCM_16, Encr.AES_GCM_8, Encr.AES_GCM_12, Encr.AES_GCM_16,
        Encr.NULL_AES_GMAC, Encr.CAMELLIA_CBC, Encr.CAMELLIA_CTR, Encr.CAMELLIA_CCM_8,
        Encr.CAMELLIA_CCM_12, Encr.CAMELLIA_CCM_16, Encr.AES_CCM_8_IIV, Encr.AES_GCM_16_IIV,
    )
)  # fmt: skip
"""Ciphers that carry the Key Length attribute; the others must not (RFC 7296, section 3.3.5)."""


@dataclass(frozen=True, slots=True)
class Selected:
    """One agreed suite. `spi` is the peer's; a number is 0 where the suite has none of that type.

    `transforms` are exactly one of each type that the chosen proposal of the offer held: they go
    back to the peer as they came.
    """

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]

    def _of(self, kind: int) -> int:
        for transform in self.transforms:
            if transform.type == kind:
                return transform.id
        return 0

    @property
    def encryption(self) -> int:
        return self._of(_ENCR)

    @property
    def key_bits(self) -> int:
        return next((t.key_bits for t in self.transforms if t.type == _ENCR), 0)

    @property
    def integrity(self) -> int:
        return self._of(_INTEG)

    @property
    def prf(self) -> int:
        return self._of(_PRF)

    @property
    def key_exchange(self) -> int:
        return self._of(_KE)

    @property
    def additional(self) -> tuple[tuple[int, int], ...]:
        """(transform type, method) of the further key exchanges in the order in which they are done (RFC
        9370)."""
        return tuple(
            [(kind, t.id) for kind in ADDITIONAL for t in self.transforms if t.type == kind and t.id]
        )

    @property
    def esn(self) -> bool:
        return self._of(_ESN) == 1

    @property
    def proposal(self) -> Proposal:
        """The suite as a proposal of one choice each, for `format_proposal`."""
        return Proposal(self.protocol, self.transforms)


# -- configured -> wire -------------------------------------------------------------------------


def offer(
    proposals: Sequence[Proposal], spi: bytes, *, key_exchange: bool = True, first_group: int = 0
) -> wire.SaPayload:
    """The SA payload of a request. `spi` is ours, empty in IKE_SA_INIT.

    `key_exchange` False leaves the groups out, as the Child SA of IKE_AUTH wants it (RFC 7296, 1.2).
    `first_group`: the group of the KE payload that goes along is named first, so that a responder
    which follows the peer's order takes it.
    """
    numbered: list[wire.Proposal] = []
    for proposal in _usable(proposals, key_exchange):
        transforms = proposal.transforms
        if first_group:
            transforms = tuple(sorted(transforms, key=lambda t: t.type == _KE and t.id != first_group))
        numbered.append(
            wire.Proposal(
                len(numbered) + 1,
                proposal.protocol,
                spi,
                tuple(_to_wire(transform) for transform in transforms),
            )
        )
    return wire.SaPayload(tuple(numbered))


def answer(selected: Selected, spi: bytes) -> wire.SaPayload:
    """The SA payload that accepts: the number of the peer's proposal, our own SPI."""
    return wire.SaPayload((_accepted(selected, spi),))


def answer_bundle(inner: Selected, spi: bytes, outer: Selected, outer_spi: bytes) -> wire.SaPayload:
    """The same for AH around ESP that were offered under one number, in the order of their headers."""
    return wire.SaPayload((_accepted(outer, outer_spi), _accepted(inner, spi)))


def _accepted(selected: Selected, spi: bytes) -> wire.Proposal:
    transforms = tuple([_known_to_wire(transform) for transform in selected.transforms])
    return wire.Proposal(selected.number, selected.protocol, spi, transforms)


def groups(proposals: Sequence[Proposal]) -> tuple[int, ...]:
    """The key exchange methods of the proposals in order of preference, each once; 0 (none) is left out."""
    ids = (t.id for proposal in proposals for t in proposal.of_type(_KE) if t.id)
    return tuple(dict.fromkeys(ids))


def _usable(proposals: Sequence[Proposal], key_exchange: bool) -> tuple[Proposal, ...]:
    if key_exchange:
        return tuple(proposals)
    return tuple(dict.fromkeys(without_key_exchange(proposal) for proposal in proposals))


def _to_wire(transform: Transform) -> wire.Transform:
    if not transform.key_bits:
        return wire.Transform(transform.type, transform.id)
    key_length = wire.Attribute(TransformAttribute.KEY_LENGTH, transform.key_bits)
    return wire.Transform(transform.type, transform.id, (key_length,))


_known_to_wire = lru_cache(maxsize=256)(_to_wire)


# -- wire -> choice -----------------------------------------------------------------------------


def from_wire(protocol: int, offered: tuple[wire.Transform, ...]) -> Proposal | None:
    """The peer's proposal without what cannot be accepted, or None if all of it must be refused.

    RFC 7296, section 3.3.6: a transform with an attribute that is not understood is passed over; a
    proposal with a transform type that is not understood is refused, unless it offers "none" (RFC 9370).
    """
    types = _TYPES.get(protocol)
    if types is None:
        return None
    transforms: list[Transform] = []
    foreign: dict[int, bool] = {}
    for transform in offered:
        if transform.type not in types:
            foreign[transform.type] = foreign.get(transform.type, False) or not transform.id
            if not transform.id and not transform.attributes:
                transforms.append(Transform(transform.type, 0))
            continue
        known = _from_wire(transform)
        if known is not None:
            transforms.append(known)
    if not all(foreign.values()):
        return None
    return Proposal(protocol, tuple(dict.fromkeys(transforms)))


def _from_wire(transform: wire.Transform) -> Transform | None:
    wants_key_length = transform.type == _ENCR and transform.id in _VARIABLE_KEY
    if not transform.attributes:
        return None if wants_key_length else Transform(transform.type, transform.id)
    if wants_key_length and len(transform.attributes) == 1 and transform.key_bits:
        return Transform(transform.type, transform.id, transform.key_bits)
    return None


def select(
    offered: wire.SaPayload,
    configured: Sequence[Proposal],
    *,
    key_exchange: bool = True,
    prefer_group: int = 0,
    additional: bool = True,
) -> Selected:
    """The responder's choice. Raises `PeerIncompatible` (NO_PROPOSAL_CHOSEN) with the difference.

    `key_exchange` False: the groups of both sides are passed over (the Child SA of IKE_AUTH).
    `prefer_group`: among our acceptable groups this one is taken if it fits (the peer's KE payload
    is of it, so that no INVALID_KE_PAYLOAD is needed); 0: our order alone. `additional` False: the peer
    does no IKE_INTERMEDIATE, so proposals with additional key exchanges are passed over (RFC 9370, 2.2.1).
    """
    offered = _alone(offered)
    asked = (
        tuple([(p.protocol, p.transforms) for p in offered.proposals]),
        tuple(configured),
        key_exchange,
        prefer_group,
        additional,
    )
    small = sum([len(p.transforms) for p in offered.proposals]) <= MAX_REMEMBERED
    choice = _remembered_choice(*asked) if small else _choice(*asked)
    if choice is not None:
        taken, transforms = choice
        original = offered.proposals[taken]
        return Selected(original.number, original.protocol, original.spi, transforms)
    ike = any(p.protocol == Protocol.IKE for p in configured)
    found = difference(_usable(configured, key_exchange), offered, key_exchange=key_exchange)
    raise PeerIncompatible(
        Reason.IKE_PROPOSAL_MISMATCH if ike else Reason.CHILD_PROPOSAL_MISMATCH,
        found.first or "no proposal of the peer's is acceptable",
        notify=Notify.NO_PROPOSAL_CHOSEN,
        difference=found,
    )


def _alone(offered: wire.SaPayload) -> wire.SaPayload:
    """Without the proposals that share their number: each of those is half of a bundle."""
    numbers = [p.number for p in offered.proposals]
    if len(set(numbers)) == len(numbers):
        return offered
    return wire.SaPayload(tuple([p for p in offered.proposals if numbers.count(p.number) == 1]))


def select_bundle(
    offered: wire.SaPayload,
    esp: Sequence[Proposal],
    ah: Sequence[Proposal],
    *,
    key_exchange: bool = True,
    prefer_group: int = 0,
) -> tuple[Selected, Selected] | None:
    """The choice of a responder that wants AH around ESP, where the offer has both under one number
    (RFC 4306, section 3.3); None: it has not. One key exchange serves both."""
    for number in dict.fromkeys(p.number for p in offered.proposals):
        both = {p.protocol: p for p in offered.proposals if p.number == number}
        if set(both) != {Protocol.ESP, Protocol.AH}:
            continue
        try:
            inner = select(
                wire.SaPayload((both[Protocol.ESP],)),
                esp,
                key_exchange=key_exchange,
                prefer_group=prefer_group,
            )
            outer = select(
                wire.SaPayload((both[Protocol.AH],)),
                ah,
                key_exchange=key_exchange,
                prefer_group=inner.key_exchange,
            )
        except PeerIncompatible:
            continue
        if outer.key_exchange in (0, inner.key_exchange) and not (inner.additional or outer.additional):
            return inner, outer
    return None


def accepts(configured: Sequence[Proposal], agreed: Proposal) -> bool:
    """Whether one of these holds this suite of one choice each, key exchanges aside."""
    wanted = [(t.type, t.id, t.key_bits) for t in without_key_exchange(agreed).transforms if t.id]
    return any(
        all(one in [(t.type, t.id, t.key_bits) for t in mine.transforms] for one in wanted)
        for mine in configured
        if mine.protocol == agreed.protocol
    )


def _choice(
    offered: tuple[tuple[int, tuple[wire.Transform, ...]], ...],
    configured: tuple[Proposal, ...],
    key_exchange: bool,
    prefer_group: int,
    additional: bool,
) -> tuple[int, tuple[Transform, ...]] | None:
    """Which of the peer's proposals, and what of it; None: there is no agreement."""
    theirs = [(at, from_wire(protocol, transforms)) for at, (protocol, transforms) in enumerate(offered)]
    if not additional:
        configured = tuple([proposal for proposal in configured if not has_additional(proposal)])
        theirs = [(at, known) for at, known in theirs if known is not None and not has_additional(known)]
    for mine in _usable(configured, key_exchange):
        for at, known in theirs:
            if known is not None and known.protocol == mine.protocol:
                their_choice = known if key_exchange else without_key_exchange(known)
                chosen = _agree(mine, their_choice, prefer_group)
                if chosen is not None:
                    return at, chosen
    return None


# The same few offers meet the same few configurations again and again.
_remembered_choice = lru_cache(maxsize=256)(_choice)


def _agree(ours: Proposal, theirs: Proposal, prefer_group: int) -> tuple[Transform, ...] | None:
    """One transform of each type that `theirs` holds, in our order of preference, or None."""
    protocol = ours.protocol
    chosen: list[Transform] = []
    for cipher in _common(ours, theirs, _ENCR):
        chosen = [cipher] if cipher.type == _ENCR else []
        exchanges: dict[int, list[int]] = {}
        for kind in _TYPES[protocol]:
            if kind == _ENCR:
                continue
            common = _common(ours, theirs, kind)
            if kind == _INTEG:
                # Combined-mode ciphers want none, all others want one (RFC 7296, section 3.3).
                aead = bool(chosen) and is_aead(cipher.id)
                common = [t for t in common if bool(t.id) != aead]
            if kind == _KE and prefer_group:
                common.sort(key=lambda t: t.id != prefer_group)
            if not common:
                break
            if kind == _KE or kind in ADDITIONAL:
                exchanges[kind] = [t.id for t in common]
            else:
                chosen.append(common[0])
        else:
            methods = distinct(list(exchanges.values()))
            if methods is None:
                return None
            chosen += [Transform(kind, method) for kind, method in zip(exchanges, methods, strict=True)]
            present = {t.type for t in theirs.transforms}
            foreign = present - set(_TYPES[protocol])
            chosen += [Transform(kind, 0) for kind in sorted(foreign)]
            return tuple([t for t in chosen if t.type in present])
    return None


def _common(ours: Proposal, theirs: Proposal, kind: int) -> list[Transform]:
    """What both name of this type, in our order. For AH the cipher is a placeholder that both have."""
    if kind not in _TYPES[ours.protocol]:
        return [Transform(0, 0)]
    offered = _of_type(theirs, kind)
    return [t for t in _of_type(ours, kind) if t in offered]


def _of_type(proposal: Proposal, kind: int) -> tuple[Transform, ...]:
    named = proposal.of_type(kind)
    if not named and kind in _OPTIONAL[proposal.protocol]:
        return (Transform(kind, 0),)
    return named


def check_answer(offered: wire.SaPayload, accepted: wire.SaPayload) -> Selected:
    """The initiator's check: the answer lies inside the offer, one transform a type (RFC 7296, 2.7, 3.3.6).

    Raises `PeerMisbehaved`: whoever chose what was not offered is no peer to go on with.
    """
    if len(accepted.proposals) != 1:
        raise _outside(f"{len(accepted.proposals)} proposals in an answer")
    theirs = accepted.proposals[0]
    ours = next((p for p in offered.proposals if p.number == theirs.number), None)
    if ours is None:
        raise _outside(f"proposal {theirs.number}, which was not offered")
    if theirs.protocol != ours.protocol:
        raise _outside(f"protocol {Protocol.name_of(theirs.protocol)}, which was not offered")
    offered_plain = [(t.type, t.id, t.attributes) for t in ours.transforms]
    for transform in theirs.transforms:
        if (transform.type, transform.id, transform.attributes) not in offered_plain:
            raise _outside(f"{transform_name(_named(transform))}, which was not offered")
    wanted = {t.type for t in ours.transforms}
    got = [t.type for t in theirs.transforms]
    if len(got) != len(set(got)):
        raise _outside("two transforms of one type")
    # A type may be left out if "none" was among its choices (RFC 7296, section 3.3.3).
    for kind in wanted - set(got):
        if (kind, 0, ()) not in offered_plain:
            raise _outside(f"no {_TITLE.get(kind) or TransformType.name_of(kind)} transform")
    transforms = tuple([_named(t) for t in theirs.transforms])
    selected = Selected(theirs.number, theirs.protocol, theirs.spi, transforms)
    further = [method for _, method in selected.additional]
    exchanges = [method for method in (selected.key_exchange, *further) if method]
    if len(exchanges) != len(set(exchanges)) or (selected.additional and not selected.key_exchange):
        raise _outside("the same key exchange twice, or further ones without a first")
    if selected.encryption and is_aead(selected.encryption) == bool(selected.integrity):
        raise _outside("a cipher and an integrity algorithm that do not go together")
    return selected


def _outside(text: str) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, f"the peer chose {text}", notify=Notify.INVALID_SYNTAX)


def _named(transform: wire.Transform) -> Transform:
    return Transform(transform.type, transform.id, transform.key_bits)


# -- why not ------------------------------------------------------------------------------------


def describe(sa: wire.SaPayload) -> str:
    """The peer's offer as strongSwan prints it, unknown numbers included."""
    return ", ".join(
        format_proposal(Proposal(p.protocol, tuple([_named(t) for t in p.transforms]))) for p in sa.proposals
    )


def difference(
    ours: Sequence[Proposal], theirs: wire.SaPayload | None, *, key_exchange: bool = True
) -> Difference:
    """The two offers and where they first part. `theirs` None: the wire revealed none (NO_PROPOSAL_CHOSEN).

    Of all pairs the closest is explained: the one that agrees on most types before it parts.
    """
    mine = _usable(ours, key_exchange)
    our_text = ", ".join(map(format_proposal, mine))
    if theirs is None:
        return Difference(ours=our_text)
    best: tuple[int, str] = (-1, "")
    for offered in theirs.proposals:
        for proposal in mine:
            depth, text = _first_difference(proposal, offered, key_exchange)
            if depth > best[0]:
                best = depth, text
    return Difference(ours=our_text, theirs=describe(theirs), first=best[1])


def _first_difference(ours: Proposal, theirs: wire.Proposal, key_exchange: bool) -> tuple[int, str]:
    """(how many transform types agree, the sentence); deeper is closer."""
    if ours.protocol != theirs.protocol:
        return 0, (
            f"peer offers {Protocol.name_of(theirs.protocol)}, you accept {Protocol.name_of(ours.protocol)}; "
            "first difference: protocol"
        )
    known = from_wire(theirs.protocol, theirs.transforms)
    agreed = 0
    first = ""
    for kind in _TYPES[ours.protocol]:
        if (kind == _KE or kind in ADDITIONAL) and not key_exchange:
            continue
        accepted = _of_type(ours, kind)
        usable = _of_type(known, kind) if known is not None else ()
        named = [_named(t) for t in theirs.transforms if t.type == kind] or list(usable)
        if any(t in usable for t in accepted):
            agreed += 1
        elif not first:
            first = (
                f"peer offers {_list(named)}, you accept {_list(accepted)}; first difference: {_TITLE[kind]}"
            )
    if not first:
        first = "the peer's proposal holds a transform type or a combination that cannot be accepted"
    return agreed, first


def _list(transforms: Sequence[Transform]) -> str:
    names = [transform_name(t) if t.id or t.type in (_ESN, _ENCR, _PRF) else "NONE" for t in transforms]
    names = list(dict.fromkeys(names)) or ["none"]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
