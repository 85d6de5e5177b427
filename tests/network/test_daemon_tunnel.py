"""Two real daemons in namespaces: packets through a real TUN, the outer link watched the whole time."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from cygnet.lab.capture import Capture
from cygnet.lab.gateway import Gateway
from cygnet.lab.namespaces import LabError, require
from cygnet.lab.topology import (
    ALICE,
    BOB,
    BOB6,
    MOON,
    MOON_NET,
    MOON_NET6,
    SUN,
    SUN_NET,
    SUN_NET6,
    TwoGateways,
    two_gateways,
)
from cygnet.lab.traffic import Traffic
from tests.userspace import USERSPACE
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]
PATIENCE = 20
"""Seconds that are waited for what takes a fraction of one on a machine that is not shared."""
SECRET = "a-marker-of-a-secret-0123456789"


def configuration(me: str, action: str = "none", extra: str = "") -> str:
    """moon's or sun's cygnet.toml: both families, one child each."""
    moon = me == "moon"
    here, there = (MOON, SUN) if moon else (SUN, MOON)
    nets = ((MOON_NET, SUN_NET), (MOON_NET6, SUN_NET6))
    if not moon:
        nets = ((SUN_NET, MOON_NET), (SUN_NET6, MOON_NET6))
    peer = "sun" if moon else "moon"
    return f"""
[connections.gw]
local_addrs = "{here}"
remote_addrs = "{there}"
local = {{ auth = "psk", id = "{me}" }}
remote = {{ auth = "psk", id = "{peer}" }}
dpd_delay = "2s"

[connections.gw.children.net]
local_ts = "{nets[0][0]}"
remote_ts = "{nets[0][1]}"
start_action = "{action}"

[connections.gw.children.net6]
local_ts = "{nets[1][0]}"
remote_ts = "{nets[1][1]}"
start_action = "{action}"

[secrets.ike-1]
id-1 = "moon"
id-2 = "sun"
secret = "{SECRET}"

