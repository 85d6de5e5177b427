"""What a critical first user found, one test each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from cygnet.lab.gateway import CYGNET
from cygnet.lab.topology import ALICE, BOB, two_gateways
from cygnet.lab.traffic import Traffic
from tests.network.gateways import NET, NET_AT_SUN, configuration, two
from tests.waiting import until

pytestmark = pytest.mark.network
TRAP = 'start_action = "trap"\n'


def test_a_gateway_whose_guard_cannot_be_put_up_does_not_start(tmp_path: Path) -> None:
    refusing = tmp_path / "bin" / "nft"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\necho refused >&2\nexit 1\n")
    refusing.chmod(0o755)
    with two_gateways() as net:
        file = tmp_path / "cygnet.toml"
        file.touch(mode=0o600)
        file.write_text(configuration(net, "moon", NET + TRAP))
        started = subprocess.run(
            net.moon.argv([*CYGNET, "run", str(file), "--socket", str(tmp_path / "cygnet.vici")]),
            env={**os.environ, "PATH": f"{refusing.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert started.returncode == 1
        assert "is not in force" in started.stderr
        assert not (tmp_path / "cygnet.vici").exists()


def test_a_gateway_that_stops_under_traffic_leaves_nothing_up_at_its_peer(tmp_path: Path) -> None:
    with two(tmp_path, NET + TRAP, NET_AT_SUN) as pair:
        traffic = Traffic(pair.net.alice, ALICE, pair.net.bob, BOB, 0.005)
        try:
            assert traffic.wait_for(20, 20)
            pair.moon.stop()
            until(lambda: not pair.sun.sas(), 10, "sun without SAs")
        finally:
            traffic.stop()
        assert not pair.sun.sas()


def test_overlapping_children_in_other_orders_on_the_two_sides_carry_traffic(tmp_path: Path) -> None:
    def child(name: str, local: str, remote: str) -> str:
        return (
            f'[connections.gw.children.{name}]\nlocal_ts = "{local}"\nremote_ts = "{remote}"\n'
            'start_action = "trap"\n'
        )

    wide, narrow = ("10.1.0.0/16", "10.2.0.0/16"), ("10.1.0.0/24", "10.2.0.0/24")
    moon = child("wide", *wide) + child("narrow", *narrow)
    sun = child("narrow", *narrow[::-1]) + child("wide", *wide[::-1])
    with two(tmp_path, moon, sun) as pair:
        traffic = Traffic(pair.net.alice, ALICE, pair.net.bob, BOB, 0.01)
        try:
            assert traffic.wait_for(30, 20)
        finally:
            traffic.stop()


def test_what_was_loaded_since_the_start_is_in_force_again_after_the_daemons_death(tmp_path: Path) -> None:
    """Of two connections one is in the file, the other comes through the control socket; then it is changed,
    and the one of the file unloaded. Three daemons die."""
    gone = NET + '[connections.gone]\nremote_addrs = "192.0.2.99"\nlocal = { auth = "psk" }\n'
    gone += 'remote = { auth = "psk" }\n[connections.gone.children.gone]\nremote_ts = "10.77.0.0/16"\n'
    with two(tmp_path, gone, NET_AT_SUN) as pair:

        def die() -> None:
            dead = pair.moon.processes()["daemon"]
            os.kill(dead, signal.SIGKILL)
            until(lambda: pair.moon.processes().get("daemon", dead) != dead, 30, "a new daemon")
            pair.moon.wait_until_ready()

        # As `cygnet reload` and `swanctl --load-all` do; the supervisor's configuration stays the former.
        pair.moon.configure(configuration(pair.net, "moon", NET + TRAP))
        assert pair.moon.cygnet("reload", str(pair.moon.file)).returncode == 0
        assert pair.ask(pair.moon, "get-conns")["conns"] == ["gw"]
        traffic = Traffic(pair.net.alice, ALICE, pair.net.bob, BOB, 0.01)
        assert traffic.wait_for(30, 20)
        for _ in range(2):
            die()
            assert pair.ask(pair.moon, "get-conns")["conns"] == ["gw"]
            assert pair.ask(pair.moon, "get-shared")["keys"] == ["ike-1"]
            assert traffic.wait_for(traffic.echoed + 30, 30), pair.logs()
        traffic.stop()
        pair.ask(pair.moon, "unload-shared", id="ike-1")
        pair.moon.configure(configuration(pair.net, "moon", NET + TRAP) + "broken")
        os.kill(pair.moon.pid, signal.SIGHUP)
        until(lambda: "the configuration stays as it was" in pair.moon.log(), 30, "the refusal")
        die()
        assert pair.ask(pair.moon, "get-shared")["keys"] == []
        assert pair.ask(pair.moon, "get-conns")["conns"] == ["gw"]


def test_traffic_still_asks_for_a_tunnel_after_its_child_was_changed(tmp_path: Path) -> None:
    with two(tmp_path, NET + TRAP, NET_AT_SUN) as pair:
        pair.moon.configure(configuration(pair.net, "moon", NET + TRAP + 'rekey_time = "50m"\n'))
        assert pair.moon.cygnet("reload", str(pair.moon.file)).returncode == 0
        traffic = Traffic(pair.net.alice, ALICE, pair.net.bob, BOB, 0.01)
        try:
            assert traffic.wait_for(30, 20), pair.logs()
        finally:
            traffic.stop()


def test_what_a_stopped_gateway_protects_stays_until_it_is_cleared(tmp_path: Path) -> None:
    with two(tmp_path, NET + TRAP, NET_AT_SUN) as pair:
        # Inside: elsewhere it would clear the wrong machine.
        command = pair.net.moon.argv([*CYGNET, "clear", "--socket", str(pair.moon.socket)])
        clear = partial(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        refused = clear()
        assert refused.returncode == 1
        assert "a Cygnet answers" in refused.stderr
        pair.moon.stop()

        def left() -> str:
            shown = [("nft", "list", "tables"), ("ip", "rule"), ("ip", "route", "show", "table", "all")]
            return "".join(pair.net.moon.run(*command).stdout for command in shown)

        assert "inet cygnet" in left()
        assert "unreachable 10.2.0.0/16" in left()
        done = clear()
        assert done.returncode == 0, done.stderr
        assert "cygnet" not in left()
        assert "unreachable 10.2.0.0/16" not in left()
        assert "lookup 17273" not in left()
