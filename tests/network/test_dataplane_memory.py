"""A million packets through a tunnel leave both data planes as large as before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.dataplane import iperf
from bench.dataplane_peers import LEFT, OUTER_LEFT, OUTER_RIGHT, RIGHT, Ends, outer_link
from bench.plane import Pair, Plane, Side, install
from cygnet.dataplane.descriptors import Options
from cygnet.lab.namespaces import require

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(180)]

PACKETS = 1_000_000
ALLOWED = 2 << 20
"""Octets: pages of the allocator's that were touched once more."""


def resident(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_flat_over_a_million_packets() -> None:
    require()
    options = Options(tun_mtu=1400)
    with outer_link() as (left, right), Plane(left, options) as a, Plane(right, options) as b:
        install(a, b, Pair(Side(OUTER_LEFT, (f"{LEFT}/32",)), Side(OUTER_RIGHT, (f"{RIGHT}/32",))))
        ends = Ends(left, right)

        def carry(packets: int) -> None:
            wanted = b.counters().pairs[0].packets_in + packets
            while b.counters().pairs[0].packets_in < wanted:
                iperf(ends, 1.0)
                iperf(ends, 1.0, "--udp", "--length", "64", "--bitrate", "20M")

        carry(50_000)
        before = [resident(plane.pid) for plane in (a, b)]
        carry(PACKETS)
        after = [resident(plane.pid) for plane in (a, b)]
        assert max(now - then for now, then in zip(after, before, strict=True)) <= ALLOWED
