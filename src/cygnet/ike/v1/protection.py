"""How messages of IKEv1 are protected: CBC in chains, HASH payloads, and Cisco's fragments of datagrams.

Encryption has no integrity of its own (RFC 2409, appendix B): the IV of a message is the last ciphertext
block of the one before it in its exchange, so it stays as it was until a message is accepted. What proves a
message is the HASH payload, which stands first and covers all octets behind it (sections 5.5 and 5.7).
"""

from __future__ import annotations

import hmac
from typing import Final

from cygnet.crypto.ikev1 import Phase1Suite, phase1_suite, phase2_iv, quick_hash_1, quick_hash_2, quick_hash_3
from cygnet.ike.errors import Drop, LocalMisuse, Reason
from cygnet.ike.state import Isakmp, SaState
from cygnet.ike.v1.steps import HashOf, Received, Unproven
from cygnet.wire.message import HEADER_LENGTH, Header
from cygnet.wire.v1.message import Message, encode, opened
from cygnet.wire.v1.payloads import MAX_FRAGMENT_NUMBER, FragmentPayload

MAX_REASSEMBLED: Final = 65535
"""Octets of one message that came in fragments."""
MIN_FRAGMENT: Final = 128
_FRAGMENT_HEADERS: Final = HEADER_LENGTH + 4 + 4
"""The header of each datagram, and of the payload that carries its piece."""


def isakmp_of(state: SaState) -> Isakmp:
    """What phase 1 has agreed on so far. Raises `LocalMisuse` before there are keys."""
    if state.isakmp is None:
        raise LocalMisuse(Reason.INTERNAL, "phase 1 has no keys yet")
    return state.isakmp


def suite_of(isakmp: Isakmp) -> Phase1Suite:
    """The cipher and the hash of phase 1."""
    return phase1_suite(isakmp.encryption, isakmp.key_bits, isakmp.hash)


# -- encryption ---------------------------------------------------------------------------------


def seal(isakmp: Isakmp, iv: bytes, octets: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, the IV of the next message of the exchange)."""
    suite = suite_of(isakmp)
    sealed = suite.encrypt(isakmp.keys.encryption, iv, octets)
    return sealed, sealed[-suite.block :]


def unseal(isakmp: Isakmp, iv: bytes, message: Message) -> tuple[Message, bytes]:
    """(the message in clear, the IV of the next one). Raises `Malformed`: garbled, or another key."""
    suite = suite_of(isakmp)
    plaintext = suite.decrypt(isakmp.keys.encryption, iv, message.sealed)
    if plaintext is None:
        raise Unproven(Drop.INTEGRITY, "the ciphertext is no whole number of blocks")
    return opened(message, plaintext), message.sealed[-suite.block :]


def first_iv(isakmp: Isakmp, base: bytes, message_id: int) -> bytes:
    """The IV of an exchange's first message; `base`: phase 1's last block."""
    return base if not message_id else phase2_iv(suite_of(isakmp), base, message_id)


# -- HASH ---------------------------------------------------------------------------------------


def hash_1(isakmp: Isakmp) -> HashOf:
    """HASH(1) = prf(SKEYID_a, M-ID | what follows): quick mode's first message, and all others."""
    suite, key = suite_of(isakmp), isakmp.keys.skeyid_a
    return lambda message_id, octets: quick_hash_1(suite, key, message_id, octets)


def hash_2(isakmp: Isakmp, ni: bytes) -> HashOf:
    """HASH(2) = prf(SKEYID_a, M-ID | Ni_b | what follows)."""
    suite, key = suite_of(isakmp), isakmp.keys.skeyid_a
    return lambda message_id, octets: quick_hash_2(suite, key, message_id, ni, octets)


def hash_3(isakmp: Isakmp, ni: bytes, nr: bytes) -> HashOf:
    """HASH(3) = prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b): it covers nothing that might follow it."""
    suite, key = suite_of(isakmp), isakmp.keys.skeyid_a
    return lambda message_id, octets: quick_hash_3(suite, key, message_id, ni, nr)


def check_hash(received: Received, hashed: HashOf) -> None:
    """The first payload is HASH, and it is right. Raises `Unproven`, or `Malformed` if it is not the first.
    The first payload is HASH, and it is right. Raises `Unproven`, or `Malformed` if it is not the first."""
    value, octets = received.message.hashed()
    # `is not True`, so that no odd result can pass (CVE-2020-16088).
    same: object = hmac.compare_digest(value, hashed(received.message.header.message_id, octets))
    if same is not True:
        raise Unproven(Drop.INTEGRITY, "the HASH payload is wrong")


# -- fragments ----------------------------------------------------------------------------------


def split(header: Header, datagram: bytes, size: int) -> tuple[bytes, ...]:
    """The datagram in pieces whose UDP payload has at most `size` octets, if it is longer than that.

    The pieces are as equal as can be. Raises ValueError when it takes more than the field can number.
    """
    if len(datagram) <= size:
        return (datagram,)
    room = max(size - _FRAGMENT_HEADERS, MIN_FRAGMENT)
    count = -(-len(datagram) // room)
    if count > MAX_FRAGMENT_NUMBER:
        raise ValueError(f"{len(datagram)} octets in pieces of {room} are more than {MAX_FRAGMENT_NUMBER}")
    room = -(-len(datagram) // count)
    pieces = [datagram[at : at + room] for at in range(0, len(datagram), room)]
    return tuple(
        [
            encode(header, (FragmentPayload(1, number, piece, int(number == len(pieces))),))
            for number, piece in enumerate(pieces, 1)
        ]
    )


class Reassembly:
    """The pieces of the one datagram that is coming. Nothing protects them, so they are bounded, a piece that
    came is not replaced, and another message's first piece begins anew."""

    __slots__ = ("_id", "_last", "_pieces", "began", "octets")

    def __init__(self, began: float) -> None:
        self.began = began
        self._clear(0)

    def _clear(self, ident: int) -> None:
        self._id = ident
        self._last = 0
        self._pieces: dict[int, bytes] = {}
        self.octets = 0

    def add(self, piece: FragmentPayload) -> bytes | None:
        """The whole datagram when nothing is missing any more. Raises `Unproven`."""
        if self._pieces and piece.id != self._id:
            self._clear(piece.id)
        self._id = piece.id
        if piece.number in self._pieces:
            raise Unproven(Drop.FRAGMENT, f"piece {piece.number} came before")
        if self._last and (piece.last or piece.number > self._last):
            raise Unproven(Drop.FRAGMENT, f"piece {piece.number} of {self._last}")
        if piece.last and any(number > piece.number for number in self._pieces):
            raise Unproven(Drop.FRAGMENT, "the last piece is not the last")
        if self.octets + len(piece.data) > MAX_REASSEMBLED:
            self._clear(0)
            raise Unproven(Drop.FRAGMENT, f"more than {MAX_REASSEMBLED} octets")
        self._pieces[piece.number] = piece.data
        self.octets += len(piece.data)
        if piece.last:
            self._last = piece.number
        if not self._last or len(self._pieces) < self._last:
            return None
        return b"".join([self._pieces[number] for number in range(1, self._last + 1)])
