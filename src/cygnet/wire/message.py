"""Datagrams <-> messages (RFC 7296, sections 3.1 and 3.2). No keys, no state, no opinion on what is allowed.

The flow: header -> chain of payloads -> each payload by its own parser over a cursor that cannot
leave it. `_parse` is the one point where whatever goes wrong in a payload becomes `Malformed`.
Decode then encode gives the same octets.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from struct import Struct
from typing import Final, TypeVar, cast

from cygnet.records import dataclass
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.numbers import Flags, Notify, PayloadType
from cygnet.wire.payloads import (
    PARSERS,
    EncryptedFragmentPayload,
    EncryptedPayload,
    NotifyPayload,
    Payload,
    UnknownPayload,
)

HEADER_LENGTH: Final = 28
MAX_MESSAGE: Final = 65535
"""Octets; what a UDP datagram can hold."""
MAX_PAYLOADS: Final = 64
"""In one chain. libreswan's table holds 60 and more in one message is nobody's (CVE-2026-12413)."""

_HEADER: Final = Struct("!8s8sBBBBII")
_GENERIC: Final = Struct("!BBH")

_SEALED: Final = (EncryptedPayload, EncryptedFragmentPayload)

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class Header:
    """The IKE header of both versions. `length` is the datagram's; `encode` writes it anew."""

    initiator_spi: bytes
    responder_spi: bytes
    next_payload: int
    major: int
    minor: int
    exchange: int
    flags: int
    message_id: int
    length: int = 0

    @property
    def response(self) -> bool:
        return bool(self.flags & Flags.RESPONSE)

    @property
    def from_initiator(self) -> bool:
        """Sent by the original initiator of the IKE SA (RFC 7296, section 3.1)."""
        return bool(self.flags & Flags.INITIATOR)


@dataclass(frozen=True, slots=True)
class Message:
    header: Header
    payloads: tuple[Payload, ...]

    def one(self, kind: type[P]) -> P:
        """The only payload of this class. Raises `Malformed` when there is none, or more than one."""
        found = self.maybe(kind)
        if found is None:
            raise Malformed(f"0 {_title(kind)} where one belongs")
        return found

    def maybe(self, kind: type[P]) -> P | None:
        """The payload of this class, or None. Raises `Malformed` when there is more than one."""
        kinds = list(map(type, self.payloads))
        count = kinds.count(kind)
        if count > 1:
            raise Malformed(f"{count} {_title(kind)} where one belongs")
        return cast(P, self.payloads[kinds.index(kind)]) if count else None

    def all(self, kind: type[P]) -> tuple[P, ...]:
        """The payloads of this class, in order."""
        return tuple([p for p in self.payloads if type(p) is kind])

    def notify(self, number: int) -> NotifyPayload | None:
        """The first notify of this type (`numbers.Notify`), or None."""
        for payload in self.payloads:
            if type(payload) is NotifyPayload and payload.type == number:
                return payload
        return None

    def error(self) -> NotifyPayload | None:
        """The first notify that reports an error (RFC 7296, section 3.10.1), or None."""
        for payload in self.payloads:
            if type(payload) is NotifyPayload and Notify.is_error(payload.type):
                return payload
        return None


def _title(kind: type[object]) -> str:
    return kind.__name__.removesuffix("Payload") + " payloads"


def decode_header(datagram: bytes) -> Header:
    """The header of either version. Raises `Malformed` when short, or when its length is not the datagram's.

    The length is not judged for other major versions than 1 and 2: only their header's first
    18 octets are known to keep their places (RFC 7296, section 2.5).
    """
    return _read_header(Cursor(datagram))


def _read_header(cursor: Cursor) -> Header:
    total = cursor.end
    spi_i, spi_r, first, version, exchange, flags, message_id, length = cursor.unpack(_HEADER)
    major = version >> 4
    if length != total and major in (1, 2):
        raise Malformed(f"the header says {length} octets, the datagram has {total}")
    return Header(spi_i, spi_r, first, major, version & 15, exchange, flags, message_id, length)


