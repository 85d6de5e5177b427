"""Where nothing may be skipped (CI sets CYGNET_NOTHING_SKIPPED=1), a skip is a failure.

Several workers: what shares a fixture of its module, a pair of gateways above all, runs on the worker that
has started it. (Marks of `xdist_group` would say the same, but xdist 3.8 loses them with pytest 9.2.)
"""

from __future__ import annotations

import os
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# The only reason for which CI may skip: the vectors that are not part of the project.
ALLOWED = "shared"

# No test judges by the clock of a machine that has other work.
settings.register_profile("cygnet", deadline=None)
settings.load_profile("cygnet")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report: Any = yield
    if report.skipped and os.environ.get("CYGNET_NOTHING_SKIPPED") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if ALLOWED not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be skipped: {reason}"
    return report  # type: ignore[no-any-return]


@pytest.hookimpl(optionalhook=True)  # the guest does without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return SharersTogether(config, log) if config.getvalue("dist") == "loadgroup" else None


class SharersTogether(LoadScopeScheduling):  # type: ignore[misc]
    """Tests one by one, those of a file with a module's fixture together."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if _shares(self.config.rootpath / path) else nodeid


@cache
def _shares(path: Path) -> bool:
    return 'scope="module"' in path.read_text()
