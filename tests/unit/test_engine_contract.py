"""Both engines get the same packets and must produce equal octets, verdicts and counters.

The reference has judges of its own (test_ipsec_esp: published packets, scapy); here the crate is held to the
reference over packets that nobody thought of.
"""

from __future__ import annotations

import logging
import random
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from cygnet.dataplane.engines import native, native_available
from cygnet.ipsec.esp import InboundSa, OutboundSa, Workspace
from cygnet.ipsec.inner import describe
from cygnet.policy.sa import Direction, SaParameters, TunnelHeader
from cygnet.policy.spd import Action, Policy
from tests.unit import test_dataplane_engine as contract
from tests.unit.test_ipsec_esp import SUITES, ipv4, lay, parameters, seal

logging.getLogger("scapy").setLevel(logging.ERROR)
inet: Any = pytest.importorskip("scapy.layers.inet")
inet6: Any = pytest.importorskip("scapy.layers.inet6")

pytestmark = pytest.mark.skipif(not native_available(), reason="the native engine was not built")

CARRIED = [name for name in SUITES if native.carries(parameters(name))]


def same_octets(size: int) -> bytes:
    """The same for both, so that IVs are."""
    return bytes(range(1, size + 1))


def pair(sa: SaParameters) -> tuple[InboundSa, InboundSa]:
    return InboundSa(sa), native.NativeInbound(1, sa)


def verdicts(sa: InboundSa, packets: list[bytes]) -> list[bytes]:
    found = []
    for packet in packets:
        work = Workspace()
        rows, stride = lay([packet])
        runs, _ = sa.open_batch(work, rows, 0, stride, 1, stride)
        found.append(bytes(work.opened.buffer[runs[0].start :][: runs[0].length]) if runs else b"")
    return found


def test_what_the_crate_carries_is_most_of_what_there_is() -> None:
    assert len(CARRIED) >= 17


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("name", CARRIED)
def test_sealed_packets_are_equal_octet_for_octet(name: str, esn: bool) -> None:
    sa = parameters(name, esn=esn)
    ours = OutboundSa(sa, random=same_octets)
    theirs = native.NativeOutbound(1, sa, random=same_octets)
    for sequence in (0, 100, (1 << 32) - 70):
        if sequence:
            ours.sequence = theirs.sequence = sequence
        for length, last in ((28, 20), (64, 64), (1380, 1371), (1381, 77), (1382, 1382), (1383, 40)):
            for count in (1, 2, 7):
                payloads = [ipv4(length, i) for i in range(count - 1)] + [ipv4(last, count)]
                assert seal(ours, payloads) == seal(theirs, payloads)
    assert (ours.sequence, ours.packets, ours.bytes) == (theirs.sequence, theirs.packets, theirs.bytes)


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("name", CARRIED)
def test_hostile_packets_meet_the_same_verdicts_and_counters(name: str, esn: bool) -> None:
    source = random.Random(name)
    sa = parameters(name, esn=esn, replay_window=source.choice((32, 64, 1024, 4096)))
    sender = OutboundSa(sa)
    good: list[bytes] = []
    for start in (0, 5000, (1 << 32) - 40):
        sender.sequence = max(sender.sequence, start)
        for number in range(30):
            payload = ipv4(source.randrange(20, 200), number)
            header = source.choice((4, 4, 4, 4, 41, 59, 6, 0, 108))
            if source.random() < 0.1:
                payload = source.randbytes(source.randrange(1, 60))
            good += seal(sender, [payload], next_header=header)
    packets = [bytes(size) for size in range(8, 81)]
    for packet in good:
        what = source.randrange(8)
        broken = bytearray(packet)
        if what == 0:
            broken[source.randrange(4, len(broken))] ^= 1 << source.randrange(8)
        elif what == 1:
            del broken[source.randrange(8, len(broken)) :]
        elif what == 2:
            broken += source.randbytes(source.randrange(1, 20))
        elif what == 3:
            packets.append(packet)
        packets.append(bytes(broken))
    for _ in range(40):  # late and repeated ones
        packets.insert(source.randrange(len(packets)), source.choice(good))
    ours, theirs = pair(sa)
    assert verdicts(ours, packets) == verdicts(theirs, packets)
    assert ours.drops == theirs.drops
    assert (ours.packets, ours.bytes, ours.window.top) == (theirs.packets, theirs.bytes, theirs.window.top)


