"""Why someone is not who they claim to be, or why we cannot prove who we are.

Each kind has the same text as its namesake in `ike.errors.Reason`, which may not be imported here
(a test compares them).
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    AUTHENTICATION_FAILED = "authentication-failed"
    PSK_NOT_FOUND = "psk-not-found"
    PSK_MISMATCH = "psk-mismatch"
    PEER_ID_MISMATCH = "peer-id-mismatch"
    AUTH_METHOD_MISMATCH = "auth-method-mismatch"
    CERTIFICATE_UNTRUSTED = "certificate-untrusted"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_INVALID = "certificate-invalid"
    CERTIFICATE_ID_MISMATCH = "certificate-id-mismatch"
    CERTIFICATE_MISSING = "certificate-missing"
    CERTIFICATE_REVOKED = "certificate-revoked"
    CERTIFICATE_STATUS_UNKNOWN = "certificate-status-unknown"
    PRIVATE_KEY_MISSING = "private-key-missing"
    SIGNATURE_INVALID = "signature-invalid"
    EAP_FAILED = "eap-failed"
    EAP_PASSWORD_WRONG = "eap-password-wrong"  # noqa: S105 - a reason
    EAP_METHOD_MISMATCH = "eap-method-mismatch"
    LOGIN_FAILED = "login-failed"


class AuthenticationError(Exception):
    """A verification that failed, or a proof that cannot be made. `detail` is one sentence for a person.

    It holds nothing secret, and nothing of the peer that is not printable.
    """

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class CredentialError(ValueError):
    """Something that was to be loaded is no usable certificate, key or secret; says why."""
