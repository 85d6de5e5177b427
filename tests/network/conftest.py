from __future__ import annotations

import pytest

from cygnet.lab.namespaces import LabError, require


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a pair of gateways run one after the other, on the worker that has started it."""
    for item in items:
        info = getattr(item, "_fixtureinfo", None)
        for name, definitions in (info.name2fixturedefs if info else {}).items():
            if definitions[-1].scope == "module" and "network" in str(item.path):
                item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{name}"))
                break


@pytest.fixture(autouse=True)
def _lab() -> None:
    """Skip, with the reason, where there is no lab."""
    try:
        require()
    except LabError as error:
        pytest.skip(str(error))
