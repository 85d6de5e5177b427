"""That the peer is authenticated is this value, and nothing else.

Only a successful verification makes an `AuthenticatedPeer` (`auth.proof` and `auth.isakmp` alone call
`attest`; a test enforces it). What needs an authenticated peer takes one as an argument, so that no path can
forget the question (CVE-2014-2338: an IKE SA became established without any credential).
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Any, Final

from cygnet.auth.identity import Identity

_EVIDENCE: Final = object()


@dataclass(frozen=True, slots=True)
class AuthenticatedPeer:
    """Who the peer proved to be, and how.

    `method` is the AUTH method (RFC 7296, section 3.8), `scheme` the signature's name ("ecdsa-sha256") or
    "psk". `chain` holds the DER certificates that were verified, the end entity's first, the trust anchor
    last; empty for PSK. `valid_until`: POSIX seconds after which the chain no longer holds, or infinity.
    `eap_identity`: the user's name that EAP or XAUTH authenticated, else None; `groups`: the user's;
    `attributes`: what a RADIUS server said of the user, by name.
    """

    identity: Identity
    method: int
    scheme: str
    chain: tuple[bytes, ...]
    valid_until: float
    eap_identity: Identity | None = None
    groups: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, Any], ...] = ()
    evidence: InitVar[object] = None

    def __post_init__(self, evidence: object) -> None:
        if evidence is not _EVIDENCE:
            raise TypeError("an AuthenticatedPeer comes from a verification only")

    @property
    def user(self) -> Identity:
        """Whom leases and limits are for: the user where EAP names one, else the identity."""
        return self.eap_identity or self.identity


def attest(
    identity: Identity,
    method: int,
    scheme: str,
    *,
    chain: tuple[bytes, ...] = (),
    valid_until: float = float("inf"),
    eap_identity: Identity | None = None,
    groups: frozenset[str] = frozenset(),
    attributes: tuple[tuple[str, Any], ...] = (),
) -> AuthenticatedPeer:
    """The value that a verification which has just succeeded hands out; for `auth.proof` and
    `auth.isakmp`."""
    return AuthenticatedPeer(
        identity, method, scheme, chain, valid_until, eap_identity, groups, attributes, _EVIDENCE
    )


@dataclass(frozen=True, slots=True)
class Phase1Peer:
    """What phase 1 of IKEv1 showed of a peer who must still log in: nobody is authenticated by it, and
    nothing that takes an `AuthenticatedPeer` takes it. In hybrid methods not even the identity is more than
    a claim. Fields as in `AuthenticatedPeer`."""

    identity: Identity
    method: int
    scheme: str
    chain: tuple[bytes, ...]
    valid_until: float
    evidence: InitVar[object] = None

    def __post_init__(self, evidence: object) -> None:
        if evidence is not _EVIDENCE:
            raise TypeError("a Phase1Peer comes from a verification only")


def attest_phase1(
    identity: Identity,
    method: int,
    scheme: str,
    *,
    chain: tuple[bytes, ...] = (),
    valid_until: float = float("inf"),
) -> Phase1Peer:
    """As `attest`, for `auth.isakmp` only."""
    return Phase1Peer(identity, method, scheme, chain, valid_until, _EVIDENCE)
