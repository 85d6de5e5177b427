"""What goes wrong in operation is one clear sentence and a non-zero status, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cygnet.lab.gateway import CYGNET, Gateway
from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import MOON_NET, SUN_NET, TwoGateways, two_gateways
from tests.network.gateways import SECRET, configuration
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]

OTHERS = f"""
[connections.gw.children.net]
local_ts = "{MOON_NET}"
remote_ts = "{SUN_NET}"

[connections.named]
remote_addrs = "no-such-gateway.invalid"
local = {{ auth = "psk", id = "moon.example" }}
remote = {{ auth = "psk", id = "sun.example" }}
children.named-net = {{ local_ts = "{MOON_NET}", remote_ts = "10.3.0.0/16" }}

[connections.nowhere]
remote_addrs = "203.0.113.9"
local = {{ auth = "psk", id = "moon.example" }}
remote = {{ auth = "psk", id = "sun.example" }}
children.nowhere-net = {{ local_ts = "{MOON_NET}", remote_ts = "10.4.0.0/16" }}

[connections.anyone]
remote_addrs = "%any"
local = {{ auth = "psk", id = "moon.example" }}
remote = {{ auth = "psk" }}
children.anyone-net = {{ local_ts = "{MOON_NET}", remote_ts = "10.5.0.0/16" }}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[TwoGateways]:
    with two_gateways() as made:
        yield made


@pytest.fixture(scope="module")
def moon(net: TwoGateways, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """moon alone: nobody answers at sun."""
    net.moon.ip("route del default", "route add default via 192.0.2.2")
    made = Gateway(net.moon, tmp_path_factory.mktemp("errors"), configuration(net, "moon", OTHERS))
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("up", "net"), 1, ("gw/net did not come up: peer-unreachable", "192.0.2.2 does not answer")),
        (("up", "named"), 1, ("peer-name-unknown", "no-such-gateway.invalid")),
        (("up", "nowhere"), 1, ("peer-unreachable", "203.0.113.9")),
        (("up", "anyone"), 1, ("connection anyone names no address to initiate to",)),
        (("up", "nett"), 1, ("there is no connection and no child named nett; did you mean net?",)),
        (("down", "net"), 1, ("no matching SA is up",)),
        (("rekey", "net"), 1, ("no matching SA is up",)),
        (("up",), 2, ("name a connection or a child",)),
        (("status", "nobody"), 1, ("there is no connection and no child named nobody",)),
        (("up", "net", "--timeout", "0.5"), 4, ("not done after 500 ms",)),
    ],
)
def test_a_command_that_fails_says_why_in_a_sentence(
    moon: Gateway, arguments: tuple[str, ...], status: int, words: tuple[str, ...]
) -> None:
    done = moon.cygnet(*arguments)
    assert done.returncode == status, done.stdout + done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("cygnet: ")]
    for word in words:
        assert word in sentence
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


def test_failures_are_remembered_and_leave_no_sa(moon: Gateway) -> None:
    moon.cygnet("up", "named")
    assert "peer-name-unknown" in moon.cygnet("status", "named").stdout
    until(lambda: not moon.sas(), 15, "no IKE SA")


def test_without_a_daemon_every_command_says_so(net: TwoGateways, tmp_path: Path) -> None:
    for command in ("status", "up", "down", "rekey", "trace"):
        name = ("net",) if command != "status" else ()
        done = subprocess.run(
            [*CYGNET, command, *name, "--socket", str(tmp_path / "nobody")],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 3, (command, done.stderr)
        assert done.stderr.startswith("cygnet: no Cygnet is running here")
        assert len(done.stderr.splitlines()) == 1


def state(space: Namespace) -> str:
    """All that Cygnet may leave in a network namespace."""
    return "\n".join(
        space.run("sh", "-c", question).stdout
        for question in (
            "nft list ruleset",
            "ip rule",
            "ip -6 rule",
            "ip -o link show",
            "ip -4 -o route show table all",
            # Link-local addresses come by themselves.
            "ip -6 -o route show table all | grep -v -e fe80 -e ff00",
            "ss -Hanu",
            "grep . /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/src_valid_mark",
        )
    )


def test_a_stop_that_clears_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with two_gateways() as net:
        before = state(net.moon)
        file = tmp_path / "cygnet.toml"
        file.touch(mode=0o600)
        file.write_text(configuration(net, "moon"))
        socket = tmp_path / "cygnet.vici"
        with (tmp_path / "log").open("w") as log:
            program = net.moon.start(
                *CYGNET, "run", str(file), "--socket", str(socket), "--clear-on-stop", output=log
            )
        until(lambda: "ready" in (tmp_path / "log").read_text(), 20, "ready")
        during = state(net.moon)
        assert "table inet cygnet" in during
        assert "cygnet0" in during
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
        assert state(net.moon) == before
        assert not socket.exists()


def test_the_policy_stays_with_an_ordinary_stop_and_goes_when_it_is_unloaded(tmp_path: Path) -> None:
    with two_gateways() as net:
        moon = Gateway(net.moon, tmp_path, configuration(net, "moon"))
        moon.stop()
        kept = state(net.moon)
        assert "table inet cygnet" in kept
        assert "unreachable 10.2.0.0/16" in kept
        assert "cygnet0" not in net.moon.run("ip", "-o", "link", "show").stdout


@pytest.fixture
def short_path() -> Iterator[Path]:
    """The demo makes control sockets deep in its directory, and their paths have 107 octets at most."""
    with tempfile.TemporaryDirectory(prefix="demo-") as made:
        yield Path(made)


def test_ctrl_c_ends_the_demo_and_takes_everything_down(short_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "cygnet.cli.main", "demo", "--auth", "psk", "--size", "5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(short_path), "NO_COLOR": "1"},
    )
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if "IKE_SA_INIT" in line:
            break
    assert demo.poll() is None, said
    os.killpg(demo.pid, signal.SIGINT)
    said += demo.communicate(timeout=30)[0]
    assert demo.returncode == 130, said
    assert "Traceback" not in said, said[said.index("Traceback") - 300 :]
    until(lambda: processes_of(demo.pid) == [], 10, "no process is left")
    assert list(short_path.iterdir()) == []


def processes_of(session: int) -> list[str]:
    listed = subprocess.run(
        ["ps", "-s", str(session), "-o", "pid=,args="], capture_output=True, text=True, check=False
    )
    return listed.stdout.splitlines()


def test_a_demo_that_may_not_make_namespaces_says_so(tmp_path: Path) -> None:
    """An ordinary user on a machine that denies user namespaces, as the program sees it."""
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    program = "import os, sys; os.geteuid = lambda: 1000; from cygnet.cli.main import main; main()"
    demo = subprocess.run(
        [sys.executable, "-c", program, "demo"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert demo.returncode == 1, demo.stderr
    assert "this machine does not allow user namespaces" in demo.stderr
    assert "Traceback" not in demo.stderr
