"""Access lists end to end between two Cygnets: which packet takes the tunnel, which stays as it is.

Both gateways negotiate when traffic comes (trap), a pair of SAs for each rule in IPv4 and one for the whole
list in IPv6; the outer link says what went in clear.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import ALICE, ALICE6, BOB, BOB6, MOON, SUN
from tests.network.gateways import Ladder, Two, two
from tests.network.probes import GRE, ICMP, ICMPV6, OSPF, SILENCE, TCP, UDP, Probe, Probes
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]

MOON_LISTS = """
[acls]
office = [
    "10 deny   tcp  10.1.0.0/16            10.2.0.0/16 eq 22",
    "20 permit tcp  any                    10.2.0.0/16 range 20 100",
    "30 permit udp  10.1.0.0 0.0.255.255   10.2.0.0 0.0.255.255 neq 53",
    "40 permit icmp 10.1.0.0/16            10.2.0.0/16 echo",
    "50 permit icmp 10.1.0.0/16            10.2.0.0/16 echo-reply",
    "60 permit gre  10.1.0.2 0.0.0.8       10.2.0.0/16",
    "70 permit tcp  10.1.0.0/16 gt 60000   10.2.0.0/16",
]
office6 = [
    "10 permit tcp    fd01::/64  fd02::/64 lt 1024",
    "20 deny   icmpv6 fd01::/64  host fd02::dead",
    "30 permit icmpv6 fd01::/64  fd02::/64",
    "40 permit udp    fd01::/64  fd02::/64 eq 5000",
]
"""
SUN_LISTS = """
[acls]
office = [
    "10 deny   tcp  10.2.0.0/16 eq 22                  10.1.0.0/16",
    "20 permit tcp  10.2.0.0/16 range 20 100           any",
    "30 permit udp  10.2.0.0 0.0.255.255 neq 53        10.1.0.0 0.0.255.255",
    "40 permit icmp 10.2.0.0/16                        10.1.0.0/16 echo",
    "50 permit icmp 10.2.0.0/16                        10.1.0.0/16 echo-reply",
    "60 permit gre  10.2.0.0/16                        10.1.0.2 0.0.0.8",
    "70 permit tcp  10.2.0.0/16                        10.1.0.0/16 gt 60000",
]
office6 = [
    "10 permit tcp    fd02::/64 lt 1024  fd01::/64",
    "20 deny   icmpv6 host fd02::dead    fd01::/64",
    "30 permit icmpv6 fd02::/64          fd01::/64",
    "40 permit udp    fd02::/64 eq 5000  fd01::/64",
]
"""
CHILDREN = """
[connections.gw.children.office]
acl = "office"
sa = "per-rule"
start_action = "trap"
[connections.gw.children.office6]
acl = "office6"
sa = "aggregate"
start_action = "trap"
"""
NEGOTIATED = 8.0
"""Seconds that the first packet of a rule may take: it is held until its SA is there."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    directory = tmp_path_factory.mktemp("lists")
    with two(directory, CHILDREN + MOON_LISTS, CHILDREN + SUN_LISTS, clear=True) as made:
        for host in (made.net.alice, made.net.bob):
            host.sysctl(ipv4__icmp_echo_ignore_all=1)  # their answers would be negotiated for, too
        made.net.alice.ip(*(f"addr add 10.1.0.{host}/16 dev eth0" for host in (2, 3, 11)))
        made.net.bob.ip("addr add fd02::dead/64 dev eth0 nodad")
        yield made


@pytest.fixture(scope="module")
def probes(pair: Two) -> Iterator[Probes]:
    made = Probes(pair.net)
    yield made
    made.close()


