"""What the outer header takes from the inner one, and what does not fit through (RFC 4301, 6040, 3948)."""

from __future__ import annotations

import ctypes
import re
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from cygnet.lab.topology import BOB, BOB6, MOON_NET, MOON_NET6, OUTER, SUN_NET, SUN_NET6
from tests.network.gateways import Two, two
from tests.network.probes import SILENCE, UDP, Probe, Probes
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]
EF, ECT0, ECT1, CE = 46 << 2, 2, 1, 3


def children(here: str, there: str, here6: str, there6: str) -> str:
    """Ports tell the children apart: 7001 copies nothing, 7002 everything, the others as is the default."""
    text = ""
    for name, port, options in (
        ("plain", 7001, 'copy_dscp = "no"\ncopy_df = "no"\ncopy_ecn = "no"'),
        ("all", 7002, 'copy_dscp = "yes"'),
        ("rest", 0, ""),
    ):
        mine = theirs = f"[udp/{port}]" if port else ""
        if port:
            mine, theirs = ("[udp]", theirs) if here == MOON_NET else (mine, "[udp]")
        text += f"""
[connections.gw.children.{name}]
local_ts = "{here}{mine}, {here6}{mine}"
remote_ts = "{there}{theirs}, {there6}{theirs}"
{options}
"""
    return text


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two(
        tmp_path_factory.mktemp("headers"),
        children(MOON_NET, SUN_NET, MOON_NET6, SUN_NET6),
        children(SUN_NET, MOON_NET, SUN_NET6, MOON_NET6),
    ) as made:
        made.up()
        yield made


