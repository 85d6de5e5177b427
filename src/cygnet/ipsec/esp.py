"""ESP (RFC 4303), run by run: seal what leaves, open what arrives.

Outbound: number -> IV -> pad -> encrypt, in place, in the buffer that goes to the socket.
Inbound:  length -> replay check -> verify and decrypt into a buffer of our own -> mark the window
          -> padding. Selectors are the caller's next step (RFC 4301, section 5.2).

A run is up to 64 packets of one size (`rows.Run`); a single packet is a run of one. Of a run,
numbers, IVs and pads are columns that numpy fills, and the cipher is called by `map` over kept
slices: 0.9 µs a packet, of which the cipher is 0.7. Runs with a bad packet in them, and ciphers
without `encrypt_into`, take the packet-by-packet path; the outcome is the same.

IVs of counter-mode ciphers are a counter that starts at random for each installation, so that a
key that is wrongly installed twice still never meets the same IV (RFC 4106, section 3.1 asks only
that it never repeats). CBC takes fresh random octets (RFC 3602, section 3). An implicit IV is the
sequence number and is not sent (RFC 8750).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag

from cygnet.crypto.suites import IntegrityFailure, LibraryAead, Protector, suite
from cygnet.ipsec.association import Association
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.replay import ReplayWindow
from cygnet.ipsec.rows import MAX_ROWS, Rows, Run
from cygnet.policy.sa import Mode, SaParameters

HEADER = 8
"""SPI and sequence number."""
IPV4_IN_IP, IPV6_IN_IP, NO_NEXT_HEADER, IPCOMP = 4, 41, 59, 108
SEQUENCE_LIMIT, EXTENDED_LIMIT = (1 << 32) - 1, (1 << 64) - 1
_DROPPED = 0, -1
_SMALL = 6
"""Rows below which columns cost more than a loop."""

_PACK = Struct(">IIQ")
_PACK_SHORT = Struct(">II")
_PACK_IV = Struct(">Q")
_AAD_EXTENDED = Struct(">IQ")
_ARANGE = np.arange(MAX_ROWS, dtype=np.uint64)
_M64 = (1 << 64) - 1

_PADS = tuple(bytes(range(1, n + 1)) + bytes((n,)) for n in range(256))
"""RFC 4303, 2.4: the pad for n octets, then its length."""


class Workspace:
    """Buffers that one engine thread shares among all SAs: sealed out, opened in, nonces, extended AADs."""

    __slots__ = ("aads", "nonces", "opened", "sealed")

    def __init__(self) -> None:
        self.sealed = Rows(1 << 17)
        self.opened = Rows((1 << 16) + 4096)
        self.nonces = Rows(MAX_ROWS * 16)
        self.aads = Rows(MAX_ROWS * 16)


class _Sa(Association):
    """What both directions have: parameters, geometry, keys made at first use, counters."""

    __slots__ = (
        "_protector",
        "align",
        "combined",
        "head",
        "icv",
        "implicit_iv",
        "iv_length",
        "pure_counter_iv",
        "tunnel",
    )

    def __init__(self, parameters: SaParameters, now: float = 0.0) -> None:
        """Raises crypto's UnsupportedAlgorithm, or ValueError for key lengths and windows that cannot be."""
        chosen = suite(parameters.encryption, parameters.key_bits, parameters.integrity)
        # RFC 4303 allows encryption alone; it is broken (Paterson and Yau 2006) and always refused here.
        if chosen.icv_length == 0:
            raise ValueError("encryption without integrity")
        if (
            len(parameters.encryption_key) != chosen.encryption_key_length
            or len(parameters.integrity_key) != chosen.integrity_key_length
        ):
            raise ValueError("key length does not fit the cipher suite")
        if parameters.manual and chosen.counter_mode:
            raise ValueError("a counter-mode cipher cannot be keyed by hand (RFC 8221, section 3)")
        super().__init__(parameters, now)
        self.tunnel = parameters.mode == Mode.TUNNEL
        self.combined = chosen.aead
        self.iv_length = chosen.iv_length
        self.pure_counter_iv = chosen.counter_mode and chosen.iv_length == 8
        self.implicit_iv = chosen.implicit_iv
        self.head = HEADER + chosen.iv_length
        self.icv = chosen.icv_length
        self.align = max(4, chosen.block)
        self._protector: Protector | None = None

    @property
    def protector(self) -> Protector:
        made = self._protector
        if made is None:
            made = suite(
                self.parameters.encryption, self.parameters.key_bits, self.parameters.integrity
            ).protector(self.parameters.encryption_key, self.parameters.integrity_key)
            self._protector = made
        return made

    def padded(self, length: int) -> int:
        """Octets of ciphertext for `length` octets of payload: with pad, pad length and next header."""
        return -(-(length + 2) // self.align) * self.align

    def sealed_length(self, length: int) -> int:
        return self.head + self.padded(length) + self.icv

    def largest_payload(self, sealed: int) -> int:
        """The longest payload whose ESP packet has at most `sealed` octets."""
        return (sealed - self.head - self.icv) // self.align * self.align - 2


class OutboundSa(_Sa):
    __slots__ = ("_iv_base", "_random", "limit", "sequence")

    def __init__(
        self, parameters: SaParameters, now: float = 0.0, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        super().__init__(parameters, now)
        self._random = random
        self._iv_base = int.from_bytes(random(8), "big")
        self.sequence = 0
        """The number of the last packet sent."""
        self.limit = EXTENDED_LIMIT if parameters.esn else SEQUENCE_LIMIT

    def seal_batch(
        self, work: Workspace, start: int, count: int, length: int, last: int, next_header: int
    ) -> int:
        """Seal a run in `work.sealed`, in place. Row i begins at `start + i * stride`, stride being
        `sealed_length(length)`; its `length` octets of payload (the last row's: `last`, not more) lie
        `head` octets behind the row's begin. Returns the octets of the sealed last row, or 0 if the
        sequence numbers are used up: then nothing may be sent (RFC 4303, section 3.3.3)."""
        first = self.sequence + 1
        if self.sequence + count > self.limit:
            self.drop(Drop.SEQUENCE_EXHAUSTED, count)
            return 0
        self.sequence += count
        protector = self.protector
        equal = count if last == length else count - 1
        stride = self.sealed_length(length)
        aead = protector.aead
        if aead is None:
            for index in range(count):
                size = length if index < equal else last
                self._seal_separately(work, start + index * stride, size, first + index, next_header)
        elif equal < _SMALL:
            for index in range(count):
                size = length if index < equal else last
                self._seal_one(work, aead, start + index * stride, size, first + index, next_header)
        else:
            self._seal_columns(work, aead, start, stride, equal, length, first, next_header)
            if equal < count:
                self._seal_one(work, aead, start + equal * stride, last, first + equal, next_header)
        self.packets += count
        self.bytes += (count - 1) * length + last
        return self.sealed_length(last)

    def _seal_columns(
        self,
        work: Workspace,
        aead: LibraryAead,
        start: int,
        stride: int,
        count: int,
        length: int,
        first: int,
        next_header: int,
    ) -> None:
        rows = work.sealed
        padded = self.padded(length)
        spi = self.parameters.spi
        numbers = _ARANGE[:count] + np.uint64(first)
        rows.column(start, stride, ">u4")[:count] = spi
        rows.column(start + 4, stride, ">u4")[:count] = numbers & np.uint64(0xFFFFFFFF)
        ivs = numbers
        if not self.implicit_iv:
            ivs = numbers + np.uint64(self._iv_base)
            rows.column(start + 8, stride, ">u8")[:count] = ivs
        pad = _PADS[padded - length - 2] + bytes((next_header,))
        rows.matrix(start + self.head + length, stride, len(pad))[:count] = np.frombuffer(pad, np.uint8)
        body = rows.slices(start + self.head, stride, padded)
        out = rows.slices(start + self.head, stride, padded + self.icv)
        nonces = _fill_nonces(work, self.protector.salt, ivs, count)
        if self.parameters.esn:
            aads = _fill_extended_aads(work, spi, numbers, count)
        else:
            aads = rows.slices(start, stride, HEADER)
        deque(map(aead.encrypt_into, nonces, body, aads, out), maxlen=0)

    def _seal_one(
        self, work: Workspace, aead: LibraryAead, at: int, length: int, sequence: int, next_header: int
    ) -> None:
        view = work.sealed.view
        spi = self.parameters.spi
        if self.implicit_iv:
            iv = sequence
            _PACK_SHORT.pack_into(view, at, spi, sequence & 0xFFFFFFFF)
        else:
            iv = self._iv_base + sequence & _M64
            _PACK.pack_into(view, at, spi, sequence & 0xFFFFFFFF, iv)
        body = at + self.head
        end = body + self.padded(length)
        view[body + length : end] = _PADS[end - body - length - 2] + bytes((next_header,))
        aad = _AAD_EXTENDED.pack(spi, sequence) if self.parameters.esn else view[at : at + HEADER]
        nonce = self.protector.salt + _PACK_IV.pack(iv)
        aead.encrypt_into(nonce, view[body:end], aad, view[body : end + self.icv])

    def _seal_separately(
        self, work: Workspace, at: int, length: int, sequence: int, next_header: int
    ) -> None:
        view = work.sealed.view
        spi, esn = self.parameters.spi, self.parameters.esn
        _PACK_SHORT.pack_into(view, at, spi, sequence & 0xFFFFFFFF)
        body = at + self.head
        if self.pure_counter_iv:
            view[at + HEADER : body] = _PACK_IV.pack(self._iv_base + sequence & _M64)
        elif self.iv_length:
            view[at + HEADER : body] = self._random(self.iv_length)
        end = body + self.padded(length)
        view[body + length : end] = _PADS[end - body - length - 2] + bytes((next_header,))
        aad, suffix = _authenticated(self.combined, spi, sequence, esn)
        view[body : end + self.icv] = self.protector.seal(
            aad, view[at + HEADER : body], view[body:end], suffix
        )


class InboundSa(_Sa):
    __slots__ = ("remove_at", "seen", "window")

    def __init__(self, parameters: SaParameters, now: float = 0.0) -> None:
        super().__init__(parameters, now)
        self.window = ReplayWindow(parameters.replay_window)
        self.seen = False
        """Whether an authentic packet has arrived yet."""
        self.remove_at: float | None = None
        """Removed, and kept for receiving only until then."""

    def open_batch(
        self, work: Workspace, rows: Rows, start: int, stride: int, count: int, last: int
    ) -> tuple[list[Run], bool]:
        """Open `count` ESP packets at `start + i * stride` of `rows`, all `stride` octets but the last,
        which has `last`. What is good lies in `work.opened` as runs of payload (pad removed), in order.
        The flag says that the newest packet so far was among it. What is not good is in `drops`."""
        equal = count if last == stride else count - 1
        body = stride - self.head - self.icv
        aead = self.protector.aead
        if (
            aead is not None
            and self.tunnel
            and equal >= _SMALL
            and body >= self.align
            and body % self.align == 0
        ):
            runs = self._open_columns(work, aead, rows, start, stride, equal, body)
            if runs is not None:
                newest = True
                if equal < count:
                    rest, newest = self._open_each(
                        work, rows, start + equal * stride, stride, 1, last, equal * body
                    )
                    runs = _joined(runs, rest)
                    newest = True
                return runs, newest
        return self._open_each(work, rows, start, stride, count, last, 0)

    def _open_columns(
        self, work: Workspace, aead: LibraryAead, rows: Rows, start: int, stride: int, count: int, body: int
    ) -> list[Run] | None:
        """A run of consecutive, new, good packets; None if it is anything else (and nothing has changed)."""
        lows = rows.column(start + 4, stride, ">u4")[:count].tolist()
        first, window = lows[0], self.window
        if lows != list(range(first, first + count)):
            return None
        esn = self.parameters.esn
        if esn:
            first = window.infer(first)
        if first <= window.top or first + count - 1 > (EXTENDED_LIMIT if esn else SEQUENCE_LIMIT):
            return None
        numbers = _ARANGE[:count] + np.uint64(first)
        ivs = numbers if self.implicit_iv else rows.column(start + HEADER, stride, ">u8")[:count]
        nonces = _fill_nonces(work, self.protector.salt, ivs, count)
        if esn:
            aads = _fill_extended_aads(work, self.parameters.spi, numbers, count)
        else:
            aads = rows.slices(start, stride, HEADER)
        opened = work.opened
        sealed = rows.slices(start + self.head, stride, body + self.icv)
        try:
            deque(map(aead.decrypt_into, nonces, sealed, aads, opened.slices(0, body, body)), maxlen=0)
        except InvalidTag:
            return None
        # Authentic from here on, so the window may move even if the pads are wrong.
        trailer = opened.matrix(body - 2, body, 2)[:count]
        pad, next_header = trailer[0].tolist()
        length = body - 2 - pad
        expected = np.frombuffer(_PADS[pad] + bytes((next_header,)), np.uint8)
        if length < 0 or not (opened.matrix(length, body, pad + 2)[:count] == expected).all():
            return None
        wanted = _wanted_next_header(opened.view[0] >> 4)
        if next_header != wanted or length == 0:
            return None
        window.mark_run(first, first + count - 1)
        self.packets += count
        self.bytes += count * length
        return [Run(0, body, count, length, length)]

    def _open_each(
        self, work: Workspace, rows: Rows, start: int, stride: int, count: int, last: int, out: int
    ) -> tuple[list[Run], bool]:
        runs: list[Run] = []
        before = self.window.top
        for index in range(count):
            at = start + index * stride
            size = stride if index < count - 1 else last
            length, next_header = self._open_one(work, rows, at, size, out)
            if next_header >= 0:
                runs.append(Run(out, 0, 1, length, length, next_header))
            out += max(size - self.head - self.icv, 0)
        return runs, self.window.top > before

    def _open_one(self, work: Workspace, rows: Rows, at: int, size: int, out: int) -> tuple[int, int]:
        """The payload's octets, at `out` of `work.opened`, and its next header; that is -1 if the packet was
        dropped (and counted)."""
        body = size - self.head - self.icv
        if body < self.align or body % self.align:
            self.drop(Drop.SHORT)
            return _DROPPED
        view = rows.view
        low = int.from_bytes(view[at + 4 : at + 8], "big")
        esn = self.parameters.esn
        sequence = self.window.infer(low) if esn else low
        if sequence < 0 or not self.window.check(sequence):
            self.drop(Drop.REPLAY)
            return _DROPPED
        begin = at + self.head
        end = begin + body + self.icv
        protector = self.protector
        opened = work.opened.view
        aad, suffix = _authenticated(self.combined, self.parameters.spi, sequence, esn)
        try:
            if protector.aead is not None:
                nonce = protector.salt + (
                    _PACK_IV.pack(sequence) if self.implicit_iv else view[at + HEADER : begin]
                )
                protector.aead.decrypt_into(nonce, view[begin:end], aad, opened[out : out + body])
            else:
                opened[out : out + body] = protector.open(
                    aad, view[at + HEADER : begin], view[begin:end], suffix
                )
        except (InvalidTag, IntegrityFailure):
            self.drop(Drop.BAD_ICV)
            return _DROPPED
        if not self.window.mark(sequence):
            self.drop(Drop.REPLAY)
            return _DROPPED
        pad, next_header = opened[out + body - 2], opened[out + body - 1]
        length = body - 2 - pad
        if length < 0 or opened[out + length : out + body - 1] != _PADS[pad]:
            self.drop(Drop.BAD_PADDING)
            return _DROPPED
        if next_header == NO_NEXT_HEADER:
            self.drop(Drop.DUMMY)
            return _DROPPED
        if not self._carries(next_header, length, opened[out] >> 4):
            self.drop(Drop.WRONG_PROTOCOL)
            return _DROPPED
        self.packets += 1
        self.bytes += length
        return length, next_header

    def _carries(self, next_header: int, length: int, version: int) -> bool:
        """Whether this mode carries such a payload."""
        if next_header == IPCOMP:
            return bool(self.parameters.ipcomp)
        return not self.tunnel or (length > 0 and next_header == _wanted_next_header(version))


def _wanted_next_header(version: int) -> int:
    """Tunnel mode: what the next header must say about an inner packet of this IP version."""
    return IPV4_IN_IP if version == 4 else IPV6_IN_IP


def _joined(runs: list[Run], rest: list[Run]) -> list[Run]:
    """A shorter last packet joins its run if it lies where the next row would."""
    if rest:
        run, tail = runs[-1], rest[0]
        if tail.start == run.start + run.count * run.stride and tail.length <= run.length:
            return [run._replace(count=run.count + 1, last=tail.length)]
    return runs + rest


def _authenticated(combined: bool, spi: int, sequence: int, esn: bool) -> tuple[bytes, bytes]:
    """Additional data and unsent suffix: AEADs take the extended number whole (RFC 4106, section 5),
    separate algorithms its upper half behind the ciphertext (RFC 4303, section 2.2.1)."""
    if not esn:
        return _PACK_SHORT.pack(spi, sequence), b""
    if combined:
        return _AAD_EXTENDED.pack(spi, sequence), b""
    return _PACK_SHORT.pack(spi, sequence & 0xFFFFFFFF), (sequence >> 32).to_bytes(4, "big")


def _fill_nonces(work: Workspace, salt: bytes, ivs: Any, count: int) -> list[memoryview]:
    """Salt and IV side by side, for `count` packets."""
    rows = work.nonces
    length = len(salt) + 8
    rows.matrix(8 - len(salt), 16, len(salt))[:count] = np.frombuffer(salt, np.uint8)
    rows.column(8, 16, ">u8")[:count] = ivs
    return rows.slices(16 - length, 16, length)[:count]


def _fill_extended_aads(work: Workspace, spi: int, numbers: Any, count: int) -> list[memoryview]:
    rows = work.aads
    rows.column(4, 16, ">u4")[:count] = spi
    rows.column(8, 16, ">u8")[:count] = numbers
    return rows.slices(4, 16, 12)[:count]
