"""OCSP: a request for the state of one certificate, and its answer believed or refused (RFC 6960, RFC 8954).

Who may answer: the CA itself, by the key that signed the certificate, or whom it delegated by a certificate
that it issued for that (id-kp-OCSPSigning), nobody else. An answer is for the certificate that was asked
about, of now, and has our nonce or none: responders that sign in advance leave it out, and then only the
times bound how long an old answer serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from cygnet.auth import certificate as certificates
from cygnet.auth import der
from cygnet.auth.certificate import Certificate
from cygnet.auth.crl import SKEW
from cygnet.auth.errors import CredentialError
from cygnet.crypto import signatures
from cygnet.crypto.signatures import PublicKey, SignatureInvalid, SignatureScheme, UnsuitableKey
from cygnet.crypto.suites import UnsupportedAlgorithm as UnknownAlgorithm
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import HashAlgorithm

MAX_ANSWER = 32 * 1024
NONCE_LENGTH = 32
SERVES = 300.0
"""Seconds that an answer serves which does not say until when."""
MAX_RESPONDERS = 4
"""Certificates in an answer that are looked at."""
MAX_RESPONSES = 16

_WEAK = (HashAlgorithm.SHA1,)


@dataclass(frozen=True, slots=True)
class Answer:
    """A verified answer. `revoked`: since when, POSIX seconds, None: good. It serves until `until`."""

    revoked: float | None
    reason: str
    until: float


def request(certificate: Certificate, issuer: Certificate, nonce: bytes) -> bytes:
    """What is posted to a responder. SHA-1 only names the certificate; some responders know nothing else."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        certificate.handle,
        issuer.handle,
        hashes.SHA1(),  # noqa: S303 - a name, no proof
    )
    return builder.add_extension(x509.OCSPNonce(nonce), critical=False).build().public_bytes(Encoding.DER)


def nonce_of(asked: bytes) -> bytes:
    """The nonce in a request of ours."""
    return ocsp.load_der_ocsp_request(asked).extensions.get_extension_for_class(x509.OCSPNonce).value.nonce


