"""A client's virtual address between two Cygnets: packets, a full tunnel, every process killed in turn."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cygnet.lab.capture import Capture
from cygnet.lab.gateway import Gateway
from cygnet.lab.topology import BOB, BOB6, MOON, SUN, SUN_NET, SUN_NET6, TwoGateways, two_gateways
from tests.userspace import USERSPACE
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]

SECRET = "a-secret-that-must-not-be-seen-0123456789"
COMMON = """
proposals = "aes256gcm16-prfsha384-x25519"
dpd_delay = "2s"
[connections.gw.local]
auth = "psk"
id = "{me}"
[connections.gw.remote]
auth = "psk"
id = "{peer}"
[connections.gw.children.net]
{child}
[secrets.ike-1]
secret = "{secret}"
[options]
engine = "{engine}"
retransmit_timeout = "0.5s"
retransmit_tries = 3
"""
CLIENT = (
    f'[connections.gw]\nlocal_addrs = "{MOON}"\nremote_addrs = "{SUN}"\nvips = ["0.0.0.0", "::"]\n'
    + COMMON
    + 'resolver = "{resolver}"\n'
)
SERVER = (
    f'[connections.gw]\nlocal_addrs = "{SUN}"\npools = ["four", "six"]\n'
    + COMMON
    + """
