"""The data plane process in namespaces under hand-made commands: real TUN and sockets, outer link watched."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from bench.plane import Pair, Plane, Side, install, packed, selector
from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines import native_available
from cygnet.ipsec.drops import Drop
from cygnet.lab.capture import Capture, Seen
from cygnet.lab.namespaces import Namespace, require
from cygnet.lab.topology import (
    ALICE,
    BOB,
    BOB6,
    MOON,
    MOON6,
    MOON_NET,
    MOON_NET6,
    OUTER,
    SUN,
    SUN6,
    SUN_NET,
    SUN_NET6,
    TwoGateways,
    two_gateways,
)
from cygnet.lab.traffic import Traffic
from cygnet.lab.transfer import MARKER
from cygnet.wire.numbers import Encr, Integ
from tests.network.icmp import too_big, udp_esp
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]

PROTECTED = (MOON_NET, SUN_NET, MOON_NET6, SUN_NET6)
BOTH = Pair(Side(MOON, (MOON_NET, MOON_NET6)), Side(SUN, (SUN_NET, SUN_NET6)))


ENGINES: list[str] = []
"""The last one is the one under test."""


@pytest.fixture(autouse=True, params=["portable", "native"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """All of this holds for either engine."""
    if request.param == "native" and not native_available():
        pytest.skip("the native engine was not built: no Rust toolchain")
    ENGINES.append(request.param)
    yield request.param
    ENGINES.pop()


class Tunnel:
    """Two data planes on moon and sun, and what the outer link showed."""

    def __init__(self, network: TwoGateways, pair: Pair, options: Options) -> None:
        self.network, self.pair = network, pair
        self.capture = Capture(*network.outer_link, protected=PROTECTED, markers=(MARKER,))
        self._seen: Seen | None = None
        self.moon = Plane(network.moon, options)
        self.sun = Plane(network.sun, options)

    def install(self, **changed: Any) -> None:
        install(self.moon, self.sun, self.pair, **changed)

    def seen(self) -> Seen:
        """The capture ends at the first call."""
        if self._seen is None:
            self._seen = self.capture.stop()
        return self._seen


@contextmanager
def tunnel(pair: Pair = BOTH, options: Options | None = None, **changed: Any) -> Iterator[Tunnel]:
    require()
    with two_gateways() as network:
        made = Tunnel(network, pair, msgspec.structs.replace(options or Options(), engine=ENGINES[-1]))
        try:
            with made.moon, made.sun:
                made.install(**changed)
                yield made
        finally:
            made.seen()


def ping(source: Namespace, destination: str, *options: str, count: int = 3) -> bool:
    done = source.run("ping", "-c", str(count), "-i", "0.05", "-W", "2", *options, destination, check=False)
    return done.returncode == 0 and f"{count} received" in done.stdout


def transfer(made: Tunnel, address: str, octets: int = 3 << 20) -> None:
    """A file from bob to alice: the checksums at both ends are equal."""
    module = ("-m", "cygnet.lab.transfer")
    python = sys.executable
    server = made.network.bob.start(python, *module, "serve", address, "9000", str(octets))
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    fetched = made.network.alice.run(python, *module, "fetch", address, "9000").stdout.split()
    served = server.stdout.readline().split()
    assert fetched[:2] == served[:2]
    assert fetched[0] == str(octets)


CBC = {
    "encryption": Encr.AES_CBC,
    "key_length": 32,
    "integrity": Integ.HMAC_SHA2_256_128,
    "integrity_length": 32,
}


@pytest.mark.parametrize(
    ("left", "right", "port", "cipher"),
    [
        (MOON, SUN, 4500, {}),
        (MOON, SUN, 0, {}),
        (MOON6, SUN6, 4500, {"encryption": Encr.CHACHA20_POLY1305}),
        (MOON6, SUN6, 0, {}),
        (MOON, SUN, 4500, CBC),
        (MOON, SUN, 4500, {"esn": True}),
    ],
    ids=["udp4", "raw4", "udp6-chacha", "raw6", "cbc", "esn"],
)  # fmt: skip
def test_both_families_pass_inside_every_outer_header(
    left: str, right: str, port: int, cipher: dict[str, Any]
) -> None:
    suite = {key: value for key, value in cipher.items() if key != "esn"}
    pair = Pair(Side(left, BOTH.left.inner), Side(right, BOTH.right.inner), port=port, **suite)
    with tunnel(pair, esn="esn" in cipher) as made:
        alice = made.network.alice
        until(lambda: ping(alice, BOB, count=1), 10, "the first answer")
        until(lambda: ping(alice, BOB6, count=1), 10, "the first answer over IPv6")
        assert ping(alice, BOB)
        assert ping(alice, BOB6)
        assert ping(alice, BOB, "-s", "4000")  # in fragments
        transfer(made, BOB)
        transfer(made, BOB6)
        seen = made.seen()
        assert seen.clear == []
        assert seen.frames["esp"] > 100  # bursts are seen whole
        for plane in (made.moon, made.sun):
            (counters,) = plane.counters().pairs
            assert counters.drops == {}


@pytest.mark.parametrize(
    "options", [Options(gso=False, gro=False, tun_offload=False), Options(gso=False), Options(gro=False)]
)
def test_everything_passes_with_offloads_switched_off(options: Options) -> None:
    with tunnel(options=options) as made:
        assert ping(made.network.alice, BOB)
        transfer(made, BOB)
        dumped = made.moon.ask(messages.Dump, messages.Dumped)
        assert dumped.offloads["tun_tso"] is options.tun_offload
        assert dumped.offloads["udp_gso"] is options.gso
        assert made.seen().clear == []


def test_the_tuns_mtu_is_what_fits_and_senders_learn_it() -> None:
    with tunnel() as made:
        link = made.network.moon.run("ip", "link", "show", "cygnet0").stdout
        assert "mtu 1438 " in link  # 1500 less IPv4 20, UDP 8, ESP 16, ICV 16, trailer 2
        too_large = made.network.alice.run("ping", "-c", "1", "-M", "do", "-s", "1411", BOB, check=False)
        assert "mtu = 1438" in too_large.stdout + too_large.stderr
        assert ping(made.network.alice, BOB, "-M", "do", "-s", "1410", count=1)


def test_t38_a_path_that_grows_narrow_is_believed_if_it_quotes_a_live_sa_and_only_then() -> None:
    """RFC 4301, section 8.2.1: ICMP comes from anybody. What stands behind addresses and ports only a router
    on the path can know; and nobody is believed below the floor."""
    with tunnel() as made:
        moon, sun, alice = made.network.moon, made.network.sun, made.network.alice
        spi = 0x10000 + 256 + 1

        def mtu() -> str:
            link = moon.run("ip", "link", "show", "cygnet0").stdout
            return link.split(" mtu ")[1].split()[0]

        def unproven() -> int:
            return made.moon.counters().drops.get("icmp_unproven", 0)

        assert ping(alice, BOB, "-M", "do", "-s", "1400", count=1)
        for quoted in (udp_esp(spi)[:8], udp_esp(spi + 1), udp_esp(spi + 1)[:12], bytes(12)):
            too_big(sun, MOON, SUN, 1400, quoted)
        too_big(sun, MOON, "192.0.2.77", 1400, udp_esp(spi))
        until(lambda: unproven() == 5, 10, "all are heard")
        assert ping(alice, BOB, "-M", "do", "-s", "1400")  # not one is lost, nor answered with "too big"
        assert mtu() == "1438"
        too_big(sun, MOON, SUN, 1400, udp_esp(spi)[:12])
        until(lambda: mtu() == "1338", 10, "the path is found narrow")
        done = alice.run("ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", BOB, check=False)
        assert "mtu = 1338" in done.stdout + done.stderr
        too_big(sun, MOON, SUN, 68, udp_esp(spi))
        until(lambda: mtu() == "1280", 10, "IPv6 needs as much")
        assert ping(alice, BOB6, "-s", "1200")
        transfer(made, BOB, 1 << 20)
        assert unproven() == 5
        assert made.seen().clear == []


def test_traffic_triggers_an_acquire_is_held_and_leaves_with_the_sa() -> None:
    require()
    with two_gateways() as network, Plane(network.moon) as moon, Plane(network.sun) as sun:
        moon.do(BOTH.policy(True, trap=True))
        sun.do(BOTH.policy(False))
        pinging = network.alice.start("ping", "-c", "1", "-W", "5", BOB)
        asked = moon.wait_for(messages.Acquire)
        assert (asked.flow, asked.remote.first, asked.local.first) == (1, packed(BOB), packed(ALICE))
        for direction in (0, 1):
            sun.do(BOTH.sa(False, direction))
            moon.do(BOTH.sa(True, direction))
        assert "1 received" in pinging.communicate(timeout=10)[0]


def test_dump_sweep_and_refusals_are_answered(engine: str) -> None:
    with tunnel() as made:
        dumped = made.moon.ask(messages.Dump, messages.Dumped)
        assert (dumped.policies, dumped.pairs, dumped.engine) == ((1,), (1,), engine)
        refused = made.moon.ask(made.pair.sa(True, 0), messages.Done)
        assert "in use" in refused.error
        made.moon.pair.send(b"\x01garbage")
        assert made.moon.wait_for(messages.Warned).code == "command_malformed"
        made.moon.do(lambda request: messages.Sweep(request, (), ()))
        dumped = made.moon.ask(messages.Dump, messages.Dumped)
        assert (dumped.policies, dumped.pairs) == ((), ())


def test_a_rekey_loses_nothing() -> None:
    with tunnel() as made:
        moon, sun = made.moon, made.sun
        network = made.network
        traffic = Traffic(network.alice, ALICE, network.bob, BOB)
        assert traffic.wait_for(50, 10)
        for number in range(2, 8):
            pair = Pair(BOTH.left, BOTH.right, number)
            for direction in (0, 1):
                for plane, left in ((moon, True), (sun, False)):
                    plane.do(pair.sa(left, direction, flow=1))
            old = Pair(BOTH.left, BOTH.right, number - 1)
            for plane, left, remote in ((moon, True, SUN), (sun, False, MOON)):
                for direction in (1, 0):
                    plane.do(remove(old, left, direction, remote))
            assert traffic.wait_for(number * 50, 10)
        report = traffic.stop()
        assert (report.lost, report.duplicated) == (0, 0)
        assert made.seen().clear == []


def remove(pair: Pair, left: bool, direction: int, remote: str) -> Any:
    spi = pair.sa(left, direction)(0).spi  # type: ignore[attr-defined]
    linger = 5.0 if direction == 0 else 0.0
    return lambda request: messages.RemoveSa(request, direction, spi, packed(remote), linger)


def test_a_data_plane_that_is_killed_lets_nothing_out_in_clear_and_resumes_with_its_descriptors() -> None:
    with tunnel() as made:
        network = made.network
        traffic = Traffic(network.alice, ALICE, network.bob, BOB)
        assert traffic.wait_for(50, 10)
        made.moon.kill()
        before = traffic.echoed
        # Traffic goes on into the dead gateway; what it had routed stays routed into the TUN.
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            traffic.wait_for(1 << 30, 0.1)
        assert traffic.echoed - before < 50
        made.moon.start()
        dumped = made.moon.ask(messages.Dump, messages.Dumped)
        assert (dumped.policies, dumped.pairs) == ((), ())
        # New SAs, never the old ones: their sequence numbers died with the process.
        renewed = Pair(BOTH.left, BOTH.right, 2)
        made.moon.do(renewed.policy(True))
        for direction in (0, 1):
            for plane, left in ((made.moon, True), (made.sun, False)):
                plane.do(renewed.sa(left, direction, flow=2 if left else 1))
        resumed = traffic.echoed
        assert traffic.wait_for(resumed + 50, 10)
        traffic.stop()
        assert made.seen().clear == []


def test_datagrams_reach_the_lane_that_owns_them() -> None:
    require()
    with two_gateways() as network, Plane(network.sun) as sun:
        tag = sun.descriptors.tag.to_bytes(2, "big")
        kinds = {
            (500, b"ike init".ljust(16, b"\1") + bytes(20)): 0,
            (500, tag + b"ours".ljust(34, b"\1")): 1,
            (500, b"theirs01" + tag + b"ours".ljust(30, b"\1")): 1,
            (500, b"x"): 0,
            (4500, bytes(4) + b"ike init".ljust(40, b"\1")): 0,
            (4500, bytes(4) + tag + b"ours".ljust(40, b"\1")): 1,
            (4500, bytes(4) + b"theirs01" + tag + b"ours".ljust(40, b"\1")): 1,
            (4500, b"\xff"): 0,
            (4500, bytes(7)): 0,
        }
        lanes = [
            (sock.getsockname()[1], index % 2, sock)
            for index, (sock, _) in enumerate(sun.descriptors._daemon_lanes)
            if sock.family == socket.AF_INET
        ]
        sender = network.moon.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with sender:
            for (port, data), lane in kinds.items():
                sender.sendto(data, (SUN, port))
                (wanted,) = (sock for p, index, sock in lanes if (p, index) == (port, lane))
                wanted.setblocking(True)
                wanted.settimeout(2)
                assert wanted.recv(2000) == data
            sender.sendto(b"\0\0\x12\x34" + bytes(40), (SUN, 4500))
            while not sun.counters().drops.get(Drop.NO_SA):
                time.sleep(0)  # the datagram is on its way through another process


def test_with_gro_on_the_link_mixed_datagrams_are_cut_and_handed_to_their_owners() -> None:
    """The kernel merges by addresses, ports and size before the program picks a lane."""
    with tunnel() as made:
        moon, sun = made.network.moon, made.network.sun
        sun.run("ethtool", "-K", OUTER, "gro", "on", check=False)
        moon.run("ethtool", "-K", OUTER, "tso", "off", check=False)
        sun.run("sh", "-c", f"echo 2000000 > /sys/class/net/{OUTER}/gro_flush_timeout", check=False)
        sun.run("sh", "-c", f"echo 2 > /sys/class/net/{OUTER}/napi_defer_hard_irqs", check=False)
        ike = bytes(4) + b"\x5a" * 96
        lane = made.moon.descriptors._esp_lanes[0]
        sent = 0
        transfer_done = 0
        for _ in range(20):
            for _ in range(10):
                lane.sendto(ike, (SUN, 4500))
                sent += 1
            transfer_done += ping(made.network.alice, BOB, "-s", "60", count=2)
        assert transfer_done == 20
        # Each went to the daemon's lanes or came to the data plane, whole, and was reported.
        found = 0
        for sock, marker in made.sun.descriptors._daemon_lanes:
            if marker and sock.family == socket.AF_INET:
                found += count_datagrams(sock, ike)
        made.sun.counters()
        found += sum(
            isinstance(report, messages.ForeignDatagram) and report.data == ike for report in made.sun.reports
        )
        assert found == sent


def count_datagrams(sock: socket.socket, wanted: bytes) -> int:
    found = 0
    sock.setblocking(False)
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(1 << 16, 200)
        except BlockingIOError:
            return found
        cut = next(
            (int.from_bytes(v[:4], "little") for a, b, v in ancillary if (a, b) == (17, 104)), len(data)
        )
        found += sum(data[at : at + cut] == wanted for at in range(0, len(data), cut))


def test_a_nat_that_changes_its_mind_is_reported_and_followed() -> None:
    require()
    with two_gateways(nat=True) as network, Plane(network.moon) as moon, Plane(network.sun) as sun:
        inner = Pair(Side(network.moon_address, (MOON_NET,)), Side(SUN, (SUN_NET,)))
        outer = Pair(Side(MOON, (MOON_NET,)), Side(SUN, (SUN_NET,)))
        for plane, pair, left in ((moon, inner, True), (sun, outer, False)):
            plane.do(pair.policy(left))
            for direction in (0, 1):
                plane.do(pair.sa(left, direction))
        # sun's knowledge of moon's port is wrong until the first authentic packet tells it.
        pinging = network.alice.start("ping", "-i", "0.1", BOB)
        moved = sun.wait_for(messages.PeerMoved)
        assert moved.remote == packed(MOON)
        assert moved.remote_port != 4500
        sun.do(lambda r: messages.UpdateSa(r, 1, packed(SUN), packed(MOON), 4500, moved.remote_port))
        pinging.terminate()
        assert ping(network.alice, BOB)


def test_hostile_datagrams_are_counted_and_change_nothing() -> None:
    with tunnel() as made:
        spi = made.pair.sa(False, 0)(0).spi  # type: ignore[attr-defined]
        sender = made.network.moon.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        raw = made.network.moon.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 50))
        with sender, raw:
            for size in range(8, 120):
                junk = struct.pack(">II", spi, size) + bytes(size - 8)
                sender.sendto(junk, (SUN, 4500))
                raw.sendto(junk, (SUN, 0))
            for size in range(8):
                sender.sendto(b"\x01" * size, (SUN, 4500))
                raw.sendto(b"\x01" * size, (SUN, 0))
        assert ping(made.network.alice, BOB)
        counters = made.sun.counters()
        (pair,) = counters.pairs
        assert pair.packets_in == 3
        assert sum(pair.drops.values()) == 2 * 112
        assert set(pair.drops) == {Drop.SHORT, Drop.BAD_ICV}
        assert not any(isinstance(report, messages.PeerMoved) for report in made.sun.reports)


def test_a_narrowed_selector_and_a_denied_port_hold_on_the_wire() -> None:
    """An SA for TCP only: UDP asks for another, and never leaves in clear."""
    tcp = {"local_selectors": (selector(MOON_NET, 6),), "remote_selectors": (selector(SUN_NET, 6),)}
    with tunnel() as made:
        made.moon.do(lambda r: messages.Sweep(r, (1,), ()))
        made.moon.do(made.pair.sa(True, 1, **tcp))
        made.moon.do(made.pair.sa(True, 0))
        assert not ping(made.network.alice, BOB, count=1)
        transfer(made, BOB, 1 << 16)
        assert made.moon.counters().drops.get(Drop.NO_OUTBOUND_SA, 0) >= 1
        assert made.seen().clear == []
