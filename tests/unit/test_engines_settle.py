"""Which engine the words of `options.engine` mean, on kernels with and without ESP."""

from __future__ import annotations

import pytest

from cygnet.dataplane.engines import EngineUnavailable, choose, settle
from cygnet.dataplane.xfrm import probe as probing
from cygnet.dataplane.xfrm.probe import Found

WITH, WITHOUT = Found(True, "the kernel has ESP"), Found(False, "the kernel has no ESP: refused")


@pytest.mark.parametrize("wanted", ["auto", "kernel"])
def test_the_kernel_is_taken_where_it_has_esp(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe", lambda: WITH)
    assert settle(wanted) == ("kernel", "the kernel has ESP")


def test_without_esp_in_the_kernel_auto_goes_on_and_kernel_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "probe", lambda: WITHOUT)
    assert settle("auto") == (choose("auto").name, WITHOUT.text)
    with pytest.raises(EngineUnavailable, match="engine kernel is not here: the kernel has no ESP"):
        settle("kernel")


def test_an_own_engine_is_taken_without_asking_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "probe", lambda: pytest.fail("asked"))
    assert settle("portable") == ("portable", "as configured")
