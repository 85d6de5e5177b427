"""One Cygnet a network namespace: who holds the name keeps others out, whatever their sockets and devices."""

from __future__ import annotations

import os
import socket

import pytest

from cygnet.daemon import alone


@pytest.fixture(autouse=True)
def name(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Another name, lest a Cygnet of this machine is met."""
    own = b"\0cygnet-test-%d" % os.getpid()
    monkeypatch.setattr(alone, "NAME", own)
    return own


def test_a_second_holder_is_refused_and_told_who_holds_until_the_first_has_ended() -> None:
    with alone.hold():
        with pytest.raises(alone.Taken, match=f"process {os.getpid()}"):
            alone.hold()
        assert alone.running() == os.getpid()
    assert alone.running() is None
    alone.hold().close()


def test_however_many_ask_each_is_answered() -> None:
    with alone.hold() as held:
        for _ in range(3 * socket.SOMAXCONN // 2):
            assert alone.running() == os.getpid()
            alone.let_go_of_callers(held)
        alone.let_go_of_callers(held)  # nobody waits


def test_a_name_on_which_nobody_listens_is_no_cygnet(name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_HELD_WITHIN", 0.0)
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(name)
        with pytest.raises(alone.Stranger, match="does not answer"):
            alone.hold()
        assert alone.running() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for the test")
def test_a_stranger_keeps_nobody_from_running(name: bytes) -> None:
    ready, tell = os.pipe()
    end, let = os.pipe()
    child = os.fork()
    if not child:
        os.close(let)
        os.setuid(65534)
        squatter = socket.socket(socket.AF_UNIX)
        squatter.bind(name)
        squatter.listen()
        os.write(tell, b"1")
        os.read(end, 1)
        os._exit(0)
    os.read(ready, 1)
    try:
        with pytest.raises(alone.Stranger, match=f"user 65534 \\(process {child}\\)"):
            alone.hold()
        assert alone.running() is None
    finally:
        for fd in (let, end, tell, ready):
            os.close(fd)
        os.waitpid(child, 0)
