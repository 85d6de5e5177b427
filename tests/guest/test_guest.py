"""The guest itself: what the other tests in this folder stand on is there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

from cygnet.lab.namespaces import Namespace

ESP = (
    "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 mode tunnel aead rfc4106(gcm(aes)) "
    "0x000102030405060708090a0b0c0d0e0f10111213 128"
)


def where(namespace: Namespace, word: str) -> list[str]:
    """Run on the host by the test below."""
    return [word, os.uname().release, namespace.name]


def test_the_kernel_has_esp_and_the_host_is_within_reach(host: Callable[..., Any]) -> None:
    with Namespace("esp") as space:
        space.ip(ESP)
        assert "rfc4106(gcm(aes))" in space.run("ip", "xfrm", "state").stdout
    assert subprocess.run(["ip", "link", "show", "eth0"], check=False).returncode == 0
    word, release, name = host("tests.guest.test_guest:where", "word")
    assert word == "word"
    assert name == "guest-tap"
    assert release != os.uname().release
