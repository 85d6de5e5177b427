"""Certificates in a PKCS#7 bundle, as some IKEv1 peers send their chain (RFC 4945, section 3.3.10.1).

A bundle is a set: nobody says which of its certificates is the peer's. Nothing but certificates is taken from
it; what signs or encrypts in it is not looked at.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import InvalidVersion

from cygnet.auth import certificate as certificates
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import Identity

MAX_BUNDLE = 64 * 1024
MAX_CERTIFICATES = 10


def unpack(data: bytes, claimed: Identity) -> tuple[bytes, ...]:
    """The certificates (DER), those that vouch for `claimed` first, then others of no CA. Unreadable ones are
    left out. Raises `CredentialError` for what is no bundle, or too large a one."""
    if len(data) > MAX_BUNDLE:
        raise CredentialError(f"a PKCS#7 bundle of {len(data)} octets; at most {MAX_BUNDLE} are accepted")
    try:
        handles = pkcs7.load_der_pkcs7_certificates(data)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidVersion):
        raise CredentialError("no PKCS#7 bundle of certificates") from None
    if len(handles) > MAX_CERTIFICATES:
        raise CredentialError(f"a PKCS#7 bundle of {len(handles)} certificates")
    found = []
    for handle in handles:
        try:
            found.append(certificates.parse(handle.public_bytes(Encoding.DER)))
        except CredentialError:
            continue
    found.sort(key=lambda one: (not one.vouches_for(claimed), one.is_ca))
    return tuple(one.der for one in found)
