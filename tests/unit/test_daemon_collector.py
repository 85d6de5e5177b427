"""Full collections wait for a quiet moment."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from cygnet.daemon import collector


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def full_collections() -> int:
    return int(gc.get_stats()[2]["collections"])


def test_allocating_much_starts_no_full_collection() -> None:
    collector.Collector()
    before = full_collections()
    kept = [[number] for number in range(400_000)]
    assert full_collections() == before
    assert len(kept) == 400_000


def test_a_quiet_moment_with_enough_to_look_at_is_used_once() -> None:
    one = collector.Collector()
    one.busy(100.0)
    kept = [[number] for number in range(collector.YOUNG * collector.MIDDLE * (collector.ENOUGH + 2))]
    assert not one.quiet(100.0 + collector.QUIET / 2)
    assert one.quiet(100.0 + collector.QUIET * 2)
    assert not one.quiet(100.0 + collector.QUIET * 3)
    assert kept


def test_settling_leaves_what_is_there_out_of_all_later_collections() -> None:
    collector.settle()
    assert gc.get_freeze_count() > 1000
