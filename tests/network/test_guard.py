"""The kernel's side of the policy: what is permitted never leaves or arrives in clear, the rest is unharmed.

No engine runs here. The TUN is read by the test itself, so that what reaches it can be told apart from what
goes past it on the outer link; nothing is ever sealed.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cygnet.dataplane.nftables import nft
from cygnet.dataplane.routes import ROUTE_TABLE, Kernel, KernelError
from cygnet.dataplane.tun import VNET, open_tun
from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import ALICE, ALICE6, BOB, BOB6, MOON, OUTER, SUN, TwoGateways, two_gateways
from cygnet.policy.access_list import parse_access_list
from cygnet.policy.expansion import expand
from cygnet.policy.selectors import TrafficSelector
from cygnet.policy.spd import Action, Policy, PolicyRule

pytestmark = pytest.mark.network

TUN = "cygnet0"


def policy(*lines: str, number: int = 1, priority: int = 0) -> Policy:
    rules = []
    for rule in expand(parse_access_list("t", lines), per_rule=False).rules:
        assert isinstance(rule.local, TrafficSelector)
        assert isinstance(rule.remote, TrafficSelector)
        flow = number if rule.action is Action.PROTECT else 0
        rules.append(PolicyRule(rule.action, rule.local, rule.remote, flow))
    return Policy(number, f"p{number}", priority, tuple(rules), True, None, None)


class Moon:
    """The gateway under test: its TUN, its kernel state, and an eye on what reaches the TUN."""

    def __init__(self, net: TwoGateways) -> None:
        self.net = net
        self.space: Namespace = net.moon
        self.kernel = Kernel()
        self.tun = -1
        self.make_tun()

    def make_tun(self) -> None:
        self.tun = self.space.inside(lambda: open_tun(TUN))
        self.space.ip(f"link set {TUN} up")

    def kill_tun(self) -> None:
        if self.tun >= 0:
            os.close(self.tun)
        self.tun = -1

    def apply(self, *policies: Policy) -> None:
        self.space.inside(lambda: self.kernel.apply(policies, TUN))

    def seen(self, wait: float = 0.2) -> list[bytes]:
        """Packets of hosts that reached the TUN since the last look, without the vnet header."""
        packets = []
        while select.select([self.tun], [], [], wait)[0]:
            packet = os.read(self.tun, 1 << 16)[VNET:]
            if packet[0] >> 4 == 4 or packet[24] != 0xFF:  # not the device's own multicasts
                packets.append(packet)
        return packets


@pytest.fixture
def moon() -> Iterator[Moon]:
    with two_gateways() as net:
        net.moon.ip("route add 10.2.0.0/16 via 192.0.2.2", "route add fd02::/64 via 2001:db8::2")
        net.sun.ip("route add 10.1.0.0/16 via 192.0.2.1", "route add fd01::/64 via 2001:db8::1")
        made = Moon(net)
        yield made
        made.kill_tun()


def receiver(space: Namespace, kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def make() -> socket.socket:
        made = socket.socket(family, kind)
        made.bind((address, port))
        made.settimeout(1)
        return made

    return space.inside(make)


def passes(
    sender: Namespace, source: str, receiving: Namespace, destination: str, port: int, source_port: int = 0
) -> str:
    """Where a UDP datagram was seen to come from; empty if it did not arrive."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with receiver(receiving, socket.SOCK_DGRAM, destination, port) as there:

        def send() -> None:
            with socket.socket(family, socket.SOCK_DGRAM) as here, suppress(OSError):
                if source or source_port:
                    here.bind((source, source_port))
                here.sendto(b"x", (destination, port))

        sender.inside(send)
        there.settimeout(0.4)
        try:
            return str(there.recvfrom(100)[1][0])
        except TimeoutError:
            return ""


def pings(space: Namespace, target: str, source: str = "") -> bool:
    bound = ("-I", source) if source else ()
    return space.run("ping", "-c1", "-W1", *bound, target, check=False).returncode == 0


def test_permitted_traffic_reaches_the_tun_and_only_the_tun(moon: Moon) -> None:
    net = moon.net
    assert passes(net.alice, ALICE, net.bob, BOB, 7000)
    moon.apply(policy("permit ip 10.1.0.0/16 10.2.0.0/16", "permit ip fd01::/64 fd02::/64"))
    assert not passes(net.alice, ALICE, net.bob, BOB, 7000)
    assert not passes(net.alice, ALICE6, net.bob, BOB6, 7000)
    seen = moon.seen()
    assert {packet[0] >> 4 for packet in seen} == {4, 6}
    assert any(packet[12:20] == socket.inet_aton(ALICE) + socket.inet_aton(BOB) for packet in seen)