class Link:
    """IP headers of ESP packets on the outer link, and of what comes out of the tunnel at bob's."""

    def __init__(self, pair: Two) -> None:
        self._outer = pair.net.sun.inside(lambda: self._watch(OUTER))
        self._inner = pair.net.bob.inside(lambda: self._watch("eth0"))
        self.probes = Probes(pair.net)

    @staticmethod
    def _watch(link: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        made.bind((link, 0x0800))
        return made

    def carry(self, probe: Probe) -> tuple[bytes, bytes]:
        """Send a packet; the IPv4 headers that it had outside and when it arrived."""
        for sock in (self._outer, self._inner):
            while select.select([sock], [], [], 0)[0]:
                sock.recv(65535)
        assert self.probes.send(probe) == ["tunnel"]
        found = []
        for sock, protocols in ((self._outer, (17, 50)), (self._inner, (UDP,))):
            while True:
                assert select.select([sock], [], [], 2)[0]
                packet = sock.recv(65535)
                if packet[9] in protocols and (sock is self._inner or len(packet) > 80):
                    found.append(packet[:20])
                    break
        return found[0], found[1]

    def close(self) -> None:
        self.probes.close()
        self._outer.close()
        self._inner.close()


@pytest.fixture
def link(pair: Two) -> Iterator[Link]:
    made = Link(pair)
    yield made
    made.close()


def df(header: bytes) -> bool:
    return bool(header[6] & 0x40)


def test_dscp_ecn_and_df_are_copied_as_each_child_says(link: Link) -> None:
    for port, tos, inner_df, outer_tos, outer_df in (
        (7000, EF | ECT0, True, EF | ECT0, True),
        (7000, 0, False, 0, False),
        (7000, ECT1, False, ECT1, False),
        (7000, EF | CE, False, EF | CE, False),
        (7001, EF, True, 0, False),
        (7002, EF, True, EF, True),
    ):
        outer, inner = link.carry(Probe(UDP, port, tos=tos, df=inner_df, size=100))
        assert (outer[1], df(outer)) == (outer_tos, outer_df), (port, tos)
        assert (inner[1], df(inner)) == (tos, inner_df), (port, tos)


REMARK = """
table ip remark {{
    chain out {{
        type filter hook postrouting priority 300
        oifname "outer" ip protocol {{ udp, esp }} {action}
    }}
}}
"""


@pytest.mark.parametrize(
    ("action", "port", "sent", "arrives"),
    [
        ("ip ecn set ce", 7000, ECT0, CE),  # RFC 6040, figure 4
        ("ip ecn set ce", 7000, 0, None),  # not ECN-capable: dropped
        ("ip dscp set cs1", 7000, EF, EF),
        ("ip dscp set cs1", 7002, EF, 8 << 2),  # copy_dscp = "yes": into the packet, too
    ],
)
def test_what_the_way_marks_outside_comes_in_as_the_child_says(
    pair: Two, link: Link, action: str, port: int, sent: int, arrives: int | None
) -> None:
    moon = pair.net.moon
    moon.run("nft", "-f", "-", stdin=REMARK.format(action=action))
    try:
        if arrives is None:
            assert link.probes.send(Probe(UDP, port, tos=sent), patience=SILENCE) == ["lost"]
            assert pair.drops(pair.sun)["ecn"] == 1
        else:
            _, inner = link.carry(Probe(UDP, port, tos=sent, size=100))
            assert inner[1] == arrives
    finally:
        moon.run("nft", "delete", "table", "ip", "remark")


def test_a_large_ping_with_df_learns_from_the_gateway_what_fits(pair: Two) -> None:
    alice = pair.net.alice
    for target, family in ((BOB, "-4"), (BOB6, "-6")):
        mtu = 0
        for _ in range(3):  # the first answer may be the route's, the last is the tunnel's
            done = alice.run("ping", family, "-c1", "-W0.3", "-M", "do", "-s", "1452", target, check=False)
            told = re.search(r"mtu ?= ?(\d+)", done.stdout + done.stderr)
            mtu = int(told[1]) if told else mtu
        assert 1380 < mtu < 1460, done.stdout + done.stderr
        fits = mtu - (28 if family == "-4" else 48)
        done = alice.run("ping", family, "-c1", "-W2", "-M", "do", "-s", str(fits), target, check=False)
        assert " 1 received" in done.stdout, (mtu, done.stdout)
        done = alice.run("ping", family, "-c1", "-W0.3", "-M", "do", "-s", str(fits + 1), target, check=False)
        assert " 0 received" in done.stdout


WINDOWS = {32: 7032, 64: 7064, 1024: 7104, 4096: 7496}


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """A child for each size of the replay window, told apart by the port at bob's."""
    moon, sun = (
        "".join(
            f"""
[connections.gw.children.w{size}]
local_ts = "{here}[udp{mine.format(port)}]"
remote_ts = "{there}[udp{theirs.format(port)}]"
replay_window = {size}
esp_proposals = "aes256gcm16-noesn"
"""
            for size, port in WINDOWS.items()
        )
        for here, mine, there, theirs in ((MOON_NET, "", SUN_NET, "/{}"), (SUN_NET, "/{}", MOON_NET, ""))
    )
    with two(tmp_path_factory.mktemp("windows"), moon, sun, connection="encap = false") as made:
        made.up()
        yield made


HOLD = """
table netdev hold {
    chain in {
        type filter hook ingress device "outer" priority 0
        ip protocol esp drop
    }
}
"""


@pytest.mark.parametrize("window", list(WINDOWS))
def test_a_replay_window_takes_what_is_late_once_and_what_is_too_late_never(
    windows: Two, window: int
) -> None:
    """Two sealed packets are held back on their way; so many others pass that the first is just too late."""
    net, port = windows.net, WINDOWS[window]
    probe = Probe(UDP, port)
    probes = Probes(net)

    def carried() -> int:
        (child,) = windows.children(windows.sun, f"w{window}")
        return int(child["packets-in"])

    def listening() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((BOB, port))
        return made

    with (
        net.sun.inside(lambda: _tap(50)) as tap,
        net.moon.inside(_out) as wire,
        net.bob.inside(listening),  # nobody answers "port unreachable", which no child protects
    ):
        net.sun.run("nft", "-f", "-", stdin=HOLD)
        held = []
        for _ in range(2):
            assert probes.send(probe, patience=0.1) == ["lost"]
            held.append(tap.recv(65535))
        net.sun.run("nft", "delete", "table", "netdev", "hold")
        sender = net.alice.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        left, before = window - 1, carried()
        while left:
            burst = min(left, 100)
            for _ in range(burst):
                sender.sendto(b"newer", (BOB, port))
            left -= burst
            until(lambda: carried() >= before + window - 1 - left, 5, "the packets")  # noqa: B023
        sender.close()
        too_late, late = held
        for frame, accepted, refused in ((late, 1, 0), (late, 0, 1), (too_late, 0, 1)):
            before, dropped = carried(), windows.drops(windows.sun).get("replay", 0)
            wire.send(frame)
            until(
                lambda: carried() + windows.drops(windows.sun).get("replay", 0) > before + dropped,  # noqa: B023
                5,
                "the packet",
            )
            assert carried() - before == accepted
            assert windows.drops(windows.sun).get("replay", 0) - dropped == refused
    probes.close()


def _out() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind((OUTER, 0))
    return made


def _tap(protocol: int) -> socket.socket:
    """IPv4 packets of a protocol on the outer link. A tap for every kind of frame comes before any filter."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    made.bind((OUTER, 3))
    made.settimeout(2)
    # Classic BPF: EtherType, then the protocol, then everything or nothing.
    steps = (
        (0x28, 0, 0, 12),
        (0x15, 0, 3, 0x0800),
        (0x30, 0, 0, 23),
        (0x15, 0, 1, protocol),
        (6, 0, 0, 65535),
        (6, 0, 0, 0),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    made.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", len(steps), ctypes.addressof(program)))
    while select.select([made], [], [], 0)[0]:
        made.recv(65535)
    return made
