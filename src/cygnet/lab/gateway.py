"""Cygnet as a gateway inside a namespace: the real program, started as an operator starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cygnet.lab.guest import CHANNEL
from cygnet.lab.namespaces import LabError, Namespace

VERSION_REQUEST = b"\0\0\0\x09\0\x07version"
"""VICI's command `version`, as it goes over the socket."""
START_WITHIN = 60.0 if CHANNEL not in os.environ else 240.0
"""Seconds; in a guest, under emulation, all takes longer."""
CYGNET = (sys.executable, "-m", "cygnet.cli.main")


class Gateway:
    """One `cygnet run`. `configuration` is cygnet.toml's text; files that it names go into `directory` first.

    `start` False: only its file is written. Raises LabError, with what it said, if its control socket does
    not answer within 20 seconds.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        configuration: str,
        name: str = "cygnet.toml",
        *,
        start: bool = True,
    ) -> None:
        self.namespace = namespace
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.socket = self.directory / "cygnet.vici"
        self.file = self.directory / name
        self._supervisor: subprocess.Popen[str] | None = None
        self.configure(configuration)
        if start:
            self.start()

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        if self._supervisor is None:
            raise LabError("cygnet is not running")
        return self._supervisor.pid

    def configure(self, configuration: str) -> None:
        """Replace the file; takes effect with `cygnet reload` or `start`."""
        self.file.touch(mode=0o600)
        self.file.write_text(configuration)

    def start(self, *, wait: bool = True) -> None:
        """Start it; two that are started without `wait`, then waited for, come up side by side."""
        self.socket.unlink(missing_ok=True)
        with (self.directory / "cygnet.log").open("a") as log:
            self._supervisor = self.namespace.start(
                *CYGNET, "run", str(self.file), "--socket", str(self.socket),
                "--state", str(self.directory / "state"), output=log,
            )  # fmt: skip
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Raises LabError."""
        deadline = time.monotonic() + START_WITHIN
        while not self._answers():
            if self._supervisor is None or self._supervisor.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"cygnet did not start:\n{self.log()[-4000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(0.05)

    def _answers(self) -> bool:
        """Whether the daemon itself answers; the socket alone is there earlier."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket))
                probe.sendall(VERSION_REQUEST)
                return len(probe.recv(4)) == 4
            except OSError:
                return False

    def cygnet(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a `cygnet` command against this gateway, for example `cygnet("up", "net")`."""
        command, *rest = arguments
        return subprocess.run(
            [*CYGNET, command, "--socket", str(self.socket), *rest],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "160"},
        )

    def follow(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a `cygnet` command that goes on, such as `trace`; its output is a pipe."""
        command, *rest = arguments
        return self.namespace.start(*CYGNET, command, "--socket", str(self.socket), *rest)

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        """A session of the independent `vici` library."""
        import vici

        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.socket))
            yield vici.Session(connection)

    def ask(self, command: str, child: str) -> None:
        """`initiate` or `rekey` a child by VICI alone: in a guest a process of `cygnet` takes seconds. Raises
        LabError with what was said and the log."""
        import vici

        with self.session() as session:
            try:
                if command == "initiate":
                    for _ in session.initiate({"child": child, "timeout": "60000"}):
                        pass
                else:
                    session.rekey({"child": child})
            except (vici.exception.CommandException, OSError) as error:
                raise LabError(f"{command} {child}: {error}\n{self.log()[-3000:]}") from error

    def sas(self) -> list[dict[str, Any]]:
        """What list-sas says: one dictionary per IKE SA with its name under `name`, values decoded."""
        from cygnet.lab.strongswan import decoded

        with self.session() as session:
            return [
                {"name": name, **decoded(sa)} for entry in session.list_sas() for name, sa in entry.items()
            ]

    def log(self) -> str:
        path = self.directory / "cygnet.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self) -> dict[str, int]:
        """Process ids of the supervisor's children: `dataplane` and `daemon`."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(status[1]) == self.pid:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    for kind in ("dataplane", "daemon"):
                        if f"cygnet.{kind}" in line:
                            found[kind] = int(entry.name)
        return found

    def stop(self, kill: bool = False) -> None:
        """End it: with SIGTERM it says goodbye to its peers, with `kill` the supervisor is just gone."""
        if self._supervisor and self._supervisor.poll() is None:
            self._supervisor.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._supervisor.wait(20)
        self._supervisor = None
