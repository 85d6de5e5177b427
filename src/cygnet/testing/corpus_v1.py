"""Valid IKEv1 messages of every kind, to be read, mutated, or sent at a peer; `corpus` for IKEv1.

They look like what strongSwan, Cisco and Windows send, hold every payload at least once, and are the same
octets every time. Nothing in them is secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.testing.corpus import SPI_I, SPI_R, octets
from cygnet.wire.message import Header
from cygnet.wire.numbers import KeMethod
from cygnet.wire.v1 import vendor_ids
from cygnet.wire.v1.message import encode, encode_payloads, encode_sealed
from cygnet.wire.v1.numbers import (
    AhTransform,
    Authentication,
    CertEncoding,
    CfgAttribute,
    CfgType,
    Encapsulation,
    Encryption,
    EspTransform,
    Exchange,
    Hash,
    IdType,
    IntegrityAlgorithm,
    LifeType,
    Notify,
    Phase1Attribute,
    Phase2Attribute,
    Protocol,
)
from cygnet.wire.v1.payloads import (
    Attribute,
    AttributesPayload,
    CertPayload,
    CertReqPayload,
    DeletePayload,
    FragmentPayload,
    HashPayload,
    IdPayload,
    KePayload,
    NatDPayload,
    NatOaPayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    SignaturePayload,
    Transform,
    UnknownPayload,
    VendorIdPayload,
)

MESSAGE_ID: Final = 0x5A17C0DE


def phase1_transform(number: int, encryption: int, bits: int, hash_number: int, group: int) -> Transform:
    attributes = [
        Attribute(Phase1Attribute.ENCRYPTION, encryption),
        Attribute(Phase1Attribute.HASH, hash_number),
        Attribute(Phase1Attribute.AUTHENTICATION, Authentication.PSK),
        Attribute(Phase1Attribute.GROUP, group),
        Attribute(Phase1Attribute.LIFE_TYPE, LifeType.SECONDS),
        Attribute(Phase1Attribute.LIFE_DURATION, (86400).to_bytes(4, "big")),
    ]
    if bits:
        attributes.insert(1, Attribute(Phase1Attribute.KEY_LENGTH, bits))
    return Transform(number, 1, tuple(attributes))


PHASE1_OFFER: Final = SaPayload(
    (
        Proposal(
            1,
            Protocol.ISAKMP,
            b"",
            (
                phase1_transform(1, Encryption.AES_CBC, 256, Hash.SHA2_256, KeMethod.MODP_2048),
                phase1_transform(2, Encryption.AES_CBC, 128, Hash.SHA1, KeMethod.CURVE_25519),
                phase1_transform(3, Encryption.TRIPLE_DES_CBC, 0, Hash.MD5, KeMethod.MODP_1024),
            ),
        ),
    )
)
PHASE1_CHOICE: Final = SaPayload(
    (Proposal(1, Protocol.ISAKMP, SPI_R, PHASE1_OFFER.proposals[0].transforms[:1]),)
)


def _phase2(*more: Attribute) -> tuple[Attribute, ...]:
    return (
        Attribute(Phase2Attribute.LIFE_TYPE, LifeType.SECONDS),
        Attribute(Phase2Attribute.LIFE_DURATION, 3600),
        Attribute(Phase2Attribute.LIFE_TYPE, LifeType.KILOBYTES),
        Attribute(Phase2Attribute.LIFE_DURATION, (4608000).to_bytes(4, "big")),
        Attribute(Phase2Attribute.ENCAPSULATION, Encapsulation.TUNNEL),
        *more,
    )


_AES: Final = (
    Attribute(Phase2Attribute.KEY_LENGTH, 128),
    Attribute(Phase2Attribute.AUTHENTICATION, IntegrityAlgorithm.HMAC_SHA2_256),
)
PHASE2_OFFER: Final = SaPayload(
    (
        Proposal(
            1,
            Protocol.ESP,
            octets(4, 9),
            (
                Transform(1, EspTransform.AES_CBC, _phase2(*_AES, Attribute(Phase2Attribute.GROUP, 14))),
                Transform(
                    2, EspTransform.AES_GCM_16, _phase2(_AES[0], Attribute(Phase2Attribute.EXT_SEQ, 1))
                ),
            ),
        ),
        Proposal(
            2,
            Protocol.AH,
            octets(4, 5),
            (Transform(1, AhTransform.SHA2_256, _phase2(_AES[1])),),
        ),
        Proposal(2, Protocol.IPCOMP, octets(2, 5), (Transform(1, 2, ()),)),
    )
)

_VENDORS: Final = tuple(
    map(
        VendorIdPayload,
        (
            vendor_ids.XAUTH,
            vendor_ids.DPD,
            vendor_ids.NAT_T_RFC,
            vendor_ids.FRAGMENTATION_CISCO,
            vendor_ids.UNITY,
        ),
    )
)
_KE: Final = KePayload(octets(256, 3))
_NONCE: Final = NoncePayload(octets(32, 7))
_ID: Final = IdPayload(IdType.FQDN, 17, 500, b"moon.example.org")
_COOKIES: Final = SPI_I + SPI_R

CLEAR: Final[dict[str, tuple[int, int, tuple[Payload, ...]]]] = {
    "main mode 1": (Exchange.MAIN_MODE, 0, (PHASE1_OFFER, *_VENDORS)),
    "main mode 2": (Exchange.MAIN_MODE, 0, (PHASE1_CHOICE, *_VENDORS[:3])),
    "main mode 3": (
        Exchange.MAIN_MODE,
        0,
        (_KE, _NONCE, NatDPayload(octets(32, 1)), NatDPayload(octets(32, 2))),
    ),
    "main mode 4": (
        Exchange.MAIN_MODE,
        0,
        (
            _KE,
            _NONCE,
            CertReqPayload(CertEncoding.X509_SIGNATURE, octets(60, 4)),
            NatDPayload(octets(20, 1), draft=True),
        ),
    ),
    "aggressive mode 1": (Exchange.AGGRESSIVE, 0, (PHASE1_OFFER, _KE, _NONCE, _ID, *_VENDORS)),
    "aggressive mode 2": (
        Exchange.AGGRESSIVE,
        0,
        (PHASE1_CHOICE, _KE, _NONCE, _ID, HashPayload(octets(32)), NatDPayload(octets(32, 1)), *_VENDORS),
    ),
    "notify": (
        Exchange.INFORMATIONAL,
        MESSAGE_ID,
        (NotifyPayload(Protocol.ISAKMP, b"", Notify.NO_PROPOSAL_CHOSEN, b""),),
    ),
    "fragment": (Exchange.MAIN_MODE, 0, (FragmentPayload(3, 1, octets(500), 0),)),
    "last fragment": (Exchange.MAIN_MODE, 0, (FragmentPayload(3, 2, octets(100), 1),)),
    "unknown": (Exchange.MAIN_MODE, 0, (PHASE1_OFFER, UnknownPayload(150, octets(9)))),
}
"""name: (exchange, message id, payloads)."""

INNER: Final[dict[str, tuple[int, int, tuple[Payload, ...]]]] = {
    "main mode 5": (
        Exchange.MAIN_MODE,
        0,
        (_ID, HashPayload(octets(32)), NotifyPayload(Protocol.ISAKMP, _COOKIES, Notify.INITIAL_CONTACT, b"")),
    ),
    "main mode 6": (
        Exchange.MAIN_MODE,
        0,
        (_ID, CertPayload(CertEncoding.X509_SIGNATURE, octets(700)), SignaturePayload(octets(256))),
    ),
    "quick mode 1": (
        Exchange.QUICK_MODE,
        MESSAGE_ID,
        (
            HashPayload(octets(32)),
            PHASE2_OFFER,
            _NONCE,
            KePayload(octets(32)),
            IdPayload(IdType.IPV4_ADDR_SUBNET, 0, 0, bytes((10, 1, 0, 0, 255, 255, 0, 0))),
            IdPayload(IdType.IPV4_ADDR_RANGE, 6, 443, bytes((10, 2, 0, 1, 10, 2, 0, 9))),
            NatOaPayload(IdType.IPV4_ADDR, bytes((192, 0, 2, 1))),
            NatOaPayload(IdType.IPV4_ADDR, bytes((192, 0, 2, 2)), draft=True),
        ),
    ),
    "quick mode 3": (Exchange.QUICK_MODE, MESSAGE_ID, (HashPayload(octets(32)),)),
    "delete": (
        Exchange.INFORMATIONAL,
        MESSAGE_ID,
        (
            HashPayload(octets(32)),
            DeletePayload(Protocol.ESP, (octets(4, 1), octets(4, 2))),
            DeletePayload(Protocol.ISAKMP, (_COOKIES,)),
        ),
    ),
    "dpd": (
        Exchange.INFORMATIONAL,
        MESSAGE_ID,
        (HashPayload(octets(32)), NotifyPayload(Protocol.ISAKMP, _COOKIES, Notify.R_U_THERE, octets(4))),
    ),
    "xauth": (
        Exchange.TRANSACTION,
        MESSAGE_ID,
        (
            HashPayload(octets(32)),
            AttributesPayload(
                CfgType.REPLY,
                7,
                (
                    Attribute(CfgAttribute.XAUTH_TYPE, 0),
                    Attribute(CfgAttribute.XAUTH_USER_NAME, b"alice"),
                    Attribute(CfgAttribute.XAUTH_USER_PASSWORD, octets(9)),
                ),
            ),
        ),
    ),
    "mode config": (
        Exchange.TRANSACTION,
        MESSAGE_ID,
        (
            HashPayload(octets(32)),
            AttributesPayload(
                CfgType.REPLY,
                8,
                (
                    Attribute(CfgAttribute.INTERNAL_IP4_ADDRESS, bytes((10, 9, 0, 1))),
                    Attribute(CfgAttribute.UNITY_BANNER, b"hello"),
                    Attribute(CfgAttribute.UNITY_SPLIT_INCLUDE, bytes(14)),
                    Attribute(CfgAttribute.UNITY_SAVE_PASSWD, 1),
                ),
            ),
        ),
    ),
}
"""name: (exchange, message id, payloads): what is encrypted."""


def header(exchange: int, message_id: int) -> Header:
    return Header(SPI_I, SPI_R, 0, 1, 0, exchange, 0, message_id)


def datagram(exchange: int, message_id: int, payloads: Sequence[Payload]) -> bytes:
    return encode(header(exchange, message_id), payloads)


def clear_messages() -> dict[str, bytes]:
    return {name: datagram(*message) for name, message in CLEAR.items()}


def sealed_messages() -> dict[str, bytes]:
    """Encrypted under no key at all."""
    return {
        name: encode_sealed(header(exchange, message_id), payloads[0].payload_type, octets(128))
        for name, (exchange, message_id, payloads) in INNER.items()
    }


def plaintexts() -> dict[str, tuple[int, bytes]]:
    """name: (type of the first payload, the chain with padding)."""
    made = {}
    for name, (_, _, payloads) in INNER.items():
        first, chain = encode_payloads(payloads)
        made[name] = first, chain + bytes(-len(chain) % 16)
    return made