def test_denied_port_ranges_pass_in_clear_with_their_source_and_others_do_not(moon: Moon) -> None:
    net = moon.net
    moon.apply(
        policy(
            "deny udp 10.1.0.0/16 10.2.0.0/16 range 7100 7199",
            "deny udp 10.1.0.0/16 eq 9 any",
            "permit udp 10.1.0.0/16 10.2.0.0/16",
        )
    )
    assert passes(net.alice, ALICE, net.bob, BOB, 7100) == ALICE
    assert passes(net.alice, ALICE, net.bob, BOB, 7199) == ALICE
    assert passes(net.alice, ALICE, net.bob, BOB, 7000, source_port=9) == ALICE
    assert not passes(net.alice, ALICE, net.bob, BOB, 7200)
    assert not passes(net.alice, ALICE, net.bob, BOB, 7099)
    assert pings(net.alice, BOB), "unmatched protocol"
    assert all(packet[9] == socket.IPPROTO_UDP for packet in moon.seen())


def test_the_first_match_decides_over_policies_by_priority_then_id(moon: Moon) -> None:
    net = moon.net
    moon.apply(
        policy("permit udp 10.1.0.0/16 10.2.0.0/16 eq 7001", number=9, priority=1),
        policy("deny udp 10.1.0.0/16 10.2.0.0/24", number=3, priority=2),
        policy("permit udp 10.1.0.0/16 10.2.0.0/16", number=2, priority=2),
    )
    assert not passes(net.alice, ALICE, net.bob, BOB, 7001)
    assert not passes(net.alice, ALICE, net.bob, BOB, 7002), "id 2 comes before id 3"
    moon.apply(
        policy("permit udp 10.1.0.0/16 10.2.0.0/16 eq 7001", number=9, priority=1),
        policy("deny udp 10.1.0.0/16 10.2.0.0/24", number=1, priority=2),
        policy("permit udp 10.1.0.0/16 10.2.0.0/16", number=2, priority=2),
    )
    assert not passes(net.alice, ALICE, net.bob, BOB, 7001)
    assert passes(net.alice, ALICE, net.bob, BOB, 7002) == ALICE


def test_icmp_types_are_told_apart(moon: Moon) -> None:
    net = moon.net
    moon.apply(policy("permit icmp 10.1.0.0/16 10.2.0.0/16 icmp-type timestamp-request"))
    assert pings(net.alice, BOB)
    assert not moon.seen()
    moon.apply(policy("permit icmp 10.1.0.0/16 10.2.0.0/16 icmp-type echo"))
    assert not pings(net.alice, BOB)
    assert [packet[20] for packet in moon.seen()] == [8]
    moon.apply(policy("permit icmpv6 fd01::/64 fd02::/64 icmp-type echo"))
    assert pings(net.alice, BOB)
    assert not pings(net.alice, BOB6)
    assert [packet[40] for packet in moon.seen()] == [128]


def test_sockets_bound_to_nothing_speak_as_a_protected_host(moon: Moon) -> None:
    net = moon.net
    moon.apply(policy("deny udp any any eq 7100", "permit ip 10.1.0.0/16 10.2.0.0/16"))
    assert not passes(net.moon, "", net.bob, BOB, 7000)
    assert [packet[12:16] for packet in moon.seen()] == [socket.inet_aton("10.1.0.1")]
    assert passes(net.moon, "", net.bob, BOB, 7100) == "10.1.0.1"
    assert passes(net.moon, MOON, net.bob, BOB, 7000) == MOON, "the outer address is not in the list"
    assert not moon.seen()


