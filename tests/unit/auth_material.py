"""Certificates of every kind, good and odd, for the tests of who may be believed."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from cygnet.auth import certificate
from cygnet.auth.certificate import Certificate
from cygnet.auth.credentials import Credentials
from cygnet.crypto.signatures import PrivateKey

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WALL = NOW.timestamp()
YEAR = timedelta(days=365)

_Extensions = Sequence[tuple[x509.ExtensionType, bool]]


LARGE = Path(__file__).with_name("rsa8192.pem")


@functools.cache
def key(kind: str, number: int | str = 0) -> PrivateKey:
    """The `number`-th key of a kind, made once in a test run."""
    if kind == "rsa8192":
        held = load_pem_private_key(LARGE.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(held, rsa.RSAPrivateKey)
        return held
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:] or "2048"))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
        "p521": ec.SECP521R1(),
        "bp256": ec.BrainpoolP256R1(),
        "p192": ec.SECP192R1(),
    }
    return ec.generate_private_key(curves[kind])


def name(text: str) -> x509.Name:
    """`CN=x` or `C=CH,O=x,CN=y`, in UTF8String as OpenSSL writes it."""
    oids = {"C": NameOID.COUNTRY_NAME, "O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME}
    parts = [part.split("=") for part in text.split(",") if part]
    return x509.Name([x509.NameAttribute(oids[kind], value) for kind, value in parts])


def usage(*, sign: bool = True, certify: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(sign, False, False, False, False, certify, certify, False, False)


@dataclass(frozen=True)
class Held:
    """A certificate and its key."""

    certificate: Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.der

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def subject(self) -> x509.Name:
        return self.certificate.handle.subject


def raw(
    subject: str,
    issuer: Held | None = None,
    *,
    holder: PrivateKey | None = None,
    signer: PrivateKey | None = None,
    issuer_name: x509.Name | None = None,
    start: datetime = NOW - YEAR,
    end: datetime = NOW + YEAR,
    extensions: _Extensions = (),
) -> bytes:
    """DER of a certificate with exactly these extensions; self-signed without an issuer."""
    holder = holder or key("p256")
    signer = signer or (issuer.key if issuer else holder)
    if issuer_name is None:
        issuer_name = issuer.subject if issuer else name(subject)
    builder = x509.CertificateBuilder(
        issuer_name, name(subject), holder.public_key(), x509.random_serial_number(), start, end
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    eddsa = isinstance(signer, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
    return builder.sign(signer, None if eddsa else hashes.SHA256()).public_bytes(Encoding.DER)


def ca(
    subject: str = "O=Test,CN=CA",
    issuer: Held | None = None,
    *,
    holder: PrivateKey | None = None,
    path_length: int | None = None,
    more: _Extensions = (),
    start: datetime = NOW - YEAR,
    end: datetime = NOW + YEAR,
) -> Held:
    holder = holder or key("p256", subject)
    constraints = x509.BasicConstraints(True, path_length)
    extensions = ((constraints, True), (usage(sign=False, certify=True), True), *more)
    data = raw(subject, issuer, holder=holder, extensions=extensions, start=start, end=end)
    return Held(certificate.parse(data), holder)


def names(*texts: str) -> x509.SubjectAlternativeName:
    """subjectAltName of `ip:`, `dns:`, `email:` and `uri:` entries."""
    made: list[x509.GeneralName] = []
    for text in texts:
        kind, _, value = text.partition(":")
        if kind == "ip":
            made.append(x509.IPAddress(ipaddress.ip_address(value)))
        elif kind == "dns":
            made.append(x509.DNSName(value))
        elif kind == "email":
            made.append(x509.RFC822Name(value))
        else:
            made.append(x509.UniformResourceIdentifier(value))
    return x509.SubjectAlternativeName(made)


MOON = ("dns:moon.example.org", "ip:192.0.2.1", "ip:2001:db8::1", "email:moon@example.org")


def entity(
    issuer: Held | None,
    subject: str = "C=CH,O=Test,CN=moon",
    sans: Iterable[str] = MOON,
    *,
    holder: PrivateKey | None = None,
    more: _Extensions = (),
    key_usage: x509.KeyUsage | None = None,
    start: datetime = NOW - YEAR,
    end: datetime = NOW + YEAR,
) -> Held:
    holder = holder or key("p256", 1)
    sans = tuple(sans)
    extensions: list[tuple[x509.ExtensionType, bool]] = [(key_usage or usage(), True), *more]
    if sans:
        extensions.append((names(*sans), not subject))
    data = raw(subject, issuer, holder=holder, extensions=extensions, start=start, end=end)
    return Held(certificate.parse(data), holder)


def trusting(*anchors: Held) -> Credentials:
    credentials = Credentials()
    for anchor in anchors:
        credentials.add_certificate(anchor.der, ca=True)
    return credentials


def holding(*held: Held) -> Credentials:
    credentials = Credentials()
    for one in held:
        credentials.add_certificate(one.der)
        credentials.add_private_key(one.key_pem)
    return credentials
