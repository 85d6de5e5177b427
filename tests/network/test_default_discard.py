"""`default_action = "discard"`: what no policy names does not pass, in any direction; the tunnel does, and
what a path says of its MTU."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import ALICE, ALICE6, BOB, BOB6, MOON, MOON_NET, MOON_NET6, SUN, SUN_NET, SUN_NET6
from tests.network.gateways import Two, two
from tests.network.icmp import too_big, udp_esp
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]

DISCARD = 'default_action = "discard"'
MOON_NETS, SUN_NETS = f'["{MOON_NET}", "{MOON_NET6}"]', f'["{SUN_NET}", "{SUN_NET6}"]'
NETS = "[connections.gw.children.net]\nlocal_ts = {}\nremote_ts = {}\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    directory = tmp_path_factory.mktemp("discard")
    moon, sun = NETS.format(MOON_NETS, SUN_NETS), NETS.format(SUN_NETS, MOON_NETS)
    with two(directory, moon, sun, options=DISCARD) as made:
        made.up("net")
        until(lambda: answers(made.net.alice, BOB), 20, "an answer through the tunnel")
        yield made


def answers(source: Namespace, target: str) -> bool:
    return source.run("ping", "-c", "1", "-W", "1", target, check=False).returncode == 0


def test_by_default_discard_only_the_tunnel_passes(pair: Two) -> None:
    until(lambda: answers(pair.net.bob, ALICE), 10, "an answer through the tunnel")
    assert not answers(pair.net.moon, SUN)
    assert not answers(pair.net.sun, MOON)
    assert not answers(pair.net.alice, SUN)
    assert answers(pair.net.moon, "127.0.0.1")


def test_by_default_discard_a_host_inside_is_told_what_fits_the_tunnel(pair: Two) -> None:
    def told() -> bool:
        said = pair.net.alice.run("ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1450", BOB, check=False)
        return "mtu" in said.stdout + said.stderr

    until(told, 10, "fragmentation needed from the gateway")
    receiver = pair.net.bob.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    sender = pair.net.alice.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    with receiver, sender:
        receiver.bind((BOB6, 7100))
        receiver.settimeout(0.2)
        sender.bind((ALICE6, 0))

        def arrived() -> bool:
            sender.sendto(bytes(1440), (BOB6, 7100))
            try:
                return len(receiver.recv(2000)) == 1440
            except TimeoutError:
                return False

        until(arrived, 10, "IPv6 in fragments of the size that the gateway told")


def test_by_default_discard_the_gateway_hears_of_the_path_of_its_sealed_packets_alone(pair: Two) -> None:
    (child,) = pair.children()

    def mtu() -> int:
        return int(pair.net.moon.run("ip", "link", "show", "cygnet0").stdout.split(" mtu ")[1].split()[0])

    def unproven() -> int:
        return pair.drops(pair.moon).get("icmp_unproven", 0)

    before, inside = unproven(), mtu()
    too_big(pair.net.sun, MOON, SUN, 1300, udp_esp(int(child["spi-out"], 16), port=4501))
    too_big(pair.net.sun, MOON, SUN, 1300, bytes(20), protocol=socket.IPPROTO_TCP)
    too_big(pair.net.sun, MOON, SUN, 1300, udp_esp(1))
    until(lambda: unproven() == before + 1, 10, "the one about a sealed packet")
    assert mtu() == inside
    too_big(pair.net.sun, MOON, SUN, 1300, udp_esp(int(child["spi-out"], 16)))
    until(lambda: mtu() < inside - 100, 10, "an MTU that fits the path")
