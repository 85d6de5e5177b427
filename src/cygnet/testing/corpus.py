"""Valid IKEv2 messages of every kind, to be read, mutated, or sent at a peer.

They look like what strongSwan and Windows send, hold every payload at least once, and are the same
octets every time. Nothing in them is secret: keys, nonces and proofs are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cygnet.wire.message import Header, encode, encode_payloads
from cygnet.wire.numbers import (
    AuthMethod,
    CertEncoding,
    CfgAttribute,
    CfgType,
    Encr,
    Esn,
    Exchange,
    Flags,
    IdType,
    Integ,
    KeMethod,
    Notify,
    Prf,
    Protocol,
    TransformAttribute,
    TransformType,
    TsType,
)
from cygnet.wire.payloads import (
    Attribute,
    AuthPayload,
    CertPayload,
    CertReqPayload,
    ConfigAttribute,
    ConfigPayload,
    DeletePayload,
    EapPayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    Proposal,
    SaPayload,
    Transform,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    UnknownSelector,
    VendorIdPayload,
    WireSelector,
)

SPI_I: Final = bytes.fromhex("8f3c21d7605a94be")
SPI_R: Final = bytes.fromhex("17e9b04c5d2288fa")


def octets(count: int, start: int = 1) -> bytes:
    """`count` octets that look like nothing: a fixed sequence without zeros at its ends."""
    return bytes((start + 31 * i + (i * i) % 251) % 255 + 1 for i in range(count))


def _encr(number: int, *sizes: int) -> tuple[Transform, ...]:
    return tuple(
        Transform(TransformType.ENCR, number, (Attribute(TransformAttribute.KEY_LENGTH, bits),))
        for bits in sizes
    )


def _each(kind: int, *numbers: int) -> tuple[Transform, ...]:
    return tuple(Transform(kind, number) for number in numbers)


_GROUPS: Final = _each(
    TransformType.KE, KeMethod.CURVE_25519, KeMethod.ECP_256, KeMethod.ECP_384, KeMethod.MODP_2048
)
_PRFS: Final = _each(TransformType.PRF, Prf.PRF_HMAC_SHA2_256, Prf.PRF_HMAC_SHA2_384)

IKE_OFFER: Final = SaPayload(
    (
        Proposal(
            1,
            Protocol.IKE,
            b"",
            _encr(Encr.AES_CBC, 128, 192, 256)
            + _each(TransformType.INTEG, Integ.HMAC_SHA2_256_128, Integ.HMAC_SHA2_384_192, Integ.HMAC_SHA1_96)
            + _PRFS
            + _GROUPS,
        ),
        Proposal(
            2,
            Protocol.IKE,
            b"",
            _encr(Encr.AES_GCM_16, 128, 256)
            + _each(TransformType.ENCR, Encr.CHACHA20_POLY1305)
            + _PRFS
            + _GROUPS,
        ),
    )
)
IKE_CHOICE: Final = SaPayload(
    (Proposal(2, Protocol.IKE, b"", _encr(Encr.AES_GCM_16, 256) + _PRFS[:1] + _GROUPS[:1]),)
)
ESP_OFFER: Final = SaPayload(
    (
        Proposal(
            1,
            Protocol.ESP,
            octets(4, 9),
            _encr(Encr.AES_GCM_16, 128, 256) + _each(TransformType.ESN, Esn.NO_EXT_SEQ, Esn.EXT_SEQ),
        ),
        Proposal(
            2,
            Protocol.ESP,
            octets(4, 9),
            _encr(Encr.AES_CBC, 256)
            + _each(TransformType.INTEG, Integ.HMAC_SHA2_256_128)
            + _each(TransformType.ESN, Esn.NO_EXT_SEQ),
        ),
    )
)
ESP_CHOICE: Final = SaPayload(
    (
        Proposal(
            1,
            Protocol.ESP,
            octets(4, 77),
            _encr(Encr.AES_GCM_16, 256) + _each(TransformType.ESN, Esn.NO_EXT_SEQ),
        ),
    )
)

_SITE_A: Final = WireSelector(
    TsType.IPV4_ADDR_RANGE, 0, 0, 65535, bytes((10, 1, 0, 0)), bytes((10, 1, 255, 255))
)
_SITE_B: Final = WireSelector(
    TsType.IPV4_ADDR_RANGE, 6, 80, 443, bytes((10, 2, 0, 0)), bytes((10, 2, 0, 255))
)
_SITE_6: Final = WireSelector(
    TsType.IPV6_ADDR_RANGE,
    58,
    0x8000,
    0x8000,
    bytes.fromhex("20010db8" + "0" * 24),
    bytes.fromhex("20010db8" + "f" * 24),
)
_OPAQUE: Final = WireSelector(
    TsType.IPV4_ADDR_RANGE, 17, 65535, 0, bytes((192, 0, 2, 1)), bytes((192, 0, 2, 1))
)


def _status(number: int, data: bytes = b"", protocol: int = 0, spi: bytes = b"") -> NotifyPayload:
    return NotifyPayload(protocol, spi, number, data)


_INIT_NOTIFIES: Final = (
    _status(Notify.NAT_DETECTION_SOURCE_IP, octets(20, 3)),
    _status(Notify.NAT_DETECTION_DESTINATION_IP, octets(20, 4)),
    _status(Notify.FRAGMENTATION_SUPPORTED),
    _status(Notify.SIGNATURE_HASH_ALGORITHMS, bytes((0, 2, 0, 3, 0, 4, 0, 5))),
    _status(Notify.REDIRECT_SUPPORTED),
)

CLEAR: Final[dict[str, tuple[int, int, tuple[Payload, ...]]]] = {
    "init request": (
        Exchange.IKE_SA_INIT,
        Flags.INITIATOR,
        (
            IKE_OFFER,
            KePayload(KeMethod.CURVE_25519, octets(32, 5)),
            NoncePayload(octets(32, 6)),
            *_INIT_NOTIFIES,
            VendorIdPayload(octets(16, 7)),
        ),
    ),
    "init request with cookie": (
        Exchange.IKE_SA_INIT,
        Flags.INITIATOR,
        (
            _status(Notify.COOKIE, octets(24, 8)),
            IKE_OFFER,
            KePayload(KeMethod.MODP_2048, octets(256, 5)),
            NoncePayload(octets(32, 6)),
            *_INIT_NOTIFIES,
        ),
    ),
    "init response": (
        Exchange.IKE_SA_INIT,
        Flags.RESPONSE,
        (
            IKE_CHOICE,
            KePayload(KeMethod.CURVE_25519, octets(32, 15)),
            NoncePayload(octets(32, 16)),
            *_INIT_NOTIFIES,
            CertReqPayload(CertEncoding.X509_SIGNATURE, octets(40, 17)),
        ),
    ),
    "cookie response": (Exchange.IKE_SA_INIT, Flags.RESPONSE, (_status(Notify.COOKIE, octets(24, 8)),)),
    "invalid ke response": (
        Exchange.IKE_SA_INIT,
        Flags.RESPONSE,
        (_status(Notify.INVALID_KE_PAYLOAD, bytes((0, KeMethod.ECP_256))),),
    ),
    "no proposal chosen": (Exchange.IKE_SA_INIT, Flags.RESPONSE, (_status(Notify.NO_PROPOSAL_CHOSEN),)),
    "sealed": (Exchange.IKE_AUTH, Flags.INITIATOR, (EncryptedPayload(35, octets(200, 21), 28),)),
    "fragment": (
        Exchange.IKE_AUTH,
        Flags.INITIATOR,
        (EncryptedFragmentPayload(35, 1, 3, octets(200, 22), 28),),
    ),
    "later fragment": (
        Exchange.IKE_AUTH,
        Flags.INITIATOR,
        (EncryptedFragmentPayload(0, 2, 3, octets(99, 23), 28),),
    ),
    "unknown SPI": (Exchange.INFORMATIONAL, Flags.RESPONSE, (_status(Notify.INVALID_IKE_SPI),)),
    "empty": (Exchange.INFORMATIONAL, Flags.INITIATOR, ()),
}
"""Messages in clear: exchange, flags, payloads. Sealed bodies are made up and open with no key."""

INNER: Final[dict[str, tuple[int, int, tuple[Payload, ...]]]] = {
    "auth request": (
        Exchange.IKE_AUTH,
        Flags.INITIATOR,
        (
            IdiPayload(IdType.FQDN, b"a.example.org"),
            CertPayload(CertEncoding.X509_SIGNATURE, octets(700, 31)),
            _status(Notify.INITIAL_CONTACT),
            CertReqPayload(CertEncoding.X509_SIGNATURE, octets(20, 32)),
            IdrPayload(IdType.DER_ASN1_DN, bytes.fromhex("300d310b3009060355040613024348")),
            AuthPayload(AuthMethod.DIGITAL_SIGNATURE, octets(80, 33)),
            ConfigPayload(
                CfgType.REQUEST,
                (
                    ConfigAttribute(CfgAttribute.INTERNAL_IP4_ADDRESS, b""),
                    ConfigAttribute(CfgAttribute.INTERNAL_IP4_DNS, b""),
                    ConfigAttribute(CfgAttribute.INTERNAL_IP6_ADDRESS, octets(16, 2) + b"\x40"),
                    ConfigAttribute(0x4001, b"x"),
                ),
            ),
            ESP_OFFER,
            TsiPayload((_SITE_A, _SITE_6)),
            TsrPayload((_SITE_B, _OPAQUE)),
            _status(Notify.MOBIKE_SUPPORTED),
            _status(Notify.ADDITIONAL_IP4_ADDRESS, bytes((192, 0, 2, 7))),
            _status(Notify.MULTIPLE_AUTH_SUPPORTED),
            _status(Notify.EAP_ONLY_AUTHENTICATION),
        ),
    ),
    "auth response": (
        Exchange.IKE_AUTH,
        Flags.RESPONSE,
        (
            IdrPayload(IdType.IPV4_ADDR, bytes((192, 0, 2, 2))),
            AuthPayload(AuthMethod.PSK, octets(32, 34)),
            ESP_CHOICE,
            TsiPayload((_SITE_A,)),
            TsrPayload((_SITE_B,)),
            _status(Notify.ADDITIONAL_TS_POSSIBLE),
        ),
    ),
    "auth failed": (Exchange.IKE_AUTH, Flags.RESPONSE, (_status(Notify.AUTHENTICATION_FAILED),)),
    "eap request": (
        Exchange.IKE_AUTH,
        Flags.RESPONSE,
        (
            IdrPayload(IdType.FQDN, b"b.example.org"),
            AuthPayload(AuthMethod.RSA, octets(256, 35)),
            EapPayload(bytes((1, 1, 0, 5, 1))),
        ),
    ),
    "create child": (
        Exchange.CREATE_CHILD_SA,
        Flags.INITIATOR,
        (
            ESP_OFFER,
            NoncePayload(octets(32, 41)),
            KePayload(KeMethod.ECP_256, octets(64, 42)),
            TsiPayload((_SITE_A,)),
            TsrPayload((_SITE_B, UnknownSelector(TsType.SECLABEL, 0, b"label"))),
            _status(Notify.USE_TRANSPORT_MODE),
            _status(Notify.ESP_TFC_PADDING_NOT_SUPPORTED),
        ),
    ),
    "rekey child": (
        Exchange.CREATE_CHILD_SA,
        Flags.INITIATOR,
        (
            _status(Notify.REKEY_SA, protocol=Protocol.ESP, spi=octets(4, 9)),
            ESP_OFFER,
            NoncePayload(octets(32, 43)),
            TsiPayload((_SITE_A,)),
            TsrPayload((_SITE_B,)),
        ),
    ),
    "rekey ike": (
        Exchange.CREATE_CHILD_SA,
        Flags.INITIATOR,
        (
            SaPayload(
                tuple(
                    Proposal(p.number, p.protocol, octets(8, 50), p.transforms) for p in IKE_OFFER.proposals
                )
            ),
            NoncePayload(octets(32, 44)),
            KePayload(KeMethod.CURVE_25519, octets(32, 45)),
        ),
    ),
    "temporary failure": (Exchange.CREATE_CHILD_SA, Flags.RESPONSE, (_status(Notify.TEMPORARY_FAILURE),)),
    "delete child": (
        Exchange.INFORMATIONAL,
        Flags.INITIATOR,
        (DeletePayload(Protocol.ESP, (octets(4, 9), octets(4, 10))),),
    ),
    "delete ike": (Exchange.INFORMATIONAL, Flags.INITIATOR, (DeletePayload(Protocol.IKE, ()),)),
    "liveness": (Exchange.INFORMATIONAL, Flags.INITIATOR, ()),
    "something new": (
        Exchange.INFORMATIONAL,
        Flags.INITIATOR,
        (
            UnknownPayload(200, False, octets(9, 61)),
            _status(40961, octets(3, 62)),
            UnknownPayload(54, False, b""),
        ),
    ),
}
"""What stands inside SK: exchange, flags, payloads."""


def header(exchange: int, flags: int, message_id: int = 0, *, first: bool = False) -> Header:
    """A header as these messages have it; `first`: no responder SPI yet."""
    return Header(SPI_I, bytes(8) if first else SPI_R, 0, 2, 0, exchange, flags, message_id)


def clear_messages() -> dict[str, bytes]:
    """Name -> datagram, each decodable."""
    return {
        name: encode(header(exchange, flags, first=name.startswith("init request")), payloads)
        for name, (exchange, flags, payloads) in CLEAR.items()
    }


def plaintexts() -> dict[str, tuple[int, int, int, bytes]]:
    """Name -> (exchange, flags, type of the first payload, octets of the chain), each decodable."""
    return {
        name: (exchange, flags, *encode_payloads(payloads))
        for name, (exchange, flags, payloads) in INNER.items()
    }


def all_payloads() -> Sequence[Payload]:
    """Every payload of the corpus."""
    return [p for kind in (CLEAR, INNER) for _, _, payloads in kind.values() for p in payloads]
