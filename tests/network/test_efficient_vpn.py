"""Efficient VPN's three modes over IKEv1 (aggressive mode, XAUTH, mode config), with a host behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cygnet.lab.capture import Capture
from cygnet.lab.gateway import Gateway
from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import ALICE, BOB, MOON, MOON_NET, SUN, SUN_NET, TwoGateways, two_gateways
from tests.userspace import USERSPACE
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]

SECRET, PASSWORD = "a-secret-of-the-group-that-is-long-enough", "open sesame, please"
COMMON = """
version = 1
aggressive = true
proposals = "aes256-sha256-x25519"
"""
OPTIONS = f"""
[options]
engine = "{USERSPACE}"
retransmit_timeout = "0.5s"
retransmit_tries = 3
resolver = "none"
i_dont_care_about_security_and_use_aggressive_mode_psk = true
"""
CLIENT = f"""
[connections.office]
local_addrs = "{MOON}"
remote_addrs = "{SUN}"
{COMMON}
{{connection}}
[connections.office.local-1]
auth = "psk"
id = "branch"
[connections.office.local-2]
auth = "xauth"
xauth_id = "joe"
[connections.office.remote]
auth = "psk"
id = "office"
{{children}}
[secrets.ike-1]
secret = "{SECRET}"
[secrets.xauth-1]
id = "joe"
secret = "{PASSWORD}"
{OPTIONS}
"""
SERVER = f"""
[connections.clients]
local_addrs = "{SUN}"
{COMMON}
{{connection}}
[connections.clients.local]
auth = "psk"
id = "office"
[connections.clients.remote-1]
auth = "psk"
id = "branch"
[connections.clients.remote-2]
auth = "xauth"
{{children}}
[secrets.ike-1]
secret = "{SECRET}"
[secrets.xauth-1]
id = "joe"
secret = "{PASSWORD}"
[pools.road]
addrs = "10.3.0.0/24"
{OPTIONS}
"""
POOL, VIP = 'pools = ["road"]', 'vips = ["0.0.0.0"]'
BRANCH = "[connections.{0}.children.net]\n{1}_ts = ['" + MOON_NET + "']\n{2}_ts = ['" + SUN_NET + "']\n"
MANAGEMENT = "[connections.{0}.children.mgmt]\n{1}_ts = ['" + SUN_NET + "']\n"
SEES = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7070))
print("ready", flush=True)
print(s.recvfrom(100)[1][0], flush=True)
"""
SENDS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(5):
    s.sendto(b"x", ("{}", 7070))
"""


@dataclass
class Branch:
    """moon is the branch's gateway, alice a host behind it; sun is the office's, bob a host there."""

    net: TwoGateways
    client: Gateway
    server: Gateway

    def up(self, child: str) -> None:
        done = self.client.cygnet("up", child)
        logs = f"client:\n{self.client.log()[-3000:]}\nserver:\n{self.server.log()[-3000:]}"
        assert done.returncode == 0, done.stdout + done.stderr + logs

    def pings(self, source: Namespace, target: str) -> bool:
        done = source.run("ping", "-c", "3", "-i", "0.2", "-W", "3", target, check=False)
        return done.returncode == 0

    def seen_from(self, source: Namespace) -> str:
        """The address that bob sees when `source` speaks to it."""
        server = self.net.bob.start("python3", "-c", SEES)
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
        source.run("python3", "-c", SENDS.format(BOB))
        return server.stdout.readline().strip()


@contextmanager
def branch(directory: Path, client: tuple[str, str], server: tuple[str, str]) -> Iterator[Branch]:
    """(connection, children) of each side. Nothing protected may be seen outside."""
    with ExitStack() as stack:
        net = stack.enter_context(two_gateways())
        capture = Capture(
            *net.outer_link, protected=(MOON_NET, SUN_NET), markers=(SECRET.encode(), PASSWORD.encode())
        )
        stack.callback(capture.stop)
        gateways = [
            Gateway(space, directory / side, text.format(connection=one[0], children=one[1]), start=False)
            for space, side, text, one in (
                (net.moon, "moon", CLIENT, client),
                (net.sun, "sun", SERVER, server),
            )
        ]
        for gateway in gateways:
            stack.callback(gateway.stop)
            gateway.start(wait=False)
        for gateway in gateways:
            gateway.wait_until_ready()
        yield Branch(net, *gateways)
        seen = capture.stop()
        assert not seen.clear, f"in clear on the outer link: {seen.clear[0].hex()}"


def test_client_mode_translates_the_hosts_behind_it_to_its_leased_address(tmp_path: Path) -> None:
    with branch(
        tmp_path,
        (f'{VIP}\ntranslate = ["{MOON_NET}"]', MANAGEMENT.format("office", "remote")),
        (POOL, MANAGEMENT.format("clients", "local")),
    ) as made:
        made.up("mgmt")
        assert made.pings(made.net.alice, BOB)
        assert made.pings(made.net.moon, BOB)
        assert made.seen_from(made.net.alice) == "10.3.0.1"
        assert made.seen_from(made.net.moon) == "10.3.0.1"
        assert made.client.cygnet("down", "office").returncode == 0
        until(lambda: "cygnet_nat" not in made.net.moon.run("nft", "list", "tables").stdout, 10, "no table")


def test_network_mode_protects_the_inner_network_as_it_is_without_a_lease(tmp_path: Path) -> None:
    with branch(
        tmp_path,
        ("", BRANCH.format("office", "local", "remote")),
        ("", BRANCH.format("clients", "remote", "local")),
    ) as made:
        made.up("net")
        assert made.pings(made.net.alice, BOB)
        assert made.pings(made.net.bob, ALICE)
        assert made.seen_from(made.net.alice) == ALICE
        assert "remote-vips" not in made.server.sas()[0]


def test_network_plus_mode_does_both_and_the_lease_is_for_management(tmp_path: Path) -> None:
    with branch(
        tmp_path,
        (VIP, MANAGEMENT.format("office", "remote") + BRANCH.format("office", "local", "remote")),
        (POOL, MANAGEMENT.format("clients", "local") + BRANCH.format("clients", "remote", "local")),
    ) as made:
        made.up("mgmt")
        made.up("net")
        assert made.seen_from(made.net.alice) == ALICE
        assert made.pings(made.net.bob, ALICE)
        assert made.pings(made.net.bob, "10.3.0.1")
        (sa,) = made.server.sas()
        assert sa["remote-vips"] == ["10.3.0.1"]
        assert sa["remote-xauth-id"] == "joe"
        assert len(sa["child-sas"]) == 2
