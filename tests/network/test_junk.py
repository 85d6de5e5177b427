"""A gateway under 50,000 junk packets a second: they cost no one a packet, and no memory."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plane import Pair, Plane, Side
from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Options
from cygnet.lab.namespaces import Namespace, require
from cygnet.lab.topology import ALICE, BOB, MOON, MOON_NET, SUN, SUN_NET, two_gateways
from cygnet.lab.traffic import Traffic

pytestmark = [pytest.mark.network, pytest.mark.timeout(180)]

RATE, SECONDS = 50_000, 4.0
PAIR = Pair(Side(MOON, (MOON_NET,)), Side(SUN, (SUN_NET,)))
SPI = 0x10000 + 256 + 1
"""That sun receives with (bench.plane)."""


def unknown_spi() -> bytes:
    return os.urandom(4) + os.urandom(92)


def forged() -> bytes:
    return struct.pack(">II", SPI, 1 << 30) + os.urandom(88)


def short() -> bytes:
    return struct.pack(">II", SPI, 7) + os.urandom(5)


def first_message() -> bytes:
    return bytes(4) + os.urandom(8) + bytes(8) + os.urandom(20)


FLOOD = """
import socket, struct, sys, time
target, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
packets = [bytes.fromhex(one) for one in sys.stdin.read().split()]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x43790000)  # past the guard, as ESP goes
control = [(17, 103, struct.pack("=H", len(packets[0])))]  # UDP_SEGMENT
data, sent, began = b"".join(packets), 0, time.monotonic()
while (passed := time.monotonic() - began) < seconds:
    if sent < passed * rate:
        sock.sendmsg([data], control, 0, (target, 4500))
        sent += len(packets)
    else:
        time.sleep(0.001)
print(sent)
"""


def flood(source: Namespace, make: Callable[[], bytes]) -> int:
    """`RATE` datagrams a second from a stranger's port, by a process of its own; how many it were."""
    packets = " ".join(make().hex() for _ in range(50))
    done = source.run(sys.executable, "-c", FLOOD, SUN, str(RATE), str(SECONDS), stdin=packets)
    return int(done.stdout)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("junk", [unknown_spi, forged, short, first_message], ids=lambda make: make.__name__)
def test_legitimate_traffic_survives_fifty_thousand_junk_packets_a_second(
    junk: Callable[[], bytes],
) -> None:
    require()
    with two_gateways() as net, Plane(net.moon, Options()) as moon, Plane(net.sun, Options()) as sun:
        for plane, left in ((moon, True), (sun, False)):
            plane.do(PAIR.policy(left))
        for direction in (0, 1):
            for plane, left in ((moon, True), (sun, False)):
                plane.do(PAIR.sa(left, direction))
        traffic = Traffic(net.alice, ALICE, net.bob, BOB, interval=0.001)
        assert traffic.wait_for(100, 20)
        before = resident(sun.pid)
        sent = flood(net.moon, junk)
        report = traffic.stop()
        assert sent >= RATE * SECONDS / 2, "the flood itself did not come about"
        assert report.sent >= 1000
        dumped = sun.ask(messages.Dump, messages.Dumped)
        if junk is not forged or dumped.engine != "portable":
            assert report.lost <= max(1, report.sent // 1000), report
        else:
            # Each of them is decrypted, one by one: half a core of Python, on a machine that may be busy.
            assert report.lost <= report.sent // 4, report
        assert resident(sun.pid) - before < 16 << 20
        counters = sun.counters()
        if junk is not first_message:  # the daemon's affair, which is not here
            seen = sum(counters.drops.values())
            assert seen >= sent // 2, counters.drops
        (pair,) = counters.pairs
        assert pair.sequence_in < 1 << 30  # nothing forged moved the window
