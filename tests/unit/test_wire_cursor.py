"""The cursor: nothing is read past the end, and what is short or left over says so."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cygnet.wire.cursor import Cursor, Malformed

READS: dict[str, tuple[int, Callable[[Cursor], object]]] = {
    "u8": (1, Cursor.u8),
    "u16": (2, Cursor.u16),
    "u32": (4, Cursor.u32),
    "u64": (8, Cursor.u64),
    "take": (5, lambda c: c.take(5)),
    "sub": (5, lambda c: c.sub(5)),
    "unpack": (3, lambda c: c.unpack(Struct("!BH"))),
}


@pytest.mark.parametrize("name", READS)
def test_a_reading_one_octet_short_raises_and_moves_nothing(name: str) -> None:
    size, read = READS[name]
    cursor = Cursor(bytes(size - 1))
    with pytest.raises(Malformed, match=f"{size} octets wanted, {size - 1} left"):
        read(cursor)
    assert cursor.position == 0


@pytest.mark.parametrize("name", READS)
def test_a_reading_that_fits_exactly_reaches_the_end(name: str) -> None:
    size, read = READS[name]
    cursor = Cursor(bytes(size))
    read(cursor)
    cursor.expect_end()


@pytest.mark.parametrize("count", [-1, -4, -65536])
def test_negative_counts_are_refused_like_short_ones(count: int) -> None:
    with pytest.raises(Malformed):
        Cursor(b"abcdef").take(count)
    with pytest.raises(Malformed):
        Cursor(b"abcdef").sub(count)


def test_a_narrower_cursor_cannot_read_what_lies_behind_it() -> None:
    cursor = Cursor(b"abcdef")
    inner = cursor.sub(2)
    assert inner.take(2) == b"ab"
    with pytest.raises(Malformed):
        inner.u8()
    assert cursor.rest() == b"cdef"


def test_octets_left_over_are_refused() -> None:
    cursor = Cursor(b"abc")
    cursor.u8()
    with pytest.raises(Malformed, match="2 octets left over"):
        cursor.expect_end()


def test_what_is_taken_does_not_share_the_buffer_it_came_from() -> None:
    buffer = bytearray(b"abcd")
    taken = Cursor(memoryview(buffer)).take(4)
    buffer[0] = 0
    assert taken == b"abcd"


@given(st.binary(max_size=40), st.lists(st.tuples(st.sampled_from(sorted(READS)), st.integers(0, 20))))
def test_any_sequence_of_readings_stays_inside_the_data(data: bytes, reads: list[tuple[str, int]]) -> None:
    cursor = Cursor(data)
    for name, _ in reads:
        before = cursor.position
        try:
            READS[name][1](cursor)
        except Malformed:
            assert cursor.position == before
        assert 0 <= cursor.position <= len(data)
