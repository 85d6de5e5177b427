"""Starting: what is refused is refused in a sentence, with a status, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cygnet.lab.gateway import CYGNET, Gateway
from cygnet.lab.namespaces import LabError, Namespace, require

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]

CONFIGURATION = """
[connections.gw]
local_addrs = "192.0.2.1"
remote_addrs = "192.0.2.2"
local = { auth = "psk", id = "moon" }
remote = { auth = "psk", id = "sun" }
[connections.gw.children.net]
local_ts = "10.1.0.0/16"
remote_ts = "10.2.0.0/16"
[secrets.ike-1]
secret = "0123456789abcdef0123456789"
"""


class Place:
    """A namespace, a directory, and `cygnet run` in them."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace = namespace
        self.directory = directory
        self.socket = directory / "cygnet.vici"
        self.file = directory / "cygnet.toml"
        self.write(CONFIGURATION)

    def write(self, text: str) -> None:
        self.file.touch(mode=0o600)
        self.file.write_text(text)

    def run(self, *wrapper: str) -> subprocess.CompletedProcess[str]:
        """Start and wait for the refusal."""
        command = [
            sys.executable,
            "-m",
            "cygnet.cli.main",
            "run",
            str(self.file),
            "--socket",
            str(self.socket),
        ]
        return self.namespace.run(*wrapper, *command, check=False, timeout=20)

    def traces(self) -> list[str]:
        """What a failed start left in the namespace."""
        left = [
            link for link in self.namespace.run("ip", "-o", "link").stdout.splitlines() if ": lo:" not in link
        ]
        for question in (("ip", "rule"), ("ip", "-6", "rule")):
            lines = self.namespace.run(*question).stdout.splitlines()
            left += [
                line for line in lines if "local" not in line and "main" not in line and "default" not in line
            ]
        left += self.namespace.run("nft", "list", "tables").stdout.splitlines()
        left += self.namespace.run("ip", "route", "show", "table", "all").stdout.replace("\n", "|").split("|")
        left += [str(self.socket)] if self.socket.exists() else []
        return [line for line in left if line and "table local" not in line and "dev lo" not in line]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    try:
        require()
    except LabError as error:
        pytest.skip(str(error))
    with Namespace("dm-start") as namespace:
        yield Place(namespace, tmp_path)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert said.startswith("cygnet does not start: ")
    for word in words:
        assert word in said


def test_a_wrong_configuration_is_told_with_file_line_key_and_what_is_allowed(place: Place) -> None:
    place.write(
        CONFIGURATION.replace("local_ts", "local_tss").replace('"psk", id = "moon"', '"pks", id = "moon"')
    )
    done = place.run()
    refused(done, "cygnet.toml:8", "local_tss", "did you mean local_ts?", "cygnet.toml:5", "'pks'", "psk")
    assert place.traces() == []


def test_a_configuration_that_is_not_there_is_told(place: Place) -> None:
    place.file.unlink()
    refused(place.run(), "cygnet.toml", "No such file")


def test_a_secret_that_everybody_can_read_is_refused(place: Place) -> None:
    place.file.chmod(0o644)
    done = place.run()
    refused(done, "everybody can read it", "chmod 600")
    assert "0123456789abcdef" not in done.stdout + done.stderr


@pytest.mark.parametrize("port", [500, 4500])
def test_a_port_that_is_taken_is_named(place: Place, port: int) -> None:
    def take() -> socket.socket:
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind(("0.0.0.0", port))
        return taken

    with place.namespace.inside(take):
        refused(place.run(), f"UDP port {port} is taken")
    assert place.traces() == []


def test_without_dev_net_tun_it_says_so(place: Place) -> None:
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    refused(place.run("unshare", "--mount", "sh", "-c", hide, "sh"), "/dev/net/tun")
    assert place.traces() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a privilege to drop for the test")
def test_without_privilege_it_says_which_is_missing(place: Place) -> None:
    place.directory.chmod(0o755)
    drop = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
    done = place.run(*drop)
    refused(done, "CAP_NET_ADMIN and CAP_NET_RAW", "start as root")
    assert place.traces() == []


def test_a_second_cygnet_on_the_same_control_socket_is_refused(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place.socket))
        other.listen(1)
        refused(place.run(), "another Cygnet is running")
        assert place.socket.exists()


def test_a_second_cygnet_in_the_same_network_namespace_is_refused_and_what_runs_is_not_cleared(
    place: Place,
) -> None:
    """Whatever its own socket, device and ports: table, routes and sets of the kernel are one for all."""
    first = Gateway(place.namespace, place.directory / "first", CONFIGURATION)
    try:
        guarded = place.namespace.run("nft", "list", "table", "inet", "cygnet").stdout
        options = 'tun = "cyg9"\nport = 600\nport_nat_t = 4600\n'
        place.write(f"{CONFIGURATION.replace('10.2', '10.3')}[options]\n{options}")
        refused(place.run(), "another Cygnet is running in this network namespace", f"process {first.pid}")
        assert not place.socket.exists()
        cleared = place.namespace.run(*CYGNET, "clear", "--socket", str(place.socket), check=False)
        assert cleared.returncode == 1
        assert f"(process {first.pid}); stop it first" in " ".join((cleared.stdout + cleared.stderr).split())
        assert place.namespace.run("nft", "list", "table", "inet", "cygnet").stdout == guarded
    finally:
        first.stop()
    cleared = place.namespace.run(*CYGNET, "clear", "--socket", str(place.socket), check=False)
    assert cleared.returncode == 0
    assert place.traces() == []


def test_systemd_is_told_ready_reloading_and_stopping_and_gets_its_watchdog(place: Place) -> None:
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        path = place.directory / "notify"
        systemd.bind(str(path))
        systemd.settimeout(30)
        cygnet = place.namespace.start(
            sys.executable, "-m", "cygnet.cli.main", "run", str(place.file), "--socket", str(place.socket),
            env={**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"},
        )  # fmt: skip

        def hear(*wanted: str) -> None:
            for word in wanted:
                while not (said := systemd.recv(200).decode()).startswith(word):
                    told.append(said)

        hear("READY=1", "WATCHDOG=1")
        cygnet.send_signal(signal.SIGHUP)
        hear("RELOADING=1", "READY=1")
        place.write("nonsense = true")
        cygnet.send_signal(signal.SIGHUP)
        hear("RELOADING=1", "READY=1")
        cygnet.terminate()
        hear("STOPPING=1")
        assert cygnet.wait(20) == 0
    assert "nonsense" in (cygnet.stdout.read() if cygnet.stdout else "")
    assert not place.socket.exists()
