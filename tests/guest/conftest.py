"""Tests in this folder run inside a guest, whose kernel has ESP, AH, IPComp and XFRM interfaces.

Write them like any others (namespaces, gateways, strongSwan: all there). One guest is booted for all of
them, when the first is due; in it pytest runs the tests it is told, and its reports stream back:

    here                                        in the guest
    {"run": NODEID, "next": NODEID}  ------->   fixtures and test
                  {"report": ...}    <-------   setup, call, teardown
       {"call": FUNCTION, "with": …}  <------   only if the test asks its fixture `host` for something
               {"result": ...}       ------->
                    {"done": true}   <-------

`host("module:function", ...)` runs a function of this machine from inside a test, with values that JSON
has: for a peer on the other side of the guest's network card (`cygnet.lab.guest.TAP`, and eth0 inside).
"""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from cygnet.lab import guest as lab
from cygnet.lab.guest import Guest
from cygnet.lab.namespaces import LabError, Namespace, require
from tests.guest.extent import VARIABLE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INSIDE = lab.CHANNEL in os.environ
ANSWER_WITHIN = 300.0
"""Seconds in which a test, the boot included, sends something."""
_GUEST = pytest.StashKey["Outside"]()


class GuestEnded(Exception):
    pass


# -- on this machine ------------------------------------------------------------------------------


class Outside:
    """The guest and this end of its channel."""

    def __init__(self) -> None:
        self.namespace = Namespace("guest-tap")
        command = [sys.executable, "-m", "pytest", str(HERE.relative_to(ROOT)), "-q", "-p", "no:xdist"]
        command += ["-p", "no:cacheprovider", "--basetemp", "/var/tmp/cygnet-guest"]
        passed = {"PYTHONDONTWRITEBYTECODE": "1", "CYGNET_GUEST_TEST": "1"}
        passed[VARIABLE] = os.environ.get(VARIABLE, "")  # there the same tests are collected
        self.guest = Guest(
            *command, directory=ROOT, environment=passed, tap=self.namespace, copied=_read_often()
        )
        self._buffer = b""

    def send(self, message: dict[str, Any]) -> None:
        self.guest.channel.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_WITHIN
        while b"\n" not in self._buffer:
            if not self.guest.alive or time.monotonic() > deadline:
                raise GuestEnded(f"the guest says nothing any more:\n{self.guest.said()}")
            if select.select([self.guest.channel], [], [], 0.5)[0]:
                self._buffer += self._read()
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _read(self) -> bytes:
        try:
            return self.guest.channel.recv(1 << 16)
        except OSError as error:
            raise GuestEnded(f"the guest has ended:\n{self.guest.said()}") from error

    def close(self) -> None:
        self.guest.close()
        self.namespace.close()


_PROGRAMS = (
    sys.executable,
    "ip",
    "nsenter",
    "unshare",
    "ping",
    "sysctl",
    "nft",
    "swanctl",
    "/usr/lib/ipsec/charon",
)


def _read_often() -> list[Path]:
    """The modules of the processes that the tests start over and over, sources and compiled; the programs
    and what they are linked with."""
    program = """
import sys, pytest, vici
import cygnet.cli.main, cygnet.daemon.process, cygnet.daemon.supervisor, cygnet.dataplane.process
for module in list(sys.modules.values()):
    for file in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
        if file and file.endswith((".py", ".pyc")):
            print(file)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = [Path(line) for line in done.stdout.splitlines()]
    for name in _PROGRAMS:
        path = shutil.which(name)
        if path is not None:
            found += [Path(path), *map(Path, lab.libraries(path))]
    found += Path("/usr/lib/ipsec").rglob("*.so")
    return [*found, *(ROOT / "src/cygnet").rglob("*.py"), *(ROOT / "src/cygnet").rglob("*.pyc")]


def _call(outside: Outside, name: str, arguments: list[Any]) -> dict[str, Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
        return {"result": found(outside.namespace, *arguments)}
    except Exception as error:  # noqa: BLE001 - the test inside is told
        return {"failed": f"{type(error).__name__}: {error}"}


def _remote(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    outside = item.config.stash.get(_GUEST, None)
    if outside is None:
        outside = item.config.stash[_GUEST] = Outside()
    following = nextitem.nodeid if nextitem is not None and _ours(nextitem) else ""
    outside.send({"run": item.nodeid, "next": following})
    while True:
        message = outside.receive()
        if "report" in message:
            report = item.config.hook.pytest_report_from_serializable(
                config=item.config, data=message["report"]
            )
            if isinstance(report, pytest.TestReport) and isinstance(report.longrepr, list):
                report.longrepr = (
                    *report.longrepr[:2],
                    report.longrepr[2],
                )  # JSON has no tuples: a skip's place
            item.ihook.pytest_runtest_logreport(report=report)
        elif "call" in message:
            outside.send(_call(outside, message["call"], message["with"]))
        else:
            return


def _ours(item: pytest.Item) -> bool:
    return HERE in item.path.parents


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if INSIDE:
        return
    why = _unavailable()
    for item in items:
        if _ours(item):
            item.add_marker(pytest.mark.network)
            # In the guest its own time counts; here the boot comes on top, on a machine that may be busy.
            item.add_marker(pytest.mark.timeout(2 * ANSWER_WITHIN), append=False)
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


def _unavailable() -> str:
    try:
        require()
    except LabError as error:
        return str(error)
    return lab.missing()


if not INSIDE:

    def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if any(True for _ in item.iter_markers("skip")):
            return None  # as any other
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            _remote(item, nextitem)
        except (GuestEnded, LabError, OSError, pytest.fail.Exception) as error:
            _forget(item.config)
            fault = str(error)

            def failed() -> None:
                pytest.fail(fault, pytrace=False)

            call = pytest.CallInfo.from_call(failed, "call")
            report = item.ihook.pytest_runtest_makereport(item=item, call=call)
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def _forget(config: pytest.Config) -> None:
    outside = config.stash.get(_GUEST, None)
    if outside is not None:
        outside.close()
        del config.stash[_GUEST]


def pytest_unconfigure(config: pytest.Config) -> None:
    _forget(config)


# -- in the guest ---------------------------------------------------------------------------------


class Inside:
    """pytest's loop in the guest: it runs what it is told."""

    def __init__(self, channel: IO[bytes]) -> None:
        self._channel = channel
        self._config: pytest.Config | None = None

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._config = session.config
        items = {item.nodeid: item for item in session.items}
        while line := self._channel.readline():
            message = json.loads(line)
            item, following = items[message["run"]], items.get(message["next"])
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self._send({"done": True})
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._config is not None:
            data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
            self._send({"report": data})

    def call(self, name: str, *arguments: Any) -> Any:
        self._send({"call": name, "with": arguments})
        answer = json.loads(self._channel.readline())
        if "failed" in answer:
            raise LabError(f"on the host: {answer['failed']}")
        return answer["result"]

    def _send(self, message: dict[str, Any]) -> None:
        self._channel.write(json.dumps(message).encode() + b"\n")
        self._channel.flush()


_inside: list[Inside] = []


def pytest_configure(config: pytest.Config) -> None:
    if INSIDE and not _inside:
        channel = Path(os.environ[lab.CHANNEL]).open("r+b", buffering=0)  # noqa: SIM115 - as long as pytest lives
        _inside.append(Inside(channel))
        config.pluginmanager.register(_inside[0], "cygnet-guest")


@pytest.fixture(scope="session")
def host() -> Callable[..., Any]:
    """Call a function on the machine that runs the guest (see this file's header)."""
    return _inside[0].call
