"""The kernel guard with many policies: what loading costs, and what it adds to forwarding a packet.

    source ==== gateway ==== sink

Packets between random addresses are sent one by one through the gateway. A veth pair does its work in the
sender's system call, so the sender's CPU time is that of the whole way; what it grows by when the guard
is there is the guard's cost. Protected packets end in a TUN that nobody reads.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import struct
import time
from typing import Any

from bench.spd_sets import SETS
from cygnet.dataplane.guard import Guard
from cygnet.dataplane.nftables import nft
from cygnet.dataplane.routes import ROUTE_TABLE, RULE_PRIORITY
from cygnet.dataplane.tun import open_tun
from cygnet.lab.namespaces import Namespace, connect, namespaces
from cygnet.policy.spd import Policy

TUN = "cygnet0"
PACKETS = 20_000
ROUNDS = 7
GATEWAY_LINK, SOURCE_LINK = bytes((2, 0, 0, 0, 0, 1)), bytes((2, 0, 0, 0, 0, 3))


def measure(count: int, short: bool) -> dict[str, Any]:
    """Raises LabError, KernelError."""
    policies = list(SETS["disjoint_pairs"](count, random.Random(1)))
    with namespaces("spd-source", "spd-gateway", "spd-sink") as (source, gateway, sink):
        _connect(source, gateway, sink)
        device = gateway.inside(lambda: open_tun(TUN))
        gateway.ip(f"link set {TUN} up")
        try:
            _route_to_tun(gateway)
            loads = [gateway.inside(lambda: _load(policies)) for _ in range(1 if short else 3)]
            sock = source.inside(_frame_socket)
            samples = {"protected": _protected(policies), "other": _other(policies)}
            figures = {
                name: _difference(gateway, sock, sample, policies, 2 if short else ROUNDS)
                for name, sample in samples.items()
            }
            sock.close()
        finally:
            os.close(device)
    return {
        "guard_ns": max(figures.values()),
        "guard_ns_by_packet": figures,
        "guard_load_s": round(min(loads)[0], 2),
        "guard_load_cpu_s": round(min(loads)[1], 2),
    }


def _load(policies: list[Policy]) -> tuple[float, float]:
    """Seconds by the clock and of CPU, that of nft included."""
    guard = Guard()
    guard.clear()
    started, used = time.perf_counter(), os.times()
    for policy in policies:
        guard.put(policy)
    guard.commit(TUN)
    return time.perf_counter() - started, sum(os.times()[:4]) - sum(used[:4])


def _difference(
    gateway: Namespace, sock: socket.socket, sample: list[bytes], policies: list[Policy], rounds: int
) -> float:
    """Nanoseconds that the guard adds, the median of interleaved rounds' differences."""
    differences = []
    for _ in range(rounds):
        gateway.inside(lambda: nft("flush ruleset\n"))
        without = _send(sock, sample)
        gateway.inside(lambda: _load(policies))
        differences.append(_send(sock, sample) - without)
    return round(statistics.median(differences), 1)


def _send(sock: socket.socket, sample: list[bytes]) -> float:
    """CPU nanoseconds per packet."""
    send = sock.send
    for packet in sample[:1000]:
        send(packet)
    started = time.process_time_ns()
    for packet in sample:
        send(packet)
    return (time.process_time_ns() - started) / len(sample)


def _connect(source: Namespace, gateway: Namespace, sink: Namespace) -> None:
    connect(source, "out", gateway, "left")
    connect(gateway, "right", sink, "in")
    source.ip("addr add 192.0.2.2/24 dev out")
    gateway.ip(
        f"link set left address {GATEWAY_LINK.hex(':')}",
        "addr add 192.0.2.1/24 dev left",
        "addr add 198.51.100.1/24 dev right",
        "neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev right",
        "route add default via 198.51.100.2",
    )
    gateway.sysctl(ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0, ipv4__conf__left__rp_filter=0)
    # The sink drops what comes: nothing in it is at these addresses.
    sink.ip("link set in address 02:00:00:00:00:02")


def _route_to_tun(gateway: Namespace) -> None:
    """All remote networks of the set at once; the guard alone is measured."""
    gateway.ip(
        f"rule add pref {RULE_PRIORITY} not fwmark 0x43790000/0xffff0000 lookup {ROUTE_TABLE}",
        f"route add 100.0.0.0/6 dev {TUN} table {ROUTE_TABLE}",
    )


def _frame_socket() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind(("out", 0x0800))
    return sock


def _protected(policies: list[Policy]) -> list[bytes]:
    rng = random.Random(2)
    made = []
    for _ in range(PACKETS):
        rule = rng.choice(policies).rules[0]
        made.append(
            (rng.randint(rule.local.first, rule.local.last), rng.randint(rule.remote.first, rule.remote.last))
        )
    return [_frame(source, destination) for source, destination in made]


def _other(policies: list[Policy]) -> list[bytes]:
    rng = random.Random(3)
    made = []
    for _ in range(PACKETS):
        rule = rng.choice(policies).rules[0]
        made.append((rng.randint(rule.local.first, rule.local.last), (172 << 24) + rng.getrandbits(24)))
    return [_frame(source, destination) for source, destination in made]


def _frame(source: int, destination: int) -> bytes:
    """An Ethernet frame to the gateway with a UDP datagram of 18 octets."""
    head = struct.pack("!BBHHHBBHII", 0x45, 0, 46, 0, 0x4000, 64, 17, 0, source, destination)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack("!H", checksum) + head[12:]
    return (
        GATEWAY_LINK + SOURCE_LINK + b"\x08\x00" + head + struct.pack("!HHHH", 1000, 2000, 26, 0) + bytes(18)
    )