def test_bad_padding_behind_a_right_icv_is_refused_alike() -> None:
    sa = parameters("null-sha256")
    protector = OutboundSa(sa).protector
    packets = []
    for number in range(1, 60):
        pad = random.Random(number).randbytes(number % 5)
        body = ipv4(40) + pad + bytes((random.Random(-number).randrange(8), 4))
        body += bytes(-len(body) % 4)
        head = struct.pack(">II", sa.spi, number)
        packets.append(head + protector.seal(head, b"", body))
    ours, theirs = pair(sa)
    assert verdicts(ours, packets) == verdicts(theirs, packets)
    assert ours.drops == theirs.drops
    assert "bad_padding" in ours.drops


def test_no_two_packets_get_one_number_however_many_threads_ask() -> None:
    sa = native.NativeOutbound(1, parameters())
    found: list[bytes] = []

    def work() -> None:
        mine = Workspace()
        for _ in range(50):
            found.extend(packet[4:16] for packet in seal(sa, [ipv4(40)] * 3, mine))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == sa.sequence == 600
    with pytest.raises(ValueError, match="never go back"):
        sa.sequence = 5


def test_a_second_installation_of_the_same_keys_has_other_ivs() -> None:
    """Restart, restore, a daemon that installs twice: the counter begins somewhere else."""
    sa = parameters()
    firsts = {seal(native.NativeOutbound(n, sa), [ipv4(40)])[0][8:16] for n in range(50)}
    assert len(firsts) == 50


def test_packets_are_described_alike() -> None:
    source = random.Random(5)
    seen = 0
    for number in range(4000):
        packet = bytearray(hostile(source, number))
        for _ in range(source.randrange(3)):
            packet[source.randrange(len(packet))] = source.randrange(256)
        if source.random() < 0.2:
            del packet[source.randrange(len(packet) + 1) :]
        ours = describe(memoryview(packet), 0, len(packet))
        theirs = native.crate_describe(bytes(packet))
        if ours is None:
            assert theirs is None
            continue
        seen += 1
        ports = [-1 if p is None else p for p in (ours.source_port, ours.destination_port)]
        assert theirs == (ours.family, ours.protocol, ours.source, ours.destination, *ports)
    assert seen > 1000


def hostile(source: random.Random, number: int) -> bytes:
    """A packet of any kind, of either direction of the contract's tunnel or beside it."""
    near, far = source.choice((("10.1.0.1", "10.2.0.1"), ("10.1.0.9", "10.2.3.4"), ("10.9.0.1", "10.2.0.1")))
    near6, far6 = "2001:db8:1::1", source.choice(("2001:db8:2::1", "2001:db8:9::1", "ff02::1"))
    four = inet.IP(src=near, dst=far, id=number & 0xFFFF, flags=source.choice(("DF", 0, "MF")),
                   frag=source.choice((0, 0, 0, 0, 5, 8191)), tos=source.randrange(256))  # fmt: skip
    six = inet6.IPv6(src=near6, dst=far6, tc=source.randrange(256))
    body = source.choice((
        inet.UDP(sport=source.randrange(4), dport=53) / source.randbytes(source.randrange(60)),
        inet.TCP(sport=1, dport=source.randrange(3), flags=source.choice(("A", "PA", "S", "FA"))) / b"x",
        inet.ICMP(type=source.choice((0, 3, 8, 11))) / source.randbytes(30),
        source.randbytes(source.randrange(40)),
    ))  # fmt: skip
    around = source.choice((
        None, inet6.IPv6ExtHdrHopByHop(), inet6.IPv6ExtHdrDestOpt(), inet6.IPv6ExtHdrRouting(),
        inet6.IPv6ExtHdrFragment(id=number % 7, offset=source.choice((0, 1)), m=source.choice((0, 1))),
    ))  # fmt: skip
    if source.random() < 0.5:
        if isinstance(body, bytes):
            four.proto = source.choice((6, 17, 1, 47, 50, 132))
        return bytes(four / body)
    return bytes(six / around / body if around is not None else six / body)


