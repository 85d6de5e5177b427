"""IKEv1's error notifies <-> reasons (RFC 2408, section 3.14.1): the one place that knows both.

Reasons are those of IKEv2, so logs, history and tests read the same; IKEv1 just has other words for them.
"""

from __future__ import annotations

from typing import Final

from cygnet.ike.errors import Difference, IkeError, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.wire.v1.numbers import Notify
from cygnet.wire.v1.payloads import NotifyPayload

_OUTWARD: Final[dict[Reason, int]] = {
    Reason.IKE_PROPOSAL_MISMATCH: Notify.NO_PROPOSAL_CHOSEN,
    Reason.CHILD_PROPOSAL_MISMATCH: Notify.NO_PROPOSAL_CHOSEN,
    Reason.KEY_EXCHANGE_MISMATCH: Notify.NO_PROPOSAL_CHOSEN,
    Reason.MODE_MISMATCH: Notify.NO_PROPOSAL_CHOSEN,
    Reason.NO_CONNECTION: Notify.NO_PROPOSAL_CHOSEN,
    Reason.LIMIT_REACHED: Notify.NO_PROPOSAL_CHOSEN,
    Reason.INSTALL_FAILED: Notify.NO_PROPOSAL_CHOSEN,
    Reason.NO_SUCH_OBJECT: Notify.NO_PROPOSAL_CHOSEN,
    Reason.SELECTOR_MISMATCH: Notify.INVALID_ID_INFORMATION,
    Reason.PEER_MISBEHAVED: Notify.PAYLOAD_MALFORMED,
    Reason.AUTH_METHOD_MISMATCH: Notify.NO_PROPOSAL_CHOSEN,
    Reason.PEER_ID_MISMATCH: Notify.INVALID_ID_INFORMATION,
    Reason.LOCAL_ID_REFUSED: Notify.INVALID_ID_INFORMATION,
}
_PROOF: Final = frozenset(
    {
        Reason.AUTHENTICATION_FAILED,
        Reason.PSK_NOT_FOUND,
        Reason.PSK_MISMATCH,
        Reason.CERTIFICATE_UNTRUSTED,
        Reason.CERTIFICATE_EXPIRED,
        Reason.CERTIFICATE_NOT_YET_VALID,
        Reason.CERTIFICATE_INVALID,
        Reason.CERTIFICATE_ID_MISMATCH,
        Reason.CERTIFICATE_MISSING,
        Reason.SIGNATURE_INVALID,
    }
)
"""The peer hears AUTHENTICATION_FAILED, whatever it was in particular."""
_NOTHING: Final = frozenset(
    {Reason.PEER_REPORTED_ERROR, Reason.PEER_REFUSED_AUTHENTICATION, Reason.PEER_UNREACHABLE}
)

_INWARD: Final[dict[int, tuple[Reason, str]]] = {
    Notify.NO_PROPOSAL_CHOSEN: (Reason.IKE_PROPOSAL_MISMATCH, "the peer accepts none of our IKE proposals"),
    Notify.BAD_PROPOSAL_SYNTAX: (Reason.IKE_PROPOSAL_MISMATCH, "the peer calls our IKE proposals malformed"),
    Notify.ATTRIBUTES_NOT_SUPPORTED: (
        Reason.IKE_PROPOSAL_MISMATCH,
        "the peer does not know an attribute of our IKE proposals",
    ),
    Notify.INVALID_KEY_INFORMATION: (
        Reason.KEY_EXCHANGE_MISMATCH,
        "the peer does not take our key exchange value",
    ),
    Notify.INVALID_ID_INFORMATION: (
        Reason.PEER_REFUSED_AUTHENTICATION,
        "the peer does not take our identity",
    ),
    Notify.AUTHENTICATION_FAILED: (
        Reason.PEER_REFUSED_AUTHENTICATION,
        "the peer refuses our authentication: our identity, our proof, or what it demands of them",
    ),
    Notify.INVALID_HASH_INFORMATION: (Reason.PEER_REFUSED_AUTHENTICATION, "the peer does not take our proof"),
    Notify.INVALID_SIGNATURE: (Reason.PEER_REFUSED_AUTHENTICATION, "the peer does not take our signature"),
    Notify.INVALID_CERTIFICATE: (
        Reason.PEER_REFUSED_AUTHENTICATION,
        "the peer does not take our certificate",
    ),
    Notify.INVALID_CERT_AUTHORITY: (
        Reason.PEER_REFUSED_AUTHENTICATION,
        "the peer does not trust who issued our certificate",
    ),
    Notify.CERTIFICATE_UNAVAILABLE: (
        Reason.PEER_REFUSED_AUTHENTICATION,
        "the peer has no certificate to prove who it is",
    ),
    Notify.INVALID_COOKIE: (Reason.PEER_RESTARTED, "the peer does not know this phase 1 SA"),
    Notify.INVALID_MAJOR_VERSION: (Reason.VERSION_MISMATCH, "the peer does not speak IKEv1"),
    Notify.INVALID_EXCHANGE_TYPE: (Reason.MODE_MISMATCH, "the peer does not do this kind of exchange"),
    Notify.UNSUPPORTED_EXCHANGE_TYPE: (Reason.MODE_MISMATCH, "the peer does not do this kind of exchange"),
}
_CHILD: Final[dict[int, tuple[Reason, str]]] = {
    Notify.NO_PROPOSAL_CHOSEN: (Reason.CHILD_PROPOSAL_MISMATCH, "the peer accepts none of our ESP proposals"),
    Notify.BAD_PROPOSAL_SYNTAX: (
        Reason.CHILD_PROPOSAL_MISMATCH,
        "the peer calls our ESP proposals malformed",
    ),
    Notify.ATTRIBUTES_NOT_SUPPORTED: (
        Reason.CHILD_PROPOSAL_MISMATCH,
        "the peer does not know an attribute of our ESP proposals",
    ),
    Notify.INVALID_ID_INFORMATION: (
        Reason.SELECTOR_MISMATCH,
        "the peer accepts none of our client identities",
    ),
}


class Refusal(PeerIncompatible):
    """The peer's own error: it is not told of it again."""


def notify_of(error: IkeError) -> int:
    """What tells the peer of this error; 0: nothing does."""
    if isinstance(error, Refusal):
        return 0
    if error.reason in _PROOF:
        return Notify.AUTHENTICATION_FAILED
    return 0 if error.reason in _NOTHING else _OUTWARD.get(error.reason, 0)


def error_of(notify: NotifyPayload, *, child: bool = False, offered: Difference | None = None) -> IkeError:
    """What the peer's error means. `child`: it answers to a quick mode. `offered`: what it may have refused
    in phase 1."""
    known = (_CHILD.get(notify.type) if child else None) or _INWARD.get(notify.type)
    if known is None:
        return Refusal(Reason.PEER_REPORTED_ERROR, f"the peer reports {Notify.name_of(notify.type)}")
    reason, detail = known
    return Refusal(reason, detail, difference=offered if reason is Reason.IKE_PROPOSAL_MISMATCH else None)


def wrong(detail: str) -> PeerMisbehaved:
    """What no honest peer sends."""
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, detail)
