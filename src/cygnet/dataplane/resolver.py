"""Name servers that a gateway gave us, told to whoever resolves names on this host, and taken back.

    resolved     systemd-resolved, by `resolvectl`: the TUN's servers, asked about their domains alone
    resolvconf   `resolvconf`, which merges what each interface has
    a file       like /etc/resolv.conf: our servers stand first, between two lines that say whose they are

What a crashed process left is taken back when the next one starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

DEFAULT_FILE = "/etc/resolv.conf"
BEGIN, END = "# Cygnet: begin, these lines come and go with a tunnel", "# Cygnet: end"
SECONDS = 5.0
_RESOLVED = Path("/run/systemd/resolve")


class ResolverRefused(Exception):
    """Why names cannot be resolved by these servers, in a sentence."""


class Resolver:
    """`kind`: auto, resolved, resolvconf, none, or the path of a file."""

    def __init__(self, device: str, kind: str) -> None:
        self._device = device
        self._kind = _here() if kind == "auto" else kind

    def use(self, servers: Sequence[str], domains: Sequence[str]) -> None:
        """These servers for these domains, all without any, in place of what was told before; without
        servers all is as it was without us. Raises ResolverRefused."""
        match self._kind:
            case "none":
                return
            case "resolved" if servers:
                routed = [f"~{domain}" for domain in domains] or ["~."]
                _run("resolvectl", "dns", self._device, *servers)
                _run("resolvectl", "domain", self._device, *routed)
            case "resolved":
                _run("resolvectl", "revert", self._device)
            case "resolvconf" if servers:
                lines = [f"nameserver {server}" for server in servers]
                lines += [f"search {' '.join(domains)}"] if domains else []
                _run("resolvconf", "-a", f"{self._device}.cygnet", stdin="\n".join(lines) + "\n")
            case "resolvconf":
                _run("resolvconf", "-d", f"{self._device}.cygnet")
            case file:
                _change_file(Path(file), servers)

    def recover(self) -> None:
        """Take back what a process before us left. Raises ResolverRefused."""
        if self._kind == "resolved":
            return  # it went with the device
        if self._kind == "resolvconf" and shutil.which("resolvconf") is None:
            return
        self.use((), ())


def _here() -> str:
    if _RESOLVED.is_dir() and shutil.which("resolvectl"):
        return "resolved"
    return "resolvconf" if shutil.which("resolvconf") else DEFAULT_FILE


def _run(*command: str, stdin: str = "") -> None:
    try:
        done = subprocess.run(
            command, input=stdin, text=True, capture_output=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ResolverRefused(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ResolverRefused(f"{command[0]} refused: {said[0] if said else 'no reason given'}")


def _change_file(path: Path, servers: Sequence[str]) -> None:
    try:
        target = path.resolve()
        before = target.read_text() if target.exists() else ""
        lines, ours = [], False
        for line in before.splitlines(keepends=True):
            ours = ours or line.rstrip("\n") == BEGIN
            if not ours:
                lines.append(line)
            ours = ours and line.rstrip("\n") != END
        block = [BEGIN, *[f"nameserver {server}" for server in servers], END] if servers else []
        after = "".join(f"{line}\n" for line in block) + "".join(lines)
        if after != before:
            _replace(target, after)
    except (OSError, UnicodeError) as error:
        raise ResolverRefused(f"{path} cannot be changed: {error}") from error


def _replace(path: Path, text: str) -> None:
    """Whole, or as it was; a file that is mounted into its place can only be written over. Raises OSError."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    beside = path.with_name(f".{path.name}.cygnet")
    try:
        beside.write_text(text)
        beside.chmod(mode)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        with path.open("r+") as file:
            file.write(text)
            file.truncate()
            os.fsync(file.fileno())
