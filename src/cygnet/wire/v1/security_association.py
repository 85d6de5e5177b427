"""The Security Association payload of IKEv1 (RFC 2408, sections 3.4 to 3.6; RFC 2407, section 4.6.1).

    SA (DOI, situation) -> Proposal (number, protocol, SPI) -> Transform (number, id) -> Attribute

Proposals of one number belong together ("and"), numbers and transforms are alternatives, best first. Unlike
IKEv2 a transform is a whole suite, said by its attributes, in any order; an attribute has a fixed form
(16 bits) or a variable one, and peers send one number in either form: `Attribute.number` reads both.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import ClassVar, Final

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.v1.numbers import DOI_IPSEC, SIT_IDENTITY_ONLY, PayloadType

MAX_PROPOSALS: Final = 64
"""In one SA payload."""
MAX_TRANSFORMS: Final = 256
"""In one SA payload, all proposals together."""
MAX_ATTRIBUTES: Final = 32
"""In one transform: every attribute of phase 1 with two lifetimes makes 18."""
MAX_NUMBER: Final = 8
"""Octets of an attribute in variable form that can still be read as a number; lifetimes have 4."""

_DOI_SITUATION: Final = Struct("!II")
_PROPOSAL: Final = Struct("!BBHBBBB")
_SUBSTRUCTURE: Final = Struct("!BBH")
_TRANSFORM: Final = Struct("!BBH")
_ATTRIBUTE: Final = Struct("!HH")

_LAST: Final = 0
_MORE_PROPOSALS: Final = PayloadType.PROPOSAL
_MORE_TRANSFORMS: Final = PayloadType.TRANSFORM
_FIXED: Final = 0x8000
_COMMON_LIST: Final = 2048
"""Octets of transforms that are worth remembering (all groups and ciphers of a strongSwan: about 1400)."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """RFC 2408, section 3.3: `value` is an int in the fixed form, octets in the variable one."""

    type: int
    value: int | bytes

    @property
    def number(self) -> int | None:
        """The value as a number, whichever form it came in; None when it is too long to be one."""
        value = self.value
        if isinstance(value, int):
            return value
        return int.from_bytes(value, "big") if 0 < len(value) <= MAX_NUMBER else None


@dataclass(frozen=True, slots=True)
class Transform:
    """`number` as its sender counted; `id` is the protocol's transform identifier; attributes in order."""

    number: int
    id: int
    attributes: tuple[Attribute, ...]
    reserved: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Proposal:
    """`spi` is empty for phase 1 (some peers send 8 octets), 4 octets for AH and ESP, 2 or 4 for IPCOMP."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class SaPayload:
    payload_type: ClassVar[int] = PayloadType.SA

    proposals: tuple[Proposal, ...]
    reserved: int = 0

    @classmethod
    def parse(cls, body: Cursor, reserved: int) -> SaPayload:
        doi, situation = body.unpack(_DOI_SITUATION)
        if doi != DOI_IPSEC:
            raise Malformed(f"domain of interpretation {doi}")
        if situation != SIT_IDENTITY_ONLY:
            raise Malformed(f"situation {situation}")
        proposals: list[Proposal] = []
        room = MAX_TRANSFORMS
        more = _MORE_PROPOSALS
        while more == _MORE_PROPOSALS:
            if len(proposals) == MAX_PROPOSALS:
                raise Malformed(f"more than {MAX_PROPOSALS} proposals")
            more, reserved2, length, number, protocol, spi_size, count = body.unpack(_PROPOSAL)
            if more not in (_LAST, _MORE_PROPOSALS):
                raise Malformed("what follows a proposal is neither nothing nor a proposal")
            room -= count
            if room < 0:
                raise Malformed(f"more than {MAX_TRANSFORMS} transforms")
            inner = body.sub(length - _PROPOSAL.size)
            spi = inner.take(spi_size)
            octets = inner.rest()
            parse = _known_transforms if len(octets) <= _COMMON_LIST else _parse_transforms
            proposals.append(Proposal(number, protocol, spi, parse(octets, count), reserved2))
        body.expect_end()
        return cls(tuple(proposals), reserved)

    def emit(self) -> bytes:
        if not self.proposals:
            raise ValueError("an SA payload without proposals")
        last = len(self.proposals) - 1
        return _DOI_SITUATION.pack(DOI_IPSEC, SIT_IDENTITY_ONLY) + b"".join(
            [
                _emit_proposal(proposal, _LAST if i == last else _MORE_PROPOSALS)
                for i, proposal in enumerate(self.proposals)
            ]
        )


def _parse_transforms(octets: bytes, count: int) -> tuple[Transform, ...]:
    if not count:
        raise Malformed("a proposal without transforms")
    body = Cursor(octets)
    transforms: list[Transform] = []
    for left in range(count, 0, -1):
        more, reserved, length = body.unpack(_SUBSTRUCTURE)
        if more != (_LAST if left == 1 else _MORE_TRANSFORMS):
            raise Malformed("what follows a transform does not fit the count")
        inner = body.sub(length - _SUBSTRUCTURE.size)
        number, kind, reserved2 = inner.unpack(_TRANSFORM)
        transforms.append(
            Transform(number, kind, parse_attributes(inner, MAX_ATTRIBUTES), (reserved, reserved2))
        )
    body.expect_end()
    return tuple(transforms)


_known_transforms = lru_cache(maxsize=256)(_parse_transforms)
"""One peer's proposal is like the last one's: most often all of it was seen before."""


def parse_attributes(body: Cursor, bound: int) -> tuple[Attribute, ...]:
    """All attributes up to the end of `body`, at most `bound`. Raises `Malformed`."""
    attributes: list[Attribute] = []
    while body.position != body.end:
        if len(attributes) == bound:
            raise Malformed(f"more than {bound} attributes")
        kind, value = body.unpack(_ATTRIBUTE)
        if kind & _FIXED:
            attributes.append(Attribute(kind & 0x7FFF, value))
        else:
            attributes.append(Attribute(kind, body.take(value)))
    return tuple(attributes)


def emit_attributes(attributes: tuple[Attribute, ...]) -> bytes:
    parts: list[bytes] = []
    for attribute in attributes:
        value = attribute.value
        if isinstance(value, int):
            parts.append(_ATTRIBUTE.pack(attribute.type | _FIXED, value))
        else:
            parts.append(_ATTRIBUTE.pack(attribute.type, len(value)) + value)
    return b"".join(parts)


def _emit_proposal(proposal: Proposal, more: int) -> bytes:
    emit = _known_emission if len(proposal.transforms) == 1 else _emit_transforms
    body = proposal.spi + emit(proposal.transforms)
    head = _PROPOSAL.pack(
        more,
        proposal.reserved,
        _PROPOSAL.size + len(body),
        proposal.number,
        proposal.protocol,
        len(proposal.spi),
        len(proposal.transforms),
    )
    return head + body


def _emit_transforms(transforms: tuple[Transform, ...]) -> bytes:
    if not transforms:
        raise ValueError("a proposal without transforms")
    last = len(transforms) - 1
    parts: list[bytes] = []
    for i, transform in enumerate(transforms):
        attributes = emit_attributes(transform.attributes)
        reserved, reserved2 = transform.reserved
        more = _LAST if i == last else _MORE_TRANSFORMS
        parts.append(_SUBSTRUCTURE.pack(more, reserved, 8 + len(attributes)))
        parts.append(_TRANSFORM.pack(transform.number, transform.id, reserved2))
        parts.append(attributes)
    return b"".join(parts)


_known_emission = lru_cache(maxsize=256)(_emit_transforms)
"""An answer is one of a few: the chosen transform."""
