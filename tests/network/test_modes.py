"""Transport mode, AH, bundles, IPComp and TFC between two data planes, under hand-made commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from bench.plane import Pair, Plane, Side
from cygnet.dataplane.descriptors import Options
from cygnet.lab.capture import Capture
from cygnet.lab.namespaces import Namespace, require
from cygnet.lab.topology import (
    BOB,
    BOB6,
    MOON,
    MOON6,
    MOON_NET,
    MOON_NET6,
    SUN,
    SUN6,
    SUN_NET,
    SUN_NET6,
    TwoGateways,
    two_gateways,
)
from cygnet.lab.transfer import MARKER
from cygnet.policy.sa import TFC_TO_MTU
from cygnet.wire.numbers import Integ
from tests.network.icmp import too_big

pytestmark = [pytest.mark.network, pytest.mark.timeout(180)]

NETWORKS = (MOON_NET, MOON_NET6), (SUN_NET, SUN_NET6)
HOSTS = {4: (Side(MOON, (MOON,)), Side(SUN, (SUN,))), 6: (Side(MOON6, (MOON6,)), Side(SUN6, (SUN6,)))}
AH = {
    "protocol": 51,
    "encryption": 0,
    "key_bits": 0,
    "encryption_key": b"",
    "integrity": Integ.HMAC_SHA2_256_128,
    "integrity_key": bytes(range(32)),
    "local_port": 0,
    "remote_port": 0,
}
TRANSPORT = {"mode": 2}


class Running:
    def __init__(self, network: TwoGateways, moon: Plane, sun: Plane, capture: Capture) -> None:
        self.network, self.moon, self.sun, self.capture = network, moon, sun, capture

    def drops(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for plane in (self.moon, self.sun):
            for pair in plane.counters().pairs:
                found |= pair.drops
        return found


@contextmanager
def running(*pairs: Pair, markers: bool = True) -> Iterator[Running]:
    """The first pair's policy, and the SAs of all in their order."""
    require()
    with two_gateways() as network:
        capture = Capture(
            *network.outer_link, protected=(*NETWORKS[0], *NETWORKS[1]), markers=(MARKER,) if markers else ()
        )
        try:
            with Plane(network.moon, Options()) as moon, Plane(network.sun, Options()) as sun:
                for plane, left in ((moon, True), (sun, False)):
                    plane.do(pairs[0].policy(left))
                for pair in pairs:
                    for direction in (0, 1):
                        for plane, left in ((moon, True), (sun, False)):
                            plane.do(pair.sa(left, direction))
                yield Running(network, moon, sun, capture)
        finally:
            capture.stop()


def ping(source: Namespace, destination: str, *options: str, count: int = 3) -> bool:
    done = source.run("ping", "-c", str(count), "-i", "0.05", "-W", "4", *options, destination, check=False)
    return done.returncode == 0 and f"{count} received" in done.stdout


def transfer(server_side: Namespace, client_side: Namespace, address: str, octets: int = 1 << 20) -> None:
    module = ("-m", "cygnet.lab.transfer")
    server = server_side.start(sys.executable, *module, "serve", address, "9000", str(octets))
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    fetched = client_side.run(sys.executable, *module, "fetch", address, "9000").stdout.split()
    assert fetched[:2] == server.stdout.readline().split()[:2]


@pytest.mark.parametrize(
    ("version", "port", "changed"),
    [
        (4, 0, TRANSPORT),
        (6, 0, TRANSPORT),
        (4, 4500, TRANSPORT),
        (6, 4500, TRANSPORT),
        (4, 0, TRANSPORT | {"ipcomp": 0x1001}),
        (4, 0, TRANSPORT | AH),
        (6, 0, TRANSPORT | AH | {"esn": True}),
    ],
    ids=["esp4", "esp6", "udp4", "udp6", "esp4-ipcomp", "ah4", "ah6-esn"],
)
def test_transport_mode_between_two_hosts(version: int, port: int, changed: dict[str, Any]) -> None:
    left, right = HOSTS[version]
    is_ah = changed.get("protocol") == 51
    with running(Pair(left, right, port=port, changed=changed), markers=not is_ah) as made:
        moon, sun = made.network.moon, made.network.sun
        assert ping(moon, right.outer)
        assert ping(sun, left.outer)
        assert ping(moon, right.outer, "-s", "4000")  # in fragments
        transfer(sun, moon, right.outer)
        assert made.drops() == {}
        seen = made.capture.stop()
        assert seen.clear == []
        assert seen.frames["ah" if is_ah else "esp"] > 100


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize(
    "changed",
    [AH, AH | {"esn": True}, {"ipcomp": 0x1001}, {"tfc_padding": TFC_TO_MTU, "dummy_interval": 0.5}],
    ids=["ah", "ah-esn", "ipcomp", "tfc"],
)
def test_tunnels_with_extras_carry_both_families(outer: int, changed: dict[str, Any]) -> None:
    left, right = HOSTS[outer]
    pair = Pair(replace(left, inner=NETWORKS[0]), replace(right, inner=NETWORKS[1]), port=0, changed=changed)
    is_ah = "protocol" in changed
    with running(pair, markers=not is_ah) as made:
        alice = made.network.alice
        assert ping(alice, BOB)
        assert ping(alice, BOB6)
        assert ping(alice, BOB, "-s", "4000")
        transfer(made.network.bob, alice, BOB)
        assert set(made.drops()) <= {"dummy"}
        seen = made.capture.stop()
        assert seen.clear == []
        assert seen.frames["ah" if is_ah else "esp"] > 100


