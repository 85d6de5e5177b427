"""The payloads of IKEv2, one file a family: frozen values with `parse(cursor, flags)` and `emit()`.

`payload_type` is the number in the chain, `flags` the generic header's second octet: the critical
bit 0x80 and seven reserved bits, kept so that decode and encode give the same octets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cygnet.wire.cursor import Cursor
from cygnet.wire.payloads.configuration import MAX_CONFIG_ATTRIBUTES, ConfigAttribute, ConfigPayload
from cygnet.wire.payloads.encrypted import (
    SK_HEADER,
    SKF_HEADER,
    EncryptedFragmentPayload,
    EncryptedPayload,
    UnknownPayload,
)
from cygnet.wire.payloads.identity import (
    AuthPayload,
    CertPayload,
    CertReqPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
)
from cygnet.wire.payloads.key_exchange import MAX_NONCE, MIN_NONCE, KePayload, NoncePayload
from cygnet.wire.payloads.notify import MAX_DELETED_SPIS, DeletePayload, NotifyPayload, VendorIdPayload
from cygnet.wire.payloads.security_association import (
    MAX_ATTRIBUTES,
    MAX_PROPOSALS,
    MAX_TRANSFORMS,
    Attribute,
    Proposal,
    SaPayload,
    Transform,
)
from cygnet.wire.payloads.traffic_selectors import TsiPayload, TsrPayload, UnknownSelector, WireSelector

PlainPayload = (
    SaPayload | KePayload | IdiPayload | IdrPayload | CertPayload | CertReqPayload | AuthPayload
    | NoncePayload | NotifyPayload | DeletePayload | VendorIdPayload | TsiPayload | TsrPayload
    | ConfigPayload | EapPayload
)  # fmt: skip
Payload = PlainPayload | EncryptedPayload | EncryptedFragmentPayload | UnknownPayload

CRITICAL: Final = 0x80
"""The critical bit of a payload's `flags` (RFC 7296, section 2.5)."""

PARSERS: Final[dict[int, Callable[[Cursor, int], PlainPayload]]] = {
    kind.payload_type: kind.parse
    for kind in (
        SaPayload, KePayload, IdiPayload, IdrPayload, CertPayload, CertReqPayload, AuthPayload,
        NoncePayload, NotifyPayload, DeletePayload, VendorIdPayload, TsiPayload, TsrPayload,
        ConfigPayload, EapPayload,
    )
}  # fmt: skip

__all__ = [
    "CRITICAL", "MAX_ATTRIBUTES", "MAX_CONFIG_ATTRIBUTES", "MAX_DELETED_SPIS", "MAX_NONCE", "MAX_PROPOSALS",
    "MAX_TRANSFORMS", "MIN_NONCE", "PARSERS", "SKF_HEADER", "SK_HEADER", "Attribute", "AuthPayload",
    "CertPayload", "CertReqPayload", "ConfigAttribute", "ConfigPayload", "DeletePayload", "EapPayload",
    "EncryptedFragmentPayload", "EncryptedPayload", "IdiPayload", "IdrPayload", "KePayload", "NoncePayload",
    "NotifyPayload", "Payload", "PlainPayload", "Proposal", "SaPayload", "Transform", "TsiPayload",
    "TsrPayload", "UnknownPayload", "UnknownSelector", "VendorIdPayload", "WireSelector",
]  # fmt: skip
