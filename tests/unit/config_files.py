"""Configurations in files of a temporary directory, for the tests of `config` and `cli`."""

from __future__ import annotations

from pathlib import Path

from cygnet.auth import issue
from cygnet.auth.identity import Identity
from cygnet.config.load import Loaded, load
from cygnet.config.problems import ConfigurationError, Problem

BEGIN, END = 1_700_000_000.0, 2_500_000_000.0

PSK = """
[connections.branch]
remote_addrs = ["192.0.2.2"]
local = { auth = "psk", id = "moon.example" }
remote = { auth = "psk", id = "sun.example" }

[connections.branch.children.net]
local_ts = ["10.1.0.0/16"]
remote_ts = ["10.2.0.0/16"]

[secrets.ike-branch]
id = "sun.example"
secret = "a secret that nobody guesses"
"""


def write(directory: Path, text: str, name: str = "cygnet.toml") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def loaded(directory: Path, text: str, name: str = "cygnet.toml") -> Loaded:
    return load(write(directory, text, name))


def problems(directory: Path, text: str, name: str = "cygnet.toml") -> list[Problem]:
    """What is wrong with a configuration; empty if nothing is."""
    try:
        loaded(directory, text, name)
    except ConfigurationError as error:
        return list(error.problems)
    return []


def credentials(directory: Path, name: str = "moon.example") -> None:
    """A CA in `x509ca/`, and a certificate with its key in `x509/` and `private/`."""
    ca = issue.make_ca("CN=Test CA", not_before=BEGIN, not_after=END)
    held = issue.issue(ca, [Identity.parse(name)], not_before=BEGIN, not_after=END)
    put(directory / "x509ca" / "ca.pem", ca.certificate)
    put(directory / "x509" / "gw.pem", held.certificate)
    put(directory / "private" / "gw.key", held.key)


def put(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(mode)
    path.write_bytes(data)
    return path
