"""Error notifies <-> reasons (RFC 7296, section 3.10.1): the one place that knows both.

Outward, an `IkeError` carries its notify itself; `notify_of` fills in where it has none. Inward,
`error_of` says what a peer's error means to us.
"""

from __future__ import annotations

from typing import Final

from cygnet.auth.errors import AuthenticationError
from cygnet.ike.errors import Difference, IkeError, PeerIncompatible, PeerMisbehaved, Reason
from cygnet.wire.numbers import Notify
from cygnet.wire.payloads import NotifyPayload

_IKE: Final[dict[int, tuple[Reason, str]]] = {
    Notify.UNSUPPORTED_CRITICAL_PAYLOAD: (
        Reason.PEER_REPORTED_ERROR,
        "the peer does not understand one of our payloads",
    ),
    Notify.INVALID_MAJOR_VERSION: (Reason.VERSION_MISMATCH, "the peer does not speak IKEv2"),
    Notify.INVALID_SYNTAX: (Reason.PEER_REPORTED_ERROR, "the peer calls our message malformed"),
    Notify.INVALID_IKE_SPI: (Reason.PEER_RESTARTED, "the peer does not know this IKE SA"),
    Notify.NO_PROPOSAL_CHOSEN: (Reason.IKE_PROPOSAL_MISMATCH, "the peer accepts none of our IKE proposals"),
    Notify.INVALID_KE_PAYLOAD: (Reason.KEY_EXCHANGE_MISMATCH, "the peer wants another key exchange method"),
    Notify.AUTHENTICATION_FAILED: (
        Reason.PEER_REFUSED_AUTHENTICATION,
        "the peer refuses our authentication: our identity, our proof, or what it demands of them",
    ),
    Notify.TEMPORARY_FAILURE: (Reason.PEER_BUSY, "the peer is busy with something that our request disturbs"),
    Notify.NO_ADDITIONAL_SAS: (Reason.PEER_REPORTED_ERROR, "the peer wants no further SA here"),
}
_CHILD: Final[dict[int, tuple[Reason, str]]] = {
    Notify.NO_PROPOSAL_CHOSEN: (
        Reason.CHILD_PROPOSAL_MISMATCH,
        "the peer accepts none of our ESP proposals",
    ),
    Notify.TS_UNACCEPTABLE: (Reason.SELECTOR_MISMATCH, "the peer accepts none of our traffic selectors"),
    Notify.SINGLE_PAIR_REQUIRED: (
        Reason.SELECTOR_MISMATCH,
        "the peer takes traffic selectors of single addresses only",
    ),
    Notify.INTERNAL_ADDRESS_FAILURE: (Reason.ADDRESS_REFUSED, "the peer has no address for us"),
    Notify.FAILED_CP_REQUIRED: (
        Reason.ADDRESS_REFUSED,
        "the peer demands that we ask for a virtual address (`vips`)",
    ),
    Notify.INVALID_SELECTORS: (Reason.SELECTOR_MISMATCH, "the peer got a packet that its SA does not allow"),
    Notify.CHILD_SA_NOT_FOUND: (Reason.NO_SUCH_OBJECT, "the peer does not know the Child SA"),
}

_WITH_DIFFERENCE: Final = (
    Notify.NO_PROPOSAL_CHOSEN,
    Notify.TS_UNACCEPTABLE,
    Notify.AUTHENTICATION_FAILED,
)


def error_of(notify: NotifyPayload, difference: Difference | None = None, *, child: bool = False) -> IkeError:
    """What the peer's error means. `child`: it answers to the creation of a Child SA."""
    known = (_CHILD.get(notify.type) if child else None) or _IKE.get(notify.type) or _CHILD.get(notify.type)
    if known is None:
        name = Notify.name_of(notify.type)
        return PeerIncompatible(Reason.PEER_REPORTED_ERROR, f"the peer reports {name}")
    reason, text = known
    wants_difference = notify.type in _WITH_DIFFERENCE
    return PeerIncompatible(reason, text, difference=difference if wants_difference else None)


def of_authentication(error: AuthenticationError) -> IkeError:
    """What went wrong with a proof. The peer hears AUTHENTICATION_FAILED whatever it was (section 2.21.2)."""
    return PeerMisbehaved(Reason(error.kind.value), error.detail, notify=Notify.AUTHENTICATION_FAILED)
