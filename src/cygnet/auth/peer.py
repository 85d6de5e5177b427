"""That the peer is authenticated is this value, and nothing else.

Only a successful verification makes an `AuthenticatedPeer` (`auth.proof` alone calls `attest`; a test
enforces it). What needs an authenticated peer takes one as an argument, so that no path can forget the
question (CVE-2014-2338: an IKE SA became established without any credential).
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Final

from cygnet.auth.identity import Identity

_EVIDENCE: Final = object()


@dataclass(frozen=True, slots=True)
class AuthenticatedPeer:
    """Who the peer proved to be, and how.

    `method` is the AUTH method (RFC 7296, section 3.8), `scheme` the signature's name ("ecdsa-sha256") or
    "psk". `chain` holds the DER certificates that were verified, the end entity's first, the trust anchor
    last; empty for PSK. `valid_until`: POSIX seconds after which the chain no longer holds, or infinity.
    """

    identity: Identity
    method: int
    scheme: str
    chain: tuple[bytes, ...]
    valid_until: float
    evidence: InitVar[object] = None

    def __post_init__(self, evidence: object) -> None:
        if evidence is not _EVIDENCE:
            raise TypeError("an AuthenticatedPeer comes from a verification only")


def attest(
    identity: Identity,
    method: int,
    scheme: str,
    *,
    chain: tuple[bytes, ...] = (),
    valid_until: float = float("inf"),
) -> AuthenticatedPeer:
    """The value that a verification which has just succeeded hands out; for `auth.proof` only."""
    return AuthenticatedPeer(identity, method, scheme, chain, valid_until, _EVIDENCE)