# What takes the tunnel by which rule, and what passes as it is.
PERMITTED = {
    "office/20": [Probe(TCP, 20), Probe(TCP, 21), Probe(TCP, 23), Probe(TCP, 100)],
    "office/30": [Probe(UDP, 52), Probe(UDP, 54), Probe(UDP, 65535)],
    "office/40": [Probe(ICMP, 8)],
    "office/50": [Probe(ICMP, 0)],
    "office/60": [Probe(GRE), Probe(GRE, source="10.1.0.2")],
    "office/70": [Probe(TCP, 443, 60001)],
    "office6": [
        Probe(TCP, 1023, source=ALICE6, destination=BOB6),
        Probe(ICMPV6, 129, source=ALICE6, destination=BOB6),
    ],
}
UNHARMED = [
    Probe(TCP, 22),
    Probe(TCP, 19),
    Probe(TCP, 101),
    Probe(TCP, 443, 60000),
    Probe(UDP, 53),
    Probe(ICMP, 13),
    Probe(ICMP, 3),
    Probe(GRE, source="10.1.0.3"),
    Probe(GRE, source="10.1.0.11"),
    Probe(OSPF),
    Probe(TCP, 1024, source=ALICE6, destination=BOB6),
    Probe(ICMPV6, 129, source=ALICE6, destination="fd02::dead"),
    Probe(UDP, 7, source=ALICE6, destination=BOB6),
]


def test_the_first_packet_of_each_rule_is_held_and_leaves_through_an_sa_of_its_own(
    pair: Two, probes: Probes
) -> None:
    ladder = Ladder(pair.moon)
    try:
        first = [of_rule[0] for of_rule in PERMITTED.values()]
        assert probes.send(*first, patience=NEGOTIATED) == ["tunnel"] * len(first), pair.logs()
        until(lambda: len(pair.children()) == len(first), 5, "a pair for each rule")
        # RFC 7296: four messages for the first pair of SAs, two for each further one.
        messages = ladder.messages()
        assert len(messages) == 4 + 2 * (len(first) - 1)
        assert [message for message in messages if "CHILD" not in message] == [
            "sent IKE_SA_INIT request",
            "received IKE_SA_INIT response",
            "sent IKE_AUTH request",
            "received IKE_AUTH response",
        ]
    finally:
        ladder.close()
    for side in pair.both():
        until(lambda: len(pair.children(side)) == len(PERMITTED), 5, "a pair for each rule")  # noqa: B023
        assert len(side.sas()) == 1
    assert {child["rule"] for child in pair.children()} == set(PERMITTED)


def test_every_permitted_flow_takes_the_tunnel_in_both_directions(pair: Two, probes: Probes) -> None:
    for rule, flows in PERMITTED.items():
        there = probes.send(*flows, patience=NEGOTIATED)
        back = probes.send(*[probe.back() for probe in flows], patience=NEGOTIATED)
        assert {*there, *back} == {"tunnel"}, (rule, there, back)
    assert len(pair.moon.sas()) == 1


def test_denied_and_unmatched_flows_pass_in_clear_in_both_directions(pair: Two, probes: Probes) -> None:
    before = pair.spis()
    there = probes.send(*UNHARMED, patience=2)
    assert there == ["clear"] * len(UNHARMED), list(zip(UNHARMED, there, strict=True))
    returning = [probe.back() for probe in UNHARMED]
    back = probes.send(*returning, patience=2)
    assert back == ["clear"] * len(UNHARMED), list(zip(returning, back, strict=True))
    assert pair.spis() == before, "nothing was negotiated for them"


def test_the_other_side_of_the_tunnel_negotiates_too_when_its_traffic_comes(
    pair: Two, probes: Probes
) -> None:
    for side in pair.both():
        pair.ask(side, "terminate", ike="gw", force="yes")
    until(lambda: not pair.moon.sas() and not pair.sun.sas(), 5, "both sides empty")
    first = [of_rule[0].back() for of_rule in PERMITTED.values()]
    assert probes.send(*first, patience=NEGOTIATED) == ["tunnel"] * len(first), pair.logs()
    (sa,) = pair.sun.sas()
    assert sa["initiator"] == "yes"
    # Packets go as soon as they may, which is before the daemon hears that they may.
    until(lambda: len(pair.children(pair.sun)) == len(PERMITTED), 5, "a pair for each rule")


