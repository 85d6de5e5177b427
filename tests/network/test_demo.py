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


QUICK_MODE = (
    "HDR(A,B)*, HASH, SA, N, KE, IDci, IDcr",
    "10.1.0.0/16 (IPV4_ADDR_SUBNET)",
    "HDR(A,B)*, HASH  -->",
)
MAIN_MODE = ("HDR(A,0), SA,", "HDR(A,B), KE, N,", "HDR(A,B)*, ID, CERT, SIG", *QUICK_MODE)
AGGRESSIVE_MODE = ("HDR(A,0), SA, KE, N, ID,", "HDR(A,B)*, HASH, ATTR(REQUEST)", *QUICK_MODE)


@pytest.mark.parametrize(
    ("arguments", "wrapper", "shown"),
    [
        ("--auth cert", (), ("HDR(A,0), SAi1, KEi, Ni", "SK {IDi")),
        ("--auth psk", ROOTLESS, ("HDR(A,0), SAi1, KEi, Ni", "SK {IDi")),
        ("--ike 1 --auth cert", (), MAIN_MODE),
        ("--ike 1 --mode aggressive --auth xauth", (), AGGRESSIVE_MODE),
    ],
    ids=["cert", "psk-rootless", "ikev1-main-cert", "ikev1-aggressive-xauth"],
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