def test_everything_permitted_leaves_the_outer_address_and_neighbours_alone(moon: Moon) -> None:
    net = moon.net
    moon.apply(
        policy(
            "deny ip 10.1.0.0/16 10.1.0.0/16",
            "deny tcp any any eq 22",
            "permit ip 10.1.0.0/16 0.0.0.0/0",
            "permit ip fd01::/64 ::/0",
        )
    )
    assert not passes(net.alice, ALICE, net.bob, BOB, 7000)
    assert not passes(net.alice, ALICE, net.sun, SUN, 7000)
    assert not passes(net.alice, ALICE6, net.bob, BOB6, 7000)
    assert len(moon.seen()) >= 3
    assert pings(net.moon, SUN, MOON), "the gateway's own traffic from its outer address"
    assert pings(net.alice, "10.1.0.1"), "denied: the host's own gateway"
    net.alice.ip("neigh flush dev eth0")
    net.moon.run("ip", "-6", "neigh", "flush", "dev", "inner")
    assert not passes(net.alice, ALICE6, net.bob, BOB6, 7000), "neighbour discovery still works"
    assert moon.seen()


def test_with_everything_permitted_between_everything_sealed_packets_still_come_and_go(moon: Moon) -> None:
    net = moon.net
    moon.apply(policy("permit ip 0.0.0.0/0 0.0.0.0/0"))
    assert not passes(net.moon, MOON, net.sun, SUN, 4500), "an unmarked socket is not Cygnet's"
    assert not pings(net.moon, SUN)

    def marked() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x43790000)
            sock.bind((MOON, 4500))
            sock.sendto(b"ike", (SUN, 4500))

    with receiver(net.sun, socket.SOCK_DGRAM, SUN, 4500) as there:
        net.moon.inside(marked)
        assert there.recv(100) == b"ike"
    assert passes(net.sun, SUN, net.moon, MOON, 4500) == SUN
    assert not passes(net.sun, SUN, net.moon, MOON, 4501), "in clear from a protected address"


def test_nothing_permitted_leaves_in_clear_while_there_is_no_tun(moon: Moon) -> None:
    net = moon.net
    moon.apply(policy("deny udp any any eq 7100", "permit ip 10.1.0.0/16 10.2.0.0/16"))
    moon.kill_tun()
    assert not passes(net.alice, ALICE, net.bob, BOB, 7000)
    assert not passes(net.moon, "10.1.0.1", net.bob, BOB, 7000)
    assert passes(net.alice, ALICE, net.bob, BOB, 7100) == ALICE
    # Each of the two layers is enough: without the guard, the unreachable routes.
    net.moon.run("nft", "flush", "ruleset")
    assert not passes(net.alice, ALICE, net.bob, BOB, 7000)
    # Without the routes, the guard.
    moon.make_tun()
    moon.apply(policy("permit ip 10.1.0.0/16 10.2.0.0/16"))
    moon.kill_tun()
    net.moon.run("ip", "route", "flush", "table", str(ROUTE_TABLE))
    assert not passes(net.alice, ALICE, net.bob, BOB, 7000)
    counters = net.moon.run("nft", "list", "counters").stdout
    assert "packets 1 " in counters


def test_what_should_have_come_out_of_a_tunnel_is_not_taken_in_clear(moon: Moon) -> None:
    net = moon.net
    assert passes(net.bob, BOB, net.alice, ALICE, 7000)
    moon.apply(policy("deny udp any eq 7100 any", "permit udp 10.1.0.0/16 10.2.0.0/16"))
    assert not passes(net.bob, BOB, net.alice, ALICE, 7000)
    assert not passes(net.bob, BOB, net.moon, "10.1.0.1", 7000)
    assert passes(net.bob, BOB, net.alice, ALICE, 7100) == BOB, "the deny, seen from the other side"


def test_replies_of_bypassed_flows_pass_a_strict_reverse_path_filter(moon: Moon) -> None:
    net = moon.net
    net.moon.sysctl(ipv4__conf__all__rp_filter=1, ipv4__conf__outer__rp_filter=1)
    moon.apply(policy("deny icmp any any", "permit ip 10.1.0.0/16 0.0.0.0/0"))
    assert pings(net.alice, BOB)
    # And what comes out of the TUN passes it too.
    with receiver(net.alice, socket.SOCK_DGRAM, ALICE, 7000) as there:
        os.write(moon.tun, bytes(VNET) + udp(BOB, ALICE, 9, 7000, b"out of the tunnel"))
        assert there.recv(100) == b"out of the tunnel"


