"""Errors say whose fault it is, and carry a reason that logs, counters, history and tests share.

`Malformed` (cannot be parsed) comes from `wire`. The rest is here: `PeerMisbehaved` (parsed, not
allowed), `PeerIncompatible` (allowed, no agreement), `LocalMisuse` (our caller). Whether an error
may be answered depends on whether the message was protected; that is decided in the driver.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum

from cygnet.records import dataclass
from cygnet.wire.payloads import Payload


class Reason(StrEnum):
    """Why a negotiation failed or an SA went down: stable codes, shown to people and kept in history."""

    # no agreement
    IKE_PROPOSAL_MISMATCH = "ike-proposal-mismatch"
    CHILD_PROPOSAL_MISMATCH = "child-proposal-mismatch"
    KEY_EXCHANGE_MISMATCH = "key-exchange-mismatch"
    SELECTOR_MISMATCH = "selector-mismatch"
    MODE_MISMATCH = "mode-mismatch"
    VERSION_MISMATCH = "version-mismatch"
    NO_CONNECTION = "no-connection"
    ADDRESS_REFUSED = "address-refused"
    # who the peer is
    AUTHENTICATION_FAILED = "authentication-failed"
    PEER_REFUSED_AUTHENTICATION = "peer-refused-authentication"
    PSK_NOT_FOUND = "psk-not-found"
    PSK_MISMATCH = "psk-mismatch"
    PEER_ID_MISMATCH = "peer-id-mismatch"
    LOCAL_ID_REFUSED = "local-id-refused"
    AUTH_METHOD_MISMATCH = "auth-method-mismatch"
    PPK_MISMATCH = "ppk-mismatch"
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
    # the peer or the way to it
    PEER_UNREACHABLE = "peer-unreachable"
    PEER_NAME_UNKNOWN = "peer-name-unknown"
    PEER_DEAD = "peer-dead"
    PEER_CLOSED = "peer-closed"
    PEER_BUSY = "peer-busy"
    PEER_MISBEHAVED = "peer-misbehaved"
    PEER_REPORTED_ERROR = "peer-reported-error"
    PEER_RESTARTED = "peer-restarted"
    # ourselves
    EXPIRED = "expired"
    REPLACED = "replaced"
    OPERATOR = "operator"
    CONFIGURATION_CHANGED = "configuration-changed"
    INSTALL_FAILED = "install-failed"
    LIMIT_REACHED = "limit-reached"
    SHUTDOWN = "shutdown"
    NO_SUCH_OBJECT = "no-such-object"
    INTERNAL = "internal"


class Drop(StrEnum):
    """Why a datagram was dropped in silence: stable trigger names shared by counter, event and test."""

    MALFORMED = "malformed"
    UNKNOWN_SPI = "unknown-spi"
    WRONG_VERSION = "wrong-version"
    WRONG_EXCHANGE = "wrong-exchange"
    ILLEGAL_PAYLOAD = "illegal-payload"
    INTEGRITY = "integrity"
    MESSAGE_ID = "message-id"
    RETRANSMISSION = "retransmission"
    LATE_RESPONSE = "late-response"
    UNEXPECTED_RESPONSE = "unexpected-response"
    NOT_AUTHENTICATED = "not-authenticated"
    HALF_OPEN_LIMIT = "half-open-limit"
    RATE_LIMIT = "rate-limit"
    COOKIE_INVALID = "cookie-invalid"
    NO_CONNECTION = "no-connection"
    NO_AGREEMENT = "no-agreement"
    BUSY = "busy"
    FRAGMENT = "fragment"
    UNPROTECTED_HINT = "unprotected-hint"
    REFLECTED = "reflected"
    KEEPALIVE = "keepalive"


@dataclass(frozen=True, slots=True)
class Difference:
    """The two offers side by side, as far as the wire reveals them, and where they first differ."""

    ours: str = ""
    theirs: str = ""
    first: str = ""


class IkeError(Exception):
    """Base of what an exchange may raise. `notify` is the RFC 7296 error notify that tells the peer, or 0.

    `notify_data` goes with it: the group of INVALID_KE_PAYLOAD, the type of UNSUPPORTED_CRITICAL_PAYLOAD.
    `child` is the child that it concerns, empty: the IKE SA.
    """

    child: str = ""
    companions: tuple[Payload, ...] = ()
    """What goes to the peer beside the notify."""

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        notify: int = 0,
        difference: Difference | None = None,
        notify_data: bytes = b"",
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.notify = notify
        self.difference = difference
        self.notify_data = notify_data

    @property
    def failure(self) -> Failure:
        """The same as a value."""
        return Failure(self.reason, self.detail, self.difference)


class PeerMisbehaved(IkeError):
    """Parsed, but not allowed here."""


class PeerIncompatible(IkeError):
    """Allowed, but we do not agree."""


class LocalMisuse(IkeError):
    """Our caller asked for what cannot be."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as events, history and the command line show it."""

    reason: Reason
    detail: str
    difference: Difference | None = field(default=None)
