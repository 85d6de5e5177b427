"""Configured proposals <-> SA payloads of IKEv1, and the choice between them (RFC 2409, 5; RFC 2407, 4.5).

A transform of IKEv1 is a whole suite. The responder takes the first of the *initiator's* that it accepts: the
same encryption with the same key length, the same hash, authentication method and group in phase 1; the same
transform, integrity, group, encapsulation in phase 2. It answers with that transform, attribute by attribute,
as it came. Lifetimes are no reason to refuse (`lifetimes`). Where there is no agreement, the error says where
the two sides first part.
What IKEv1 cannot say at all is in `vocabulary`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Final

from cygnet.auth.errors import AuthenticationError
from cygnet.auth.isakmp import method_for_key
from cygnet.crypto.ikev1 import Phase1Suite, phase1_suite
from cygnet.crypto.proposals import PRF_OF_INTEGRITY, Proposal, Transform, format_proposal
from cygnet.crypto.signatures import PrivateKey
from cygnet.ike.errors import Difference, LocalMisuse, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.ike.proposals import Selected
from cygnet.ike.v1.lifetimes import Lifetime, attributes_of, read
from cygnet.ike.v1.vocabulary import AH, ENCRYPTION, ESP, HASH, MAC, usable
from cygnet.records import dataclass
from cygnet.wire.numbers import Integ, KeMethod, TransformType
from cygnet.wire.v1 import payloads as wire
from cygnet.wire.v1.numbers import (
    AhTransform,
    Authentication,
    Encapsulation,
    Encryption,
    EspTransform,
    Hash,
    IntegrityAlgorithm,
    IsakmpTransform,
    Notify,
    Phase1Attribute,
    Phase2Attribute,
    Protocol,
)

MAX_OFFERED: Final = 255
"""Transforms in a proposal: the count is one octet."""

_ENCR, _INTEG, _PRF = TransformType.ENCR, TransformType.INTEG, TransformType.PRF
_KE, _ESN = TransformType.KE, TransformType.ESN

Phase1Key = tuple[tuple[int, int], int, int, int]
"""((encryption, key bits), hash, authentication method, group), numbers as in `wire.v1.numbers`."""
Phase2Key = tuple[int, tuple[int, int], int, int, int]
"""(protocol, (transform, key bits), integrity, group, extended sequence numbers), likewise."""

_PHASE1_TITLES: Final = ("encryption", "hash", "authentication method", "key exchange")
_PHASE2_TITLES: Final = ("protocol", "transform", "integrity", "key exchange", "sequence numbers")


# -- phase 1 ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phase1Choice:
    """The agreed suite of phase 1. `transform` is the initiator's, as it came; `life` is what it says."""

    number: int
    transform: wire.Transform
    encryption: int
    key_bits: int
    hash: int
    method: int
    group: int
    life: Lifetime

    @property
    def suite(self) -> Phase1Suite:
        return phase1_suite(self.encryption, self.key_bits, self.hash)

    @property
    def proposal(self) -> Proposal:
        """As IKEv2 would say it, for `format_proposal`, views and VICI."""
        return _proposal_of(self.encryption, self.key_bits, self.hash, self.group)


@lru_cache(maxsize=256)
def _proposal_of(encryption: int, key_bits: int, hash_number: int, group: int) -> Proposal:
    cipher = next(v2 for v2, v1 in ENCRYPTION.items() if v1 == encryption)
    mac = next(v2 for v2, v1 in HASH.items() if v1 == hash_number)
    return Proposal(
        Protocol.ISAKMP,
        (
            Transform(_ENCR, cipher, key_bits),
            Transform(_INTEG, mac),
            Transform(_PRF, PRF_OF_INTEGRITY[mac]),
            Transform(_KE, group),
        ),
    )


def signature_method(key: PrivateKey) -> int:
    """The authentication method that signs with this key. Raises LocalMisuse: IKEv1 has none for it."""
    try:
        return method_for_key(key)
    except AuthenticationError as error:
        raise LocalMisuse(Reason.AUTH_METHOD_MISMATCH, error.detail) from None


