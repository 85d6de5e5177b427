"""The certificates of an IKEv1 peer, one by one or in a PKCS#7 bundle (RFC 4945, section 3.3.10)."""

from __future__ import annotations

from cygnet.auth import pkcs7
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import Identity
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.numbers import CertEncoding
from cygnet.wire.v1.payloads import CertPayload


def sent_certificates(message: Message, claimed: Identity) -> list[bytes]:
    """What the peer sends of its chain (DER), its own first. Raises `AuthenticationError`."""
    found = [c.data for c in message.all(CertPayload) if c.encoding == CertEncoding.X509_SIGNATURE]
    for bundle in [c for c in message.all(CertPayload) if c.encoding == CertEncoding.PKCS7_X509][:1]:
        try:
            found.extend(pkcs7.unpack(bundle.data, claimed))
        except CredentialError as error:
            raise AuthenticationError(Kind.CERTIFICATE_INVALID, f"the peer's certificates: {error}") from None
    return found
