"""`ike.records.replace` is `dataclasses.replace`, only cheaper."""

from __future__ import annotations

import dataclasses

import pytest

from cygnet.ike.records import replace
from cygnet.ike.state import Phase, SaState
from cygnet.ike.world import Path


def state() -> SaState:
    path = Path.__new__(Path)
    return SaState(Phase.CONNECTING, True, b"i" * 8, b"r" * 8, path, 1.0)


def test_it_gives_what_the_standard_library_gives() -> None:
    record = state()
    ours = replace(record, phase=Phase.ESTABLISHED, rekey_at=7.0)
    theirs = dataclasses.replace(record, phase=Phase.ESTABLISHED, rekey_at=7.0)
    for field in dataclasses.fields(SaState):
        assert getattr(ours, field.name) is getattr(theirs, field.name)
    assert record.phase is Phase.CONNECTING


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises((KeyError, TypeError)):
        replace(state(), colour="red")  # type: ignore[call-arg]
