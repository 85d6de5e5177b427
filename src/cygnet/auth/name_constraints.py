"""Name constraints of a CA (RFC 5280, section 4.2.1.10): which names the certificates below it may hold.

Law of the file: what is excluded is compared loosely, what is permitted exactly, and a constraint of a kind
that is not understood refuses (CVE-2026-35331: an exclusion with regard to case let names pass).
"""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterable

from cryptography import x509

from cygnet.auth import distinguished_name as dn
from cygnet.auth.certificate import Certificate

_EMAIL = "1.2.840.113549.1.9.1"
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def violation(constraints: x509.NameConstraints, certificate: Certificate) -> str:
    """Why the certificate's names break the constraints, or ""."""
    permitted = tuple(constraints.permitted_subtrees or ())
    excluded = tuple(constraints.excluded_subtrees or ())
    for subtree in permitted + excluded:
        if not isinstance(subtree, (x509.DNSName, x509.RFC822Name, x509.IPAddress, x509.DirectoryName)):
            return (
                f"its CA has a name constraint of the kind {type(subtree).__name__}, which is not understood"
            )
    subject = dn.decode(certificate.subject)
    mails = [
        value.text or ""
        for rdn in subject
        for value in rdn
        if value.oid == _EMAIL and not _of(x509.RFC822Name, certificate.names)
    ]
    checks: list[tuple[str, type[x509.GeneralName], object]] = [
        (str(name.value), type(name), name.value) for name in certificate.names
    ]
    checks += [(mail, x509.RFC822Name, mail) for mail in mails]
    if subject:
        checks.append((certificate.title, x509.DirectoryName, subject))
    for title, kind, value in checks:
        if any(_within(value, subtree, strict=False) for subtree in _of(kind, excluded)):
            return f"its CA excludes the name {_shown(title)}"
        allowed = _of(kind, permitted)
        if allowed and not any(_within(value, subtree, strict=True) for subtree in allowed):
            return f"its CA does not permit the name {_shown(title)}"
    return ""


def _of(kind: type[x509.GeneralName], names: Iterable[x509.GeneralName]) -> list[x509.GeneralName]:
    return [name for name in names if isinstance(name, kind)]


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:200])


def _within(value: object, subtree: x509.GeneralName, *, strict: bool) -> bool:
    """Whether a name lies in the subtree; in doubt it does where `strict` is off, not where it is on."""
    if isinstance(subtree, x509.DNSName) and isinstance(value, str):
        return _dns_within(value, subtree.value, strict=strict)
    if isinstance(subtree, x509.RFC822Name) and isinstance(value, str):
        return _mail_within(value, subtree.value, strict=strict)
    if isinstance(subtree, x509.IPAddress):
        network = subtree.value
        if isinstance(network, _Network) and isinstance(
            value, (ipaddress.IPv4Address, ipaddress.IPv6Address)
        ):
            return value in network
        return not strict
    if isinstance(subtree, x509.DirectoryName):
        name = value if isinstance(value, tuple) else None
        if isinstance(value, x509.Name):
            name = dn.decode(value.public_bytes())
        return not strict if name is None else _name_within(name, subtree.value, strict=strict)
    return not strict


def _labels(text: str) -> list[str]:
    # A name with and without its final dot is one name.
    return text.lower().removesuffix(".").split(".")


def _dns_within(name: str, subtree: str, *, strict: bool) -> bool:
    if not name.isascii() or not subtree.isascii():
        return not strict
    if subtree in ("", "."):
        return True
    # A leading dot, which some CAs write, asks for at least one label more.
    below_only = strict and subtree.startswith(".")
    wanted, labels = _labels(subtree.removeprefix(".")), _labels(name)
    if labels[0] == "*":
        labels = labels[1:]
        # A wildcard stands for names on both sides of the border of an excluded subtree.
        if not strict and wanted[-len(labels) :] == labels:
            return True
    return labels[-len(wanted) :] == wanted and (not below_only or len(labels) > len(wanted))


def _mail_within(mail: str, subtree: str, *, strict: bool) -> bool:
    local, at, host = mail.rpartition("@")
    if not at or not mail.isascii() or not subtree.isascii():
        return not strict
    if "@" in subtree:
        wanted_local, _, wanted_host = subtree.rpartition("@")
        # Only the host is without case; an exclusion is taken wider.
        same_local = local == wanted_local if strict else local.lower() == wanted_local.lower()
        return same_local and _labels(host) == _labels(wanted_host)
    if subtree.startswith("."):
        wanted = _labels(subtree[1:])
        labels = _labels(host)
        return labels[-len(wanted) :] == wanted and (len(labels) > len(wanted) or not strict)
    return _labels(host) == _labels(subtree)


def _name_within(name: dn.Name, subtree: x509.Name, *, strict: bool) -> bool:
    prefix = dn.decode(subtree.public_bytes())
    if len(name) < len(prefix):
        return False
    if strict:
        return dn.same_name(name[: len(prefix)], prefix)
    return all(map(_same_loosely, name, prefix))


def _same_loosely(first: tuple[dn.Value, ...], second: tuple[dn.Value, ...]) -> bool:
    """Without regard to case, width, spacing, string type and order (RFC 5280, section 7.1)."""
    return sorted(map(_folded, first)) == sorted(map(_folded, second))


def _folded(value: dn.Value) -> tuple[str, str]:
    text = value.data.hex() if value.text is None else value.text
    return value.oid, " ".join(unicodedata.normalize("NFKC", text).casefold().split())
