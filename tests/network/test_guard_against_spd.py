"""The kernel decides about real packets as the SPD does, for random policies of both families."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from cygnet.dataplane.routes import Kernel
from cygnet.dataplane.tun import open_tun
from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import ALICE, ALICE6, BOB, BOB6, OUTER, TwoGateways, two_gateways
from cygnet.policy.selectors import TrafficSelector
from cygnet.policy.spd import Action, Policy, PolicyRule, Spd

pytestmark = pytest.mark.network

TUN = "cygnet0"
ICMP, TCP, UDP, GRE, ICMPV6 = 1, 6, 17, 47, 58
LOCAL = {4: int(IPv4Address("10.1.0.16")), 6: int(IPv6Address("fd01::10:0"))}
REMOTE = {4: int(IPv4Address("10.2.0.16")), 6: int(IPv6Address("fd02::10:0"))}
SPAN = 16
"""Addresses on each side, so that rules and packets meet."""
MARKER = b"cygnet-guard-test"

Packet = tuple[int, int, int, int, int, int]
"""Protocol, local, remote, local port, remote port, family; of ICMP both ports are type * 256 + code."""


class Gateway:
    def __init__(self, net: TwoGateways) -> None:
        self.net = net
        self.space: Namespace = net.moon
        self.kernel = Kernel()
        self.tun = self.space.inside(lambda: open_tun(TUN))
        self.space.ip(f"link set {TUN} up")
        self._outer = net.sun.inside(lambda: packet_socket(OUTER))
        self._alice = net.alice.inside(lambda: packet_socket("eth0"))
        words = net.moon.run("ip", "-o", "link", "show", "inner").stdout.split()
        self._link = bytes.fromhex(words[words.index("link/ether") + 1].replace(":", ""))

    def send(self, number: int, packet: Packet) -> None:
        ether = struct.pack("!H", 0x0800 if packet[5] == 4 else 0x86DD)
        self._alice.send(self._link + bytes((2, 0, 0, 0, 0, 9)) + ether + built(number, packet))

    def seen(self, expected: int) -> tuple[set[int], set[int]]:
        """Numbers of packets that came to the TUN and to the outer link: so many, and 0.3 s for more."""
        found: tuple[set[int], set[int]] = (set(), set())
        while True:
            wait = 5.0 if sum(map(len, found)) < expected else 0.3
            outer = self._outer.fileno()
            ready = select.select([self.tun, outer], [], [], wait)[0]
            if not ready:
                return found
            for place, one in enumerate((self.tun, outer)):
                if one in ready:
                    data = os.read(one, 65536)
                    at = data.find(MARKER)
                    if at >= 0:
                        found[place].add(struct.unpack_from("!I", data, at + len(MARKER))[0])

    def close(self) -> None:
        self._outer.close()
        self._alice.close()
        os.close(self.tun)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with two_gateways() as net:
        net.moon.ip("route add 10.2.0.0/16 via 192.0.2.2", "route add fd02::/64 via 2001:db8::2")
        net.sun.ip("route add 10.1.0.0/16 via 192.0.2.1", "route add fd01::/64 via 2001:db8::1")
        # Neighbours are known from here on.
        for source, target in ((net.alice, BOB), (net.alice, BOB6), (net.bob, ALICE), (net.bob, ALICE6)):
            source.run("ping", "-c1", "-W5", target)
        made = Gateway(net)
        yield made
        made.close()


@pytest.mark.parametrize("seed", range(4))
def test_random_policies_that_come_and_go_are_enforced_packet_by_packet(gateway: Gateway, seed: int) -> None:
    rng = random.Random(seed)
    spd = Spd()
    for turn in range(4):
        for _ in range(rng.randrange(1, 8)):
            number = rng.randrange(1, 12)
            if turn and rng.random() < 0.3:
                spd.remove(number)
                gateway.kernel.remove(number)
            else:
                made = random_policy(number, rng)
                spd.put(made)
                gateway.kernel.put(made)
        gateway.space.inside(lambda: gateway.kernel.commit(TUN))
        check(gateway, spd, [random_packet(rng) for _ in range(120)])


def test_thousands_of_policies_are_enforced_and_one_more_costs_little(gateway: Gateway) -> None:
    rng = random.Random(5)
    spd = Spd()
    for number in range(1, 4001):
        # Among many that no packet meets, some that packets do.
        if number % 100:
            local = TrafficSelector(4, 0, (11 << 24) + (number << 8), (11 << 24) + (number << 8) + 255)
            remote = TrafficSelector(
                4, rng.choice((0, TCP)), (12 << 24) + (number << 8), (12 << 24) + (number << 8) + 255
            )
            made = Policy(
                number, "", 0, (PolicyRule(Action.PROTECT, local, remote, number),), True, None, None
            )
        else:
            made = random_policy(number, rng)
        spd.put(made)
        gateway.kernel.put(made)
    gateway.space.inside(lambda: gateway.kernel.commit(TUN))
    check(gateway, spd, [random_packet(rng) for _ in range(120)])
    sets = gateway.space.run("nft", "--terse", "list", "table", "inet", "cygnet").stdout
    assert len(sets.splitlines()) < 1000, "sets and maps, not a rule for each policy"
    for number in (5000, 5001):
        made = random_policy(number, rng)
        spd.put(made)
        gateway.kernel.put(made)
        gateway.space.inside(lambda: gateway.kernel.commit(TUN))
        check(gateway, spd, [random_packet(rng) for _ in range(60)])


def check(gateway: Gateway, spd: Spd, packets: list[Packet]) -> None:
    actions = {number: spd.lookup_outbound(*packet)[0] for number, packet in enumerate(packets)}
    for number, packet in enumerate(packets):
        gateway.send(number, packet)
    tun, outer = gateway.seen(sum(action is not Action.DISCARD for action in actions.values()))
    for number, packet in enumerate(packets):
        where = {Action.PROTECT: (True, False), Action.BYPASS: (False, True), Action.DISCARD: (False, False)}
        assert (number in tun, number in outer) == where[actions[number]], (packet, actions[number])


def random_policy(number: int, rng: random.Random) -> Policy:
    rules = []
    for place in range(rng.randrange(1, 5)):
        family = rng.choice((4, 4, 6))
        protocol = rng.choice((0, 0, TCP, UDP, ICMP if family == 4 else ICMPV6, GRE))
        local, remote = (
            random_side(LOCAL[family], family, protocol, rng),
            random_side(REMOTE[family], family, protocol, rng),
        )
        if protocol in (ICMP, ICMPV6):
            remote = TrafficSelector(
                family, protocol, remote.first, remote.last, local.port_first, local.port_last
            )
        action = rng.choice((Action.PROTECT, Action.PROTECT, Action.BYPASS, Action.BYPASS, Action.DISCARD))
        rules.append(PolicyRule(action, local, remote, number * 10 + place))
    return Policy(number, "", rng.randrange(3), tuple(rules), True, None, None)


def random_side(base: int, family: int, protocol: int, rng: random.Random) -> TrafficSelector:
    kind = rng.randrange(4)
    first, last = base, base + SPAN - 1
    if kind == 1:
        size = rng.choice((1, 2, 4, 8))
        first = base + rng.randrange(0, SPAN, size)
        last = first + size - 1
    elif kind == 2:
        first, last = sorted(base + rng.randrange(SPAN) for _ in range(2))
    ports = (0, 65535)
    if protocol in (TCP, UDP):
        ports = rng.choice(((0, 65535), (1001, 1001), (1000, 1003), (1001, 1002), (1002, 65535)))
    elif protocol in (ICMP, ICMPV6):
        kind = rng.choice((0, 3, 8, 11, 128, 129))
        ports = rng.choice(((0, 65535), (kind * 256, kind * 256 + 255), (kind * 256, kind * 256)))
    return TrafficSelector(family, protocol, first, last, *ports)


def random_packet(rng: random.Random) -> Packet:
    family = rng.choice((4, 4, 6))
    local, remote = LOCAL[family] + rng.randrange(SPAN), REMOTE[family] + rng.randrange(SPAN)
    protocol = rng.choice((TCP, UDP, UDP, ICMP if family == 4 else ICMPV6, GRE))
    if protocol == GRE:
        return protocol, local, remote, -1, -1, family
    if protocol in (ICMP, ICMPV6):
        # Echoes of both families and types of neither, which no kernel on the way reacts to.
        kind = rng.choice((8, 0) if family == 4 else (128, 129)) * 256 + rng.choice((0, 0, 1))
        return protocol, local, remote, kind, kind, family
    return protocol, local, remote, rng.randrange(1000, 1004), rng.randrange(1000, 1004), family


# -- packets ----------------------------------------------------------------------------------------


def packet_socket(link: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    made.bind((link, 0x0003))
    return made


def built(number: int, packet: Packet) -> bytes:
    """The packet with its number in it. Transport checksums are zero: nobody on the way looks at them."""
    protocol, local, remote, local_port, remote_port, family = packet
    mark = MARKER + struct.pack("!I", number)
    if protocol == TCP:
        payload = struct.pack("!HHIIBBHHH", local_port, remote_port, 1, 0, 0x50, 0x10, 1000, 0, 0) + mark
    elif protocol == UDP:
        payload = struct.pack("!HHHH", local_port, remote_port, 8 + len(mark), 0) + mark
    elif protocol in (ICMP, ICMPV6):
        payload = struct.pack("!HHHH", local_port, 0, 1, 1) + mark
    else:
        payload = struct.pack("!HH", 0, 0x0800) + mark
    if family == 6:
        addresses = IPv6Address(local).packed + IPv6Address(remote).packed
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload
    head = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, local, remote)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:] + payload
