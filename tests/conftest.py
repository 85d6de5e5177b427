"""Where nothing may be skipped (CI sets CYGNET_NOTHING_SKIPPED=1), a skip is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

# The only reason for which CI may skip: the vectors that are not part of the project.
ALLOWED = "shared"


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
