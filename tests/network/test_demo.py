"""The demo as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from cygnet.lab.gateway import CYGNET

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]
ROOTLESS = ("unshare", "--user", "--map-root-user", "--net", "--mount")


@pytest.mark.parametrize(("auth", "wrapper"), [("cert", ()), ("psk", ROOTLESS)], ids=["cert", "psk-rootless"])
def test_the_demo_shows_the_ladder_moves_a_file_and_proves_that_nothing_went_in_clear(
    auth: str, wrapper: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        done = subprocess.run(
            [*wrapper, *CYGNET, "demo", "--auth", auth, "--size", "5"],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={**os.environ, "TMPDIR": directory, "NO_COLOR": "1", "COLUMNS": "120"},
        )
        assert list(Path(directory).iterdir()) == []
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert done.stderr == ""
    assert "HDR(A,0), SAi1, KEi, Ni" in said
    assert "SK {IDi" in said
    assert "4 received" in said
    assert "Nothing went in clear." in said