@contextmanager
def both() -> Iterator[tuple[contract.Gateway, contract.Gateway]]:
    made = []
    for name in ("portable", "native"):
        contract.ENGINES.append(name)
        made.append(contract.Gateway())
        contract.ENGINES.pop()
    yield made[0], made[1]
    for one in made:
        one.close()


POLICIES = (
    contract.policy(1, True, (Action.DISCARD, "10.1.0.9/32", "10.2.3.0/24[udp/53]")),
    Policy(
        2, "other/net", 5, (contract.rule(Action.BYPASS, "10.9.0.0/16", "10.2.0.0/16"),), False, None, None
    ),
)


@pytest.mark.parametrize("seed", range(6))
def test_two_gateways_that_get_the_same_packets_do_the_same(seed: int) -> None:
    header = TunnelHeader(copy_dscp_in=seed % 2 == 1, copy_dscp_out=seed % 3 == 0)
    with both() as gateways:
        opened, counters, taken = [], [], []
        for gateway in gateways:
            source = random.Random(seed)
            for one in POLICIES:
                gateway.put(one)
            for direction in (Direction.IN, Direction.OUT):
                gateway.engine.install_sa(gateway.sa(direction, header=header))
            sealed = gateway.sa(Direction.OUT, replay_window=4096)
            receiver = InboundSa(replace(sealed, direction=Direction.IN))
            peer = contract.Peer(gateway)
            inside: list[bytes] = []
            for number in range(40):
                packets = [hostile(source, number * 8 + n) for n in range(source.randrange(1, 8))]
                sent = gateway.send(*packets)
                inside += [contract.opened(receiver, data) for data in sent]
            opened.append(sorted(inside))
            outside: list[bytes] = []
            for number in range(40):
                made = []
                for n in range(source.randrange(1, 8)):
                    packet = hostile(source, number * 8 + n)
                    turned = bytearray(packet)
                    if packet[0] >> 4 == 4 and len(packet) >= 20:  # as the other side sends it
                        turned[12:16], turned[16:20] = packet[16:20], packet[12:16]
                    elif packet[0] >> 4 == 6 and len(packet) >= 40:
                        turned[8:24], turned[24:40] = packet[24:40], packet[8:24]
                    made.append(peer.seal(bytes(turned)))
                gateway.peer.setsockopt(0, 1, source.choice((0, 1, 2, 3)))  # IP_TOS: ECN outside
                outside += gateway.receive(*made)
            taken.append(outside)
            found = gateway.engine.counters(())
            counters.append((gateway.drops(), [replace_times(c) for c in found]))
        assert opened[0] == opened[1]
        assert by_flow(taken[0]) == by_flow(taken[1])
        assert counters[0] == counters[1]
        assert len(opened[0]) > 40
        assert len(taken[0]) > 20


def by_flow(packets: list[bytes]) -> dict[Any, list[bytes]]:
    """Each flow keeps its order; one that is being joined may go after another that came later."""
    found: dict[Any, list[bytes]] = {}
    for packet in packets:
        inner = describe(memoryview(packet), 0, len(packet))
        assert inner is not None
        found.setdefault((*inner[:6], inner.fragment is None), []).append(packet)
    return found


def replace_times(found: Any) -> tuple[Any, ...]:
    """Counters without when."""
    return (found.bytes_in, found.packets_in, found.bytes_out, found.packets_out, found.sequence_in,
            found.sequence_out, found.drops)  # fmt: skip
