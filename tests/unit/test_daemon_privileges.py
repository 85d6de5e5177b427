"""What the daemon gives up, checked from the outside in a process of its own (T46, B24)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cygnet.daemon.privileges import is_mapped

WHOLE = "         0          0 4294967295\n"
ROOTLESS = "         0       1000          1\n"
SUBIDS = "         0       1000          1\n         1     100000      65536\n"

GIVE_UP = """
import ctypes, os, resource, socket
from cygnet.daemon.privileges import capabilities_held, give_up
inherited = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inherited.bind(("127.0.0.1", 0))
print(give_up("nobody"))
print(os.getuid(), capabilities_held(), resource.getrlimit(resource.RLIMIT_CORE))
libc = ctypes.CDLL(None)
print("dumpable", libc.prctl(3, 0, 0, 0, 0), "no_new_privs", libc.prctl(39, 0, 0, 0, 0))
inherited.sendto(b"x", inherited.getsockname())
try:
    os.setuid(0) if os.getuid() else os.chroot("/")
    print("back to power")
except PermissionError:
    print("no way back")
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
    print("raw socket")
except PermissionError:
    print("no raw sockets")
"""


@pytest.mark.parametrize(
    ("text", "number", "mapped"),
    [
        (WHOLE, 65534, True),
        (ROOTLESS, 0, True),
        (ROOTLESS, 65534, False),
        (SUBIDS, 65534, True),
        ("", 0, False),
    ],
)
def test_only_ids_of_this_user_namespace_count(text: str, number: int, mapped: bool) -> None:
    assert is_mapped(number, "uid", text) is mapped


@pytest.mark.skipif(os.geteuid() != 0, reason="root has something to give up")
def test_root_becomes_nobody_with_nothing_left_and_keeps_its_sockets() -> None:
    done = subprocess.run([sys.executable, "-c", GIVE_UP], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "user nobody, no capabilities, no new privileges, no core dumps",
        "65534 0 (0, 0)",
        "dumpable 0 no_new_privs 1",
        "no way back",
        "no raw sockets",
    ]


@pytest.mark.skipif(
    subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False).returncode != 0,
    reason="user namespaces are not allowed here",
)
def test_in_a_user_namespace_with_one_id_the_user_stays_and_the_rest_goes() -> None:
    done = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", GIVE_UP], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "same user, no capabilities, no new privileges, no core dumps",
        "0 0 (0, 0)",
        "dumpable 0 no_new_privs 1",
        "no way back",
        "no raw sockets",
    ]