def test_fragments_of_a_permitted_port_do_not_leave_in_clear_and_those_of_a_denied_one_do(moon: Moon) -> None:
    net = moon.net
    moon.apply(policy("permit udp 10.1.0.0/16 10.2.0.0/16 eq 7000"))
    big = bytes(4000)
    for port, arrives in ((7001, True), (7000, False)):
        with receiver(net.bob, socket.SOCK_DGRAM, BOB, port) as there:
            there.settimeout(0.5)

            def send(port: int = port) -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
                    here.sendto(big, (BOB, port))

            with watching(net.sun, OUTER) as fragments:
                net.alice.inside(send)
                if arrives:
                    assert there.recv(8000) == big
                else:
                    with pytest.raises(TimeoutError):
                        there.recv(8000)
                    assert moon.seen()
                    assert not fragments()


def test_a_second_start_changes_nothing_and_clear_leaves_nothing(moon: Moon) -> None:
    net = moon.net
    one = policy("deny udp any any eq 9", "permit ip 10.1.0.0/16 10.2.0.0/16")
    before = state(net.moon)
    moon.apply(one)
    first = state(net.moon)
    assert first != before
    moon.kernel = Kernel()
    moon.apply(one)
    net.moon.inside(moon.kernel.sweep)
    assert state(net.moon) == first
    moon.apply()
    assert "10.2" not in state(net.moon)
    net.moon.inside(moon.kernel.clear)
    assert state(net.moon) == before
    net.moon.inside(moon.kernel.clear)


def test_what_a_former_process_left_holds_until_it_is_swept(moon: Moon) -> None:
    net = moon.net
    first = policy("permit udp 10.1.0.0/16 10.2.0.0/16 eq 7001", number=1)
    second = policy("permit udp 10.1.0.0/16 10.2.0.0/16 eq 7002", number=2)
    moon.apply(first, second)
    moon.kernel = Kernel()
    moon.apply(second)
    assert not passes(net.alice, ALICE, net.bob, BOB, 7001), "not told about yet"
    assert not passes(net.alice, ALICE, net.bob, BOB, 7002)
    net.moon.inside(moon.kernel.sweep)
    assert passes(net.alice, ALICE, net.bob, BOB, 7001) == ALICE
    assert not passes(net.alice, ALICE, net.bob, BOB, 7002)


def test_what_a_former_process_left_does_not_override_what_is_in_force(moon: Moon) -> None:
    net = moon.net
    moon.apply(
        policy("permit ip 10.1.0.0/16 10.2.0.0/24", number=1),
        policy("permit ip 10.1.0.0/16 192.0.2.0/24", number=2),
    )
    moon.kill_tun()  # its routes go with it, and unreachable ones stay
    moon.make_tun()
    moon.kernel = Kernel()
    moon.apply(policy("deny udp any any eq 7001", "permit ip 10.1.0.0/16 10.2.0.0/16", number=3))
    net.moon.inside(moon.kernel.take_precedence)
    moon.seen()
    assert not passes(net.alice, ALICE, net.bob, BOB, 7000)
    assert moon.seen(), "what is permitted now goes into the tunnel"
    assert passes(net.alice, ALICE, net.bob, BOB, 7001) == ALICE, "and what is denied now is left alone"
    assert "unreachable 192.0.2.0/24" in state(net.moon), "nobody has taken this over"


def test_policies_come_and_go_one_at_a_time(moon: Moon) -> None:
    net = moon.net
    both = [policy(f"permit udp 10.1.0.0/16 10.2.0.0/16 eq {7000 + n}", number=n) for n in (1, 2)]
    moon.apply(both[0])
    moon.apply(*both)
    assert not passes(net.alice, ALICE, net.bob, BOB, 7001)
    assert not passes(net.alice, ALICE, net.bob, BOB, 7002)
    moon.apply(both[1])
    assert passes(net.alice, ALICE, net.bob, BOB, 7001) == ALICE
    assert not passes(net.alice, ALICE, net.bob, BOB, 7002)
    moon.apply(policy("deny udp any any eq 7003", "permit ip any 10.2.0.0/16", number=3), both[1])
    assert not passes(net.alice, ALICE, net.bob, BOB, 7001)
    assert passes(net.alice, ALICE, net.bob, BOB, 7003) == ALICE


