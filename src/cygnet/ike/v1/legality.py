"""Which payloads may stand in which exchange, and how often (RFC 2408, section 4; RFC 2409, section 5): a
table.

Which of them a message must have is what its exchange's `expect` says. Types that are private (from 128 up)
are kept and passed over, as vendors put all kinds of things there; unknown ones below are refused.
"""

from __future__ import annotations

from typing import Final

from cygnet.ike.errors import PeerMisbehaved, Reason
from cygnet.wire.v1.message import Message
from cygnet.wire.v1.numbers import Exchange, PayloadType

MAX_CERTIFICATES: Final = 16
"""CERT, CERTREQ: chains of a few, requests for a few dozen CAs."""

_T = PayloadType
_PHASE_1: Final[dict[int, int]] = {
    _T.SA: 1, _T.KE: 1, _T.NONCE: 1, _T.ID: 1, _T.HASH: 1, _T.SIG: 1, _T.CERT: MAX_CERTIFICATES,
    _T.CERTREQ: 64, _T.VENDOR_ID: 64, _T.NAT_D: 16, _T.NAT_D_DRAFT: 16, _T.NOTIFY: 4, _T.NONE: 0,
}  # fmt: skip
_ALLOWED: Final[dict[int, dict[int, int]]] = {
    Exchange.MAIN_MODE: _PHASE_1,
    Exchange.AGGRESSIVE: _PHASE_1,
    Exchange.QUICK_MODE: {
        _T.HASH: 1, _T.SA: 1, _T.NONCE: 1, _T.KE: 1, _T.ID: 2, _T.NAT_OA: 2, _T.NAT_OA_DRAFT: 2, _T.NOTIFY: 8,
        _T.VENDOR_ID: 16,
    },
    Exchange.INFORMATIONAL: {_T.HASH: 1, _T.NOTIFY: 32, _T.DELETE: 32, _T.VENDOR_ID: 16},
    Exchange.TRANSACTION: {_T.HASH: 1, _T.ATTRIBUTES: 1, _T.NOTIFY: 8, _T.VENDOR_ID: 16},
}  # fmt: skip
PRIVATE: Final = 128


def judge(message: Message) -> None:
    """Raises `PeerMisbehaved` for a payload that has no place in this exchange."""
    allowed = _ALLOWED.get(message.header.exchange)
    if allowed is None:
        raise _illegal(f"exchange type {Exchange.name_of(message.header.exchange)}")
    kinds = [payload.payload_type for payload in message.payloads]
    for kind in set(kinds):
        count = kinds.count(kind)
        most = allowed.get(kind, 0)
        if count > most and not (kind >= PRIVATE and kind not in allowed):
            raise _illegal(
                f"{count} {PayloadType.name_of(kind)} in {Exchange.name_of(message.header.exchange)}"
            )


def _illegal(detail: str) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, detail)
