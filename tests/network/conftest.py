from __future__ import annotations

import pytest

from cygnet.lab.namespaces import LabError, require


@pytest.fixture(autouse=True)
def _lab() -> None:
    """Skip, with the reason, where there is no lab."""
    try:
        require()
    except LabError as error:
        pytest.skip(str(error))
