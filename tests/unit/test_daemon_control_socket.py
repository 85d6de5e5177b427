"""The control socket's file, what systemd is told, and children that are started again."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from cygnet.daemon import child, control_socket, notify, opening


def test_only_owner_and_group_may_use_the_control_socket(tmp_path: Path) -> None:
    path = tmp_path / "run" / "cygnet.vici"
    with control_socket.listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_the_file_of_a_dead_cygnet_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cygnet.vici"
    control_socket.listen(path).close()
    assert path.exists()
    control_socket.listen(path).close()


def test_a_running_cygnet_is_not_robbed_of_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "cygnet.vici"
    with control_socket.listen(path):
        with pytest.raises(control_socket.ControlSocketRefused, match="another Cygnet is running"):
            control_socket.listen(path)
        assert path.exists()


@pytest.mark.parametrize(
    ("name", "why"), [("x" * 200, "cannot be made"), ("file/cygnet.vici", "Not a directory|exists")]
)
def test_a_path_that_cannot_be_is_refused_in_one_sentence(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(control_socket.ControlSocketRefused, match=why) as refused:
        control_socket.listen(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_one_missing_directory_is_made_and_no_tree_of_them(tmp_path: Path) -> None:
    control_socket.listen(tmp_path / "run" / "cygnet.vici").close()
    with pytest.raises(control_socket.ControlSocketRefused, match="No such file"):
        control_socket.listen(tmp_path / "mistyped" / "run" / "cygnet.vici")
    assert not (tmp_path / "mistyped").exists()


def test_addresses_that_are_not_here_are_found() -> None:
    """What `options.listen` names and this machine does not have is told at the start."""
    assert opening.not_here(("127.0.0.1", "192.0.2.77", "2001:db8::77")) == ["192.0.2.77", "2001:db8::77"]


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(control_socket.ControlSocketRefused, match="others may write"):
        control_socket.listen(tmp_path / "cygnet.vici")


def test_an_unknown_group_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(control_socket.ControlSocketRefused, match="no group nobody-has-this"):
        control_socket.listen(tmp_path / "cygnet.vici", "nobody-has-this")
    assert not (tmp_path / "cygnet.vici").exists()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_when_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@cygnet-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(5)
        systemd.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify.tell("READY=1", "STATUS=up")
        assert systemd.recv(100) == b"READY=1\nSTATUS=up"


def test_without_systemd_nothing_is_said_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    notify.tell("READY=1")


def test_the_watchdog_is_served_twice_in_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert notify.watchdog_interval() == 15.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_interval() is None


def test_a_child_that_keeps_dying_is_given_up_after_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Dead:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def poll(self) -> int:
            return -signal.SIGKILL

    monkeypatch.setattr(subprocess, "Popen", Dead)
    one = child.Child("daemon")
    pauses = []
    for _ in range(child.DEATHS):
        assert not one.hopeless
        one.start([], [])
        assert one.reap() == "was ended by SIGKILL"
        assert one.reap() == ""
        pauses.append(one.due - clock[0])
        clock[0] += 1
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.0
    assert one.hopeless


def test_a_child_that_dies_now_and_then_is_started_again_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    one = child.Child("daemon")
    for _ in range(20):
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: type("P", (), {"poll": lambda _: 1})())
        one.start([], [])
        assert one.reap() == "ended with status 1"
        assert one.due == clock[0]
        assert not one.hopeless
        clock[0] += 61
