"""Public keys without a certificate (RFC 7670): a SubjectPublicKeyInfo that the operator has entered.

Nobody vouches for such a key but the configuration: it is for one connection's peer, never for another's,
and it has no end and no revocation.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from cygnet.auth.certificate import key_id_of
from cygnet.auth.credentials import TrustedKey
from cygnet.auth.errors import AuthenticationError, CredentialError, Kind
from cygnet.auth.identity import Identity
from cygnet.crypto.signatures import PublicKey, UnsuitableKey, check_public_key
from cygnet.wire.numbers import IdType

MAX_KEY = 4096
"""Octets of a SubjectPublicKeyInfo; RSA of 8192 bits has 1,062."""


def parse(data: bytes) -> bytes:
    """The DER of a public key in PEM or DER. Raises `CredentialError`."""
    return load(data)[1]


def load(data: bytes) -> tuple[PublicKey, bytes]:
    """A public key and its DER. Raises `CredentialError`."""
    if len(data) > 2 * MAX_KEY:
        raise CredentialError(f"a public key of {len(data)} octets")
    read = load_pem_public_key if b"-----BEGIN" in data else load_der_public_key
    try:
        key = check_public_key(read(data))
    except UnsuitableKey as error:
        raise CredentialError(str(error)) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CredentialError("no public key in PEM or DER") from None
    return key, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def trusted_key(
    claimed: Identity, expected: Identity | None, sent: Sequence[bytes], accepted: Sequence[bytes]
) -> TrustedKey:
    """The key that the peer must sign with: the one that it shows, if it is accepted; without any, the only
    one that is.

    The key is who the peer is. It is what it calls itself only where `expected` names that one; where that
    is a pattern, its identity is the number of its key, so that no holder of one key is taken for another.
    Raises `AuthenticationError`: CERTIFICATE_UNTRUSTED, CERTIFICATE_MISSING.
    """
    shown = [data for data in sent if data in accepted]
    if sent and not shown:
        raise AuthenticationError(
            Kind.CERTIFICATE_UNTRUSTED, f"the public key that {claimed} shows is not the one configured"
        )
    if not shown and len(accepted) != 1:
        raise AuthenticationError(
            Kind.CERTIFICATE_MISSING, f"{claimed} does not say which of {len(accepted)} public keys it has"
        )
    found = (shown or accepted)[0]
    try:
        key, spki = load(found)
    except CredentialError as error:
        raise AuthenticationError(Kind.CERTIFICATE_INVALID, f"our own configuration: {error}") from None
    named = expected is not None and not expected.has_wildcards
    identity = claimed if named else Identity(IdType.KEY_ID, key_id_of(spki))
    return TrustedKey(identity, (), key)
