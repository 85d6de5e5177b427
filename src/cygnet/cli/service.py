"""`cygnet service`: the systemd unit, with this program's path, and the account that the daemon becomes."""

from __future__ import annotations

import pwd
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from cygnet.cli.terminal import DEFAULT_CONFIGURATION, fail, out

ACCOUNT = "cygnet"
UNIT = Path("/etc/systemd/system/cygnet.service")
_PLACEHOLDER = "/usr/bin/env cygnet"

service_app = typer.Typer(no_args_is_help=True, help="The systemd service.")


def unit(program: Path) -> str:
    """The unit's text, which starts this program."""
    text = resources.files("cygnet.daemon").joinpath("cygnet.service").read_text()
    return text.replace(_PLACEHOLDER, str(program), 1)


def own_path() -> Path:
    """Where `cygnet` is, the one that runs now."""
    beside = Path(sys.executable).parent / "cygnet"
    return beside if beside.exists() else Path(shutil.which("cygnet") or sys.argv[0]).absolute()


@service_app.command("print")
def show() -> None:
    """Print the unit that `install` would write."""
    sys.stdout.write(unit(own_path()))


@service_app.command()
def install(
    path: Annotated[Path, typer.Option("--unit", help="Where the unit goes.")] = UNIT,
) -> None:
    """Write the unit, make the account, tell systemd. Starts nothing."""
    try:
        path.write_text(unit(own_path()))
        path.chmod(0o644)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")
    out.print(f"{path} written")
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        _run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
             "--shell", "/usr/sbin/nologin", ACCOUNT)  # fmt: skip
        out.print(f"account {ACCOUNT} made")
    if Path("/run/systemd/system").is_dir():
        _run("systemctl", "daemon-reload")
    out.print(f"next: cygnet check {DEFAULT_CONFIGURATION}; systemctl enable --now cygnet")


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        fail(f"{command[0]} cannot be run: {error.strerror}")
    if done.returncode:
        fail(f"{' '.join(command)}: {done.stderr.strip() or f'status {done.returncode}'}")