def test_where_unmatched_packets_are_discarded_only_what_is_denied_or_sealed_passes_in_clear(
    moon: Moon,
) -> None:
    net = moon.net
    moon.kernel = Kernel(default=Action.DISCARD)
    moon.apply()
    assert not passes(net.alice, ALICE, net.bob, BOB, 7000), "there is no policy at all"
    moon.apply(
        policy(
            "deny udp any any eq 7100",
            "deny udp any eq 7200 any",
            "deny icmp any any",
            "permit ip 10.1.0.0/16 10.2.0.0/16",
        )
    )
    assert passes(net.alice, ALICE, net.bob, BOB, 7100) == ALICE
    assert passes(net.bob, BOB, net.alice, ALICE, 7200) == BOB, "the deny, seen from the other side"
    assert passes(net.moon, MOON, net.sun, SUN, 7100) == MOON
    assert pings(net.alice, BOB)
    assert pings(net.alice, SUN), "a deny holds outside of protected networks too"
    assert not passes(net.alice, ALICE, net.sun, SUN, 7000)
    assert not passes(net.moon, MOON, net.sun, SUN, 7000)
    assert not passes(net.sun, SUN, net.moon, MOON, 7000)
    assert passes(net.sun, SUN, net.moon, MOON, 4500) == SUN
    assert passes(net.alice, ALICE, net.alice, ALICE, 7000) == ALICE
    assert not moon.seen()
    assert not passes(net.alice, ALICE, net.bob, BOB, 7000)
    assert moon.seen()
    with receiver(net.alice, socket.SOCK_DGRAM, ALICE, 7000) as there:
        os.write(moon.tun, bytes(VNET) + udp(BOB, ALICE, 9, 7000, b"out of the tunnel"))
        assert there.recv(100) == b"out of the tunnel"


def test_what_somebody_else_takes_away_is_put_back(moon: Moon) -> None:
    net = moon.net
    moon.apply(policy("deny udp any any eq 7100", "permit ip 10.1.0.0/16 10.2.0.0/16"))
    whole = state(net.moon)
    assert net.moon.inside(lambda: moon.kernel.refresh(TUN)) is False
    for damage in (
        ("nft", "flush", "ruleset"),
        ("ip", "route", "flush", "table", str(ROUTE_TABLE)),
        ("nft", "flush", "chain", "inet", "cygnet", "postrouting"),
        ("nft", "insert", "rule", "inet", "cygnet", "postrouting", "accept"),
    ):
        net.moon.run(*damage)
        assert state(net.moon) != whole
        assert net.moon.inside(lambda: moon.kernel.refresh(TUN)) is True
        assert state(net.moon) == whole
        assert net.moon.inside(lambda: moon.kernel.refresh(TUN)) is False


def test_a_missing_device_is_one_clear_sentence(moon: Moon) -> None:
    with pytest.raises(KernelError, match="there is no device nowhere"):
        moon.space.inside(lambda: moon.kernel.apply([], "nowhere"))
    with pytest.raises(KernelError, match="nftables refused the guard: "):
        moon.space.inside(lambda: nft("nonsense\n"))


# -- helpers ----------------------------------------------------------------------------------------


def state(space: Namespace) -> str:
    parts = [
        # The generation in the names of sets changes from process to process.
        re.sub(r"\bg[0-9]+_", "g_", space.run("nft", "-s", "list", "ruleset").stdout),
        space.run("ip", "rule").stdout,
        space.run("ip", "-6", "rule").stdout,
        space.run("ip", "route", "show", "table", str(ROUTE_TABLE), check=False).stdout,
        space.run("ip", "-6", "route", "show", "table", str(ROUTE_TABLE), check=False).stdout,
    ]
    return "\n".join(parts)


def udp(source: str, destination: str, source_port: int, port: int, data: bytes) -> bytes:
    """An IPv4 UDP packet without a UDP checksum."""
    datagram = struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + datagram


class watching:  # noqa: N801 - used like a function
    """Raw IPv4 packets with an inner source address seen on a link while the block runs."""

    def __init__(self, space: Namespace, link: str) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
            made.bind((link, 0x0800))
            made.setblocking(False)
            return made

        self._socket = space.inside(make)

    def __enter__(self) -> watching:
        return self

    def __call__(self) -> list[bytes]:
        found = []
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            if select.select([self._socket], [], [], 0.05)[0]:
                packet = self._socket.recv(1 << 16)
                if packet[12:14] == bytes((10, 1)):
                    found.append(packet)
        return found

    def __exit__(self, *_: object) -> None:
        self._socket.close()
