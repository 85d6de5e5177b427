"""The systemd unit that `cygnet service` writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cygnet.cli import service


def test_the_unit_starts_this_program_and_the_account_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(service, "_run", lambda *command: ran.append(command))
    monkeypatch.setattr(service, "ACCOUNT", "no-such-account-here")
    unit = tmp_path / "cygnet.service"
    done = CliRunner().invoke(service.service_app, ["install", "--unit", str(unit)])
    assert done.exit_code == 0, done.output
    assert f"\nExecStart={service.own_path()} run /etc/cygnet/cygnet.toml\n" in unit.read_text()
    assert "\nStateDirectory=cygnet\n" in unit.read_text()
    assert ran[0][0] == "useradd"
    assert ran[0][-1] == "no-such-account-here"
    monkeypatch.setattr(service, "ACCOUNT", "root")
    ran.clear()
    assert CliRunner().invoke(service.service_app, ["install", "--unit", str(unit)]).exit_code == 0
    assert all(command[0] != "useradd" for command in ran)


def test_a_unit_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(service.service_app, ["install", "--unit", str(tmp_path / "no" / "x.service")])
    assert done.exit_code == 1
    assert "cannot be written" in done.output


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "cygnet.service"
    unit.write_text(service.unit(service.own_path()))
    done = subprocess.run(
        [verify, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cygnet.service" not in done.stderr, done.stderr