[options]
engine = "{USERSPACE}"
retransmit_timeout = "0.5s"
retransmit_tries = 3
{extra}
"""


@dataclass
class Pair:
    net: TwoGateways
    moon: Gateway
    sun: Gateway

    def up(self) -> None:
        done = self.moon.cygnet("up", "gw")
        assert done.returncode == 0, done.stdout + done.stderr + self.moon.log() + self.sun.log()

    def spis(self, side: str = "moon") -> set[str]:
        gateway = self.moon if side == "moon" else self.sun
        return {child["spi-in"] for sa in gateway.sas() for child in sa["child-sas"].values()}

    def ping(self, target: str = BOB, count: int = 3) -> bool:
        done = self.net.alice.run("ping", "-c", str(count), "-i", "0.05", "-W", "1", target, check=False)
        return f" {count} received" in done.stdout


@contextmanager
def pair(directory: Path, action: str = "none") -> Iterator[Pair]:
    """Both gateways up; at the end nothing protected may have been seen on the outer link."""
    with two_gateways() as net:
        watch = Capture(
            *net.outer_link, protected=(MOON_NET, SUN_NET, MOON_NET6, SUN_NET6), markers=(SECRET.encode(),)
        )
        moon = Gateway(net.moon, directory / "moon", configuration("moon", action))
        sun = Gateway(net.sun, directory / "sun", configuration("sun", action))
        try:
            yield Pair(net, moon, sun)
        finally:
            moon.stop()
            sun.stop()
            seen = watch.stop()
        assert not seen.clear, f"{len(seen.clear)} frames in clear; first: {seen.clear[0].hex()}"


@pytest.fixture(autouse=True)
def _lab() -> None:
    try:
        require()
    except LabError as error:
        pytest.skip(str(error))


def test_a_tunnel_comes_up_and_carries_both_families(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        assert not both.ping(count=1)
        both.up()
        assert both.ping()
        assert both.ping(BOB6)
        (sa,) = both.moon.sas()
        assert sa["state"] == "ESTABLISHED"
        assert {child["name"] for child in sa["child-sas"].values()} == {"net", "net6"}
        counted = {child["name"]: int(child["packets-out"]) for child in sa["child-sas"].values()}
        assert counted["net"] >= 3
        assert SECRET not in both.moon.log() + both.sun.log()


def test_a_packet_of_a_trap_policy_starts_the_negotiation(tmp_path: Path) -> None:
    with pair(tmp_path, "trap") as both:
        until(lambda: both.ping(count=1), PATIENCE, both.moon.log)
        assert len(both.moon.sas()) == 1


def test_a_killed_daemon_is_back_at_once_and_traffic_flows_on(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        both.up()
        traffic = Traffic(both.net.alice, ALICE, both.net.bob, BOB)
        assert traffic.wait_for(100, PATIENCE)
        spis = both.spis()
        dead = both.moon.processes()["daemon"]
        os.kill(dead, signal.SIGKILL)
        until(lambda: both.moon.processes().get("daemon") not in (None, dead), PATIENCE)
        # The new one finds what its predecessor's SAs carry, and negotiates it anew.
        until(lambda: len(both.moon.sas()) == 1 and len(both.spis()) == 2, PATIENCE, both.moon.log)
        assert not both.spis() & spis
        before = traffic.echoed
        assert traffic.wait_for(before + 100, PATIENCE)
        report = traffic.stop()
        # The responder sends on the new SA before its initiator can have it (RFC 7296, section 1.2).
        assert report.lost <= 20, report
        assert report.longest_gap < 3.0, report
        assert len(both.sun.sas()) == 1


def test_after_the_data_plane_is_killed_every_sa_is_renewed_and_nothing_went_in_clear(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        both.up()
        spis = both.spis()
        traffic = Traffic(both.net.alice, ALICE, both.net.bob, BOB)
        assert traffic.wait_for(100, PATIENCE)
        os.kill(both.moon.processes()["dataplane"], signal.SIGKILL)
        until(lambda: len(both.spis()) == 2 and not both.spis() & spis, PATIENCE, both.moon.log)
        before = traffic.echoed
        assert traffic.wait_for(before + 100, PATIENCE), both.moon.log() + both.sun.log()
        report = traffic.stop()
        assert report.longest_gap < 3.0, report
        assert both.ping(BOB6)


def test_when_everything_is_killed_the_kernel_still_holds_the_policy(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        both.up()
        traffic = Traffic(both.net.alice, ALICE, both.net.bob, BOB)
        assert traffic.wait_for(100, PATIENCE)
        both.moon.stop(kill=True)
        until(lambda: not children_of(both), PATIENCE, "children outlived their supervisor")
        before = traffic.echoed
        assert not traffic.wait_for(before + 50, 1.0)
        both.moon.start()
        both.up()
        assert traffic.wait_for(before + 50, PATIENCE), both.moon.log() + both.sun.log()
        traffic.stop()


def children_of(both: Pair) -> list[str]:
    """Cygnet's processes in moon's namespace."""
    inode = os.stat(both.net.moon.path).st_ino
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            if os.stat(entry / "ns/net").st_ino == inode and b"cygnet." in (entry / "cmdline").read_bytes():
                found.append(entry.name)
    return found


def test_a_clean_stop_tells_the_peer_and_the_policy_stays_in_force(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        both.up()
        both.moon.stop()
        until(lambda: both.sun.sas() == [], PATIENCE, both.sun.log)
        assert not both.moon.socket.exists()
        assert children_of(both) == []
        assert not both.ping(count=1)


def test_reloading_leaves_unchanged_tunnels_alone_and_takes_gone_ones_down(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        both.up()
        spis = both.spis()
        traffic = Traffic(both.net.alice, ALICE, both.net.bob, BOB)
        assert traffic.wait_for(50, PATIENCE)
        again = configuration("moon") + '\n[connections.other]\nremote_addrs = "192.0.2.99"\n'
        again += 'local = { auth = "psk", id = "moon" }\nremote = { auth = "psk", id = "other" }\n'
        both.moon.configure(again)
        os.kill(both.moon.pid, signal.SIGHUP)
        until(lambda: "other" in both.moon.cygnet("status").stdout, PATIENCE, both.moon.log)
        assert both.spis() == spis
        both.moon.configure(again.replace("remote_addrs", "remote_adrs"))
        os.kill(both.moon.pid, signal.SIGHUP)
        until(lambda: "stays as it was" in both.moon.log(), PATIENCE)
        assert "did you mean remote_addrs" in both.moon.log()
        assert "other" in both.moon.cygnet("status").stdout
        assert both.spis() == spis
        both.moon.configure(configuration("moon", extra='keep_alive = "30s"'))
        os.kill(both.moon.pid, signal.SIGHUP)
        until(lambda: "changed options take effect at the next start" in both.moon.log(), PATIENCE)
        until(lambda: "other" not in both.moon.cygnet("status").stdout, PATIENCE)
        report = traffic.stop()
        assert report.lost == 0
        assert both.spis() == spis


def test_the_daemon_holds_no_privilege_and_shows_no_secret(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        both.up()
        running = both.moon.processes()
        daemon = Path("/proc") / str(running["daemon"])
        status = (daemon / "status").read_text()
        for line in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"):
            assert re.search(rf"^{line}:\s+0+$", status, re.MULTILINE), status
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        if os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] != "1":
            assert not re.search(r"^Uid:\s+0\s", status, re.MULTILINE)
        assert re.search(r"^Max core file size\s+0\s+0", (daemon / "limits").read_text(), re.MULTILINE)
        for process in ("daemon", "dataplane"):
            command = (Path("/proc") / str(running[process]) / "cmdline").read_bytes()
            assert SECRET.encode() not in command
        plane = (Path("/proc") / str(running["dataplane"]) / "status").read_text()
        assert re.search(r"^CapEff:\s+0*3000$", plane, re.MULTILINE)  # NET_ADMIN, NET_RAW


SWANCTL = shutil.which("swanctl") or shutil.which("swanctl", path="/usr/sbin")


@pytest.mark.skipif(SWANCTL is None, reason="swanctl is not installed: make packages")
def test_the_real_swanctl_loads_initiates_lists_logs_and_terminates(tmp_path: Path) -> None:
    (tmp_path / "swanctl.conf").write_text(
        f"""
        connections {{ road {{
          local_addrs = {MOON}
          remote_addrs = {SUN}
          local {{ auth = psk
                   id = moon }}
          remote {{ auth = psk
                    id = sun }}
          children {{ home {{ local_ts = {MOON_NET}
                              remote_ts = {SUN_NET} }} }}
        }} }}
        secrets {{ ike-1 {{ id-1 = sun
                            secret = "{SECRET}" }} }}
        """
    )
    with pair(tmp_path) as both:

        def swanctl(*arguments: str) -> str:
            done = subprocess.run(
                [str(SWANCTL), *arguments, "--uri", f"unix://{both.moon.socket}"],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
                env={"SWANCTL_DIR": str(tmp_path), "PATH": "/usr/bin:/usr/sbin"},
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        log = subprocess.Popen(
            [str(SWANCTL), "--log", "--uri", f"unix://{both.moon.socket}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            loaded = swanctl("--load-all", "--clear", "--file", str(tmp_path / "swanctl.conf"))
            assert "successfully loaded 1 connections" in loaded
            assert "road: IKEv2" in swanctl("--list-conns")
            said = swanctl("--initiate", "--child", "home")
            assert "IKE_AUTH request" in said
            assert "initiate completed successfully" in said
            assert both.ping()
            listed = swanctl("--list-sas")
            assert re.search(r"road: #\d+, ESTABLISHED, IKEv2", listed)
            assert re.search(r"home: #\d+, .*INSTALLED, TUNNEL", listed)
            assert "IKE_SAs: 1 total, 0 half-open" in swanctl("--stats")
            assert "rekey completed successfully" in swanctl("--rekey", "--child", "home")
            assert "terminate completed successfully" in swanctl("--terminate", "--ike", "road")
            assert swanctl("--list-sas") == ""
            assert "cygnet" in swanctl("--version", "--daemon")
        finally:
            log.terminate()
            told, _ = log.communicate(timeout=10)
        assert "IKE_SA road" in told


@pytest.mark.skipif(
    subprocess.run(["unshare", "-Urn", "true"], capture_output=True, check=False).returncode != 0,
    reason="user namespaces are not allowed here",
)
def test_a_gateway_runs_without_root_in_a_user_namespace(tmp_path: Path) -> None:
    """One id is mapped, so the daemon stays who it is, and still gives up every capability."""
    file = tmp_path / "cygnet.toml"
    file.touch(mode=0o600)
    file.write_text(configuration("moon"))
    script = f"""
        ip link set lo up
        {sys.executable} -m cygnet.cli.main run {file} --socket {tmp_path}/vici >{tmp_path}/log 2>&1 &
        for i in $(seq 200); do grep -q ready: {tmp_path}/log && break; sleep 0.05; done
        {sys.executable} -m cygnet.cli.main status --socket {tmp_path}/vici
        for child in $(cat /proc/$!/task/*/children); do
          tr '\\0' ' ' </proc/$child/cmdline | grep -q cygnet.daemon && grep CapEff /proc/$child/status
        done
        kill $!; wait $!
    """
    done = subprocess.run(
        ["unshare", "-Urn", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    log = (tmp_path / "log").read_text()
    assert done.returncode == 0, log + done.stdout + done.stderr
    assert "gw" in done.stdout, log
    assert "CapEff:\t0000000000000000" in done.stdout


def started_again(gateway: Gateway, kind: str, dead: int) -> bool:
    return gateway.processes().get(kind) not in (None, dead)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_it_always_comes_back_and_nothing_goes_in_clear(
    tmp_path: Path, seed: int
) -> None:
    """Daemon or data plane of either side, in the middle of whatever it does (B18, B20)."""
    chance = random.Random(seed)
    with pair(tmp_path, "trap") as both:
        traffic = Traffic(both.net.alice, ALICE, both.net.bob, BOB)
        assert traffic.wait_for(10, PATIENCE)
        for _ in range(4):
            gateway = chance.choice((both.moon, both.sun))
            kind = chance.choice(("daemon", "dataplane"))
            dead = gateway.processes()[kind]
            if chance.random() < 0.5:  # in the middle of a rekey
                both.moon.cygnet("rekey", "--child", "net")
            os.kill(dead, signal.SIGKILL)
            time.sleep(chance.random() * 0.3)  # how long after the kill the next thing happens
            until(partial(started_again, gateway, kind, dead), PATIENCE)
            before = traffic.echoed
            assert traffic.wait_for(before + 20, 20), both.moon.log() + both.sun.log()
        traffic.stop()


def test_clients_of_the_control_socket_cannot_hold_up_the_negotiation(tmp_path: Path) -> None:
    """Slow ones, ones that never read, half a packet, a length of 2 GB, initiations without end (B22)."""
    with pair(tmp_path) as both:
        clients = []
        for number in range(120):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(both.moon.socket))
            client.setblocking(False)
            clients.append(client)
            register = b"\x03\x03log"
            initiate = b"\x00\x08initiate\x03\x05child\x00\x03net"
            said = {
                0: len(register).to_bytes(4, "big") + register,
                1: b"\x00\x00\x00\x20half",
                2: b"\x7f\xff\xff\xff" + bytes(100),
                3: (len(initiate).to_bytes(4, "big") + initiate) * 20,
            }[number % 4]
            with suppress(BlockingIOError, BrokenPipeError):
                client.send(said)
        both.up()
        assert both.ping()
        with both.moon.session() as session:
            stats = session.request("daemon-stats")
        assert int(stats["lag-ms"]["p99"]) <= 200  # 20 on a machine that is not shared
        assert stats["escaped"] == {}
        for client in clients:
            client.close()