def _phase1_keys(proposals: Sequence[Proposal], methods: Sequence[int], group: int) -> Iterator[Phase1Key]:
    for proposal in usable(tuple(proposals)):
        for cipher in proposal.of_type(_ENCR):
            for mac in proposal.of_type(_INTEG):
                for exchange in proposal.of_type(_KE):
                    if group and exchange.id != group:
                        continue
                    for method in methods:
                        yield (ENCRYPTION[cipher.id], cipher.key_bits), HASH[mac.id], method, exchange.id


def offer_phase1(
    proposals: Sequence[Proposal], methods: Sequence[int], life: Lifetime, group: int = 0
) -> wire.SaPayload:
    """The SA payload of the first message. `methods`: `numbers.Authentication`, best first. `group`: only
    this one, as aggressive mode wants it, whose first message holds its KE; 0: all.

    Raises LocalMisuse when nothing is left, or when it is more than a proposal can count.
    """
    keys = list(dict.fromkeys(_phase1_keys(proposals, methods, group)))
    if not keys:
        raise LocalMisuse(Reason.IKE_PROPOSAL_MISMATCH, "no configured proposal can be said in IKEv1")
    if len(keys) > MAX_OFFERED:
        raise LocalMisuse(
            Reason.IKE_PROPOSAL_MISMATCH,
            f"the proposals make {len(keys)} combinations, IKEv1 can offer {MAX_OFFERED}: "
            "name fewer algorithms",
        )
    transforms = tuple(
        [
            wire.Transform(at, IsakmpTransform.KEY_IKE, _phase1_attributes(key, life))
            for at, key in enumerate(keys, 1)
        ]
    )
    return wire.SaPayload((wire.Proposal(1, Protocol.ISAKMP, b"", transforms),))


def _phase1_attributes(key: Phase1Key, life: Lifetime) -> tuple[wire.Attribute, ...]:
    (encryption, bits), hash_number, method, group = key
    return (
        wire.Attribute(Phase1Attribute.ENCRYPTION, encryption),
        *((wire.Attribute(Phase1Attribute.KEY_LENGTH, bits),) if bits else ()),
        wire.Attribute(Phase1Attribute.HASH, hash_number),
        wire.Attribute(Phase1Attribute.GROUP, group),
        wire.Attribute(Phase1Attribute.AUTHENTICATION, method),
        *attributes_of(life, 1),
    )


def select_phase1(
    offered: wire.SaPayload, proposals: Sequence[Proposal], methods: Collection[int], group: int = 0
) -> Phase1Choice:
    """The responder's choice: the first of the initiator's transforms that we accept.

    `methods`: what the connection allows the initiator to name (`numbers.Authentication`). `group`: that of
    a KE payload that came along (aggressive mode); 0: any. Raises `PeerIncompatible` with the difference.
    """
    found = _remembered_phase1(
        tuple([(p.protocol, p.transforms) for p in offered.proposals]),
        tuple(proposals), tuple(methods), group,
    )  # fmt: skip
    if found is not None:
        at, transform, ((encryption, bits), hash_number, method, chosen), life = found
        number = offered.proposals[at].number
        return Phase1Choice(number, transform, encryption, bits, hash_number, method, chosen, life)
    why = phase1_difference(proposals, methods, offered, group)
    raise PeerIncompatible(
        Reason.IKE_PROPOSAL_MISMATCH, why.first, notify=Notify.NO_PROPOSAL_CHOSEN, difference=why
    )


def _select_phase1(
    offered: tuple[tuple[int, tuple[wire.Transform, ...]], ...],
    proposals: tuple[Proposal, ...],
    methods: tuple[int, ...],
    group: int,
) -> tuple[int, wire.Transform, Phase1Key, Lifetime] | None:
    accepted = set(_phase1_keys(proposals, methods, group))
    for at, (protocol, transforms) in enumerate(offered):
        for transform in transforms:
            read_out = _read_phase1(protocol, transform)
            if read_out is not None and read_out[0] in accepted:
                return at, transform, *read_out
    return None


_remembered_phase1 = lru_cache(maxsize=256)(_select_phase1)
"""The same few offers meet the same few configurations again and again."""

_PHASE1_KNOWN: Final = frozenset(
    (
        Phase1Attribute.ENCRYPTION, Phase1Attribute.HASH, Phase1Attribute.AUTHENTICATION,
        Phase1Attribute.GROUP, Phase1Attribute.KEY_LENGTH,
    )
)  # fmt: skip
_PHASE1_LIFE: Final = (Phase1Attribute.LIFE_TYPE, Phase1Attribute.LIFE_DURATION)