def test_a_bundle_shows_ah_around_esp() -> None:
    left, right = HOSTS[4]
    esp = Pair(
        replace(left, inner=NETWORKS[0]), replace(right, inner=NETWORKS[1]), port=0, changed={"bundle": 2}
    )
    ah = Pair(left, right, number=2, changed=AH | TRANSPORT | {"bundle": 1})
    require()
    with two_gateways() as network:
        capture = Capture(*network.outer_link, protected=(*NETWORKS[0], *NETWORKS[1]), markers=(MARKER,))
        with Plane(network.moon, Options()) as moon, Plane(network.sun, Options()) as sun:
            for plane, is_left in ((moon, True), (sun, False)):
                plane.do(esp.policy(is_left))
            for pair in (ah, esp):
                for direction in (0, 1):
                    for plane, is_left in ((moon, True), (sun, False)):
                        plane.do(pair.sa(is_left, direction))
            assert ping(network.alice, BOB)
            transfer(network.bob, network.alice, BOB)
            assert all(pair.drops == {} for plane in (moon, sun) for pair in plane.counters().pairs)
        seen = capture.stop()
        assert seen.clear == []
        assert seen.frames["esp"] == 0
        assert seen.frames["ah"] > 100


MARKED = """
table inet marked {
    chain out {
        type filter hook postrouting priority 0
        meta mark & 0xffff == 7 counter
    }
}
"""


@pytest.mark.parametrize("transport", [True, False])
def test_sealed_packets_carry_the_mark_that_is_configured(transport: bool) -> None:
    left, right = HOSTS[4]
    changed = {"mark": 7} | (TRANSPORT if transport else {})
    if not transport:
        left, right = replace(left, inner=NETWORKS[0]), replace(right, inner=NETWORKS[1])
    with running(Pair(left, right, port=0, changed=changed)) as made:
        moon = made.network.moon
        moon.run("nft", "-f", "-", stdin=MARKED)
        assert ping(moon if transport else made.network.alice, SUN if transport else BOB)
        assert "packets 3 " in moon.run("nft", "list", "table", "inet", "marked").stdout
        assert made.drops() == {}


@pytest.mark.parametrize("changed", [AH, TRANSPORT | AH, TRANSPORT], ids=["tunnel", "ah", "esp"])
def test_a_path_that_grows_narrow_is_found_by_ah_and_transport_mode(changed: dict[str, Any]) -> None:
    left, right = HOSTS[4]
    if "mode" not in changed:
        left, right = replace(left, inner=NETWORKS[0]), replace(right, inner=NETWORKS[1])
    with running(Pair(left, right, port=0, changed=changed), markers=False) as made:
        moon = made.network.moon
        source, target = (moon, SUN) if "mode" in changed else (made.network.alice, BOB)
        assert ping(source, target, "-s", "1300", count=1)
        protocol = changed.get("protocol", 50)
        spi = (0x10000 + 256 + 1).to_bytes(4, "big")
        quoted = spi + bytes(4) if protocol == 50 else bytes((4, 4, 0, 0)) + spi
        too_big(made.network.sun, MOON, SUN, 1000, quoted, protocol)
        ping(source, target, "-s", "1300", count=2)  # may be answered with "too big"
        assert ping(source, target, "-s", "1300")
        transfer(made.network.sun if "mode" in changed else made.network.bob, source, target, 200_000)
        assert set(made.drops()) <= {"too_big"}


def test_what_transport_mode_protects_never_leaves_in_clear_without_an_sa() -> None:
    left, right = HOSTS[4]
    require()
    pair = Pair(left, right, port=0, changed=TRANSPORT)
    with two_gateways() as network:
        capture = Capture(*network.outer_link, protected=(f"{SUN}/32",))
        with Plane(network.moon, Options()) as moon:
            moon.do(pair.policy(True))
            assert not ping(network.moon, SUN, count=2)
            moon.do(pair.sa(True, 0))
            moon.do(pair.sa(True, 1))
            moon.kill()
            assert not ping(network.moon, SUN, count=2)
        seen = capture.stop()
        assert [frame for frame in seen.clear if frame[12:14] == b"\x08\x00"] == []
