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


MAIN_MODE = ("HDR(A,0), SA,", "HDR(A,B), KE, N, NAT-D, NAT-D", "HDR(A,B)*, ID, HASH")
AGGRESSIVE_MODE = ("HDR(A,0), SA, KE, N, ID,", "HDR(A,B)*,")


@pytest.mark.parametrize(
    ("arguments", "wrapper", "shown"),
    [
        ("--auth cert", (), ("HDR(A,0), SAi1, KEi, Ni", "SK {IDi")),
        ("--auth psk", ROOTLESS, ("HDR(A,0), SAi1, KEi, Ni", "SK {IDi")),
        ("--ike 1 --auth psk", (), MAIN_MODE),
        ("--ike 1 --mode aggressive --auth cert", (), AGGRESSIVE_MODE),
    ],
    ids=["cert", "psk-rootless", "ikev1-main-psk", "ikev1-aggressive-cert"],
)
def test_the_demo_shows_the_ladder_moves_a_file_and_proves_that_nothing_went_in_clear(
    arguments: str, wrapper: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        done = subprocess.run(
            [*wrapper, *CYGNET, "demo", *arguments.split(), "--size", "5"],
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
    for figure in shown:
        assert figure in said
    assert "4 received" in said
    assert "Nothing went in clear." in said