def decode(datagram: bytes) -> Message:
    """An IKEv2 message as it was on the wire: the chain ends at SK or SKF, which stay sealed.

    Raises `Malformed`. Other major versions are the caller's to answer, after `decode_header`.
    """
    cursor = Cursor(datagram)
    header = _read_header(cursor)
    if header.major != 2:
        raise Malformed(f"major version {header.major}")
    return Message(header, _decode_chain(header.next_payload, cursor, sealed=True))


def decode_payloads(first_type: int, data: bytes) -> tuple[Payload, ...]:
    """The chain inside an SK payload. Raises `Malformed`, also for an SK or SKF inside another."""
    return _decode_chain(first_type, Cursor(data), sealed=False)


def _decode_chain(kind: int, cursor: Cursor, *, sealed: bool) -> tuple[Payload, ...]:
    payloads: list[Payload] = []
    while kind:
        if len(payloads) == MAX_PAYLOADS:
            raise Malformed(f"more than {MAX_PAYLOADS} payloads")
        (following, flags, _), body = cursor.structure(_GENERIC)
        payloads.append(_parse(kind, flags, following, body, sealed))
        if kind == PayloadType.SK or kind == PayloadType.SKF:
            break
        kind = following
    cursor.expect_end()
    return tuple(payloads)


def _parse(kind: int, flags: int, following: int, body: Cursor, sealed: bool) -> Payload:
    """One payload; the one place where a parser's failure, foreseen or not, becomes `Malformed`."""
    try:
        parser = PARSERS.get(kind)
        if parser is not None:
            return parser(body, flags)
        if kind == PayloadType.SK or kind == PayloadType.SKF:
            if not sealed:
                raise Malformed("an encrypted payload inside an encrypted payload")
            if kind == PayloadType.SK:
                return EncryptedPayload.parse(body, flags, following)
            return EncryptedFragmentPayload.parse(body, flags, following)
        return UnknownPayload.parse(body, flags, kind)
    except Malformed as error:
        raise Malformed(f"payload {PayloadType.name_of(kind)}: {error}") from error
    except (struct.error, ValueError, LookupError, ArithmeticError) as error:
        raise Malformed(f"payload {PayloadType.name_of(kind)}: cannot be parsed") from error


def encode(header: Header, payloads: Sequence[Payload]) -> bytes:
    """The datagram. `header.length` and `header.next_payload` are derived. Raises ValueError when
    something does not fit its field: our caller's mistake, never the peer's."""
    first, body = encode_payloads(payloads)
    return encode_header(header, first, HEADER_LENGTH + len(body)) + body


def encode_header(header: Header, first: int, length: int) -> bytes:
    """The 28 octets of a header whose first payload and total length are given. Raises ValueError."""
    if len(header.initiator_spi) != 8 or len(header.responder_spi) != 8:
        raise ValueError("SPIs of an IKE SA have 8 octets")
    try:
        return _HEADER.pack(
            header.initiator_spi,
            header.responder_spi,
            first,
            header.major << 4 | header.minor,
            header.exchange,
            header.flags,
            header.message_id,
            length,
        )
    except struct.error as error:
        raise ValueError(f"the header cannot be encoded: {error}") from error


def encode_payloads(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """(type of the first payload, the chain's octets); (0, b"") for none. Raises ValueError as `encode`."""
    parts: list[bytes] = []
    last = len(payloads) - 1
    try:
        for i, payload in enumerate(payloads):
            following = 0
            if isinstance(payload, _SEALED):
                if i != last:
                    raise ValueError("an encrypted payload that is not the last")
                following = payload.first_inner
            elif i != last:
                following = payloads[i + 1].payload_type
            body = payload.emit()
            parts.append(_GENERIC.pack(following, payload.flags, 4 + len(body)))
            parts.append(body)
    except struct.error as error:
        raise ValueError(f"a payload cannot be encoded: {error}") from error
    return (payloads[0].payload_type if payloads else PayloadType.NONE), b"".join(parts)
