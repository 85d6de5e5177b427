"""Lanes: sockets of loopback, the non-ESP marker, receive GRO, and what belongs to the data plane."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest

from cygnet.daemon.lanes import UDP_GRO, Lane, Lanes
from cygnet.ike.world import Path

SOL_UDP = 17
UDP_SEGMENT = 103


class Bench:
    """One lane on loopback and what came out of it."""

    def __init__(self, *, marker: bool, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind(("::" if ":" in host else "0.0.0.0", 0))
        self.lane = Lane(sock, marker=marker)
        self.batches: list[list[tuple[bytes, Path]]] = []
        self.foreign: list[tuple[bytes, Path]] = []
        self.arrived = asyncio.Event()
        self.lanes = Lanes([self.lane], self._received, self._foreign)
        self.peer = socket.socket(family, socket.SOCK_DGRAM)
        self.peer.bind((host, 0))
        self.peer.connect((host, self.lane.port))

    def _received(self, batch: list[tuple[bytes, Path]]) -> None:
        self.batches.append(batch)
        self.arrived.set()

    def _foreign(self, data: bytes, path: Path) -> None:
        self.foreign.append((data, path))

    async def until(self, count: int) -> None:
        while len(self.datagrams) < count:
            self.arrived.clear()
            await self.arrived.wait()

    @property
    def datagrams(self) -> list[bytes]:
        return [data for batch in self.batches for data, _ in batch]


def on_loop(body: Callable[[Bench], Awaitable[None]], *, marker: bool, host: str = "127.0.0.1") -> None:
    async def run() -> None:
        bench = Bench(marker=marker, host=host)
        bench.lanes.start(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(body(bench), 10)
        finally:
            bench.lanes.stop(asyncio.get_running_loop())
            bench.lane.sock.close()
            bench.peer.close()

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1"])
def test_a_datagram_comes_with_the_address_it_was_sent_to(host: str) -> None:
    async def body(bench: Bench) -> None:
        bench.peer.send(b"ike")
        await bench.arrived.wait()
        data, path = bench.batches[0][0]
        assert data == b"ike"
        assert path == Path(ip_address(host), bench.lane.port, ip_address(host), bench.peer.getsockname()[1])

    on_loop(body, marker=False, host=host)


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", "127.0.0.77"), ("::1", "::1")])
def test_an_answer_leaves_from_the_address_of_its_path(host: str, local: str) -> None:
    async def body(bench: Bench) -> None:
        reader = socket.socket(bench.lane.family, socket.SOCK_DGRAM)
        reader.bind((host, 0))
        reader.settimeout(5)
        port = reader.getsockname()[1]
        assert bench.lanes.send(Path(ip_address(local), bench.lane.port, ip_address(host), port), b"answer")
        data, source = reader.recvfrom(100)
        reader.close()
        assert (data, source[0], source[1]) == (b"answer", local, bench.lane.port)

    on_loop(body, marker=False, host=host)


def test_a_port_that_is_not_ours_is_counted_and_nothing_is_sent() -> None:
    async def body(bench: Bench) -> None:
        assert not bench.lanes.send(Path(ip_address("127.0.0.1"), 1, ip_address("127.0.0.1"), 9), b"x")
        assert not bench.lanes.send(Path(ip_address("::1"), bench.lane.port, ip_address("::1"), 9), b"x")
        assert bench.lanes.counters["no-path"] == 2

    on_loop(body, marker=False)


def test_an_unreachable_destination_is_counted() -> None:
    async def body(bench: Bench) -> None:
        sent = bench.lanes.send(
            Path(ip_address("127.0.0.1"), bench.lane.port, ip_address("255.255.255.255"), 9), b"x"
        )
        assert not sent
        assert bench.lanes.counters["send-failed"] == 1

    on_loop(body, marker=False)


def test_a_marker_port_tells_ike_keepalive_runt_and_esp_apart() -> None:
    async def body(bench: Bench) -> None:
        for data in (b"\xff", b"", b"\0\0\0\0", b"\0\0", b"\x12\x34\x56\x78esp", b"\0\0\0\0ike"):
            bench.peer.send(data)
        await bench.arrived.wait()
        assert bench.datagrams == [b"ike"]
        assert [data for data, _ in bench.foreign] == [b"\x12\x34\x56\x78esp"]
        assert bench.lanes.counters["keepalive"] == 1
        assert bench.lanes.counters["runt"] == 3

    on_loop(body, marker=True)


def test_a_plain_port_takes_everything_as_ike() -> None:
    async def body(bench: Bench) -> None:
        bench.peer.send(b"\0\0\0\0x")
        await bench.arrived.wait()
        assert bench.datagrams == [b"\0\0\0\0x"]

    on_loop(body, marker=False)


def test_datagrams_merged_by_receive_gro_are_cut_apart_and_sorted_one_by_one() -> None:
    async def body(bench: Bench) -> None:
        bench.lane.sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        bench.peer.setsockopt(SOL_UDP, UDP_SEGMENT, 8)
        bench.peer.send(b"\0\0\0\0ike1" + b"\x01\x02\x03\x04esp1" + b"\0\0\0\0ike2" + b"\0\0\0\0end")
        await bench.until(3)
        assert bench.datagrams == [b"ike1", b"ike2", b"end"]
        assert [data for data, _ in bench.foreign] == [b"\x01\x02\x03\x04esp1"]

    on_loop(body, marker=True)


def test_a_flood_is_taken_in_batches_so_that_others_get_their_turn() -> None:
    async def body(bench: Bench) -> None:
        for number in range(100):
            bench.peer.send(b"%d" % number)
        await bench.until(100)
        assert bench.datagrams == [b"%d" % number for number in range(100)]
        assert max(len(batch) for batch in bench.batches) <= 32

    on_loop(body, marker=False)


def test_a_datagram_that_came_by_the_data_plane_is_taken_like_one_of_the_marker_port() -> None:
    async def body(bench: Bench) -> None:
        path = Path(ip_address("127.0.0.1"), 4500, ip_address("127.0.0.2"), 4500)
        bench.lanes.deliver(b"\0\0\0\0ike", path)
        assert bench.batches == [[(b"ike", path)]]

    on_loop(body, marker=False)
