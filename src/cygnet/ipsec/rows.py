"""Equal-sized packets in one buffer, seen as rows: the shape that everything between TUN and UDP has.

A run is `count` packets at `start + i * stride`, all `length` octets but the last, which may be
shorter (GSO allows just that). `Rows` gives views of a run's columns and keeps them, because
making a slice costs as much as a third of sealing a packet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MAX_ROWS = 64
"""Segments in one UDP_SEGMENT send (UDP_MAX_SEGMENTS of kernels before 6.9)."""
_MAX_KEPT = 128


class Run(NamedTuple):
    """Offsets and sizes in octets. `last` is the size of the last packet, `length` that of the others.
    `next_header` is known of opened packets that came one by one, else 0: a tunnel's, as it should be."""

    start: int
    stride: int
    count: int  # type: ignore[assignment]  # tuple.count is of no use here
    length: int
    last: int
    next_header: int = 0


class Rows:
    """A buffer of fixed size, and cached views of it. One owner, one thread."""

    __slots__ = ("_kept", "buffer", "octets", "size", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        self.buffer = bytearray(size)
        self.view = memoryview(self.buffer)
        self.octets: npt.NDArray[np.uint8] = np.frombuffer(self.buffer, np.uint8)
        self._kept: dict[tuple[Any, ...], Any] = {}

    def slices(self, start: int, stride: int, length: int) -> list[memoryview]:
        """Up to MAX_ROWS slices of `length` octets, `stride` apart: as many as the buffer holds."""
        key = (start, stride, length)
        kept: list[memoryview] | None = self._kept.get(key)
        if kept is None:
            view = self.view
            kept = [
                view[at : at + length]
                for at in range(start, min(start + MAX_ROWS * stride, self.size - length + 1), stride)
            ]
            self._keep(key, kept)
        return kept

    def column(self, start: int, stride: int, dtype: str) -> npt.NDArray[Any]:
        """One number per row, as many rows as fit up to MAX_ROWS."""
        key = (start, stride, dtype)
        kept: npt.NDArray[Any] | None = self._kept.get(key)
        if kept is None:
            kept = self.matrix(start, stride, 1, dtype)[:, 0]
            self._keep(key, kept)
        return kept

    def matrix(self, start: int, stride: int, width: int, dtype: str = "u1") -> npt.NDArray[Any]:
        """`width` numbers per row, as many rows as fit up to MAX_ROWS."""
        key = (start, stride, width, dtype)
        kept: npt.NDArray[Any] | None = self._kept.get(key)
        if kept is None:
            item = np.dtype(dtype).itemsize
            count = min(MAX_ROWS, (self.size - start - width * item) // stride + 1)
            kept = np.ndarray((count, width), dtype, self.buffer, start, (stride, item))
            self._keep(key, kept)
        return kept

    def _keep(self, key: tuple[Any, ...], value: Any) -> None:
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[key] = value
