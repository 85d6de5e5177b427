"""Making a CA and certificates for gateways: enough for a first deployment, and for tests and the demo.

Pure: times come in, PEM comes out. The certificates follow RFC 4945, section 5.1: identities in
subjectAltName, keyUsage digitalSignature, no extended key usage.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from cygnet.auth import distinguished_name as dn
from cygnet.auth.certificate import parse_any
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import Identity
from cygnet.crypto.signatures import PrivateKey
from cygnet.wire.numbers import IdType

DAY = 86400.0
# Two gateways whose clocks differ by less than this agree on a certificate made just now.
BACKDATED = 3600.0

# The sizes that each kind of key may have, the default first.
KEY_SIZES = {
    "ecdsa": (256, 384, 521),
    "rsa": (3072, 2048, 4096, 8192),
    "ed25519": (255,),
    "ed448": (448,),
}
_CURVES: dict[int, ec.EllipticCurve] = {256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}
_MAX_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key (PKCS #8, not encrypted), both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def generate_key(kind: str, size: int = 0) -> PrivateKey:
    """A new key: a kind and a size of KEY_SIZES, 0 its default. Raises `CredentialError`."""
    sizes = KEY_SIZES.get(kind)
    if sizes is None:
        raise CredentialError(f"{kind!r} is no key type; there are {', '.join(KEY_SIZES)}")
    size = size or sizes[0]
    if size not in sizes:
        raise CredentialError(f"a key of type {kind} has {' or '.join(map(str, sizes))} bits, not {size}")
    if kind == "rsa":
        return rsa.generate_private_key(65537, size)
    if kind == "ecdsa":
        return ec.generate_private_key(_CURVES[size])
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ed448.Ed448PrivateKey.generate()


def make_ca(
    subject: str,
    *,
    not_before: float,
    not_after: float,
    kind: str = "ecdsa",
    size: int = 0,
    path_length: int | None = 0,
    issuer: Issued | None = None,
) -> Issued:
    """A CA: self-signed, or under `issuer`. Times are POSIX seconds. `subject` is a DN ("C=CH, O=x, CN=y").

    `path_length`: how many CAs may stand below it, None any number. Raises `CredentialError`.
    """
    name = _name(subject)
    key = generate_key(kind, size)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(True, path_length), True),
        (_usage(ca=True), True),
    ]
    return _signed(name, key, issuer, (not_before, not_after), extensions)


def issue(
    ca: Issued,
    identities: Sequence[Identity],
    *,
    not_before: float,
    not_after: float,
    subject: str = "",
    kind: str = "ecdsa",
    size: int = 0,
) -> Issued:
    """A gateway's certificate under `ca`, for these identities (addresses, names, mail addresses).

    `subject` is a DN; empty: CN= the first identity. It ends no later than its CA's.
    Raises `CredentialError`.
    """
    if not identities and not subject:
        raise CredentialError("a certificate needs an identity or a subject")
    authority = parse_any(ca.certificate)
    if not authority.is_ca:
        raise CredentialError(f"{authority.title} is no CA certificate")
    alternatives = [_general_name(identity) for identity in identities]
    name = _name(subject) if subject else _common_name(str(identities[0]))
    key = generate_key(kind, size)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(False, None), True),
        (_usage(ca=False), True),
    ]
    if alternatives:
        # Critical where the subject is empty (RFC 5280, section 4.2.1.6).
        extensions.append((x509.SubjectAlternativeName(alternatives), not name.rdns))
    return _signed(name, key, ca, (not_before, min(not_after, authority.not_after)), extensions)


def _signed(
    name: x509.Name,
    key: PrivateKey,
    issuer: Issued | None,
    times: tuple[float, float],
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> Issued:
    """The certificate, signed by the issuer's key, or by its own where there is no issuer."""
    not_before, not_after = times
    if not_after <= not_before:
        raise CredentialError("the certificate would end before it begins")
    signer, issuer_name = key, name
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    if issuer is not None:
        signer = _signing_key(issuer)
        handle = x509.load_pem_x509_certificate(issuer.certificate)
        issuer_name = handle.subject
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    try:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(not_before, UTC))
            .not_valid_after(datetime.fromtimestamp(not_after, UTC))
        )
    except (ValueError, OverflowError, OSError) as error:
        raise CredentialError(f"the certificate's times cannot be written: {error}") from None
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    for extension, critical in (*extensions, (key_id, False), (authority_id, False)):
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(signer, _digest(signer))
    return Issued(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _signing_key(issuer: Issued) -> PrivateKey:
    """The issuer's private key. Raises `CredentialError` if it is unreadable or not its certificate's."""
    try:
        key = load_pem_private_key(issuer.key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CredentialError("the CA's private key is no unencrypted private key in PEM") from None
    certified = parse_any(issuer.certificate)
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not isinstance(key, PrivateKey) or info != certified.spki:
        raise CredentialError(f"the private key is not the one of the CA certificate {certified.title}")
    return key


def _digest(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """The hash that is as strong as the key; EdDSA has its own."""
    if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
        return None
    strong = key.key_size > (3072 if isinstance(key, rsa.RSAPrivateKey) else 256)
    return hashes.SHA384() if strong else hashes.SHA256()


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    # What is too long for a CN is in subjectAltName anyway.
    fits = len(text) <= _MAX_COMMON_NAME
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)] if fits else [])


def _name(text: str) -> x509.Name:
    try:
        return x509.Name(
            x509.RelativeDistinguishedName(
                x509.NameAttribute(x509.ObjectIdentifier(value.oid), value.text or "") for value in rdn
            )
            for rdn in dn.from_text(text)
        )
    except (dn.BadName, ValueError) as error:
        raise CredentialError(f"subject {text!r}: {error}") from None


_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")


def _general_name(identity: Identity) -> x509.GeneralName:
    if identity.has_wildcards:
        raise CredentialError(f"{identity}: a certificate is for one identity, not for a pattern")
    try:
        if identity.type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR):
            return x509.IPAddress(ipaddress.ip_address(identity.data))
        if identity.type == IdType.FQDN:
            name = identity.data.decode("ascii")
            if not _DNS_NAME.fullmatch(name):
                raise CredentialError(
                    f"{identity} is no name that a host can have: letters, digits, - _ and dots"
                )
            return x509.DNSName(name)
        if identity.type == IdType.RFC822_ADDR:
            return x509.RFC822Name(identity.data.decode("ascii"))
    except ValueError as error:
        raise CredentialError(f"{identity} cannot stand in a certificate: {error}") from None
    raise CredentialError(
        f"{identity} is neither an address nor a name nor a mail address; a DN is given as the subject"
    )
