"""Fragments: whatever is split comes together again, and nothing unauthentic is ever kept."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cygnet.ike.v2.fragments import MAX_CONTENT, MAX_FRAGMENTS, FragmentRefused, Reassembly, room, split
from cygnet.wire.payloads import EncryptedFragmentPayload


def part(number: int, total: int, first: int | None = None) -> EncryptedFragmentPayload:
    inner = (35 if number == 1 else 0) if first is None else first
    return EncryptedFragmentPayload(inner, number, total, b"sealed")


@given(st.binary(max_size=5000), st.integers(20, 700), st.randoms(use_true_random=False))
def test_what_is_split_comes_together_in_any_order(content: bytes, size: int, order: random.Random) -> None:
    chunks = split(content, size)
    assert all(len(chunk) <= size for chunk in chunks)
    numbered = list(enumerate(chunks, 1))
    order.shuffle(numbered)
    reassembly = Reassembly()
    results = [reassembly.store(1, part(n, len(chunks)), chunk) for n, chunk in numbered]
    assert results[:-1] == [None] * (len(chunks) - 1)
    assert results[-1] == (35, content)
    assert not reassembly.pending


def test_an_empty_content_is_one_fragment() -> None:
    assert split(b"", 100) == (b"",)


def test_too_many_fragments_are_our_mistake() -> None:
    assert len(split(bytes(MAX_FRAGMENTS * 10), 10)) == MAX_FRAGMENTS
    with pytest.raises(ValueError, match="more than"):
        split(bytes(MAX_FRAGMENTS * 10 + 1), 10)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("marker", [False, True])
@pytest.mark.parametrize(("iv", "block", "icv"), [(8, 1, 16), (16, 16, 16), (8, 4, 12)])
def test_a_fragment_fills_its_packet_and_no_more(
    family: int, marker: bool, iv: int, block: int, icv: int
) -> None:
    for limit in (576, 577, 590, 1280, 1500):
        content = room(limit, family, marker=marker, iv_length=iv, block=block, icv_length=icv)
        padded = -(-(content + 1) // block) * block
        octets = (20 if family == 4 else 40) + 8 + 4 * marker + 28 + 8 + iv + padded + icv
        assert limit - block < octets <= limit


def test_a_tiny_limit_still_leaves_room_for_an_octet() -> None:
    assert room(1, 6, marker=True, iv_length=16, block=16, icv_length=32) == 1


def test_admitting_changes_nothing() -> None:
    """swanny: an unauthentic fragment with a larger total reset the buffer."""
    reassembly = Reassembly()
    reassembly.store(1, part(1, 3), b"a")
    reassembly.admit(1, part(1, 200))
    reassembly.admit(7, part(2, 2))
    assert reassembly.store(1, part(2, 3), b"b") is None
    assert reassembly.store(1, part(3, 3), b"c") == (35, b"abc")


@pytest.mark.parametrize(
    ("number", "total"), [(0, 0), (0, 3), (4, 3), (1, MAX_FRAGMENTS + 1), (65535, 65535), (1, 0)]
)
def test_numbers_out_of_bounds_are_refused(number: int, total: int) -> None:
    with pytest.raises(FragmentRefused):
        Reassembly().admit(1, part(number, total))
    with pytest.raises(FragmentRefused):
        Reassembly().store(1, part(number, total), b"x")


def test_only_the_first_fragment_names_a_first_payload() -> None:
    """RFC 7383, section 2.5."""
    with pytest.raises(FragmentRefused, match="names a first payload"):
        Reassembly().admit(1, part(2, 3, first=35))


def test_a_repeated_fragment_is_refused() -> None:
    reassembly = Reassembly()
    reassembly.store(1, part(2, 3), b"b")
    with pytest.raises(FragmentRefused, match="came before"):
        reassembly.admit(1, part(2, 3))
    assert reassembly.octets == 1


def test_the_total_never_shrinks() -> None:
    reassembly = Reassembly()
    reassembly.store(1, part(1, 3), b"a")
    with pytest.raises(FragmentRefused, match="shrinks"):
        reassembly.admit(1, part(2, 2))
    with pytest.raises(FragmentRefused, match="shrinks"):
        reassembly.store(1, part(2, 2), b"b")
    assert reassembly.pending


def test_a_larger_total_begins_anew() -> None:
    """RFC 7383, section 2.6: the sender has cut smaller."""
    reassembly = Reassembly()
    reassembly.store(1, part(1, 2), b"old")
    assert reassembly.store(1, part(3, 3), b"c") is None
    assert reassembly.octets == 1
    reassembly.store(1, part(1, 3), b"a")
    assert reassembly.store(1, part(2, 3), b"b") == (35, b"abc")


def test_another_message_begins_anew() -> None:
    reassembly = Reassembly()
    reassembly.store(1, part(1, 9), b"old")
    reassembly.store(2, part(2, 2), b"b")
    assert reassembly.store(2, part(1, 2), b"a") == (35, b"ab")


def test_what_is_held_is_bounded() -> None:
    reassembly = Reassembly()
    chunk = bytes(MAX_CONTENT // 2)
    reassembly.store(1, part(1, 5), chunk)
    reassembly.store(1, part(2, 5), chunk)
    with pytest.raises(FragmentRefused, match="octets of content"):
        reassembly.store(1, part(3, 5), chunk)
    assert reassembly.octets == 0
    assert not reassembly.pending


def test_forgetting_leaves_nothing() -> None:
    reassembly = Reassembly()
    reassembly.store(1, part(1, 2), b"a")
    reassembly.clear()
    assert not reassembly.pending
    assert reassembly.store(1, part(2, 2), b"b") is None
