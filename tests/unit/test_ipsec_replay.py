"""The replay window: WireGuard's vectors (replay_test.go), a naive model, and extended numbers."""

from __future__ import annotations

import random

import pytest

from cygnet.ipsec.replay import ReplayWindow

SIZES = (32, 64, 100, 128, 1024, 4096)


class NaiveWindow:
    """The law itself: the set of everything seen."""

    def __init__(self, size: int) -> None:
        self.size, self.top, self.seen = size, 0, set[int]()

    def mark(self, sequence: int) -> bool:
        if sequence <= 0 or sequence <= self.top - self.size or sequence in self.seen:
            return False
        self.seen.add(sequence)
        self.top = max(self.top, sequence)
        return True


@pytest.mark.parametrize("size", SIZES)
def test_wireguards_vectors_hold_shifted_by_one(size: int) -> None:
    # Their counters start at 0, ours at 1; their window holds one number more than its size says.
    window, lim, end = ReplayWindow(size), size, (1 << 32) - 2
    steps = [
        (0, True), (1, True), (1, False), (9, True), (8, True), (7, True), (7, False),
        (lim, True), (lim - 1, True), (lim - 1, False), (lim - 2, True), (2, True), (2, False),
        (lim + 16, True), (3, False), (lim + 16, False), (lim * 4, True),
        (lim * 4 - (lim - 1), True), (10, False), (lim * 4 - lim, False),
        (lim * 4 - (lim + 1), False), (lim * 4 - (lim - 2), True), (lim * 4 + 1 - lim, False),
        (0, False), (end, True), (end, False), (end - 1, True), (end - 1, False), (end - 2, True), (0, False),
    ]  # fmt: skip
    for step, (counter, expected) in enumerate(steps):
        assert window.mark(counter + 1) is expected, f"step {step}: {counter}"


@pytest.mark.parametrize("size", SIZES)
def test_wireguards_bulk_vectors_hold_shifted_by_one(size: int) -> None:
    last = size - 1
    bulks: list[list[tuple[int, bool]]] = [
        [*((i, True) for i in range(1, last + 1)), (0, True), (0, False)],
        [*((i, True) for i in range(2, last + 2)), (1, True), (0, False)],
        [(i, True) for i in range(last + 1, 0, -1)],
        [*((i, True) for i in range(last + 2, 1, -1)), (0, False)],
        [*((i, True) for i in range(last, 0, -1)), (last + 1, True), (0, False)],
        [*((i, True) for i in range(last, 0, -1)), (0, True), (last + 1, True)],
    ]
    for number, bulk in enumerate(bulks):
        window = ReplayWindow(size)
        for counter, expected in bulk:
            assert window.mark(counter + 1) is expected, f"bulk {number + 1}: {counter}"


@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_set_of_everything_seen(size: int) -> None:
    source = random.Random(size)
    window, model = ReplayWindow(size), NaiveWindow(size)
    for _ in range(6000):
        jump = source.choice((0, 1, 1, 2, 63, 64, size, size * 2, -1, -size // 2, -size, -size - 1))
        number = max(0, window.top + jump + source.randrange(-3, 4))
        if source.random() < 0.2 and number > window.top:
            last = number + source.randrange(0, 200)
            window.mark_run(number, last)
            assert all(model.mark(n) for n in range(number, last + 1))
        else:
            assert window.mark(number) is model.mark(number)
        assert window.top == model.top
    probes = range(max(0, window.top - size * 3), window.top + 1)
    assert [n for n in probes if window.check(n)] == [
        n for n in probes if n > model.top - size and n not in model.seen and n > 0
    ]


def test_checking_moves_nothing() -> None:
    window = ReplayWindow(64)
    window.mark(10)
    assert window.check(1 << 31)
    assert window.top == 10
    assert window.check(9)


def test_a_huge_jump_forward_forgets_everything_older() -> None:
    window = ReplayWindow(4096)
    window.mark(5)
    window.mark((1 << 63) + 7)
    assert not window.check(5)
    assert window.check((1 << 63) + 6)
    assert not window.check((1 << 63) + 7 - 4096)


@pytest.mark.parametrize("size", [-1, 1, 31, 4097])
def test_sizes_outside_32_to_4096_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="replay window"):
        ReplayWindow(size)


def test_size_zero_accepts_everything() -> None:
    window = ReplayWindow(0)
    assert window.mark(7)
    assert window.mark(7)


@pytest.mark.parametrize("size", [32, 64, 4096])
def test_extended_numbers_are_inferred_on_both_sides_of_every_subspace_edge(size: int) -> None:
    for edge in (1 << 32, 5 << 32):
        for top in (edge - size, edge - 1, edge, edge + 1, edge + size - 2, edge + size - 1, edge + size):
            window = ReplayWindow(size, top)
            for true in (top - size + 1, top - 1, top, top + 1, top + 500, top + (1 << 31)):
                assert window.infer(true & 0xFFFFFFFF) == true, (size, top, true)


def test_a_number_before_the_first_subspace_does_not_exist() -> None:
    assert ReplayWindow(64, 3).infer(0xFFFFFFF0) == -1