def _read_phase1(protocol: int, transform: wire.Transform) -> tuple[Phase1Key, Lifetime] | None:
    """What a transform says, or None where it says what we do not understand: a group of its own, a PRF, one
    attribute twice. An attribute that is not known may change what the others mean (RFC 2408, 3.6)."""
    if protocol != Protocol.ISAKMP or transform.id != IsakmpTransform.KEY_IKE:
        return None
    values = _values(transform.attributes, _PHASE1_KNOWN, _PHASE1_LIFE)
    life = read(transform.attributes, 1)
    if values is None or life is None:
        return None
    try:
        key = (
            (values[Phase1Attribute.ENCRYPTION], values.get(Phase1Attribute.KEY_LENGTH, 0)),
            values[Phase1Attribute.HASH],
            values[Phase1Attribute.AUTHENTICATION],
            values[Phase1Attribute.GROUP],
        )
    except KeyError:
        return None
    return key, life


def _values(
    attributes: Sequence[wire.Attribute], known: Collection[int], passed: Collection[int]
) -> dict[int, int] | None:
    values: dict[int, int] = {}
    for attribute in attributes:
        number = attribute.number
        if attribute.type in passed:
            continue
        if attribute.type not in known or number is None or attribute.type in values:
            return None
        values[attribute.type] = number
    return values


def answer_phase1(choice: Phase1Choice) -> wire.SaPayload:
    """The SA payload that accepts: the initiator's transform as it came."""
    return wire.SaPayload((wire.Proposal(choice.number, Protocol.ISAKMP, b"", (choice.transform,)),))


def check_phase1_answer(offered: wire.SaPayload, accepted: wire.SaPayload) -> Phase1Choice:
    """The initiator's check: one transform, one of ours. Order, form and lifetimes of its attributes may
    differ (RFC 2409, appendix A; peers that want less write less). Raises `PeerMisbehaved`."""
    theirs, transform = _only_transform(accepted)
    read_out = _read_phase1(theirs.protocol, transform)
    ours = [_read_phase1(p.protocol, t) for p in offered.proposals for t in p.transforms]
    if read_out is None or read_out[0] not in [mine[0] for mine in ours if mine is not None]:
        raise outside(f"{_phase1_name(transform)}, which was not offered")
    ((encryption, bits), hash_number, method, group), life = read_out
    return Phase1Choice(theirs.number, transform, encryption, bits, hash_number, method, group, life)


def _only_transform(accepted: wire.SaPayload) -> tuple[wire.Proposal, wire.Transform]:
    if len(accepted.proposals) != 1 or len(accepted.proposals[0].transforms) != 1:
        raise outside("more than one transform in an answer")
    return accepted.proposals[0], accepted.proposals[0].transforms[0]


def outside(text: str) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, f"the peer chose {text}", notify=Notify.BAD_PROPOSAL_SYNTAX)


# -- phase 2 ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phase2Choice:
    """The agreed suite of a Child SA. `selected` has it in IKEv2's numbers, with the peer's SPI, as
    `children` and the data plane want it; `transform` is the initiator's, as it came; `encapsulation` is
    what it says."""

    number: int
    transform: wire.Transform
    selected: Selected
    encapsulation: int
    life: Lifetime
    around: Phase2Choice | None = None
    """A bundle: the AH that was offered under the same number."""

    @property
    def transport(self) -> bool:
        return self.encapsulation in TRANSPORTS

    @property
    def group(self) -> int:
        """The group of the quick mode's own key exchange, 0 without PFS."""
        return self.selected.key_exchange


TUNNELS: Final = (Encapsulation.TUNNEL, Encapsulation.UDP_TUNNEL, Encapsulation.UDP_TUNNEL_DRAFT)
TRANSPORTS: Final = (Encapsulation.TRANSPORT, Encapsulation.UDP_TRANSPORT, Encapsulation.UDP_TRANSPORT_DRAFT)


