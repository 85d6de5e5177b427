"""SK payloads: sealing and opening IKE messages (RFC 7296, section 3.14; RFC 5282; RFC 7383).

The ICV covers everything from the IKE header to what precedes it. With separate algorithms it is
a MAC behind the ciphertext, with an AEAD header and payload header are additional data. IVs of
AEADs and of counter mode count up from 0, one for each datagram that a key ever sealed; CBC's are
random. No cipher object outlives a call: an IKE SA holds keys, not contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from cygnet.crypto.entropy import Entropy
from cygnet.crypto.kdf import IkeKeys
from cygnet.crypto.suites import CipherSuite, IntegrityFailure, suite
from cygnet.ike.state import IkeSuite
from cygnet.ike.v2.fragments import room, split
from cygnet.records import dataclass
from cygnet.wire.message import HEADER_LENGTH, Header, encode_header, encode_payloads
from cygnet.wire.numbers import Encr, PayloadType
from cygnet.wire.payloads import SK_HEADER, SKF_HEADER, EncryptedFragmentPayload, EncryptedPayload, Payload

_SK: Final = Struct("!BBH")
_SKF: Final = Struct("!BBHHH")


def cipher_suite(chosen: IkeSuite) -> CipherSuite:
    return suite(chosen.encryption, chosen.key_bits, chosen.integrity)


@dataclass(frozen=True, slots=True)
class Limit:
    """Messages whose IP packet would exceed `size` octets go in fragments (RFC 7383)."""

    size: int
    family: int
    marker: bool


def seal(
    header: Header,
    payloads: Sequence[Payload],
    chosen: IkeSuite,
    keys: IkeKeys,
    by_initiator: bool,
    iv: int,
    entropy: Entropy,
    limit: Limit | None = None,
) -> tuple[bytes, ...]:
    """The message as datagrams, each of which takes one IV. `by_initiator`: we are the SA's original
    initiator; `iv` is the next counter; `limit` None: never fragment.

    Raises ValueError when the message cannot be encoded: our mistake, never the peer's.
    """
    first, plaintext = encode_payloads(payloads)
    ciphers = cipher_suite(chosen)
    key, mac_key = (keys.sk_ei, keys.sk_ai) if by_initiator else (keys.sk_er, keys.sk_ar)
    overhead = ciphers.iv_length + ciphers.icv_length
    protector = ciphers.protector(key, mac_key)
    length = HEADER_LENGTH + SK_HEADER + overhead + _padded(len(plaintext), ciphers)
    if limit is None or length + _outside(limit) <= limit.size:
        octets = _iv(ciphers, iv, entropy)
        head = encode_header(header, PayloadType.SK, length) + _SK.pack(first, 0, length - HEADER_LENGTH)
        return (head + octets + protector.seal(head, octets, _pad(plaintext, ciphers)),)
    # RFC 7383, section 2.5: each fragment is sealed by itself; only the first names the first payload.
    space = room(
        limit.size,
        limit.family,
        marker=limit.marker,
        iv_length=ciphers.iv_length,
        block=ciphers.block,
        icv_length=ciphers.icv_length,
    )
    chunks = split(plaintext, space)
    datagrams = []
    for number, chunk in enumerate(chunks, 1):
        part = _pad(chunk, ciphers)
        octets = _iv(ciphers, iv + number - 1, entropy)
        length = HEADER_LENGTH + SKF_HEADER + overhead + len(part)
        head = encode_header(header, PayloadType.SKF, length) + _SKF.pack(
            first if number == 1 else 0, 0, length - HEADER_LENGTH, number, len(chunks)
        )
        datagrams.append(head + octets + protector.seal(head, octets, part))
    return tuple(datagrams)


def _outside(limit: Limit) -> int:
    """IP and UDP header and the non-ESP marker."""
    return (28 if limit.family == 4 else 48) + (4 if limit.marker else 0)


def open_sealed(
    datagram: bytes,
    payload: EncryptedPayload | EncryptedFragmentPayload,
    chosen: IkeSuite,
    keys: IkeKeys,
    by_initiator: bool,
) -> bytes:
    """The plaintext of an SK payload or of one fragment, padding removed. Raises IntegrityFailure."""
    ciphers = cipher_suite(chosen)
    key, mac_key = (keys.sk_ei, keys.sk_ai) if by_initiator else (keys.sk_er, keys.sk_ar)
    covered = payload.offset + (SK_HEADER if isinstance(payload, EncryptedPayload) else SKF_HEADER)
    body = payload.body
    size = ciphers.iv_length
    plaintext = ciphers.protector(key, mac_key).open(datagram[:covered], body[:size], body[size:])
    padding = plaintext[-1] if plaintext else 0
    if padding >= len(plaintext):
        # One error for all that is wrong behind the ICV (CBC: padding beyond the plaintext).
        raise IntegrityFailure("padding longer than the plaintext")
    return plaintext[: len(plaintext) - 1 - padding]


def _padded(length: int, ciphers: CipherSuite) -> int:
    block = ciphers.block
    return -(-(length + 1) // block) * block


def _pad(plaintext: bytes, ciphers: CipherSuite) -> bytes:
    missing = _padded(len(plaintext), ciphers) - len(plaintext) - 1
    return plaintext + bytes(missing) + bytes((missing,))


def _iv(ciphers: CipherSuite, counter: int, entropy: Entropy) -> bytes:
    if ciphers.encryption == Encr.AES_CBC:
        return entropy.octets(ciphers.iv_length)
    return counter.to_bytes(ciphers.iv_length, "big")
