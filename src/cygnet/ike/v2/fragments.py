"""Fragments of encrypted messages, SKF (RFC 7383): splitting, and putting together again.

Flow of receiving: wire bounds -> `Reassembly.admit` (cheap, before any cryptography) -> the driver
checks this fragment's own ICV and decrypts -> `Reassembly.store` with the plaintext. Only plaintext
of an authentic fragment can be stored, so a forged one can neither fill nor reset anything
(RFC 7383, section 2.6). Whole or nothing: the content is parsed when the last fragment has come.
"""

from __future__ import annotations

from typing import Final

from cygnet.wire.message import HEADER_LENGTH
from cygnet.wire.payloads import SKF_HEADER, EncryptedFragmentPayload

MAX_FRAGMENTS: Final = 255
"""Of one message; strongSwan's limit too. Cut at 576 octets that is 130 KB, more than a message can have."""
MAX_CONTENT: Final = 65535
"""Octets of one reassembled content."""

_IP_HEADER: Final = {4: 20, 6: 40}
_UDP_HEADER: Final = 8
_MARKER: Final = 4


class FragmentRefused(Exception):
    """This fragment is to be dropped in silence (`Drop.FRAGMENT`); the text says why."""


def room(
    fragment_size: int, family: int, *, marker: bool, iv_length: int, block: int, icv_length: int
) -> int:
    """Octets of content for one fragment so that its IP packet has at most `fragment_size` octets.

    `family` is 4 or 6, `marker`: a non-ESP marker goes in front, `block`: the cipher's alignment.
    Never below 1, whatever the size says.
    """
    sealed = (
        fragment_size
        - _IP_HEADER[family]
        - _UDP_HEADER
        - (_MARKER if marker else 0)
        - HEADER_LENGTH
        - SKF_HEADER
        - iv_length
        - icv_length
    )
    # One octet of the padded plaintext is the pad length (RFC 7296, section 3.14).
    return max(1, sealed - sealed % block - 1)


def split(content: bytes, size: int) -> tuple[bytes, ...]:
    """The content in chunks of at most `size` octets, at least one (RFC 7383, section 2.5).

    They are as equal as can be: the last datagram is then no runt. Raises ValueError when the
    content would take more than MAX_FRAGMENTS.
    """
    total = max(1, -(-len(content) // size))
    if total > MAX_FRAGMENTS:
        raise ValueError(f"{len(content)} octets in chunks of {size} are more than {MAX_FRAGMENTS} fragments")
    size = max(1, -(-len(content) // total))
    return tuple([content[at : at + size] for at in range(0, total * size, size)])


class Reassembly:
    """The fragments of the one message that is being received, in one direction of one IKE SA.

    Bounded by MAX_FRAGMENTS and MAX_CONTENT; the driver forgets it some time after it `began`.
    """

    __slots__ = ("_chunks", "_first_inner", "_message_id", "_octets", "_total", "began")

    def __init__(self, began: float = 0.0) -> None:
        self.began = began
        self.clear()

    def clear(self) -> None:
        self._message_id = -1
        self._total = 0
        self._first_inner = 0
        self._octets = 0
        self._chunks: dict[int, bytes] = {}

    @property
    def pending(self) -> bool:
        """Some fragments are here, others are missing."""
        return bool(self._chunks)

    @property
    def octets(self) -> int:
        return self._octets

    def admit(self, message_id: int, fragment: EncryptedFragmentPayload) -> None:
        """Judge the fragment before its ICV is checked; changes nothing. Raises `FragmentRefused`."""
        if not 1 <= fragment.number <= fragment.total <= MAX_FRAGMENTS:
            raise FragmentRefused(f"fragment {fragment.number} of {fragment.total}")
        if fragment.number > 1 and fragment.first_inner:
            raise FragmentRefused("a later fragment that names a first payload")
        if not self._chunks or message_id != self._message_id:
            return
        if fragment.total < self._total:
            raise FragmentRefused(f"the total shrinks from {self._total} to {fragment.total}")
        if fragment.total == self._total and fragment.number in self._chunks:
            raise FragmentRefused(f"fragment {fragment.number} came before")

    def store(
        self, message_id: int, fragment: EncryptedFragmentPayload, plaintext: bytes
    ) -> tuple[int, bytes] | None:
        """Keep the plaintext of an admitted fragment whose ICV passed.

        Returns (type of the first inner payload, content) when it was the last one missing, and
        forgets all; else None. A new message id or a larger total begins anew (RFC 7383, section 2.6).
        Raises `FragmentRefused` when the content grows too large; all of it is forgotten then.
        """
        self.admit(message_id, fragment)
        if message_id != self._message_id or fragment.total != self._total:
            self.clear()
            self._message_id, self._total = message_id, fragment.total
        if fragment.number == 1:
            self._first_inner = fragment.first_inner
        self._chunks[fragment.number] = plaintext
        self._octets += len(plaintext)
        if self._octets > MAX_CONTENT:
            self.clear()
            raise FragmentRefused(f"more than {MAX_CONTENT} octets of content")
        if len(self._chunks) < self._total:
            return None
        whole = self._first_inner, b"".join([self._chunks[n] for n in range(1, self._total + 1)])
        self.clear()
        return whole