def phase2_keys(proposals: Sequence[Proposal]) -> Iterator[Phase2Key]:
    for proposal in usable(tuple(proposals)):
        macs = proposal.of_type(_INTEG) or (Transform(_INTEG, Integ.NONE),)
        for cipher in proposal.of_type(_ENCR) or (Transform(_ENCR, 0),):
            for mac in macs:
                for exchange in proposal.of_type(_KE) or (Transform(_KE, KeMethod.NONE),):
                    for esn in proposal.of_type(_ESN) or (Transform(_ESN, 0),):
                        if proposal.protocol == Protocol.AH:
                            what = AH[mac.id], 0
                        else:
                            what = ESP[cipher.id], cipher.key_bits
                        yield proposal.protocol, what, MAC.get(mac.id, 0), exchange.id, esn.id


@lru_cache(maxsize=256)
def acceptable_phase2(proposals: tuple[Proposal, ...]) -> frozenset[Phase2Key]:
    return frozenset(phase2_keys(proposals))


def offer_phase2(
    proposals: Sequence[Proposal], spi: bytes, encapsulation: int, life: Lifetime, group: int
) -> wire.SaPayload:
    """The SA payload of a quick mode: one proposal a protocol, all with our inbound `spi`.

    `group`: of the KE payload that goes along, which every transform names; 0: no PFS. Raises LocalMisuse
    when nothing is left, or when it is more than a proposal can count.
    """
    keys = [key for key in dict.fromkeys(phase2_keys(proposals)) if key[3] == group]
    if not keys:
        raise LocalMisuse(
            Reason.CHILD_PROPOSAL_MISMATCH,
            f"no configured proposal can be said in a quick mode with {KeMethod.name_of(group)}",
        )
    offered: list[wire.Proposal] = []
    for protocol in dict.fromkeys(key[0] for key in keys):
        mine = [key for key in keys if key[0] == protocol]
        if len(mine) > MAX_OFFERED:
            raise LocalMisuse(
                Reason.CHILD_PROPOSAL_MISMATCH,
                f"the proposals make {len(mine)} combinations, IKEv1 can offer {MAX_OFFERED}: "
                "name fewer algorithms",
            )
        transforms = tuple(
            [
                wire.Transform(at, key[1][0], phase2_attributes(key, encapsulation, life))
                for at, key in enumerate(mine, 1)
            ]
        )
        offered.append(wire.Proposal(len(offered) + 1, protocol, spi, transforms))
    return wire.SaPayload(tuple(offered))


def phase2_attributes(key: Phase2Key, encapsulation: int, life: Lifetime) -> tuple[wire.Attribute, ...]:
    _, (_, bits), mac, group, esn = key
    return (
        *attributes_of(life, 2),
        *((wire.Attribute(Phase2Attribute.GROUP, group),) if group else ()),
        wire.Attribute(Phase2Attribute.ENCAPSULATION, encapsulation),
        *((wire.Attribute(Phase2Attribute.AUTHENTICATION, mac),) if mac else ()),
        *((wire.Attribute(Phase2Attribute.KEY_LENGTH, bits),) if bits else ()),
        *((wire.Attribute(Phase2Attribute.EXT_SEQ, esn),) if esn else ()),
    )


def first_of(
    proposal: wire.Proposal, accepted: Collection[Phase2Key], encapsulations: Collection[int], group: int
) -> Phase2Choice | None:
    for transform in proposal.transforms:
        read_out = _read_phase2(proposal.protocol, transform)
        if read_out is None:
            continue
        key, encapsulation, life = read_out
        if key in accepted and key[3] == group and encapsulation in encapsulations:
            return _phase2_choice(proposal, transform, key, encapsulation, life)
    return None


def select_phase2(
    offered: wire.SaPayload, proposals: Sequence[Proposal], encapsulations: Collection[int], group: int
) -> Phase2Choice:
    """The responder's choice: the first of the initiator's transforms that we accept.

    `encapsulations`: what may be said, NAT or none (`TUNNELS`, `TRANSPORTS`). `group`: of the KE payload that
    came, 0: none came; whether we want one is in `proposals`. Proposals that share their number are a bundle
    (of AH and ESP: `v1.bundles`; IPCOMP is not built). Raises `PeerIncompatible` with the difference.
    """
    accepted = acceptable_phase2(tuple(proposals))
    numbers = [p.number for p in offered.proposals]
    for proposal in offered.proposals:
        chosen = None
        if numbers.count(proposal.number) == 1:
            chosen = first_of(proposal, accepted, encapsulations, group)
        if chosen is not None:
            return chosen
    why = phase2_difference(proposals, offered, encapsulations, group)
    raise PeerIncompatible(
        Reason.CHILD_PROPOSAL_MISMATCH, why.first, notify=Notify.NO_PROPOSAL_CHOSEN, difference=why
    )


