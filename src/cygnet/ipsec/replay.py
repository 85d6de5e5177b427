"""The anti-replay window: a ring of words that slides without shifting (RFC 6479; RFC 4303, 3.4.3).

The order is always: `check` (cheap) -> verify the ICV -> `mark`. Nothing unauthenticated moves the
window. Sequence numbers here are 64 bits wide; `infer` finds the upper half of an extended one
that the packet does not carry (RFC 4303, appendix A2).
"""

from __future__ import annotations

WINDOW_MIN, WINDOW_MAX = 32, 4096
WORD_SHIFT = 6
WORD_BITS = 1 << WORD_SHIFT
_ALL = (1 << WORD_BITS) - 1


class ReplayWindow:
    """`size` sequence numbers up to `top`, the highest authentic one; size 0 turns the protection off."""

    __slots__ = ("_mask", "_words", "size", "top")

    def __init__(self, size: int, top: int = 0) -> None:
        """Raises ValueError for a size that is neither 0 nor within 32 to 4096."""
        if size != 0 and not WINDOW_MIN <= size <= WINDOW_MAX:
            raise ValueError(f"replay window {size}: it must be 0 or {WINDOW_MIN} to {WINDOW_MAX}")
        self.size = size
        self.top = top
        # One word more than the window needs, so that the word being filled holds no live bit of the
        # window's old end; a power of two, so that an index is a mask (RFC 6479, section 2).
        words = 1
        while (words - 1) << WORD_SHIFT < size:
            words <<= 1
        self._mask = words - 1
        self._words = [0] * words

    def check(self, sequence: int) -> bool:
        """Whether this number could still be accepted."""
        if sequence <= 0:
            return self.size == 0
        if sequence > self.top or self.size == 0:
            return True
        if sequence + self.size <= self.top:
            return False
        word = self._words[(sequence >> WORD_SHIFT) & self._mask]
        return not word >> (sequence & WORD_BITS - 1) & 1

    def mark(self, sequence: int) -> bool:
        """Accept an authentic number; false if it is a repeat after all (twice within one batch)."""
        if not self.check(sequence):
            return False
        if sequence > self.top:
            self._slide(sequence)
        self._words[(sequence >> WORD_SHIFT) & self._mask] |= 1 << (sequence & WORD_BITS - 1)
        return True

    def mark_run(self, first: int, last: int) -> None:
        """Accept `first`..`last`, all authentic and all above `top`: a whole word at a time."""
        self._slide(last)
        # What is older than the ring is gone already and must not be written over newer words.
        at = max(first, last - ((self._mask + 1) << WORD_SHIFT) + WORD_BITS)
        words, mask = self._words, self._mask
        while at <= last:
            low = at & WORD_BITS - 1
            end = min(last, at | WORD_BITS - 1)
            words[(at >> WORD_SHIFT) & mask] |= (_ALL >> (WORD_BITS - 1 - (end - at))) << low
            at = end + 1

    def _slide(self, top: int) -> None:
        old, new = self.top >> WORD_SHIFT, top >> WORD_SHIFT
        words, mask = self._words, self._mask
        for index in range(old + 1, old + 1 + min(new - old, mask + 1)):
            words[index & mask] = 0
        self.top = top

    def infer(self, low: int) -> int:
        """The whole extended sequence number whose lower 32 bits are `low`; negative when there is none.

        RFC 4303, appendix A2.2: case A, the window lies within one 2^32 subspace; case B, it spans two.
        """
        size = self.size or WINDOW_MIN
        top_low, top_high = self.top & 0xFFFFFFFF, self.top >> 32
        bottom = top_low - size + 1
        if bottom >= 0:
            high = top_high if low >= bottom else top_high + 1
        else:
            high = top_high - 1 if low >= bottom & 0xFFFFFFFF else top_high
        return high << 32 | low if high >= 0 else -1
