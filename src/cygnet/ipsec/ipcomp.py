"""IPComp (RFC 3173) with DEFLATE (RFC 2394): compressed before it is encrypted, where that makes it shorter.

    next header | flags, 0 | CPI | raw DEFLATE of the payload

Each packet stands for itself. What does not shrink goes without the header, and an SA whose packets do not
shrink several times in a row is not tried for a while (section 2.2: an adaptive algorithm). The window is
that of Linux, 2 KiB, which cannot expand what refers further back; what peers send may use all 32 KiB.
"""

from __future__ import annotations

import zlib

HEADER = 4
SMALLEST = 90
"""Octets below which packets are not worth trying (RFC 2394, section 2.2)."""
LARGEST = 65535
"""No IP packet is longer, so no payload may grow longer (a few octets can expand to a thousand times)."""
_WINDOW_OUT, _WINDOW_IN = -11, -15
_PATIENCE, _MOST_SKIPPED = 4, 64


class Compressor:
    """Of one outbound SA; `cpi` is the peer's."""

    __slots__ = ("_cpi", "_failures", "_skip")

    def __init__(self, cpi: int) -> None:
        self._cpi = cpi
        self._failures = 0
        self._skip = 0

    def compress(self, next_header: int, payload: bytes) -> bytes | None:
        """IPComp header and compressed payload, or None: it goes as it is."""
        if len(payload) < SMALLEST:
            return None
        if self._skip:
            self._skip -= 1
            return None
        deflate = zlib.compressobj(6, zlib.DEFLATED, _WINDOW_OUT)
        made = deflate.compress(payload) + deflate.flush()
        if len(made) + HEADER >= len(payload):
            self._failures += 1
            if self._failures >= _PATIENCE:
                self._skip = min(_MOST_SKIPPED, 1 << self._failures)
            return None
        self._failures = 0
        return bytes((next_header, 0)) + self._cpi.to_bytes(2, "big") + made


def decompress(packet: bytes, cpi: int) -> tuple[int, bytes] | None:
    """Next header and payload; None if that is not what the header of this CPI promises."""
    if len(packet) <= HEADER or int.from_bytes(packet[2:4], "big") != cpi:
        return None
    inflate = zlib.decompressobj(_WINDOW_IN)
    try:
        payload = inflate.decompress(packet[HEADER:], LARGEST)
    except zlib.error:
        return None
    if not inflate.eof or inflate.unused_data or inflate.unconsumed_tail:
        return None
    return packet[0], payload