def send_large(sender: Namespace, source: str, receiver: Namespace, destination: str, port: int) -> bytes:
    """A datagram of several fragments; what arrived of it."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET

    def bound(address: str, port: int) -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(1)
        return made

    with (
        receiver.inside(lambda: bound(destination, port)) as there,
        sender.inside(lambda: bound(source, 0)) as here,
    ):
        for _ in range(3):  # the first may tell the sender how large an IPv6 fragment can be here
            here.sendto(b"fragmented" * 700, (destination, port))
            with suppress(TimeoutError):
                return there.recv(10000)
        return b""


@pytest.mark.parametrize(("source", "destination"), [(ALICE, BOB), (ALICE6, BOB6)], ids=["ipv4", "ipv6"])
def test_fragments_of_a_permitted_port_take_the_tunnel_and_of_another_do_not(
    pair: Two, source: str, destination: str
) -> None:
    net = pair.net

    def carried() -> int:
        return sum(int(child["packets-out"]) for child in pair.children())

    before = carried()
    assert send_large(net.alice, source, net.bob, destination, 5000) == b"fragmented" * 700
    assert carried() > before
    before = carried()
    assert send_large(net.alice, source, net.bob, destination, 53) == b"fragmented" * 700
    assert carried() == before


def test_what_the_gateways_themselves_say_on_the_outer_link_is_unharmed(pair: Two) -> None:
    assert pair.net.moon.run("ping", "-c1", "-W2", SUN, check=False).returncode == 0
    assert pair.net.sun.run("ping", "-c1", "-W2", MOON, check=False).returncode == 0


CARVED = """
[connections.gw.children.lists]
acl = "lists"
start_action = "trap"
[acls]
lists = [
    {deny}
    "permit {rule}",
]
"""


def test_what_the_peer_sends_into_a_carve_out_is_dropped_and_counted_with_a_reason_of_its_own(
    tmp_path: Path,
) -> None:
    """The cut is no product of two lists, so that the peer is told the whole rule and knows of no deny."""
    moon = CARVED.format(deny=f'"deny udp host {ALICE} host {BOB}",', rule="udp 10.1.0.0/16 10.2.0.0/16")
    sun = CARVED.format(deny="", rule="udp 10.2.0.0/16 10.1.0.0/16")
    with two(tmp_path, moon, sun, clear=True) as pair:
        probes = Probes(pair.net)
        pair.net.bob.ip("addr add 10.2.0.11/16 dev eth0")
        other = Probe(UDP, 7, destination="10.2.0.11")
        assert probes.send(other, patience=NEGOTIATED) == ["tunnel"]
        into = Probe(UDP, 7).back()
        assert probes.send(into, into, other.back(), patience=SILENCE) == ["lost", "lost", "tunnel"]
        (child,) = pair.children()
        assert child["drops-carved_out"] == "2"
        assert "2 carved_out" in pair.moon.cygnet("status").stdout
        # Moon's own rule holds on the way out; sun takes nothing in clear that it protects.
        assert probes.send(Probe(UDP, 7), patience=SILENCE) == ["leaked"]
        assert "arrived_in_clear" in pair.net.sun.run("nft", "list", "counters").stdout
        probes.close()


def test_everything_may_be_protected_but_for_a_carve_out_and_the_way_to_the_peer(tmp_path: Path) -> None:
    moon = CARVED.format(deny='"deny tcp any any eq 22",', rule="ip 10.1.0.0/16 0.0.0.0/0")
    sun = CARVED.format(deny='"deny tcp any eq 22 any",', rule="ip 0.0.0.0/0 10.1.0.0/16")
    with two(tmp_path, moon, sun, clear=True) as pair:
        probes = Probes(pair.net)
        there = [Probe(TCP, 443), Probe(OSPF), Probe(ICMP, 13), Probe(UDP, 22)]
        assert probes.send(*there, patience=NEGOTIATED) == ["tunnel"] * 4, pair.logs()
        assert probes.send(*[probe.back() for probe in there]) == ["tunnel"] * 4
        assert probes.send(Probe(TCP, 22), Probe(TCP, 22).back()) == ["clear", "clear"]
        six = Probe(UDP, 443, source=ALICE6, destination=BOB6)
        assert probes.send(six) == ["clear"]
        assert pair.net.moon.run("ping", "-c1", "-W2", SUN, check=False).returncode == 0
        assert len(pair.moon.sas()) == 1
        probes.close()
