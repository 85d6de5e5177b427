"""Two daemons with AH, transport mode, IPComp, route-based and manual children: from words to packets."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import ALICE, BOB, MOON, MOON_NET, SUN, SUN_NET
from cygnet.lab.transfer import MARKER
from tests.network.gateways import two
from tests.network.test_modes import transfer
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(180)]

DOCS = Path(__file__).parents[2] / "docs"
KEYS = """
esp_proposals = "aes128-sha256"
manual = {{ spi_in = {0}, spi_out = {1}, encryption_key_in = "0x{2}", integrity_key_in = "0x{3}",\
 encryption_key_out = "0x{4}", integrity_key_out = "0x{5}" }}
"""


def child(settings: str, local: str = "", remote: str = "") -> str:
    selectors = f'local_ts = "{local}"\nremote_ts = "{remote}"\n' if local else ""
    return f"[connections.gw.children.net]\n{selectors}{settings}\n"


def nets(settings: str) -> tuple[str, str]:
    return child(settings, MOON_NET, SUN_NET), child(settings, SUN_NET, MOON_NET)


def ping(source: Namespace, destination: str, *options: str, count: int = 3) -> bool:
    done = source.run("ping", "-c", str(count), "-i", "0.05", "-W", "4", *options, destination, check=False)
    return done.returncode == 0 and f"{count} received" in done.stdout


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        ('mode = "transport"', "esp"),
        ('mode = "transport"\nah_proposals = "sha256-esn"', "ah"),
        ('mode = "transport"\nipcomp = true\nesp_proposals = "camellia256-sha384"', "esp"),
    ],
    ids=["esp", "ah", "ipcomp-camellia"],
)
def test_two_hosts_in_transport_mode(tmp_path: Path, settings: str, frames: str) -> None:
    with two(tmp_path, child(settings), child(settings)) as pair:
        pair.up("net")
        until(lambda: ping(pair.net.moon, SUN, "-s", "2000"), 20, "answers")
        pair.rekey("net")
        assert ping(pair.net.sun, MOON)
        (up,) = pair.children()
        assert up["mode"] == "TRANSPORT"
        assert up["protocol"] == frames.upper()
        status = pair.moon.cygnet("status").stdout
        assert "transport" in status.lower()
        assert pair.capture.stop().frames[frames] >= 12


def recipe(heading: str) -> tuple[str, list[str]]:
    """What stands in docs/dataplane.md under this heading: the child's settings, and the commands."""
    section = (DOCS / "dataplane.md").read_text().partition(f"### {heading}\n")[2].partition("\n### ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    settings = [line for line in lines if " = " in line]
    return "\n".join(settings), [line.removeprefix("ip ") for line in lines if line.startswith("ip ")]


def test_vxlan_runs_over_transport_mode_as_the_manual_has_it(tmp_path: Path) -> None:
    settings, commands = recipe("Tunnels over transport mode")
    assert (MOON, SUN) == ("192.0.2.1", "192.0.2.2")  # as the manual's
    with two(tmp_path, child(settings), child(settings), markers=(MARKER,)) as pair:
        turned = [c.replace(f"local {MOON} remote {SUN}", f"local {SUN} remote {MOON}") for c in commands]
        for side, given, address in ((pair.net.moon, commands, "1"), (pair.net.sun, turned, "2")):
            side.ip(*given, f"addr add 172.16.9.{address}/24 dev vx0")
        until(lambda: ping(pair.net.moon, "172.16.9.2", count=1), 30, "an answer")
        assert ping(pair.net.sun, "172.16.9.1", "-s", "4000")
        transfer(pair.net.sun, pair.net.moon, "172.16.9.2")  # watched: none of it in clear
        (up,) = pair.children()
        assert up["mode"] == "TRANSPORT"
        assert int(up["packets-out"]) >= 100


def test_transport_mode_behind_a_nat(tmp_path: Path) -> None:
    with two(tmp_path, child('mode = "transport"'), child('mode = "transport"'), nat=True) as pair:
        pair.up("net")
        assert ping(pair.net.moon, SUN, "-s", "2000")
        # TCP, whose checksums the NAT has made wrong (RFC 3948, section 3.1.2).
        server = pair.net.sun.start("python3", "-c", SERVER)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        client = pair.net.moon.run("python3", "-c", CLIENT)
        assert client.stdout.strip() == "through the NAT" * 1000


SERVER = """
import socket
s = socket.create_server(("0.0.0.0", 9100)); print("ready", flush=True)
c, _ = s.accept(); c.sendall(b"through the NAT" * 1000); c.close()
"""
CLIENT = f"""
import socket
c = socket.create_connection(("{SUN}", 9100), 20); data = b""
while part := c.recv(65536): data += part
print(data.decode())
"""


def test_ah_tunnels_and_says_so(tmp_path: Path) -> None:
    with two(tmp_path, *nets('ah_proposals = "sha384"')) as pair:
        pair.up("net")
        assert ping(pair.net.alice, BOB)
        seen = pair.capture.stop()
        assert seen.frames["ah"] >= 6
        assert seen.frames["esp"] == 0


def test_a_route_based_child_owns_its_device(tmp_path: Path) -> None:
    everything = child("if_id_in = 7\nif_id_out = 7", "0.0.0.0/0", "0.0.0.0/0")
    with two(tmp_path, everything, everything) as pair:
        pair.up("net")
        for side, network in ((pair.net.moon, SUN_NET), (pair.net.sun, MOON_NET)):
            assert "cygnet7" in side.run("ip", "link").stdout
            side.ip(f"route add {network} dev cygnet7")
        assert ping(pair.net.alice, BOB)
        counted = pair.ask(pair.moon, "daemon-stats")["interfaces"]["cygnet7"]
        assert int(counted["packets-in"]) >= 3
        assert int(counted["packets-out"]) >= 3
        pair.ask(pair.moon, "unload-conn", name="gw")
        until(lambda: "cygnet7" not in pair.net.moon.run("ip", "link").stdout, 10)


def test_manual_keys_carry_traffic_without_a_message_and_over_restarts(tmp_path: Path) -> None:
    a, b, c, d = "11" * 16, "22" * 32, "33" * 16, "44" * 32
    moon = child(KEYS.format(4097, 4098, a, b, c, d), MOON_NET, SUN_NET)
    sun = child(KEYS.format(4098, 4097, c, d, a, b), SUN_NET, MOON_NET)
    with two(tmp_path, moon, sun) as pair:
        assert ping(pair.net.alice, BOB)
        ((told,),) = [sa["child-sas"].values() for sa in pair.moon.sas()]
        assert (told["state"], told["spi-in"]) == ("INSTALLED", "00001001")
        assert int(told["packets-out"]) >= 1
        pair.moon.stop()
        pair.moon.start()
        assert ping(pair.net.bob, ALICE)
        seen = pair.capture.stop()
        assert seen.frames["ike"] == 0
        assert seen.frames["esp"] >= 12