_PHASE2_KNOWN: Final = frozenset(
    (
        Phase2Attribute.GROUP, Phase2Attribute.ENCAPSULATION, Phase2Attribute.AUTHENTICATION,
        Phase2Attribute.KEY_LENGTH, Phase2Attribute.EXT_SEQ,
    )
)  # fmt: skip
_PHASE2_LIFE: Final = (Phase2Attribute.LIFE_TYPE, Phase2Attribute.LIFE_DURATION)


def _read_phase2(protocol: int, transform: wire.Transform) -> tuple[Phase2Key, int, Lifetime] | None:
    """What a transform says, None where it says what we do not understand. Without an encapsulation mode it
    means a tunnel: the DOI leaves it to the host (RFC 2407, section 4.5)."""
    values = _values(transform.attributes, _PHASE2_KNOWN, _PHASE2_LIFE)
    life = read(transform.attributes, 2)
    if values is None or life is None or protocol not in (Protocol.ESP, Protocol.AH):
        return None
    key = (
        protocol,
        (transform.id, values.get(Phase2Attribute.KEY_LENGTH, 0)),
        values.get(Phase2Attribute.AUTHENTICATION, 0),
        values.get(Phase2Attribute.GROUP, 0),
        values.get(Phase2Attribute.EXT_SEQ, 0),
    )
    return key, values.get(Phase2Attribute.ENCAPSULATION, Encapsulation.TUNNEL), life


def _phase2_choice(
    proposal: wire.Proposal, transform: wire.Transform, key: Phase2Key, encapsulation: int, life: Lifetime
) -> Phase2Choice:
    protocol, (number, bits), authentication, group, esn = key
    transforms: list[Transform] = []
    if protocol == Protocol.ESP:
        cipher = next(v2 for v2, v1 in ESP.items() if v1 == number)
        transforms.append(Transform(_ENCR, cipher, bits))
    if authentication:
        integrity = next(v2 for v2, v1 in MAC.items() if v1 == authentication)
        transforms.append(Transform(_INTEG, integrity))
    if group:
        transforms.append(Transform(_KE, group))
    transforms.append(Transform(_ESN, esn))
    selected = Selected(proposal.number, protocol, proposal.spi, tuple(transforms))
    return Phase2Choice(proposal.number, transform, selected, encapsulation, life)


def answer_phase2(choice: Phase2Choice, spi: bytes, around: bytes = b"") -> wire.SaPayload:
    """The SA payload that accepts: the initiator's transform as it came, our inbound `spi`; `around`: that of
    a bundle's AH."""
    inner = wire.Proposal(choice.number, choice.selected.protocol, spi, (choice.transform,))
    if choice.around is None:
        return wire.SaPayload((inner,))
    return wire.SaPayload(
        (wire.Proposal(choice.number, Protocol.AH, around, (choice.around.transform,)), inner)
    )


def check_phase2_answer(offered: wire.SaPayload, accepted: wire.SaPayload) -> Phase2Choice:
    """The initiator's check: one transform, one of ours, lifetimes aside. Raises `PeerMisbehaved`."""
    theirs, transform = _only_transform(accepted)
    read_out = _read_phase2(theirs.protocol, transform)
    ours = [_read_phase2(p.protocol, t) for p in offered.proposals for t in p.transforms]
    if read_out is None or read_out[:2] not in [mine[:2] for mine in ours if mine is not None]:
        raise outside(f"{_phase2_name(theirs.protocol, transform)}, which was not offered")
    key, encapsulation, life = read_out
    return _phase2_choice(theirs, transform, key, encapsulation, life)


# -- why not ------------------------------------------------------------------------------------


def _sized(name: str, bits: int) -> str:
    return f"{name}_{bits}" if bits else name


def _phase1_names(key: Phase1Key) -> tuple[str, ...]:
    (encryption, bits), hash_number, method, group = key
    return (
        _sized(Encryption.name_of(encryption), bits),
        Hash.name_of(hash_number),
        Authentication.name_of(method),
        KeMethod.name_of(group),
    )


def _phase1_name(transform: wire.Transform) -> str:
    read_out = _read_phase1(Protocol.ISAKMP, transform)
    return "/".join(_phase1_names(read_out[0])) if read_out else "a transform that cannot be understood"


