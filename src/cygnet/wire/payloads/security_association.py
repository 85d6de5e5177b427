"""The Security Association payload: proposals, transforms, attributes (RFC 7296, section 3.3).

Four nested lists, each with its own length and count; all of them must agree, and all are bounded.
"Last substruct" octets are derived from the position, so they are checked and not kept.
"""

from __future__ import annotations

from dataclasses import field
from functools import lru_cache
from struct import Struct
from typing import ClassVar, Final

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import PayloadType, TransformAttribute

MAX_PROPOSALS: Final = 64
"""RFC 7296 numbers them in an octet; real peers send up to about 20 (Windows)."""
MAX_TRANSFORMS: Final = 1024
"""In one SA payload. A proposal counts them in an octet; strongSwan's default offers hold about 60."""
MAX_ATTRIBUTES: Final = 8
"""Of one transform; only Key Length is defined."""

_PROPOSAL: Final = Struct("!BBHBBBB")
_SUBSTRUCTURE: Final = Struct("!BBH")
_TRANSFORM: Final = Struct("!BBH")
_COMMON_SIZE: Final = 8
_COMMON_LIST: Final = 512
_COMMON_COUNT: Final = 8
"""Octets of a transform with a Key Length, its first four left out."""
_ATTRIBUTE: Final = Struct("!HH")
_MORE_PROPOSALS, _MORE_TRANSFORMS, _LAST = 2, 3, 0
_SHORT_FORM: Final = 0x8000


@dataclass(frozen=True, slots=True)
class Attribute:
    """`value` is an int in the short form (type/value), octets in the long form (type/length/value)."""

    type: int
    value: int | bytes


@dataclass(frozen=True, slots=True)
class Transform:
    """`type` as in `numbers.TransformType`, `id` in that type's registry."""

    type: int
    id: int
    attributes: tuple[Attribute, ...] = ()
    reserved: tuple[int, int] = (0, 0)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Few are ever made (see below), and they are looked up again with each offer.
        object.__setattr__(self, "_hash", hash((self.type, self.id, self.attributes, self.reserved)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def key_bits(self) -> int:
        """The Key Length attribute, 0 if there is none (RFC 7296, section 3.3.5: short form only)."""
        for attribute in self.attributes:
            if attribute.type == TransformAttribute.KEY_LENGTH and type(attribute.value) is int:
                return attribute.value
        return 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """`spi` is empty where the exchange has none yet (IKE_SA_INIT)."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class SaPayload:
    payload_type: ClassVar[int] = PayloadType.SA

    proposals: tuple[Proposal, ...]
    flags: int = 0

    @classmethod
    def parse(cls, body: Cursor, flags: int) -> SaPayload:
        proposals: list[Proposal] = []
        room = MAX_TRANSFORMS
        more = _MORE_PROPOSALS
        while more:
            if len(proposals) == MAX_PROPOSALS:
                raise Malformed(f"more than {MAX_PROPOSALS} proposals")
            more, reserved, length, number, protocol, spi_size, count = body.unpack(_PROPOSAL)
            if more not in (_MORE_PROPOSALS, _LAST):
                raise Malformed("last-substruct octet of a proposal is neither 0 nor 2")
            room -= count
            if room < 0:
                raise Malformed(f"more than {MAX_TRANSFORMS} transforms")
            inner = body.sub(length - 8)
            spi = inner.take(spi_size) if spi_size else b""
            octets = inner.rest()
            parse = _known_transforms if len(octets) <= _COMMON_LIST else _parse_transforms
            transforms = parse(octets, count)
            proposals.append(Proposal(number, protocol, spi, transforms, reserved))
        body.expect_end()
        return cls(tuple(proposals), flags)

    def emit(self) -> bytes:
        if not self.proposals:
            raise ValueError("an SA payload without proposals")
        last = len(self.proposals) - 1
        return b"".join(
            _emit_proposal(proposal, _LAST if i == last else _MORE_PROPOSALS)
            for i, proposal in enumerate(self.proposals)
        )


def _parse_transforms(octets: bytes, count: int) -> tuple[Transform, ...]:
    body = Cursor(octets)
    transforms: list[Transform] = []
    for left in range(count, 0, -1):
        more, reserved, length = body.unpack(_SUBSTRUCTURE)
        if more != (_LAST if left == 1 else _MORE_TRANSFORMS):
            raise Malformed("last-substruct octet of a transform does not fit the count")
        octets = body.take(length - 4)
        parse = _known_transform if len(octets) <= _COMMON_SIZE else _parse_transform
        transforms.append(parse(reserved, octets))
    body.expect_end()
    return tuple(transforms)


_known_transforms = lru_cache(maxsize=256)(_parse_transforms)
"""One peer's proposal is like the last one's: most often all of it was seen before."""


def _parse_transform(reserved: int, octets: bytes) -> Transform:
    body = Cursor(octets)
    kind, reserved2, number = body.unpack(_TRANSFORM)
    attributes = _parse_attributes(body) if body.left else ()
    return Transform(kind, number, attributes, (reserved, reserved2))


_known_transform = lru_cache(maxsize=1024)(_parse_transform)
"""Everybody offers the same few dozen transforms: most of an SA payload's parsing is making them."""


def _parse_attributes(body: Cursor) -> tuple[Attribute, ...]:
    attributes: list[Attribute] = []
    while body.position != body.end:
        if len(attributes) == MAX_ATTRIBUTES:
            raise Malformed(f"more than {MAX_ATTRIBUTES} attributes in a transform")
        kind, value = body.unpack(_ATTRIBUTE)
        if kind & _SHORT_FORM:
            attributes.append(Attribute(kind & 0x7FFF, value))
        else:
            attributes.append(Attribute(kind, body.take(value)))
    return tuple(attributes)


def _emit_proposal(proposal: Proposal, more: int) -> bytes:
    emit = _known_emission if len(proposal.transforms) <= _COMMON_COUNT else _emit_transforms
    body = proposal.spi + emit(proposal.transforms)
    head = _PROPOSAL.pack(
        more,
        proposal.reserved,
        8 + len(body),
        proposal.number,
        proposal.protocol,
        len(proposal.spi),
        len(proposal.transforms),
    )
    return head + body


def _emit_transforms(transforms: tuple[Transform, ...]) -> bytes:
    last = len(transforms) - 1
    parts: list[bytes] = []
    for i, transform in enumerate(transforms):
        attributes = b"".join(map(_emit_attribute, transform.attributes))
        reserved, reserved2 = transform.reserved
        more_transforms = _LAST if i == last else _MORE_TRANSFORMS
        parts.append(_SUBSTRUCTURE.pack(more_transforms, reserved, 8 + len(attributes)))
        parts.append(_TRANSFORM.pack(transform.type, reserved2, transform.id))
        parts.append(attributes)
    return b"".join(parts)


_known_emission = lru_cache(maxsize=256)(_emit_transforms)
"""An answer is one of a few: what each proposal says beside its SPI."""


def _emit_attribute(attribute: Attribute) -> bytes:
    if isinstance(attribute.value, int):
        return _ATTRIBUTE.pack(attribute.type | _SHORT_FORM, attribute.value)
    return _ATTRIBUTE.pack(attribute.type, len(attribute.value)) + attribute.value
