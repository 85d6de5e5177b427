"""From a peer's certificate to a CA that we trust (RFC 5280, section 6; RFC 4945, section 5).

`cryptography.x509.verification` follows the web's rules: it knows neither EdDSA nor Brainpool, wants a
server's name, and says one thing for every failure. So the path is built here, on its signature check, and
every refusal has its kind. Bounded: MAX_PATH certificates in a path, MAX_SIGNATURES signature checks in all.

Revocation is not asked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import Certificate as Handle

from cygnet.auth.certificate import Certificate
from cygnet.auth.errors import AuthenticationError, Kind
from cygnet.auth.name_constraints import violation

MAX_PATH = 8
MAX_SIGNATURES = 32


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why one way led nowhere, and how far it came: of several the one that came farthest is told."""

    progress: int
    error: AuthenticationError


@dataclass(slots=True)
class _Search:
    anchors: dict[bytes, Certificate]
    issuers: dict[bytes, list[Certificate]]
    wall: float
    signatures: int = 0
    refusals: list[_Refusal] = field(default_factory=list)

    def refuse(self, progress: int, kind: Kind, detail: str) -> None:
        self.refusals.append(_Refusal(progress, AuthenticationError(kind, detail)))


def validate(
    end_entity: Certificate,
    intermediates: Iterable[Certificate],
    anchors: Sequence[Certificate],
    wall: float,
) -> tuple[Certificate, ...]:
    """The path from the end entity's certificate to one of the anchors, both included.

    `wall` is POSIX seconds. Raises `AuthenticationError`: CERTIFICATE_UNTRUSTED if no path of valid
    signatures leads to an anchor; CERTIFICATE_EXPIRED, _NOT_YET_VALID or _INVALID if one does, but a
    certificate on it may not be used (so) now.
    """
    if not end_entity.signs_messages:
        raise AuthenticationError(
            Kind.CERTIFICATE_INVALID,
            f"the certificate {end_entity.title} is for other uses: its keyUsage or extendedKeyUsage "
            "does not allow IKE signatures",
        )
    issuers: dict[bytes, list[Certificate]] = {}
    # Anchors first: the shortest path wins, and a peer's copies cost nothing.
    for certificate in (*anchors, *intermediates):
        known = issuers.setdefault(certificate.subject, [])
        if all(certificate.der != other.der for other in known):
            known.append(certificate)
    search = _Search({anchor.der: anchor for anchor in anchors}, issuers, wall)
    path = _extend((end_entity,), search)
    if path is not None:
        return path
    raise max(search.refusals, key=lambda refusal: refusal.progress).error


def _extend(path: tuple[Certificate, ...], search: _Search) -> tuple[Certificate, ...] | None:
    """A path that begins so and ends in an anchor, or None; depth first."""
    last = path[-1]
    if last.der in search.anchors:
        return path if _usable(path, search) else None
    issuers = search.issuers.get(last.issuer, ())
    if not issuers:
        wanted = (
            "it is self-signed and not one of our CAs" if last.is_self_issued else "its issuer is unknown"
        )
        search.refuse(
            len(path), Kind.CERTIFICATE_UNTRUSTED, f"{last.title}: {wanted} (issuer {last.issuer_title})"
        )
    for issuer in issuers:
        if any(issuer.spki == passed.spki and issuer.subject == passed.subject for passed in path):
            search.refuse(
                len(path),
                Kind.CERTIFICATE_UNTRUSTED,
                f"{last.title}: it is self-signed and not one of our CAs",
            )
            continue
        if len(path) == MAX_PATH:
            search.refuse(
                len(path), Kind.CERTIFICATE_UNTRUSTED, f"a chain of more than {MAX_PATH} certificates"
            )
            continue
        if not _issued(last, issuer, path, search):
            continue
        found = _extend((*path, issuer), search)
        if found is not None:
            return found
    return None


def _issued(
    certificate: Certificate, issuer: Certificate, path: tuple[Certificate, ...], search: _Search
) -> bool:
    """Whether the issuer signed the certificate and may do so for a path of this length."""
    below = len(path)
    if not issuer.is_ca or not issuer.signs_certificates:
        search.refuse(
            below, Kind.CERTIFICATE_INVALID, f"{issuer.title} is not a CA but issued {certificate.title}"
        )
        return False
    # Self-issued intermediates do not count (RFC 5280, section 4.2.1.9); path[0] is the end entity.
    depth = sum(not passed.is_self_issued for passed in path[1:])
    if issuer.path_length is not None and depth > issuer.path_length:
        search.refuse(
            below,
            Kind.CERTIFICATE_INVALID,
            f"{issuer.title} allows {issuer.path_length} CAs below it, here are {depth}",
        )
        return False
    # Before its signature is computed with: a weak or odd key is not used at all.
    for holder in (issuer, certificate):
        if holder.fault:
            search.refuse(below, Kind.CERTIFICATE_INVALID, f"{holder.title}: {holder.fault}")
            return False
    search.signatures += 1
    if search.signatures > MAX_SIGNATURES:
        search.refuse(
            below, Kind.CERTIFICATE_UNTRUSTED, f"no chain found within {MAX_SIGNATURES} signature checks"
        )
        return False
    check: Callable[[Handle], object] = certificate.handle.verify_directly_issued_by
    try:
        outcome = check(issuer.handle)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        outcome = False
    # The library promises None or an exception; anything else is no success (CVE-2020-16088).
    if outcome is not None:
        search.refuse(
            below,
            Kind.CERTIFICATE_UNTRUSTED,
            f"{certificate.title} names {issuer.title} as its issuer, but another key signed it",
        )
        return False
    return True


def _usable(path: tuple[Certificate, ...], search: _Search) -> bool:
    """Whether every certificate of a path with good signatures may be used, so and now."""
    # Farther than any path without an anchor.
    reached = MAX_PATH + len(path)
    for position, certificate in enumerate(path):
        if certificate.fault:
            search.refuse(reached, Kind.CERTIFICATE_INVALID, f"{certificate.title}: {certificate.fault}")
            return False
        if search.wall > certificate.not_after:
            search.refuse(
                reached,
                Kind.CERTIFICATE_EXPIRED,
                f"the certificate {certificate.title} expired {_date(certificate.not_after)}",
            )
            return False
        if search.wall < certificate.not_before:
            search.refuse(
                reached,
                Kind.CERTIFICATE_NOT_YET_VALID,
                f"the certificate {certificate.title} is not valid before {_date(certificate.not_before)}",
            )
            return False
        if certificate.constraints is None:
            continue
        for below, passed in enumerate(path[:position]):
            # Self-issued CA certificates are exempt, an end entity's never (RFC 5280, section 6.1.3 b).
            if below and passed.is_self_issued:
                continue
            broken = violation(certificate.constraints, passed)
            if broken:
                search.refuse(reached, Kind.CERTIFICATE_INVALID, f"{passed.title}: {broken}")
                return False
    return True


def check_times(certificate: Certificate, wall: float) -> None:
    """For a certificate that is trusted by itself. Raises `AuthenticationError`."""
    search = _Search({certificate.der: certificate}, {}, wall)
    if not _usable((certificate,), search):
        raise search.refusals[-1].error


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
