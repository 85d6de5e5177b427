"""An X.509 certificate as a value: read once, whole, and refused with a reason or usable without surprises.

`cryptography` parses lazily and reports in many exception classes; this file is where all of that becomes
`CredentialError`. What IKE compares octet by octet (subject, issuer, public key info) is cut out of the
received octets, not encoded anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from cygnet.auth import der
from cygnet.auth import distinguished_name as dn
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import Identity
from cygnet.crypto.signatures import PublicKey, UnsuitableKey, check_public_key
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import IdType

# A chain in a CERT payload is a few KB; post-quantum keys will need more than that.
MAX_CERTIFICATE = 32 * 1024
MAX_NAMES = 256
_PUBLIC_KEYS = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)

# RFC 4945, section 5.1.3.12, wants ipsecIKE or any. The others stand in certificates that IKE peers use all
# the same: Windows and Apple ask gateways for serverAuth, old tools write the withdrawn IPsec purposes.
_ACCEPTED_PURPOSES = {
    "1.3.6.1.5.5.7.3.17",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE.dotted_string,
    ExtendedKeyUsageOID.SERVER_AUTH.dotted_string,
    ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string,
    "1.3.6.1.5.5.7.3.5",
    "1.3.6.1.5.5.7.3.6",
    "1.3.6.1.5.5.7.3.7",
    "1.3.6.1.5.5.8.2.2",
}
# Critical extensions that are obeyed. Certificate policies need no work where no policy is demanded
# (RFC 5280, section 6.1.1: user-initial-policy-set any-policy); the demand itself is another extension.
_PROCESSED = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.NAME_CONSTRAINTS,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
}
STRONG_SIGNATURES = {
    SignatureAlgorithmOID.RSA_WITH_SHA256,
    SignatureAlgorithmOID.RSA_WITH_SHA384,
    SignatureAlgorithmOID.RSA_WITH_SHA512,
    SignatureAlgorithmOID.RSASSA_PSS,
    SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    SignatureAlgorithmOID.ED25519,
    SignatureAlgorithmOID.ED448,
}
_STRONG_HASHES = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """What path validation and identity checks ask of a certificate.

    `subject`, `issuer` and `spki` are DER. Times are POSIX seconds, both inclusive. `names` are the general
    names of subjectAltName. `key_id` is SHA-1 over the public key's bits, by which swanctl knows keys.
    `signs_ocsp`: extendedKeyUsage makes it an OCSP responder's (any purpose does not).
    `fault` is why the certificate may vouch for nobody (weak key, unknown critical extension ...), or "".
    """

    der: bytes
    subject: bytes
    issuer: bytes
    spki: bytes
    not_before: float
    not_after: float
    public_key: PublicKey
    key_id: bytes
    subject_key_id: bytes
    names: tuple[x509.GeneralName, ...]
    is_ca: bool
    path_length: int | None
    signs_certificates: bool
    signs_messages: bool
    signs_crls: bool
    signs_ocsp: bool
    constraints: x509.NameConstraints | None
    fault: str
    handle: x509.Certificate

    @property
    def title(self) -> str:
        """The subject for people."""
        if self.subject == b"\x30\x00":
            names = self.identities()
            return str(names[0]) if names else "(no subject)"
        return str(Identity(IdType.DER_ASN1_DN, self.subject))

    @property
    def issuer_title(self) -> str:
        return str(Identity(IdType.DER_ASN1_DN, self.issuer)) if self.issuer != b"\x30\x00" else "(no issuer)"

    @property
    def is_self_issued(self) -> bool:
        return self.subject == self.issuer

    def key_hash(self) -> bytes:
        """SHA-1 of the subject public key info, by which CERTREQ names a CA (RFC 7296, section 3.7)."""
        return hashlib.sha1(self.spki, usedforsecurity=False).digest()

    def identities(self) -> tuple[Identity, ...]:
        """The identities that this certificate vouches for: its subjectAltNames, then its subject, if any."""
        found = []
        for name in self.names:
            if isinstance(name, x509.DNSName):
                found.append(Identity(IdType.FQDN, name.value.encode()))
            elif isinstance(name, x509.RFC822Name):
                found.append(Identity(IdType.RFC822_ADDR, name.value.encode()))
            elif isinstance(name, x509.IPAddress):
                packed = name.value.packed if hasattr(name.value, "packed") else b""
                if packed:
                    kind = IdType.IPV4_ADDR if len(packed) == 4 else IdType.IPV6_ADDR
                    found.append(Identity(kind, packed))
        if self.subject != b"\x30\x00":
            found.append(Identity(IdType.DER_ASN1_DN, self.subject))
        return tuple(found)

    def vouches_for(self, identity: Identity) -> bool:
        """Whether the identity is in subjectAltName, or is the subject (RFC 4945, sections 3.1.1 to 3.1.9).

        A name in the subject's CN does not count, and no wildcard does. A DN may differ in string types.
        A key id must be the certificate's subject key identifier or the SHA-1 of its public key.
        """
        if not identity.data or identity.has_wildcards:
            return False
        if identity.type == IdType.KEY_ID:
            return identity.data in (self.key_id, self.subject_key_id)
        return any(own.same_as(identity) for own in self.identities())


def parse(data: bytes) -> Certificate:
    """A certificate from DER. Raises `CredentialError` for what cannot be read; see `Certificate.fault`."""
    if len(data) > MAX_CERTIFICATE:
        raise CredentialError(f"a certificate of {len(data)} octets; at most {MAX_CERTIFICATE} are accepted")
    try:
        subject, issuer, spki = _cut(data)
        # A name that is not canonical could be shown or compared as another.
        dn.decode(subject)
        dn.decode(issuer)
        return _read(data, subject, issuer, spki)
    except (Malformed, dn.BadName) as error:
        raise CredentialError(f"not a certificate: {error}") from None
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        if isinstance(error, CredentialError):
            raise
        raise CredentialError(f"not a certificate that can be used: {_printable(error)}") from None


def parse_any(data: bytes) -> Certificate:
    """A certificate from PEM or DER. Raises `CredentialError`."""
    if b"-----BEGIN" in data:
        try:
            data = x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        except ValueError as error:
            raise CredentialError(f"not a certificate in PEM: {_printable(error)}") from None
    return parse(data)


def key_id_of(spki: bytes) -> bytes:
    """SHA-1 of the bits of a public key info (DER): the number by which swanctl knows the key."""
    return hashlib.sha1(_key_bits(spki), usedforsecurity=False).digest()


def _key_bits(spki: bytes) -> bytes:
    info = der.element(Cursor(spki), der.SEQUENCE)
    der.element(info, der.SEQUENCE)
    return der.bits(info)


def _printable(error: Exception) -> str:
    text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in text)


def _cut(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Subject, issuer and public key info, as they stand (RFC 5280, section 4.1)."""
    outer = Cursor(data)
    certificate = der.element(outer, der.SEQUENCE)
    outer.expect_end()
    fields = der.element(certificate, der.SEQUENCE)
    der.element(certificate, der.SEQUENCE)
    # Nothing signs the signature: an octet that readers pass over would give one certificate many faces.
    der.bits(certificate)
    certificate.expect_end()
    tag, _ = der.any_element(fields)
    if tag != der.EXPLICIT_0:
        raise CredentialError("a certificate of version 1, which can hold no names and no constraints")
    serial = der.element(fields, der.INTEGER).rest()
    if not serial or serial[0] & 0x80 or not any(serial):
        raise CredentialError("a certificate with a serial number that is not positive")
    der.element(fields, der.SEQUENCE)
    issuer = der.encode(der.SEQUENCE, der.element(fields, der.SEQUENCE).rest())
    der.element(fields, der.SEQUENCE)
    subject = der.encode(der.SEQUENCE, der.element(fields, der.SEQUENCE).rest())
    spki = der.encode(der.SEQUENCE, der.element(fields, der.SEQUENCE).rest())
    return subject, issuer, spki


