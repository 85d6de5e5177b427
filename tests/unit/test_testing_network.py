"""The virtual network itself: time that jumps, faults that are counted, a NAT that forgets."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest

from cygnet.testing.faults import ACTS, Fault, When, drop, exchange_is
from cygnet.testing.network import (
    STEPS_AT_ONE_TIME,
    Conditions,
    Deliveries,
    Flight,
    Livelock,
    Nat,
    Network,
    Packet,
    VirtualEsp,
    flip,
)

A, B, OUTSIDE = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("203.0.113.9")
DATA = bytes(range(40))


class Ear:
    """A node that notes what arrives and when."""

    def __init__(self, network: Network, address: str) -> None:
        self.network = network
        self.heard: list[tuple[float, Flight]] = []
        network.attach(self, ip_address(address))

    def arrive(self, flight: Flight) -> None:
        self.heard.append((round(self.network.now.monotonic - 1000.0, 6), flight))

    @property
    def octets(self) -> list[bytes]:
        return [flight.data for _, flight in self.heard]


def send(network: Network, data: bytes = DATA, *, ports: tuple[int, int] = (500, 500)) -> None:
    network.send(A, B, ports, data)


def test_a_datagram_arrives_after_the_latency_and_time_stands_still_meanwhile() -> None:
    network = Network(conditions=Conditions(latency=0.25))
    ear = Ear(network, "192.0.2.2")
    send(network)
    assert not ear.heard
    assert network.step()
    assert ear.heard[0][0] == 0.25
    assert not network.step()


def test_running_for_a_time_moves_the_clock_even_if_nothing_happens() -> None:
    network = Network()
    assert network.run_for(3600.0) == 0
    assert network.now.monotonic == 4600.0
    assert network.now.wall == 1.8e9 + 3600.0


def test_the_wall_clock_moves_alone() -> None:
    network = Network()
    network.move_wall_clock(-86400.0)
    assert network.now.monotonic == 1000.0
    assert network.now.wall == 1.8e9 - 86400.0


def test_what_nobody_listens_to_is_lost() -> None:
    network = Network()
    send(network)
    network.run_for(1)
    assert network.lost == 1


@pytest.mark.parametrize(
    ("conditions", "counts"),
    [
        (Conditions(loss=1.0), {0}),
        (Conditions(duplicate=1.0), {2}),
        (Conditions(loss=0.5), set(range(200, 300))),
    ],
)
def test_conditions_lose_and_double(conditions: Conditions, counts: set[int]) -> None:
    network = Network(seed=1, conditions=conditions)
    ear = Ear(network, "192.0.2.2")
    for _ in range(500 if conditions.loss == 0.5 else 1):
        send(network)
    network.run_for(1)
    assert len(ear.heard) in counts


def test_conditions_corrupt_one_bit() -> None:
    network = Network(conditions=Conditions(corrupt=1.0))
    ear = Ear(network, "192.0.2.2")
    send(network)
    network.run_for(1)
    assert sum(bin(a ^ b).count("1") for a, b in zip(ear.octets[0], DATA, strict=True)) == 1


def test_jitter_reorders() -> None:
    network = Network(seed=3, conditions=Conditions(latency=0.01, jitter=0.5))
    ear = Ear(network, "192.0.2.2")
    for n in range(20):
        send(network, bytes((n,)) * 30)
    network.run_for(2)
    assert sorted(ear.octets) == [bytes((n,)) * 30 for n in range(20)]
    assert ear.octets != sorted(ear.octets)


def test_a_link_drops_what_exceeds_its_mtu() -> None:
    network = Network(conditions=Conditions(mtu=576))
    ear = Ear(network, "192.0.2.2")
    send(network, bytes(548))
    send(network, bytes(549))
    network.run_for(1)
    assert [len(octets) for octets in ear.octets] == [548]


def test_conditions_may_differ_by_link_and_direction() -> None:
    network = Network()
    network.links[(A, B)] = Conditions(latency=1.0)
    ear_a, ear_b = Ear(network, "192.0.2.1"), Ear(network, "192.0.2.2")
    send(network)
    network.send(B, A, (500, 500), DATA)
    network.run_for(2)
    assert (ear_a.heard[0][0], ear_b.heard[0][0]) == (0.01, 1.0)


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[tuple[float, bytes]]:
        network = Network(seed, conditions=Conditions(jitter=0.3, loss=0.3, duplicate=0.3, corrupt=0.3))
        ear = Ear(network, "192.0.2.2")
        for n in range(50):
            send(network, bytes((n,)) * 30)
        network.run_for(2)
        return [(at, flight.data) for at, flight in ear.heard]

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_protected_packets_are_spared_unless_told_otherwise() -> None:
    esp = VirtualEsp(300, 1, (), Packet(17, A, B))
    for conditions, arrives in ((Conditions(loss=1.0), 1), (Conditions(loss=1.0, packets_too=True), 0)):
        network = Network(conditions=conditions)
        ear = Ear(network, "192.0.2.2")
        network.send(A, B, None, esp=esp)
        network.run_for(1)
        assert len(ear.heard) == arrives


def test_a_circle_without_time_is_found() -> None:
    network = Network()

    def again() -> None:
        network.schedule(0.0, again)

    again()
    with pytest.raises(Livelock, match="events at"):
        network.run_for(1, steps=STEPS_AT_ONE_TIME * 2)


def test_too_many_events_are_found() -> None:
    network = Network()

    def again() -> None:
        network.schedule(0.001, again)

    again()
    with pytest.raises(Livelock, match="more than 100 events"):
        network.run_for(10, steps=100)


def test_running_until_a_condition_tells_whether_it_came() -> None:
    network = Network()
    ear = Ear(network, "192.0.2.2")
    send(network)
    assert network.run_until(lambda: bool(ear.heard))
    assert not network.run_until(lambda: len(ear.heard) > 1, timeout=5)


def test_a_fault_hits_one_position_once() -> None:
    network = Network()
    ear = Ear(network, "192.0.2.2")
    network.meddlers.append(Fault(A, 1, drop))
    for n in range(4):
        send(network, bytes((n,)) * 30)
    network.run_for(1)
    assert [octets[0] for octets in ear.octets] == [0, 2, 3]


@pytest.mark.parametrize("name", ACTS)
def test_every_fault_does_what_its_name_says(name: str) -> None:
    flight = Flight(0, 0, 0.0, A, B, (500, 500), DATA)
    copies: Deliveries = ACTS[name](flight, Random(1))
    octets = [data for _, data in copies]
    expected = {
        "lost": [],
        "doubled": [DATA, DATA],
        "doubled late": [DATA, DATA],
        "delayed": [DATA],
        "reordered": [DATA],
    }
    if name in expected:
        assert octets == expected[name]
    elif name == "corrupted":
        assert len(octets[0]) == len(DATA)
        assert octets[0] != DATA
    else:
        assert DATA.startswith(octets[0])
        assert len(octets[0]) < len(DATA)


def test_a_fault_can_wait_for_an_exchange() -> None:
    network = Network()
    ear = Ear(network, "192.0.2.2")
    network.meddlers.append(When(exchange_is(34, response=False), drop))
    init = bytes(16) + bytes((0, 0x20, 34, 0x08)) + bytes(4) + (28).to_bytes(4, "big")
    send(network)
    send(network, init)
    send(network, init)
    network.run_for(1)
    assert ear.octets == [DATA, init]


def test_flipping_turns_exactly_the_bit() -> None:
    assert flip(b"\0\0", 9) == b"\0\2"


# -- NAT --------------------------------------------------------------------------------------


def natted(timeout: float = 120.0) -> tuple[Network, Nat, Ear, Ear]:
    network = Network()
    inside, peer = Ear(network, "192.0.2.1"), Ear(network, "192.0.2.2")
    return network, Nat(network, OUTSIDE, A, timeout=timeout), inside, peer


def test_a_nat_hides_the_inside_and_lets_answers_in() -> None:
    network, _, inside, peer = natted()
    send(network, ports=(4500, 4500))
    network.run_for(1)
    seen = peer.heard[0][1]
    assert seen.source == OUTSIDE
    assert seen.ports is not None
    assert seen.ports[0] != 4500
    network.send(B, OUTSIDE, (4500, seen.ports[0]), b"answer of some length")
    network.run_for(1)
    assert inside.heard[0][1].ports == (4500, 4500)


def test_a_nat_keeps_its_mapping_and_lets_no_stranger_in() -> None:
    network, _, inside, peer = natted()
    send(network)
    send(network)
    network.run_for(1)
    ports = {flight.ports for _, flight in peer.heard}
    assert len(ports) == 1
    port = next(iter(ports))
    assert port is not None
    network.send(ip_address("198.51.100.1"), OUTSIDE, (500, port[0]), DATA)
    network.send(B, OUTSIDE, (500, 1), DATA)
    network.run_for(1)
    assert not inside.heard


def test_a_nat_forgets_what_is_not_used() -> None:
    network, _, inside, peer = natted(timeout=30.0)
    send(network)
    network.run_for(31)
    before = peer.heard[0][1].ports
    assert before is not None
    network.send(B, OUTSIDE, (500, before[0]), DATA)
    network.run_for(1)
    assert not inside.heard
    send(network)
    network.run_for(1)
    assert peer.heard[1][1].ports != before


def test_rebinding_gives_another_port() -> None:
    network, nat, _, peer = natted()
    send(network)
    nat.rebind()
    send(network)
    network.run_for(1)
    assert peer.heard[0][1].ports != peer.heard[1][1].ports


def test_plain_esp_does_not_pass_a_nat() -> None:
    network, _, _, peer = natted()
    network.send(A, B, None, esp=VirtualEsp(300, 1, (), Packet(17, A, B)))
    network.run_for(1)
    assert not peer.heard
    assert network.lost == 1
