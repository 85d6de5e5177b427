"""What was loaded since the start survives the daemon: written, read by the next, written anew."""

from __future__ import annotations

import os

import pytest

from cygnet.daemon import kept
from cygnet.daemon.kept import Change, Kept


class Supervisor:
    def __init__(self) -> None:
        self.held = kept.create()
        self.takes = True

    def take(self, descriptor: int) -> bool:
        if self.takes:
            os.close(self.held)
            self.held = os.dup(descriptor)
        return self.takes

    def daemon(self) -> Kept:
        return Kept(os.dup(self.held), self.take)

    def in_force(self) -> dict[tuple[str, str], object]:
        found: dict[tuple[str, str], object] = {}
        for change in kept.read(self.held):
            if not change.kind:
                found.clear()
            elif change.message is None:
                found.pop((change.kind, change.name), None)
            else:
                found[change.kind, change.name] = change.message
        return found


def test_the_next_daemon_reads_what_was_loaded_and_unloaded() -> None:
    supervisor = Supervisor()
    daemon = supervisor.daemon()
    daemon.start_with([Change("load-conn", "old", {"old": {}})])
    daemon.load("load-shared", "s", {"data": b"\0\xff"})
    daemon.load("load-conn", "new", {"new": {"version": "2"}})
    daemon.load("load-conn", "old", {"old": {}})  # as it was
    daemon.unload("load-conn", "old")
    assert kept.read(supervisor.held) == [
        Change("load-shared", "s", {"data": b"\0\xff"}),
        Change("load-conn", "new", {"new": {"version": "2"}}),
        Change("load-conn", "old", None),
    ]


def test_a_record_that_was_cut_short_is_left_out_and_written_over() -> None:
    supervisor = Supervisor()
    daemon = supervisor.daemon()
    daemon.load("load-pool", "a", {"a": {}})
    daemon.load("load-pool", "b", {"b": {}})
    os.ftruncate(supervisor.held, os.fstat(supervisor.held).st_size - 1)
    assert supervisor.in_force() == {("load-pool", "a"): {"a": {}}}
    again = supervisor.daemon()
    again.start_with([Change("load-pool", "a", {"a": {}})])
    again.load("load-pool", "c", {"c": {}})
    assert list(supervisor.in_force()) == [("load-pool", "a"), ("load-pool", "c")]


@pytest.mark.parametrize("takes", [True, False], ids=["taken", "not-taken"])
def test_a_thousand_changes_of_one_connection_do_not_grow_without_end(
    takes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "GROWN", 2000)
    supervisor = Supervisor()
    supervisor.takes = takes
    daemon = supervisor.daemon()
    daemon.start_with([Change("load-conn", "of-the-start", {"x": "1" * 100})])
    for number in range(1000):
        daemon.load("load-conn", "gw", {"gw": {"number": str(number), "more": "x" * 100}})
    assert supervisor.in_force() == {
        ("load-conn", "of-the-start"): {"x": "1" * 100},
        ("load-conn", "gw"): {"gw": {"number": "999", "more": "x" * 100}},
    }
    if takes:
        assert os.fstat(supervisor.held).st_size < 5000
