"""What may stand where: payload x exchange x direction x inside or outside of SK x how many.

Source: RFC 7296, appendix C, as the RFC's body corrects it.

Law of the file: one table, one judge. A message is judged before anything resumes on it, so that an
illegal one leaves all state as it was. Order never matters (RFC 7296, section 2.5), unknown payloads
are passed over unless critical, reserved bits are ignored. What only the exchange can know (is an
AUTH due, may a child be made) is the exchange's.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from cygnet.ike.errors import PeerMisbehaved, Reason
from cygnet.wire.message import Message
from cygnet.wire.numbers import CertEncoding, Exchange, Notify, PayloadType, Protocol
from cygnet.wire.payloads import (
    CertReqPayload,
    DeletePayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    NotifyPayload,
    Payload,
    SaPayload,
    UnknownPayload,
)

MANY: Final = 64
"""As many as the wire lets through (`wire.message.MAX_PAYLOADS`)."""
MAX_CERTIFICATES: Final = 16
"""CERT payloads of one message; strongSwan takes 8, chains of more than 5 are unheard of."""

Counts = dict[int, tuple[int, int]]
"""Payload type -> (at least, at most)."""

_ANYWHERE: Final[Counts] = {PayloadType.NOTIFY: (0, MANY), PayloadType.VENDOR_ID: (0, MANY)}
_CHILD: Final[Counts] = {
    PayloadType.SA: (0, 1),
    PayloadType.TSI: (0, 1),
    PayloadType.TSR: (0, 1),
    PayloadType.CP: (0, 1),
}
_AUTHENTICATION: Final[Counts] = {
    PayloadType.IDR: (0, 1),
    PayloadType.CERT: (0, MAX_CERTIFICATES),
    PayloadType.AUTH: (0, 1),
    PayloadType.EAP: (0, 1),
}

TABLE: Final[dict[tuple[int, bool, bool], Counts]] = {
    # (exchange, response, inside SK)
    (Exchange.IKE_SA_INIT, False, False): _ANYWHERE
    | {PayloadType.SA: (1, 1), PayloadType.KE: (1, 1), PayloadType.NONCE: (1, 1)},
    (Exchange.IKE_SA_INIT, True, False): _ANYWHERE
    | {
        PayloadType.SA: (1, 1),
        PayloadType.KE: (1, 1),
        PayloadType.NONCE: (1, 1),
        PayloadType.CERTREQ: (0, MANY),
    },
    (Exchange.IKE_AUTH, False, True): _ANYWHERE
    | _AUTHENTICATION
    | _CHILD
    | {PayloadType.IDI: (0, 1), PayloadType.CERTREQ: (0, MANY)},
    (Exchange.IKE_AUTH, True, True): _ANYWHERE | _AUTHENTICATION | _CHILD,
    (Exchange.CREATE_CHILD_SA, False, True): _ANYWHERE
    | _CHILD
    | {PayloadType.SA: (1, 1), PayloadType.NONCE: (1, 1), PayloadType.KE: (0, 1)},
    (Exchange.CREATE_CHILD_SA, True, True): _ANYWHERE
    | _CHILD
    | {PayloadType.SA: (1, 1), PayloadType.NONCE: (1, 1), PayloadType.KE: (0, 1)},
    (Exchange.INFORMATIONAL, False, True): _ANYWHERE
    | {PayloadType.DELETE: (0, MANY), PayloadType.CP: (0, 1)},
    (Exchange.INFORMATIONAL, True, True): _ANYWHERE | {PayloadType.DELETE: (0, MANY), PayloadType.CP: (0, 1)},
    # Without KE where it carries a pre-shared key's name alone (RFC 9867).
    (Exchange.IKE_INTERMEDIATE, False, True): _ANYWHERE | {PayloadType.KE: (0, 1)},
    (Exchange.IKE_INTERMEDIATE, True, True): _ANYWHERE | {PayloadType.KE: (0, 1)},
    (Exchange.IKE_FOLLOWUP_KE, False, True): _ANYWHERE | {PayloadType.KE: (1, 1)},
    (Exchange.IKE_FOLLOWUP_KE, True, True): _ANYWHERE | {PayloadType.KE: (1, 1)},
    # Answers from outside of any SA: INVALID_IKE_SPI, INVALID_MAJOR_VERSION (RFC 7296, section 1.5).
    (Exchange.INFORMATIONAL, False, False): _ANYWHERE,
    (Exchange.INFORMATIONAL, True, False): _ANYWHERE,
    (Exchange.IKE_AUTH, True, False): _ANYWHERE,
    (Exchange.CREATE_CHILD_SA, True, False): _ANYWHERE,
    (Exchange.IKE_INTERMEDIATE, True, False): _ANYWHERE,
    (Exchange.IKE_FOLLOWUP_KE, True, False): _ANYWHERE,
}

_NEEDED: Final = {
    message: tuple([(kind, least) for kind, (least, _) in counts.items() if least])
    for message, counts in TABLE.items()
}
_INSTEAD: Final = frozenset((Notify.COOKIE, Notify.REDIRECT))
"""Status notifies that stand in place of a normal answer, as errors do (RFC 7296, 2.6; RFC 5685)."""

_NOTIFY_LENGTHS: Final[dict[int, Callable[[int], bool]]] = {
    Notify.COOKIE: lambda n: 1 <= n <= 64,
    Notify.INVALID_KE_PAYLOAD: lambda n: n == 2,
    Notify.NAT_DETECTION_SOURCE_IP: lambda n: n == 20,
    Notify.NAT_DETECTION_DESTINATION_IP: lambda n: n == 20,
    Notify.SIGNATURE_HASH_ALGORITHMS: lambda n: n > 0 and n % 2 == 0,
    Notify.SET_WINDOW_SIZE: lambda n: n == 4,
    Notify.COOKIE2: lambda n: 8 <= n <= 64,
    Notify.ADDITIONAL_IP4_ADDRESS: lambda n: n == 4,
    Notify.ADDITIONAL_IP6_ADDRESS: lambda n: n == 16,
    Notify.AUTH_LIFETIME: lambda n: n == 4,
}
"""RFC 7296, 2.6, 3.10.1, 2.23; RFC 7427, 4; RFC 4555, 4. Octets of data; other notifies may have any."""

_SPI_SIZES: Final = {Protocol.AH: 4, Protocol.ESP: 4}
_HASHED_CERTREQ: Final = frozenset(
    (
        CertEncoding.X509_SIGNATURE,
        CertEncoding.X509_HASH_AND_URL,
        CertEncoding.X509_HASH_AND_URL_BUNDLE,
        CertEncoding.OCSP_CONTENT,
    )
)


def judge(message: Message, *, protected: bool) -> None:
    """Raise `PeerMisbehaved` if the message may not be. `protected`: its payloads stood inside SK.

    `notify` of the error is INVALID_SYNTAX or UNSUPPORTED_CRITICAL_PAYLOAD. Whether it may be sent
    (only in a protected answer to a protected request) is the driver's to know.
    """
    header = message.header
    allowed = TABLE.get((header.exchange, header.response, protected))
    if allowed is None:
        where = "inside" if protected else "outside"
        raise _illegal(f"{Exchange.name_of(header.exchange)} {where} SK")
    counted: dict[int, int] = {}
    instead = False
    for payload in message.payloads:
        kind = payload.payload_type
        if type(payload) is UnknownPayload:
            if payload.critical:
                raise PeerMisbehaved(
                    Reason.PEER_MISBEHAVED,
                    f"unknown payload {PayloadType.name_of(kind)} marked critical",
                    notify=Notify.UNSUPPORTED_CRITICAL_PAYLOAD,
                    notify_data=bytes((kind,)),
                )
            continue
        counted[kind] = counted.get(kind, 0) + 1
        if kind in _CONTENTS:
            _CONTENTS[kind](payload, message)
            if type(payload) is NotifyPayload and (Notify.is_error(payload.type) or payload.type in _INSTEAD):
                instead = True
    _judge_counts(message, allowed, counted)
    if not (header.response and instead):
        _judge_needed(message, _NEEDED[header.exchange, header.response, protected], counted)


def _named(message: Message) -> str:
    direction = "response" if message.header.response else "request"
    return f"{Exchange.name_of(message.header.exchange)} {direction}"


def _judge_counts(message: Message, allowed: Counts, counted: dict[int, int]) -> None:
    for kind, count in counted.items():
        limits = allowed.get(kind)
        if limits is None:
            raise _illegal(f"{PayloadType.name_of(kind)} has no place in an {_named(message)}")
        if count > limits[1]:
            raise _illegal(f"{count} {PayloadType.name_of(kind)} in an {_named(message)}")


def _judge_needed(message: Message, needed: tuple[tuple[int, int], ...], counted: dict[int, int]) -> None:
    for kind, least in needed:
        if least > counted.get(kind, 0):
            raise _illegal(f"no {PayloadType.name_of(kind)} in an {_named(message)}")
    if (PayloadType.TSI in counted) != (PayloadType.TSR in counted):
        raise _illegal("one traffic selector payload without the other")
    if PayloadType.TSI in counted and PayloadType.SA not in counted:
        raise _illegal("traffic selectors without an SA")


def sealed(message: Message) -> EncryptedPayload | EncryptedFragmentPayload | None:
    """The SK or SKF that ends the message, or None. What stands before it is ignored (RFC 7383, 2.5.3)."""
    if message.payloads:
        last = message.payloads[-1]
        if isinstance(last, EncryptedPayload | EncryptedFragmentPayload):
            return last
    return None


def _judge_notify(payload: Payload, message: Message) -> None:
    if not isinstance(payload, NotifyPayload):
        return
    fits = _NOTIFY_LENGTHS.get(payload.type)
    if fits is not None and not fits(len(payload.data)):
        raise _illegal(f"{Notify.name_of(payload.type)} with {len(payload.data)} octets of data")
    if payload.type == Notify.REKEY_SA:
        # RFC 7296, section 3.10.1: the SPI that the sender expects inbound; CVE-2023-38710.
        if _SPI_SIZES.get(payload.protocol) != len(payload.spi):
            raise _illegal(
                f"REKEY_SA for {Protocol.name_of(payload.protocol)} with {len(payload.spi)} octets of SPI"
            )
        if sum(type(p) is NotifyPayload and p.type == Notify.REKEY_SA for p in message.payloads) > 1:
            raise _illegal("more than one REKEY_SA")


def _judge_delete(payload: Payload, message: Message) -> None:
    if not isinstance(payload, DeletePayload):
        return
    if payload.protocol == Protocol.IKE:
        if payload.spis or payload.spi_size:
            raise _illegal("a Delete of the IKE SA with an SPI")
    elif payload.protocol in _SPI_SIZES:
        if any(len(spi) != 4 for spi in payload.spis):
            raise _illegal(
                f"a Delete of {Protocol.name_of(payload.protocol)} with SPIs that have not 4 octets"
            )
    else:
        raise _illegal(f"a Delete of protocol {Protocol.name_of(payload.protocol)}")


def _judge_sa(payload: Payload, message: Message) -> None:
    """RFC 7296, section 3.3.1: numbers count from 1, an answer holds one, SPIs have their protocol's size.
    Two of one number are ESP and AH that are wanted together (RFC 4306, section 3.3)."""
    if not isinstance(payload, SaPayload):
        return
    initial = message.header.exchange == Exchange.IKE_SA_INIT
    if message.header.response:
        if len(payload.proposals) != 1:
            raise _illegal(f"an answer of {len(payload.proposals)} proposals")
    else:
        numbers = list(dict.fromkeys([p.number for p in payload.proposals]))
        if numbers != list(range(1, len(numbers) + 1)):
            raise _illegal("proposals that are not numbered from 1 upward")
        if len(numbers) < len(payload.proposals):
            _judge_bundles(payload)
    for proposal in payload.proposals:
        size = (
            (0 if initial else 8) if proposal.protocol == Protocol.IKE else _SPI_SIZES.get(proposal.protocol)
        )
        if size is not None and len(proposal.spi) != size:
            raise _illegal(
                f"a proposal for {Protocol.name_of(proposal.protocol)} with {len(proposal.spi)} octets of SPI"
            )


def _judge_bundles(payload: SaPayload) -> None:
    for before, proposal in pairwise(payload.proposals):
        if proposal.number < before.number:
            raise _illegal("proposals that are not numbered from 1 upward")
    for number in {p.number for p in payload.proposals}:
        protocols = [p.protocol for p in payload.proposals if p.number == number]
        if len(protocols) > 1 and sorted(protocols) != [Protocol.AH, Protocol.ESP]:
            raise _illegal("proposals of one number that are not AH and ESP")


def _judge_certreq(payload: Payload, message: Message) -> None:
    if isinstance(payload, CertReqPayload) and payload.encoding in _HASHED_CERTREQ and len(payload.data) % 20:
        raise _illegal(f"a list of SHA-1 hashes with {len(payload.data)} octets in CERTREQ")


_CONTENTS: Final[dict[int, Callable[[Payload, Message], None]]] = {
    PayloadType.NOTIFY: _judge_notify,
    PayloadType.DELETE: _judge_delete,
    PayloadType.SA: _judge_sa,
    PayloadType.CERTREQ: _judge_certreq,
}


def _illegal(text: str) -> PeerMisbehaved:
    return PeerMisbehaved(Reason.PEER_MISBEHAVED, text, notify=Notify.INVALID_SYNTAX)
