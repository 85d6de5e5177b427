"""How Child SAs are named in Deletes: each half by its protocol and its receiver's SPI; a bundle has two."""

from __future__ import annotations

from collections.abc import Iterable

from cygnet.ike.state import ChildSa
from cygnet.wire.v1.payloads import DeletePayload

Half = tuple[int, bytes]
"""(protocol, SPI of the peer's) of a pair."""


def halves(child: ChildSa) -> tuple[tuple[Half, bytes], ...]:
    """(the peer's half, our SPI) of a pair, or of both of a bundle."""
    return tuple(
        [
            ((protocol, theirs.to_bytes(4, "big")), ours.to_bytes(4, "big"))
            for protocol, ours, theirs in child.halves
        ]
    )


def payloads(children: Iterable[ChildSa]) -> tuple[DeletePayload, ...]:
    """The Deletes of our SPIs, one payload for each protocol."""
    found: dict[int, list[bytes]] = {}
    for child in children:
        for protocol, ours, _ in child.halves:
            found.setdefault(protocol, []).append(ours.to_bytes(4, "big"))
    return tuple([DeletePayload(protocol, tuple(spis)) for protocol, spis in sorted(found.items())])
