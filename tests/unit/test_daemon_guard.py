"""The guard: what escapes costs its own input only, is counted, and tells no secret (T46, B23)."""

from __future__ import annotations

import subprocess
import sys

from cygnet.daemon.guard import MAX_PLACES, Guard

MARKER = "hunter2-the-secret"


def fail_with(error: Exception) -> None:
    raise error


def test_a_result_passes_through() -> None:
    guard = Guard(lambda *_: None)
    assert guard.run("datagram", lambda a, b: a + b, 1, 2) == 3
    assert guard.total == 0


def test_an_exception_is_counted_each_time_and_reported_once_per_place() -> None:
    reports: list[tuple[str, str, str]] = []
    guard = Guard(lambda *report: reports.append(report))
    for _ in range(3):
        assert guard.run("datagram", fail_with, ValueError("x")) is None
    guard.run("timer", fail_with, ValueError("x"))
    assert guard.total == 4
    assert [what for what, _, _ in reports] == ["datagram", "timer"]
    assert "test_daemon_guard.py" in reports[0][1]


def test_the_report_holds_files_and_lines_but_no_text_of_the_exception() -> None:
    reports: list[str] = []

    def nested() -> None:
        try:
            fail_with(KeyError(MARKER))
        except KeyError as error:
            raise RuntimeError(f"while handling {MARKER}") from error

    Guard(lambda *report: reports.extend(report)).run("datagram", nested)
    text = "\n".join(reports)
    assert MARKER not in text
    assert "KeyError" in text
    assert "RuntimeError" in text
    assert "fail_with" in text


def test_the_number_of_places_is_bounded() -> None:
    guard = Guard(lambda *_: None)
    for number in range(MAX_PLACES + 50):
        guard.run(f"input {number}", fail_with, ValueError())
    guard.run("input", fail_with, ValueError())
    guard.run("input", fail_with, ValueError())
    assert len(guard.escaped) <= MAX_PLACES + 1
    assert guard.total == MAX_PLACES + 52


def test_a_process_that_falls_tells_places_and_no_texts() -> None:
    program = (
        "from cygnet.daemon.guard import tell_no_texts\n"
        "tell_no_texts('daemon')\n"
        "class Noisy:\n"
        f"    def __del__(self): raise ValueError('{MARKER}')\n"
        "del Noisy\n"
        f"def inner(): raise KeyError('{MARKER}')\n"
        "inner()\n"
    ).replace("del Noisy", "Noisy()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert MARKER not in done.stderr
    assert "the daemon process fell\nKeyError" in done.stderr
    assert "ignored in the daemon process\nValueError" in done.stderr
    assert "inner" in done.stderr
