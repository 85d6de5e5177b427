from __future__ import annotations

import os

import pytest

from cygnet.lab import strongswan
from cygnet.lab.namespaces import LabError, require

# Debian's strongSwan does not know ML-KEM: without another one there is nothing to meet (docs/testing.md).
collect_ignore = [] if strongswan.ANOTHER else ["test_strongswan6.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "interop" in str(item.path):
            item.add_marker(pytest.mark.interop)


@pytest.fixture(autouse=True)
def _lab_and_peer() -> None:
    """Skip, with the reason, where there is no lab or no strongSwan."""
    try:
        require()
    except LabError as error:
        pytest.skip(str(error))
    if os.geteuid() != 0:
        pytest.skip("strongSwan in a namespace needs root")
    if not strongswan.available():
        pytest.skip("strongSwan is not installed: make packages")
