"""Revocation lists and OCSP answers of every kind, made by the library that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from cygnet.crypto.signatures import PrivateKey
from tests.unit.auth_material import NOW, Held

HOUR = timedelta(hours=1)
CRL_URL = "http://ca.example.org/ca.crl"
DELTA_URL = "http://ca.example.org/delta.crl"
OCSP_URL = "http://ocsp.example.org/"


def _digest(key: PrivateKey) -> hashes.SHA256 | None:
    eddsa = isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
    return None if eddsa else hashes.SHA256()


def points(*urls: str) -> list[x509.DistributionPoint]:
    return [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None) for url in urls]


def crl_at(*urls: str) -> tuple[x509.ExtensionType, bool]:
    return x509.CRLDistributionPoints(points(*urls)), False


def ocsp_at(*urls: str) -> tuple[x509.ExtensionType, bool]:
    return (
        x509.AuthorityInformationAccess(
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))
            for url in urls
        ),
        False,
    )


def revocation_list(
    issuer: Held,
    revoked: Iterable[Held] = (),
    *,
    number: int = 1,
    base: int | None = None,
    start: datetime = NOW - HOUR,
    end: datetime = NOW + 24 * HOUR,
    signer: PrivateKey | None = None,
    reason: x509.ReasonFlags | None = None,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """DER of a CRL; `base`: a delta."""
    key = signer or issuer.key
    builder = x509.CertificateRevocationListBuilder(issuer.subject, start, end)
    builder = builder.add_extension(x509.CRLNumber(number), False)
    if base is not None:
        builder = builder.add_extension(x509.DeltaCRLIndicator(base), True)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    for one in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(one.certificate.handle.serial_number)
            .revocation_date(NOW - HOUR)
        )
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, _digest(key)).public_bytes(Encoding.DER)


def answer(
    asked: bytes,
    certificate: Held,
    issuer: Held,
    *,
    revoked: bool = False,
    unknown: bool = False,
    responder: Held | None = None,
    with_certificate: bool = True,
    nonce: bytes | None = b"",
    start: datetime = NOW - HOUR,
    end: datetime | None = NOW + HOUR,
    serial: int = 0,
) -> bytes:
    """DER of an OCSP response to a request. `nonce`: empty: as asked; None: without."""
    status = ocsp.OCSPCertStatus.GOOD
    if revoked or unknown:
        status = ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.UNKNOWN
    request = ocsp.load_der_ocsp_request(asked)
    signer = responder or issuer
    builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
        request.issuer_name_hash,
        request.issuer_key_hash,
        serial or request.serial_number,
        request.hash_algorithm,
        status,
        start,
        end,
        NOW - HOUR if revoked else None,
        x509.ReasonFlags.key_compromise if revoked else None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate.handle)
    if with_certificate and responder is not None:
        builder = builder.certificates([responder.certificate.handle])
    if nonce is not None:
        own = nonce or request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        builder = builder.add_extension(x509.OCSPNonce(own), False)
    return builder.sign(signer.key, _digest(signer.key)).public_bytes(Encoding.DER)