def _phase2_names(key: Phase2Key) -> tuple[str, ...]:
    protocol, (number, bits), authentication, group, esn = key
    registry = AhTransform if protocol == Protocol.AH else EspTransform
    return (
        Protocol.name_of(protocol),
        _sized(registry.name_of(number), bits),
        IntegrityAlgorithm.name_of(authentication) if authentication else "none",
        KeMethod.name_of(group),
        "EXT_SEQ" if esn else "NO_EXT_SEQ",
    )


def _phase2_name(protocol: int, transform: wire.Transform) -> str:
    read_out = _read_phase2(protocol, transform)
    if read_out is None:
        return "a transform that cannot be understood"
    return "/".join(_phase2_names(read_out[0])) + f" in {Encapsulation.name_of(read_out[1])}"


def describe_phase1(sa: wire.SaPayload) -> str:
    """An offer as people read it, suites separated by commas."""
    return ", ".join(_phase1_name(transform) for p in sa.proposals for transform in p.transforms)


def describe_phase2(sa: wire.SaPayload) -> str:
    return ", ".join(_phase2_name(p.protocol, transform) for p in sa.proposals for transform in p.transforms)


def phase1_difference(
    proposals: Sequence[Proposal], methods: Collection[int], theirs: wire.SaPayload | None, group: int = 0
) -> Difference:
    """Both offers and where they part. `theirs` None: the wire revealed none (NO-PROPOSAL-CHOSEN)."""
    ours = [_phase1_names(key) for key in _phase1_keys(proposals, tuple(methods), group)]
    our_text = ", ".join(map(format_proposal, usable(tuple(proposals))))
    if theirs is None:
        return Difference(ours=our_text)
    read_out = [_read_phase1(p.protocol, t) for p in theirs.proposals for t in p.transforms]
    offered = [_phase1_names(one[0]) for one in read_out if one is not None]
    return Difference(our_text, describe_phase1(theirs), _first(ours, offered, _PHASE1_TITLES))


def phase2_difference(
    proposals: Sequence[Proposal],
    theirs: wire.SaPayload | None,
    encapsulations: Collection[int] = TUNNELS,
    group: int = 0,
) -> Difference:
    """As `phase1_difference`, for a quick mode whose KE payload was of `group`."""
    ours = [_phase2_names(key) for key in phase2_keys(proposals)]
    our_text = ", ".join(map(format_proposal, usable(tuple(proposals))))
    if theirs is None:
        return Difference(ours=our_text)
    read_out = [_read_phase2(p.protocol, t) for p in theirs.proposals for t in p.transforms]
    known = [one for one in read_out if one is not None]
    first = _first(ours, [_phase2_names(one[0]) for one in known], _PHASE2_TITLES)
    modes = {one[1] for one in known}
    if known and not modes & set(encapsulations):
        named = " and ".join(sorted(map(Encapsulation.name_of, modes)))
        wanted = " and ".join(sorted(map(Encapsulation.name_of, encapsulations)))
        first = f"peer offers {named}, you accept {wanted}; first difference: encapsulation mode"
    elif any(one[0][3] != group for one in known):
        first = f"peer sent a public value of {KeMethod.name_of(group)} with an offer of another group"
    return Difference(our_text, describe_phase2(theirs), first)


def _first(ours: Sequence[tuple[str, ...]], theirs: Sequence[tuple[str, ...]], titles: Sequence[str]) -> str:
    """Both sides are narrowed to what agrees, property by property, until nothing is left."""
    if not ours:
        return "no configured proposal can be said in IKEv1"
    if not theirs:
        return "none of the peer's transforms can be understood"
    for at, title in enumerate(titles):
        accepted, offered = [key[at] for key in ours], [key[at] for key in theirs]
        common = set(accepted) & set(offered)
        if not common:
            return f"peer offers {_list(offered)}, you accept {_list(accepted)}; first difference: {title}"
        ours = [key for key in ours if key[at] in common]
        theirs = [key for key in theirs if key[at] in common]
    return "each algorithm is acceptable, but not in the combinations that the peer offers"


def _list(names: Sequence[str]) -> str:
    once = list(dict.fromkeys(names))
    return once[0] if len(once) == 1 else ", ".join(once[:-1]) + " and " + once[-1]
