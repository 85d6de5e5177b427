"""A certificate revocation list as a value, and what it says of a certificate (RFC 5280, sections 5, 6.3).

Read once, refused whole where it could be misunderstood: an indirect list, one for some reasons only, a
critical extension that is not known. Whose it is shows its signature (`signed_by`); nothing is believed
before. A list that is too old still convicts, for a revocation is not taken back; it acquits nobody.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from cygnet.auth.certificate import STRONG_SIGNATURES, Certificate
from cygnet.auth.errors import CredentialError

MAX_CRL = 8 * 1024 * 1024
"""Octets; some 200,000 revoked certificates."""
MAX_URLS = 4
"""Of one kind in one certificate or list."""
SKEW = 300.0
"""Seconds by which the clock of who signs may be ahead of ours."""

_PROCESSED = {
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.CRL_NUMBER,
    ExtensionOID.DELTA_CRL_INDICATOR,
    ExtensionOID.ISSUING_DISTRIBUTION_POINT,
    ExtensionOID.FRESHEST_CRL,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a list says of a certificate. `removed`: a delta takes the revocation back (it was on hold)."""

    since: float
    reason: str
    removed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Crl:
    """Times are POSIX seconds. `number` is cRLNumber (0: none), `base` that of the list that a delta goes
    with, None for a whole list. `points`: where it is published, by its own word; empty: anywhere.
    `freshest`: where its deltas are. `only_users`, `only_cas`: for which certificates it is."""

    der: bytes = field(repr=False)
    issuer: x509.Name
    this_update: float
    next_update: float
    number: int
    base: int | None
    points: frozenset[str]
    only_users: bool
    only_cas: bool
    freshest: tuple[str, ...]
    handle: x509.CertificateRevocationList = field(repr=False)

    @property
    def title(self) -> str:
        return f"CRL {self.number} of {self.issuer.rfc4514_string()}"

    def is_fresh(self, wall: float) -> bool:
        return self.this_update <= wall + SKEW and wall <= self.next_update

    def covers(self, certificate: Certificate, urls: tuple[str, ...]) -> bool:
        """Whether the certificate would be listed here; `urls`: where its lists are."""
        if (certificate.is_ca and self.only_users) or (not certificate.is_ca and self.only_cas):
            return False
        return not self.points or not self.points.isdisjoint(urls)

    def signed_by(self, issuer: Certificate) -> bool:
        """Whether this CA signed it, and may sign CRLs."""
        if issuer.handle.subject != self.issuer or not issuer.signs_crls or issuer.fault:
            return False
        try:
            return self.handle.is_signature_valid(issuer.public_key) is True
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return False

    def find(self, serial: int) -> Entry | None:
        """What it says of the certificate with this serial number; None: it is not listed."""
        found = self.handle.get_revoked_certificate_by_serial_number(serial)
        if found is None:
            return None
        reason = x509.ReasonFlags.unspecified
        # Listed is listed, whatever the entry says besides.
        with contextlib.suppress(x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            reason = found.extensions.get_extension_for_class(x509.CRLReason).value.reason
        removed = reason is x509.ReasonFlags.remove_from_crl and self.base is not None
        return Entry(found.revocation_date_utc.timestamp(), reason.value, removed)


def parse(data: bytes) -> Crl:
    """A list from PEM or DER. Raises `CredentialError`."""
    if len(data) > MAX_CRL:
        raise CredentialError(f"a CRL of {len(data)} octets; at most {MAX_CRL} are accepted")
    try:
        load = x509.load_pem_x509_crl if b"-----BEGIN" in data[:4096] else x509.load_der_x509_crl
        return _read(load(data))
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        if isinstance(error, CredentialError):
            raise
        raise CredentialError("not a CRL in PEM or DER") from None


def _read(handle: x509.CertificateRevocationList) -> Crl:
    if handle.signature_algorithm_oid not in STRONG_SIGNATURES:
        raise CredentialError("a CRL that is signed with a weak or unknown algorithm")
    if handle.next_update_utc is None:
        raise CredentialError("a CRL that does not say when the next one comes")
    number, base, only_users, only_cas = 0, None, False, False
    points: frozenset[str] = frozenset()
    freshest: tuple[str, ...] = ()
    for extension in handle.extensions:
        value = extension.value
        if extension.critical and extension.oid not in _PROCESSED:
            raise CredentialError(
                f"a CRL with a critical extension {extension.oid.dotted_string}, which is not understood"
            )
        if isinstance(value, x509.CRLNumber):
            number = value.crl_number
        elif isinstance(value, x509.DeltaCRLIndicator):
            base = value.crl_number
        elif isinstance(value, x509.FreshestCRL):
            freshest = urls_of(value)
        elif isinstance(value, x509.IssuingDistributionPoint):
            if value.indirect_crl or value.only_contains_attribute_certs or value.only_some_reasons:
                raise CredentialError("an indirect CRL, or one for certain reasons only")
            if value.relative_name:
                raise CredentialError("a CRL that names its place relative to its issuer")
            only_users, only_cas = value.only_contains_user_certs, value.only_contains_ca_certs
            points = frozenset(
                name.value
                for name in value.full_name or ()
                if isinstance(name, x509.UniformResourceIdentifier)
            )
            if value.full_name and not points:
                raise CredentialError("a CRL that is published in a directory only")
    return Crl(
        der=handle.public_bytes(Encoding.DER),
        issuer=handle.issuer,
        this_update=handle.last_update_utc.timestamp(),
        next_update=handle.next_update_utc.timestamp(),
        number=number,
        base=base,
        points=points,
        only_users=only_users,
        only_cas=only_cas,
        freshest=freshest,
        handle=handle,
    )


def urls_of(points: x509.CRLDistributionPoints | x509.FreshestCRL) -> tuple[str, ...]:
    """The http URLs among distribution points. One whose list another CA signs is passed over."""
    found = [
        name.value
        for point in points
        if point.crl_issuer is None and point.reasons is None
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier) and name.value.lower().startswith("http://")
    ]
    return tuple(dict.fromkeys(found))[:MAX_URLS]


def day(seconds: float) -> str:
    """A time for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
