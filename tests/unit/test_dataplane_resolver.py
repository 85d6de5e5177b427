"""Name servers of a tunnel in a file like /etc/resolv.conf, and out of it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.dataplane.resolver import Resolver, ResolverRefused

BEFORE = "# kept\nnameserver 192.0.2.53\nsearch example.net\n"


def servers(path: Path) -> list[str]:
    return [line.split()[1] for line in path.read_text().splitlines() if line.startswith("nameserver")]


def test_ours_stand_first_and_go_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(BEFORE)
    path.chmod(0o640)
    resolver = Resolver("cygnet0", str(path))
    resolver.use(("10.1.0.53", "fd01::53"), ("example.org",))
    assert servers(path) == ["10.1.0.53", "fd01::53", "192.0.2.53"]
    resolver.use(("10.1.0.54",), ())
    assert servers(path) == ["10.1.0.54", "192.0.2.53"]
    resolver.use((), ())
    assert path.read_text() == BEFORE
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["resolv.conf"]


def test_what_a_crashed_process_left_is_taken_back_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(BEFORE)
    Resolver("cygnet0", str(path)).use(("10.1.0.53",), ())
    Resolver("cygnet0", str(path)).recover()
    assert path.read_text() == BEFORE


def test_what_others_wrote_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(BEFORE)
    resolver = Resolver("cygnet0", str(path))
    resolver.use(("10.1.0.53",), ())
    path.write_text(path.read_text() + "options edns0\n")
    resolver.use((), ())
    assert path.read_text() == BEFORE + "options edns0\n"


def test_the_file_behind_a_link_is_changed_and_the_link_stays(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "resolv.conf"
    real.write_text(BEFORE)
    link.symlink_to(real)
    Resolver("cygnet0", str(link)).use(("10.1.0.53",), ())
    assert link.is_symlink()
    assert servers(real)[0] == "10.1.0.53"


def test_a_file_that_cannot_be_changed_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResolverRefused, match="cannot be changed"):
        Resolver("cygnet0", str(tmp_path / "nowhere" / "resolv.conf")).use(("10.1.0.53",), ())


def test_a_program_that_is_not_there_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ResolverRefused, match="resolvectl could not be run"):
        Resolver("cygnet0", "resolved").use(("10.1.0.53",), ())


def test_programs_are_given_the_servers_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    for name in ("resolvectl", "resolvconf"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {told}\ncat >> {told}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    for kind in ("resolved", "resolvconf"):
        resolver = Resolver("cygnet0", kind)
        resolver.use(("10.1.0.53",), ("example.org",))
        resolver.use((), ())
    resolver = Resolver("cygnet0", "resolved")
    resolver.use(("10.1.0.53",), ())
    assert told.read_text().splitlines() == [
        "resolvectl dns cygnet0 10.1.0.53",
        "resolvectl domain cygnet0 ~example.org",
        "resolvectl revert cygnet0",
        "resolvconf -a cygnet0.cygnet",
        "nameserver 10.1.0.53",
        "search example.org",
        "resolvconf -d cygnet0.cygnet",
        "resolvectl dns cygnet0 10.1.0.53",
        "resolvectl domain cygnet0 ~.",
    ]


def test_none_tells_nobody(tmp_path: Path) -> None:
    Resolver("cygnet0", "none").use(("10.1.0.53",), ())