[pools.four]
addrs = "10.3.0.0/24"
dns = "10.2.0.10"
[pools.six]
addrs = "fd03::/112"
"""
)
OWN = "192.0.2.53"


@dataclass
class Office:
    """moon is a client alone, sun its gateway, bob a host behind that."""

    net: TwoGateways
    client: Gateway
    server: Gateway
    resolver: Path

    def servers(self) -> list[str]:
        lines = self.resolver.read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("nameserver")]

    def addresses(self) -> str:
        return self.net.moon.run("ip", "-o", "addr").stdout

    def pings(self, *targets: str) -> bool:
        return all(
            self.net.moon.run("ping", "-c", "2", "-i", "0.2", "-W", "2", one, check=False).returncode == 0
            for one in targets
        )

    def is_up(self) -> bool:
        """Whether the client speaks from its address."""
        return any(sa.get("local-vips") and sa.get("child-sas") for sa in self.client.sas())

    def logs(self) -> str:
        return f"client:\n{self.client.log()[-3000:]}\nserver:\n{self.server.log()[-3000:]}"


@contextmanager
def office(
    directory: Path, *, net_behind: str = f'"{SUN_NET}", "{SUN_NET6}"', client_child: str = ""
) -> Iterator[Office]:
    resolver = directory / "resolv.conf"
    resolver.write_text(f"nameserver {OWN}\n")
    with ExitStack() as stack:
        net = stack.enter_context(two_gateways())
        capture = Capture(*net.outer_link, protected=(SUN_NET, SUN_NET6), markers=(SECRET.encode(),))
        stack.callback(capture.stop)
        common = {"secret": SECRET, "engine": USERSPACE}
        client_text = CLIENT.format(
            **common,
            me="moon.example",
            peer="sun.example",
            child=f"remote_ts = [{net_behind}]\n{client_child}",
            resolver=resolver,
        )
        server_text = SERVER.format(
            **common, me="sun.example", peer="moon.example", child=f"local_ts = [{net_behind}]"
        )
        client = Gateway(net.moon, directory / "moon", client_text, start=False)
        server = Gateway(net.sun, directory / "sun", server_text, start=False)
        for gateway in (server, client):
            stack.callback(gateway.stop)
            gateway.start(wait=False)
        for gateway in (server, client):
            gateway.wait_until_ready()
        yield Office(net, client, server, resolver)
        seen = capture.stop()
        assert not seen.clear, f"in clear on the outer link: {seen.clear[0].hex()}"


def up(made: Office) -> None:
    done = made.client.cygnet("up", "net")
    assert done.returncode == 0, done.stdout + done.stderr + made.logs()


def test_a_client_speaks_from_its_address_and_is_as_before_when_it_is_stopped(tmp_path: Path) -> None:
    with office(tmp_path) as made:
        up(made)
        assert made.pings(BOB, BOB6), made.logs()
        assert "virtual 10.3.0.1" in made.client.cygnet("status").stdout
        assert "leased 10.3.0.1" in made.server.cygnet("status").stdout
        assert made.servers() == ["10.2.0.10", OWN]
        made.client.stop()
        assert made.servers() == [OWN]
        assert "10.3.0.1" not in made.addresses()


def test_a_full_tunnel_takes_all_that_this_host_sends(tmp_path: Path) -> None:
    with office(tmp_path, net_behind='"0.0.0.0/0", "::/0"') as made:
        up(made)
        assert made.pings(BOB, BOB6), made.logs()
        route = made.net.moon.run("ip", "route", "get", "203.0.113.9").stdout
        assert "dev cygnet0" in route
        assert "src 10.3.0.1" in route
        assert made.client.cygnet("down", "gw").returncode == 0
        until(lambda: "10.3.0.1" not in made.addresses(), 10, "the address is gone")
        # What people bring up when they want it gives the network back.
        assert "dev outer" in made.net.moon.run("ip", "route", "get", "203.0.113.9").stdout


def test_what_is_always_to_be_up_lets_nothing_leave_from_other_addresses(tmp_path: Path) -> None:
    """A full tunnel that is up: IKE and ESP pass, this host talks to itself, and what is sent from its outer
    address stays here; the capture sees whether."""
    with office(tmp_path, net_behind='"0.0.0.0/0", "::/0"', client_child='start_action = "start"') as made:
        until(made.is_up, 30, "a tunnel")
        moon = made.net.moon
        until(lambda: made.pings(BOB, BOB6), 20, "traffic")
        for target in (BOB, SUN):
            assert moon.run("ping", "-c", "2", "-W", "1", "-I", MOON, target, check=False).returncode != 0
        assert moon.run("ping", "-c", "1", "-W", "2", "127.0.0.1", check=False).returncode == 0
        assert moon.run("ping", "-c", "1", "-W", "2", MOON, check=False).returncode == 0
        assert made.client.cygnet("rekey", "gw").returncode == 0, made.logs()
        until(lambda: made.pings(BOB), 20, "traffic after the rekey")


def test_a_client_whose_daemon_is_killed_keeps_its_address_and_its_traffic(tmp_path: Path) -> None:
    with office(tmp_path, client_child='start_action = "start"') as made:
        until(made.is_up, 30, "a tunnel")
        assert made.pings(BOB), made.logs()
        os.kill(made.client.processes()["daemon"], signal.SIGKILL)
        assert "10.3.0.1" in made.addresses()
        assert made.pings(BOB), made.logs()
        until(made.client.sas, 20, "a new IKE SA")
        until(made.is_up, 30, "the new one")
        assert made.pings(BOB, BOB6), made.logs()
        assert made.client.sas()[-1]["local-vips"] == ["10.3.0.1", "fd03::1"]


def test_a_client_whose_data_plane_is_killed_has_everything_again(tmp_path: Path) -> None:
    with office(tmp_path, client_child='start_action = "start"') as made:
        until(made.is_up, 30, "a tunnel")
        assert made.pings(BOB), made.logs()
        os.kill(made.client.processes()["dataplane"], signal.SIGKILL)
        until(lambda: made.pings(BOB, BOB6), 30, "traffic again")
        assert made.servers() == ["10.2.0.10", OWN]
        assert "10.3.0.1" in made.addresses()


def test_what_a_killed_client_left_in_the_resolver_is_taken_back(tmp_path: Path) -> None:
    with office(tmp_path) as made:
        up(made)
        children = made.client.processes().values()
        made.client.stop(kill=True)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 20, "its processes end")
        made.client.start()
        assert made.servers() == [OWN]
        assert "10.3.0.1" not in made.addresses()
        up(made)
        # The server knows the client by its name.
        assert "10.3.0.1" in made.addresses()


def test_a_server_whose_daemon_is_killed_leases_the_same_again(tmp_path: Path) -> None:
    with office(tmp_path, client_child='start_action = "start"\ndpd_action = "start"') as made:
        until(made.is_up, 30, "a tunnel")
        assert made.pings(BOB), made.logs()
        os.kill(made.server.processes()["daemon"], signal.SIGKILL)
        leased = ["10.3.0.1", "fd03::1"]
        back = lambda: [sa.get("remote-vips") for sa in made.server.sas()] == [leased]  # noqa: E731
        until(back, 40, "the client is back with the same addresses")
        until(lambda: made.pings(BOB, BOB6), 20, "traffic again")