def _read(data: bytes, subject: bytes, issuer: bytes, spki: bytes) -> Certificate:
    handle = x509.load_der_x509_certificate(data)
    fault = _weak_signature(handle)
    public_key = handle.public_key()
    if not isinstance(public_key, _PUBLIC_KEYS):
        raise CredentialError(f"a certificate with a key of kind {type(public_key).__name__}")
    try:
        check_public_key(public_key)
    except UnsuitableKey as error:
        fault = str(error)
    extensions = {extension.oid: extension for extension in handle.extensions}
    unknown = sorted(
        oid.dotted_string
        for oid, extension in extensions.items()
        if extension.critical and oid not in _PROCESSED
    )
    if unknown:
        fault = fault or f"critical extension {', '.join(unknown)} is not understood"

    names: tuple[x509.GeneralName, ...] = ()
    is_ca, path_length, constraints, subject_key_id = False, None, None, b""
    signs_certificates = signs_messages = signs_crls = True
    signs_ocsp = False
    for extension in extensions.values():
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            names = tuple(value)
            if len(names) > MAX_NAMES:
                raise CredentialError(
                    f"a certificate with {len(names)} names; at most {MAX_NAMES} are accepted"
                )
        elif isinstance(value, x509.BasicConstraints):
            is_ca, path_length = value.ca, value.path_length
        elif isinstance(value, x509.KeyUsage):
            signs_certificates, signs_crls = value.key_cert_sign, value.crl_sign
            # RFC 4945, section 5.1.3.2: one of the two.
            signs_messages = value.digital_signature or value.content_commitment
        elif isinstance(value, x509.ExtendedKeyUsage):
            if not any(purpose.dotted_string in _ACCEPTED_PURPOSES for purpose in value):
                signs_messages = False
            signs_ocsp = ExtendedKeyUsageOID.OCSP_SIGNING in value
        elif isinstance(value, x509.NameConstraints):
            constraints = value
        elif isinstance(value, x509.SubjectKeyIdentifier):
            subject_key_id = value.digest
    return Certificate(
        der=data,
        subject=subject,
        issuer=issuer,
        spki=spki,
        not_before=handle.not_valid_before_utc.timestamp(),
        not_after=handle.not_valid_after_utc.timestamp(),
        public_key=public_key,
        key_id=key_id_of(spki),
        subject_key_id=subject_key_id,
        names=names,
        is_ca=is_ca,
        path_length=path_length,
        signs_certificates=signs_certificates,
        signs_messages=signs_messages,
        signs_crls=signs_crls,
        signs_ocsp=signs_ocsp,
        constraints=constraints,
        fault=fault,
        handle=handle,
    )


def _weak_signature(handle: x509.Certificate) -> str:
    if handle.signature_algorithm_oid not in STRONG_SIGNATURES:
        return f"signed with {_algorithm_name(handle)}, which is weak or unknown"
    if handle.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
        digest = handle.signature_hash_algorithm
        if digest is None or digest.name not in _STRONG_HASHES:
            return "signed with RSASSA-PSS over a weak hash"
    return ""


def _algorithm_name(handle: x509.Certificate) -> str:
    oid = handle.signature_algorithm_oid
    return next(
        (name for name, value in vars(SignatureAlgorithmOID).items() if value == oid), oid.dotted_string
    )
