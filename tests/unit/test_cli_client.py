"""`cygnet client`: users and what is kept of their passwords, profiles for devices."""

from __future__ import annotations

import base64
import json
import plistlib
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cygnet.auth import passwords
from cygnet.auth.certificate import parse_any
from cygnet.auth.eap.mschapv2 import nt_hash
from cygnet.cli.client import client_app
from cygnet.config.load import load
from cygnet.crypto.proposals import parse_proposals
from cygnet.wire.numbers import Protocol
from tests.unit.eap_material import authority

PASSWORD = "open sesame"


def run(*arguments: str, feed: str = PASSWORD) -> str:
    done = CliRunner().invoke(client_app, list(arguments), input=feed + "\n")
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority().certificate)
    return path


def test_hash_prints_what_each_method_needs() -> None:
    lines = [line for line in run("hash").splitlines() if line.startswith("$")]
    assert lines[0] == "$nt$" + nt_hash(PASSWORD.encode()).hex()
    assert passwords.check(lines[1], PASSWORD.encode()) is True


def test_a_short_password_is_refused() -> None:
    done = CliRunner().invoke(client_app, ["hash"], input="short\n")
    assert done.exit_code == 1


def test_a_user_is_written_once_and_can_log_in(tmp_path: Path, ca: Path) -> None:
    users = tmp_path / "users"
    for groups in ("staff", "staff,vpn"):
        run("add", "carol", "--gateway", "vpn.example.org", "--ca", str(ca), "--users", str(users),
            "--groups", groups, "--out", str(tmp_path))  # fmt: skip
    run(
        "add",
        "dave",
        "--gateway",
        "vpn.example.org",
        "--ca",
        str(ca),
        "--users",
        str(users),
        "--out",
        str(tmp_path),
    )
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    assert len(users.read_text().splitlines()) == 2
    assert PASSWORD not in users.read_text()
    configuration = tmp_path / "cygnet.toml"
    configuration.write_text('[secrets]\nusers = ["users"]\n')
    carol = load(configuration).credentials().user(b"carol")
    assert carol is not None
    assert carol.nt == nt_hash(PASSWORD.encode())
    assert carol.groups == {"staff", "vpn"}


def test_the_profiles_hold_gateway_user_and_ca_and_no_password(tmp_path: Path, ca: Path) -> None:
    run("add", "carol@example.org", "--gateway", "vpn.example.org", "--ca", str(ca), "--out", str(tmp_path))
    der = parse_any(ca.read_bytes()).der
    script = (tmp_path / "carol@example.org.ps1").read_text()
    assert base64.b64encode(der).decode() in script
    assert "-ServerAddress 'vpn.example.org'" in script
    assert "-DHGroup ECP384" in script
    profile = plistlib.loads((tmp_path / "carol@example.org.mobileconfig").read_bytes())
    authority_part, vpn = profile["PayloadContent"]
    assert authority_part["PayloadContent"] == der
    assert vpn["IKEv2"]["RemoteIdentifier"] == "vpn.example.org"
    assert vpn["IKEv2"]["AuthName"] == "carol@example.org"
    app = json.loads((tmp_path / "carol@example.org.sswan").read_text())
    assert base64.b64decode(app["remote"]["cert"]) == der
    assert app["local"] == {"eap_id": "carol@example.org"}
    for text in (app["ike-proposal"], app["esp-proposal"]):
        protocol = Protocol.IKE if "prf" in text else Protocol.ESP
        assert parse_proposals([part.strip() for part in text.split(",")], protocol)
    for file in tmp_path.glob("carol*"):
        assert PASSWORD.encode() not in file.read_bytes()


@pytest.mark.parametrize("gateway", ["a'; Remove-Item C:\\ -Recurse; '", "vpn$(whoami)"])
def test_no_name_is_run_by_the_shell_of_windows(tmp_path: Path, ca: Path, gateway: str) -> None:
    run("add", "carol", "--gateway", gateway, "--ca", str(ca), "--out", str(tmp_path), "--for", "windows")
    script = (tmp_path / "carol.ps1").read_text()
    assert "-Name '" + gateway.replace("'", "''") + "' " in script
