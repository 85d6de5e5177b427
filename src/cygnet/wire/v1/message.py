"""Datagrams <-> messages of IKEv1 (RFC 2408, section 3.1). No keys, no state, no opinion on what is allowed.

    clear:      header -> chain of payloads
    encrypted:  header -> `sealed`; the cipher opens it -> `opened(message, plaintext)` -> chain, padding

HASH payloads cover octets as they were received, so a message keeps the octets of every payload beside its
value: a value encoded again is not what the peer hashed. Decode then encode gives the same octets.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from struct import Struct
from typing import Final, TypeVar, cast

from cygnet.records import dataclass, replace
from cygnet.wire.cursor import Cursor, Malformed
from cygnet.wire.message import HEADER_LENGTH, Header, decode_header, encode_header
from cygnet.wire.v1.numbers import Flags, PayloadType
from cygnet.wire.v1.payloads import PARSERS, HashPayload, NotifyPayload, Payload, UnknownPayload

MAX_PAYLOADS: Final = 64
"""In one chain, as in IKEv2."""
MAX_CLEAR_PADDING: Final = 3
"""Zero octets behind the last payload of a clear message: pluto fills messages up to a multiple of 4."""
GENERIC_HEADER: Final = 4
"""Octets before the body of a payload (RFC 2408, section 3.2)."""

_GENERIC: Final = Struct("!BBH")

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class Message:
    """`octets[i]` are those of `payloads[i]` as received, generic header included; both are empty as long as
    the message is encrypted. `sealed` is the ciphertext of a message with the encryption flag, else empty;
    `padding` is what followed the last payload."""

    header: Header
    payloads: tuple[Payload, ...]
    octets: tuple[bytes, ...]
    padding: bytes = b""
    sealed: bytes = b""

    @property
    def encrypted(self) -> bool:
        return bool(self.header.flags & Flags.ENCRYPTION)

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

    def body_of(self, payload: Payload) -> bytes:
        """The received octets of this payload without its generic header: SAi_b, IDii_b, IDir_b of
        RFC 2409, section 3.2. Raises LookupError when it is no payload of this message (by identity)."""
        for mine, octets in zip(self.payloads, self.octets, strict=True):
            if mine is payload:
                return octets[GENERIC_HEADER:]
        raise LookupError("a payload of another message")

    def hashed(self) -> tuple[bytes, bytes]:
        """(the HASH payload's value, everything behind it without padding), for the messages where HASH is
        first and covers the rest (RFC 2409, sections 5.5 and 5.7). Raises `Malformed` when HASH is not the
        first payload, or when there are two."""
        first = self.payloads[0] if self.payloads else None
        if type(first) is not HashPayload:
            raise Malformed("the first payload is not HASH")
        self.one(HashPayload)
        return first.data, b"".join(self.octets[1:])


def _title(kind: type[object]) -> str:
    return kind.__name__.removesuffix("Payload") + " payloads"


def decode(datagram: bytes, header: Header | None = None) -> Message:
    """An IKEv1 message as it was on the wire; one with the encryption flag stays sealed. `header`: what
    `decode_header` made of it, where that was asked before.

    Raises `Malformed`."""
    if header is None:
        header = decode_header(datagram)
    if header.major != 1:
        raise Malformed(f"major version {header.major}")
    cursor = Cursor(datagram)
    cursor.take(HEADER_LENGTH)
    if header.flags & Flags.ENCRYPTION:
        if not cursor.left:
            raise Malformed("an encrypted message of no octets")
        return Message(header, (), (), b"", cursor.rest())
    payloads, octets, padding = _decode_chain(header.next_payload, cursor)
    if len(padding) > MAX_CLEAR_PADDING or any(padding):
        raise Malformed(f"{len(padding)} octets left over")
    return Message(header, payloads, octets, padding)


def opened(message: Message, plaintext: bytes) -> Message:
    """The message with what `sealed` held: `plaintext` with the cipher's padding. Raises `Malformed`."""
    payloads, octets, padding = decode_payloads(message.header.next_payload, plaintext)
    return Message(message.header, payloads, octets, padding, message.sealed)


def decode_payloads(first_type: int, data: bytes) -> tuple[tuple[Payload, ...], tuple[bytes, ...], bytes]:
    """(payloads, the octets of each with its generic header, what follows the last: padding).

    The wrong key shows here first, as `Malformed` or as nonsense: authentication is what HASH and SIG say.
    """
    return _decode_chain(first_type, Cursor(data))


def _decode_chain(kind: int, cursor: Cursor) -> tuple[tuple[Payload, ...], tuple[bytes, ...], bytes]:
    if not kind:
        raise Malformed("a message without payloads")
    payloads: list[Payload] = []
    octets: list[bytes] = []
    while kind:
        if len(payloads) == MAX_PAYLOADS:
            raise Malformed(f"more than {MAX_PAYLOADS} payloads")
        start = cursor.position
        (following, reserved, _), body = cursor.structure(_GENERIC)
        payloads.append(_parse(kind, reserved, body))
        octets.append(cursor.since(start))
        kind = following
    return tuple(payloads), tuple(octets), cursor.rest()


def _parse(kind: int, reserved: int, body: Cursor) -> Payload:
    """One payload; the one place where a parser's failure, foreseen or not, becomes `Malformed`."""
    try:
        parser = PARSERS.get(kind)
        if parser is not None:
            return parser(body, reserved)
        return UnknownPayload.parse(body, reserved, kind)
    except Malformed as error:
        raise Malformed(f"payload {PayloadType.name_of(kind)}: {error}") from error
    except (struct.error, ValueError, LookupError, ArithmeticError) as error:
        raise Malformed(f"payload {PayloadType.name_of(kind)}: cannot be parsed") from error


def encode(header: Header, payloads: Sequence[Payload], padding: bytes = b"") -> bytes:
    """The clear datagram. `header.length` and `header.next_payload` are derived. Raises ValueError when
    something does not fit its field: our caller's mistake, never the peer's."""
    first, body = encode_payloads(payloads)
    return encode_chain(header, first, body + padding)


def encode_chain(header: Header, first_type: int, octets: bytes) -> bytes:
    """The datagram of a chain that is encoded, or sealed, already; the header's flags say which."""
    return encode_header(header, first_type, HEADER_LENGTH + len(octets)) + octets


def encode_sealed(header: Header, first_type: int, sealed: bytes) -> bytes:
    """The datagram of an encrypted message; the encryption flag is set here."""
    return encode_chain(replace(header, flags=header.flags | Flags.ENCRYPTION), first_type, sealed)


def encode_payloads(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """(type of the first payload, the chain's octets); (0, b"") for none. Raises ValueError as `encode`."""
    parts: list[bytes] = []
    last = len(payloads) - 1
    try:
        for i, payload in enumerate(payloads):
            following = PayloadType.NONE if i == last else payloads[i + 1].payload_type
            body = payload.emit()
            parts.append(_GENERIC.pack(following, payload.reserved, GENERIC_HEADER + len(body)))
            parts.append(body)
    except struct.error as error:
        raise ValueError(f"a payload cannot be encoded: {error}") from error
    return (payloads[0].payload_type if payloads else PayloadType.NONE), b"".join(parts)


def prefix_hash(first_type: int, octets: bytes, digest: bytes) -> tuple[int, bytes]:
    """The chain `octets`, which begins with a payload `first_type`, behind a HASH payload of `digest`:
    HASH covers the octets that follow it, so they are encoded first (RFC 2409, section 5.5)."""
    return PayloadType.HASH, _GENERIC.pack(first_type, 0, GENERIC_HEADER + len(digest)) + digest + octets