def judge(data: bytes, certificate: Certificate, issuer: Certificate, nonce: bytes, wall: float) -> Answer:
    """What a response says of the certificate. Raises `CredentialError` unless it says good or revoked, now,
    about this certificate, by somebody who may. `nonce` empty: somebody else asked (RFC 4806)."""
    if len(data) > MAX_ANSWER:
        raise CredentialError(f"an OCSP answer of {len(data)} octets; at most {MAX_ANSWER} are accepted")
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise CredentialError(f"the OCSP responder says {response.response_status.name.lower()}")
        _check_signature(data, response, issuer, wall)
        _check_nonce(response, nonce)
        return _find(response, certificate, issuer, wall)
    except Malformed as error:
        raise CredentialError(f"not an OCSP answer: {error}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        if isinstance(error, CredentialError):
            raise
        raise CredentialError("not an OCSP answer that can be used") from None


def _check_signature(data: bytes, response: ocsp.OCSPResponse, issuer: Certificate, wall: float) -> None:
    """Raises `CredentialError` unless a responder that may answer for this CA signed it."""
    algorithm, signature = _cut(data)
    try:
        scheme = signatures.scheme_by_algorithm_identifier(algorithm)
    except UnknownAlgorithm as error:
        raise CredentialError(f"the OCSP answer: {error}") from None
    if scheme.hash_number in _WEAK:
        raise CredentialError("the OCSP answer is signed over SHA-1")
    signer = issuer if _is_responder(response, issuer) else _delegate(response, issuer, wall)
    verify: Callable[[PublicKey, SignatureScheme, bytes, bytes], object] = signatures.verify
    try:
        outcome = verify(signer.public_key, scheme, signature, response.tbs_response_bytes)
    except (SignatureInvalid, UnsuitableKey) as error:
        raise CredentialError(f"the OCSP answer is not signed by {signer.title}: {error}") from None
    # None is the only way to say yes (CVE-2020-16088).
    if outcome is not None:
        raise CredentialError("the signature of the OCSP answer could not be verified")


def _is_responder(response: ocsp.OCSPResponse, certificate: Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name == certificate.handle.subject
    return response.responder_key_hash == certificate.key_id


def _delegate(response: ocsp.OCSPResponse, issuer: Certificate, wall: float) -> Certificate:
    """The certificate of the responder that says it signed, which this very CA must have issued for that
    (RFC 6960, section 4.2.2.2). Raises `CredentialError`."""
    for handle in response.certificates[:MAX_RESPONDERS]:
        found = certificates.parse(handle.public_bytes(Encoding.DER))
        if not _is_responder(response, found):
            continue
        if found.fault:
            raise CredentialError(f"the OCSP responder {found.title}: {found.fault}")
        if not found.signs_ocsp:
            raise CredentialError(f"{found.title} may not answer OCSP for {issuer.title}")
        if not found.not_before <= wall <= found.not_after:
            raise CredentialError(f"the certificate of the OCSP responder {found.title} is not valid now")
        check: Callable[[x509.Certificate], object] = found.handle.verify_directly_issued_by
        try:
            outcome = check(issuer.handle)
        except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
            outcome = False
        if outcome is not None:
            raise CredentialError(f"the OCSP responder {found.title} is not one of {issuer.title}")
        return found
    raise CredentialError(f"the OCSP answer is of neither {issuer.title} nor a responder of it")


def _check_nonce(response: ocsp.OCSPResponse, nonce: bytes) -> None:
    for extension in response.extensions:
        if nonce and isinstance(extension.value, x509.OCSPNonce) and extension.value.nonce != nonce:
            raise CredentialError("the OCSP answer is one to another request")


def _find(response: ocsp.OCSPResponse, certificate: Certificate, issuer: Certificate, wall: float) -> Answer:
    for number, one in enumerate(response.responses):
        if number == MAX_RESPONSES:
            break
        if one.serial_number != certificate.handle.serial_number or not _names(one, certificate, issuer):
            continue
        this_update = one.this_update_utc.timestamp()
        until = this_update + SERVES if one.next_update_utc is None else one.next_update_utc.timestamp()
        if this_update > wall + SKEW or wall > until + SKEW:
            raise CredentialError("the OCSP answer is not of now")
        if one.certificate_status is ocsp.OCSPCertStatus.REVOKED:
            since = one.revocation_time_utc
            reason = one.revocation_reason or x509.ReasonFlags.unspecified
            return Answer(since.timestamp() if since is not None else 0.0, reason.value, until)
        if one.certificate_status is ocsp.OCSPCertStatus.GOOD:
            return Answer(None, "", until)
        raise CredentialError(f"the OCSP responder does not know {certificate.title}")
    raise CredentialError(f"the OCSP answer says nothing of {certificate.title}")


def _names(one: ocsp.OCSPSingleResponse, certificate: Certificate, issuer: Certificate) -> bool:
    """Whether it is about a certificate of this CA: by hashes of name and key (RFC 6960, section 4.1.1)."""
    asked = ocsp.OCSPRequestBuilder().add_certificate(
        certificate.handle, issuer.handle, one.hash_algorithm
    ).build()  # fmt: skip
    return (one.issuer_name_hash, one.issuer_key_hash) == (asked.issuer_name_hash, asked.issuer_key_hash)


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """AlgorithmIdentifier and signature of the BasicOCSPResponse (RFC 6960, section 4.2.1)."""
    response = der.element(Cursor(data), der.SEQUENCE)
    der.element(response, der.ENUMERATED)
    typed = der.element(der.element(response, der.EXPLICIT_0), der.SEQUENCE)
    der.element(typed, der.OID)
    basic = der.element(der.element(typed, der.OCTET_STRING), der.SEQUENCE)
    der.element(basic, der.SEQUENCE)
    algorithm = der.encode(der.SEQUENCE, der.element(basic, der.SEQUENCE).rest())
    return algorithm, der.bits(basic)
