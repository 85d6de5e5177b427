"""The portable engine between a stand-in for the TUN (a packet socket pair) and UDP sockets on loopback."""

from __future__ import annotations

import logging
import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from cygnet.dataplane import messages
from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines import native_available
from cygnet.dataplane.engines.native import NativeEngine
from cygnet.dataplane.engines.portable import PortableEngine, Sockets
from cygnet.dataplane.guard import KernelError
from cygnet.dataplane.offload import burst, split
from cygnet.dataplane.translate import Refused
from cygnet.dataplane.tun import VNET, Offloads
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import InboundSa, OutboundSa, Workspace
from cygnet.ipsec.rows import Rows
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol, TunnelHeader, UdpEncapsulation, Volume
from cygnet.policy.selectors import TrafficSelector, parse_selector
from cygnet.policy.spd import Action, Policy, PolicyRule
from cygnet.wire.numbers import Encr, Integ

logging.getLogger("scapy").setLevel(logging.ERROR)
inet: Any = pytest.importorskip("scapy.layers.inet")
inet6: Any = pytest.importorskip("scapy.layers.inet6")

FLOW, PAIR = 7, 1


ENGINES: list[str] = ["portable"]
"""The last one is the one under test; who takes `Gateway` elsewhere gets the first."""


@pytest.fixture(autouse=True, params=["portable", "native"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The contract: all of this holds for either engine."""
    if request.param == "native" and not native_available():
        pytest.skip("the native engine was not built: no Rust toolchain")
    ENGINES.append(request.param)
    yield request.param
    ENGINES.pop()


class StandIn:
    """The TUN's other end: what the machine's network stack would send and get."""

    name = "stand-in"

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        theirs.setblocking(False)
        self._theirs = theirs
        self.fd = theirs.fileno()
        self.mtu = 0

    def start(self, mtu: int, offloads: Offloads, *, bursts: bool) -> None:
        self.mtu = mtu
        offloads.tun_tso = offloads.tun_uso = bursts

    def set_mtu(self, mtu: int) -> None:
        self.mtu = mtu

    def set_burst_size(self, octets: int) -> None:
        pass

    def give(self, packet: Any) -> None:
        self.ours.send(bytes(VNET) + bytes(packet))

    def taken(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.ours.recv(1 << 17))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


class Kernel:
    """Refuses what is named in `refuse`."""

    def __init__(self) -> None:
        self.policies: dict[int, Policy] = {}
        self.commits: list[list[int]] = []
        self.swept = self.cleared = False
        self.refuse: set[int] = set()
        self.flushed = False

    def put(self, policy: Policy) -> None:
        self.policies[policy.id] = policy

    def remove(self, policy: int) -> None:
        self.policies.pop(policy, None)

    def commit(self, tun: str) -> None:
        if self.refuse & set(self.policies):
            raise KernelError("no nftables here")
        self.commits.append(sorted(self.policies))

    def refresh(self, tun: str) -> bool:
        if self.refuse:
            raise KernelError("no nftables here")
        flushed, self.flushed = self.flushed, False
        return flushed

    def take_precedence(self) -> None:
        return

    def sweep(self) -> None:
        self.swept = True

    def clear(self) -> None:
        self.cleared = True


class Gateway:
    """One engine at 127.0.0.1 and, in place of the peer, a bare socket."""

    def __init__(self, **options: Any) -> None:
        self.tun, self.kernel = StandIn(), Kernel()
        self.reports: list[Any] = []
        self.waiting: list[Any] = []
        self.commands = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.udp = self._socket()
        self.peer = self._socket()
        self.peer.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
        self.port, self.peer_port = self.udp.getsockname()[1], self.peer.getsockname()[1]
        kind = NativeEngine if ENGINES[-1] == "native" else PortableEngine
        self.engine: PortableEngine = kind(
            self.tun,
            Sockets(self.udp, None, None, None),
            self.kernel,
            Options(tun_mtu=1400, **options),
            self.reports.append,
            self._drain,
            self.commands[1].fileno(),
        )
        self.lane = self.port if ENGINES[-1] == "native" else 4500
        self.pass_time(1000.0 - self.engine.state.now)

    def turn_out(self) -> None:
        """As the loop does when the TUN is readable."""
        if isinstance(self.engine, NativeEngine):
            self.engine.crate.step(0)
            self.engine.events()
        else:
            self.engine.outward.readable()

    def turn_in(self) -> None:
        """As the loop does when the UDP lane is readable."""
        if not isinstance(self.engine, NativeEngine):
            self.engine.inward.udp_readable(self.udp, self.lane)
            return
        if self.waiting:
            self.commands[0].send(b"a command")
        with ThreadPoolExecutor() as loop:  # commands are carried out beside the crate's thread
            done = loop.submit(self._drain) if self.waiting else None
            self.engine.crate.step(1)
            if done is not None:
                done.result()
        self.engine.events()

    def pass_time(self, seconds: float) -> None:
        self.engine.state.now += seconds
        if isinstance(self.engine, NativeEngine):
            self.engine.crate.stop_clock(self.engine.state.now)

    def _socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind(("127.0.0.1", 0))
        made.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        return made

    def _drain(self) -> None:
        self.engine.draining(True)
        while self.waiting:
            self.waiting.pop(0)()
        self.engine.draining(False)

    def sa(self, direction: Direction, **changed: Any) -> SaParameters:
        key = bytes(range(36)) if direction == Direction.OUT else bytes(range(100, 136))
        values: dict[str, Any] = {
            "direction": direction,
            "protocol": SaProtocol.ESP,
            "mode": Mode.TUNNEL,
            "spi": 0x1000 + direction,
            "pair": PAIR,
            "flow": FLOW,
            "local": ip_address("127.0.0.1"),
            "remote": ip_address("127.0.0.1"),
            "encapsulation": UdpEncapsulation(self.port, self.peer_port),
            "encryption": Encr.AES_GCM_16,
            "key_bits": 256,
            "integrity": Integ.NONE,
            "encryption_key": key,
            "integrity_key": b"",
            "esn": False,
            "replay_window": 64,
            "local_selectors": selectors("10.1.0.0/16", "2001:db8:1::/48"),
            "remote_selectors": selectors("10.2.0.0/16", "2001:db8:2::/48"),
        }
        return SaParameters(**(values | changed))

    def install(self, **changed: Any) -> None:
        self.put(policy())
        self.engine.install_sa(self.sa(Direction.IN, **changed))
        self.engine.install_sa(self.sa(Direction.OUT, **changed))

    def put(self, *changes: Policy | int) -> None:
        assert self.engine.change_policies(changes) == [""] * len(changes)

    def send(self, *packets: Any) -> list[bytes]:
        """Packets in at the TUN; ESP packets out."""
        for packet in packets:
            self.tun.give(packet)
        self.turn_out()
        return self.at_peer()

    def at_peer(self) -> list[bytes]:
        if isinstance(self.engine, NativeEngine):
            self.turn_out()  # what was held leaves by its thread
        found = []
        while True:
            try:
                found.append(self.peer.recv(1 << 17))
            except BlockingIOError:
                return found

    def receive(
        self,
        *datagrams: bytes,
        source: socket.socket | None = None,
        segment: int = 0,
        joined: bool = False,
    ) -> list[bytes]:
        """Datagrams in at the socket; packets out of the TUN, vnet headers off. `joined`: as written."""
        for datagram in datagrams:
            control = [(17, 103, struct.pack("=H", segment))] if segment else []
            (source or self.peer).sendmsg([datagram], control, 0, ("127.0.0.1", self.port))
        for _ in range(0, len(datagrams), 16):  # a turn of the loop takes so many
            self.turn_in()
        taken = self.tun.taken()
        if joined:
            return [data[VNET:] for data in taken]
        return [packet for data in taken for packet in separate(data)]

    def drops(self) -> dict[str, int]:
        return self.engine.drops()

    def close(self) -> None:
        self.tun.close()
        for sock in (self.udp, self.peer, *self.commands):
            sock.close()


def separate(data: bytes) -> list[bytes]:
    """What was written to the TUN, packet by packet: engines may join as much as they like."""
    if not data[1]:
        return [data[VNET:]]
    read, out = Rows(1 << 17), Rows(1 << 18)
    read.buffer[: len(data)] = data
    _, gso_type, _, segment, transport, _ = struct.unpack("=BBHHHH", data[:VNET])
    what = burst(read, VNET, len(data) - VNET, gso_type, segment, transport)
    assert what is not None
    full = what.header + segment
    last = split(read, what, 0, what.count, out, 0, full + 8)
    sizes = [full] * (what.count - 1) + [last]
    return [bytes(out.view[at * (full + 8) :][:size]) for at, size in enumerate(sizes)]


class Peer:
    """The other end of the gateway's SAs."""

    def __init__(self, gateway: Gateway, **changed: Any) -> None:
        self._work = Workspace()
        inbound = gateway.sa(Direction.IN, **changed)
        self.sender = OutboundSa(replace(inbound, direction=Direction.OUT))

    def seal(self, packet: Any) -> bytes:
        data, sa = bytes(packet), self.sender
        self._work.sealed.buffer[sa.head : sa.head + len(data)] = data
        end = sa.seal_batch(self._work, 0, 1, len(data), len(data), 4 if data[0] >> 4 == 4 else 41)
        return bytes(self._work.sealed.buffer[:end])


def selectors(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(s for s in map(parse_selector, texts) if isinstance(s, TrafficSelector))


def rule(action: Action, local: str, remote: str) -> PolicyRule:
    (here,), (there,) = selectors(local), selectors(remote)
    return PolicyRule(action, here, there, FLOW if action == Action.PROTECT else 0)


def policy(number: int = 1, trap: bool = True, *extra: tuple[Action, str, str]) -> Policy:
    """The two networks, after the rules given."""
    rules = [rule(*one) for one in extra]
    rules.append(rule(Action.PROTECT, "10.1.0.0/16", "10.2.0.0/16"))
    rules.append(rule(Action.PROTECT, "2001:db8:1::/48", "2001:db8:2::/48"))
    return Policy(number, "net", 0, tuple(rules), trap, None, None)


@pytest.fixture
def gateway(engine: str) -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.close()


def out(dport: int = 53, size: int = 60, **ip: Any) -> Any:
    return inet.IP(src="10.1.0.1", dst="10.2.0.1", flags="DF", **ip) / inet.UDP(dport=dport) / (b"o" * size)


def back(dport: int = 53, size: int = 60, **ip: Any) -> Any:
    ip = {"src": "10.2.0.1", "dst": "10.1.0.1", "flags": "DF"} | ip
    return inet.IP(**ip) / inet.UDP(dport=dport) / (b"b" * size)


def test_packets_go_out_sealed_and_come_back_opened(gateway: Gateway) -> None:
    gateway.install()
    sealed = gateway.send(out())
    assert len(sealed) == 1
    assert sealed[0][:8] == struct.pack(">II", 0x1001, 1)
    assert b"oooo" not in sealed[0]
    assert gateway.receive(Peer(gateway).seal(back())) == [bytes(back())]
    assert gateway.drops() == {}
    (counters,) = gateway.engine.counters(())
    assert (counters.packets_in, counters.packets_out) == (1, 1)
    assert counters.bytes_out == counters.bytes_in == len(bytes(out()))
    assert counters.use_in == counters.use_out == 0.0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40, 64])
@pytest.mark.parametrize("gso", [True, False])
def test_many_packets_of_one_flow_keep_their_order_both_ways(count: int, gso: bool) -> None:
    gateway = Gateway(gso=gso)
    gateway.install()
    sent = gateway.send(*(out(size=60 + count % 5, id=n) for n in range(count)))
    assert [int.from_bytes(data[4:8], "big") for data in sent] == list(range(1, count + 1))
    peer = Peer(gateway)
    made = [back(size=61, id=n) for n in range(count)]
    got = gateway.receive(*map(peer.seal, made))
    assert got == [bytes(packet) for packet in made]
    gateway.close()


@pytest.mark.parametrize("size", range(60, 77))
@pytest.mark.parametrize("version", [4, 6])
def test_checksums_that_the_kernel_left_undone_are_done(gateway: Gateway, version: int, size: int) -> None:
    gateway.install()
    made = []
    for number in range(13):
        ip = (
            inet.IP(src="10.1.0.1", dst="10.2.0.1", flags="DF", id=number)
            if version == 4
            else inet6.IPv6(src="2001:db8:1::1", dst="2001:db8:2::1")
        )
        # The last ones are of another flow, then of another size: the run before must not touch them.
        sport = 7 if number < 8 else 8
        data = bytes(
            ip / inet.UDP(sport=sport, dport=53) / random.Random(number).randbytes(size - number // 11)
        )
        made.append(data)
        at = 20 if version == 4 else 40
        undone = bytearray(data)
        pseudo = sum(struct.unpack(f">{len(data[at - 8 : at]) // 2}H", data[at - 8 : at]))
        if version == 6:
            pseudo = sum(struct.unpack(">16H", data[8:40]))
        pseudo += 17 + len(data) - at
        undone[at + 6 : at + 8] = ((pseudo & 0xFFFF) + (pseudo >> 16)).to_bytes(2, "big")
        gateway.tun.ours.send(struct.pack("=BBHHHH", 1, 0, 0, 0, at, 6) + undone)
        if number == 0:
            gateway.turn_out()  # so that the flow is known and the rest goes as columns
    gateway.turn_out()
    receiver = InboundSa(replace(gateway.sa(Direction.OUT), direction=Direction.IN))
    assert [opened(receiver, data) for data in gateway.at_peer()] == made


def opened(sa: InboundSa, data: bytes) -> bytes:
    work, rows = Workspace(), Rows(1 << 16)
    rows.buffer[: len(data)] = data
    ((run,), _) = sa.open_batch(work, rows, 0, len(data), 1, len(data))
    return bytes(work.opened.buffer[run.start : run.start + run.length])


def test_a_burst_from_the_tun_leaves_as_segments(gateway: Gateway) -> None:
    gateway.install()
    payload = bytes(range(256)) * 40
    large = bytearray(
        bytes(inet.IP(src="10.1.0.1", dst="10.2.0.1", flags="DF") / inet.TCP(flags="PA") / payload)
    )
    gateway.tun.ours.send(struct.pack("=BBHHHH", 1, 1, 40, 1000, 20, 16) + large)
    gateway.turn_out()
    sealed = gateway.at_peer()
    assert len(sealed) == 11
    assert len({len(data) for data in sealed[:-1]}) == 1
    assert gateway.engine.counters(())[0].packets_out == 11


def test_segments_in_one_receive_are_written_to_the_tun_as_one_burst(gateway: Gateway) -> None:
    gateway.install()
    gateway.udp.setsockopt(socket.IPPROTO_UDP, 104, 1)
    peer = Peer(gateway)
    made = [
        inet.IP(src="10.2.0.1", dst="10.1.0.1", flags="DF")
        / inet.TCP(flags="A", seq=n * 1000)
        / (b"%04d" % n * 250)
        for n in range(20)
    ]
    sealed = [peer.seal(packet) for packet in made]
    (burst,) = gateway.receive(b"".join(sealed), segment=len(sealed[0]), joined=True)
    assert burst[40:] == b"".join(b"%04d" % n * 250 for n in range(20))
    assert gateway.engine.counters(())[0].packets_in == 20


# -- policy ----------------------------------------------------------------------------------------


def test_the_kernel_guards_a_policy_before_the_engine_uses_it(gateway: Gateway) -> None:
    gateway.kernel.refuse = {1}
    assert gateway.engine.change_policies([policy()]) == ["no nftables here"]
    assert len(gateway.engine.state.spd) == len(gateway.kernel.policies) == 0
    gateway.kernel.refuse = set()
    gateway.put(policy())
    gateway.put(policy(2))
    gateway.put(1)
    gateway.put(1)
    assert gateway.kernel.commits == [[1], [1, 2], [2], [2]]


def test_many_policies_are_one_commit_and_a_bad_one_among_them_fails_alone(gateway: Gateway) -> None:
    gateway.put(policy(2))
    gateway.put(policy(1), policy(3), 2)
    assert gateway.kernel.commits == [[2], [1, 3]]
    gateway.kernel.refuse = {5}
    assert gateway.engine.change_policies([policy(4), policy(5), 3]) == ["", "no nftables here", ""]
    assert [p.id for p in gateway.engine.state.spd] == sorted(gateway.kernel.policies) == [1, 4]


def test_flows_without_a_policy_or_with_discard_are_dropped_with_their_reasons(gateway: Gateway) -> None:
    gateway.put(
        policy(
            1,
            True,
            (Action.DISCARD, "10.1.0.0/16[udp]", "10.2.0.0/16[udp/99]"),
            (Action.BYPASS, "10.1.0.9/32", "10.2.0.0/16"),
        )
    )
    gateway.engine.install_sa(gateway.sa(Direction.OUT))
    bypassed = inet.IP(src="10.1.0.9", dst="10.2.0.1") / inet.UDP()
    foreign = inet.IP(src="10.1.0.1", dst="10.3.0.1") / inet.UDP()
    assert gateway.send(out(dport=99), bypassed, foreign, b"\x45garbage", bytes(40)) == []
    assert gateway.drops() == {Drop.DISCARDED: 1, Drop.NO_POLICY: 2, Drop.NOT_IP: 2}
    assert len(gateway.send(out(dport=98))) == 1


def test_what_comes_out_of_a_tunnel_must_match_its_selectors(gateway: Gateway) -> None:
    gateway.install()
    peer = Peer(gateway)
    for wrong in (
        back(src="10.3.0.1"),
        back(dst="10.9.0.1"),
        back(src="127.0.0.1"),
        back(src="224.0.0.1"),
        inet6.IPv6(src="2001:db8:3::1", dst="2001:db8:1::1") / inet.UDP(),
    ):
        assert gateway.receive(peer.seal(wrong)) == []
    assert gateway.drops() == {Drop.SELECTOR: 5}
    assert gateway.receive(peer.seal(b"\x45" + bytes(30)), peer.seal(b"\x4f" + bytes(40))) == []
    assert gateway.drops() == {Drop.SELECTOR: 5, Drop.BAD_INNER: 2}


def test_what_the_peer_sends_into_a_carve_out_is_dropped_with_a_reason_of_its_own(gateway: Gateway) -> None:
    gateway.install()
    gateway.put(policy(1, True, (Action.BYPASS, "10.1.0.0/16[tcp/22]", "10.2.0.0/16[tcp]")))
    peer = Peer(gateway)
    denied = inet.IP(src="10.2.0.1", dst="10.1.0.1", flags="DF") / inet.TCP(dport=22)
    assert gateway.receive(peer.seal(denied), peer.seal(back())) == [bytes(back())]
    assert gateway.drops() == {Drop.CARVED_OUT: 1}


def test_verdicts_are_made_anew_when_the_policy_changes(gateway: Gateway) -> None:
    gateway.install()
    peer = Peer(gateway)
    assert len(gateway.send(out())) == len(gateway.receive(peer.seal(back()))) == 1
    gateway.put(policy(1, True, (Action.DISCARD, "10.1.0.0/16", "10.2.0.0/16")))
    assert gateway.send(out()) == gateway.receive(peer.seal(back())) == []
    assert gateway.drops() == {Drop.DISCARDED: 1, Drop.CARVED_OUT: 1}


# -- acquire ---------------------------------------------------------------------------------------


def acquires(gateway: Gateway) -> list[Any]:
    return [report for report in gateway.reports if isinstance(report, messages.Acquire)]


def test_traffic_without_an_sa_asks_for_one_is_held_and_leaves_when_it_comes(gateway: Gateway) -> None:
    gateway.put(policy())
    assert gateway.send(*(out(id=n) for n in range(5))) == []
    (asked,) = acquires(gateway)
    assert asked.flow == FLOW
    assert asked.remote == messages.Selector(4, 17, b"\x0a\2\0\1", b"\x0a\2\0\1", 53, 53)
    gateway.engine.install_sa(gateway.sa(Direction.OUT))
    assert len(gateway.at_peer()) == 5
    assert gateway.drops() == {}


def test_what_is_held_is_bounded_and_grows_stale(gateway: Gateway) -> None:
    gateway.put(policy())
    for _ in range(3):
        gateway.send(*(out() for _ in range(20)))
    assert gateway.drops() == {Drop.NO_OUTBOUND_SA: 44}
    assert len(acquires(gateway)) == 1
    gateway.pass_time(2)
    gateway.send(out())
    assert len(acquires(gateway)) == 2
    gateway.pass_time(20)
    gateway.engine.tick()
    assert gateway.drops() == {Drop.NO_OUTBOUND_SA: 45, Drop.HELD_TOO_LONG: 16}
    gateway.engine.install_sa(gateway.sa(Direction.OUT))
    assert gateway.at_peer() == []
    assert gateway.engine.outward._held_octets == 0


def test_a_burst_is_held_whole_and_cut_when_its_sa_comes(gateway: Gateway) -> None:
    gateway.put(policy())
    large = bytes(inet.IP(src="10.1.0.1", dst="10.2.0.1", flags="DF") / inet.TCP(flags="A") / bytes(9000))
    gateway.tun.ours.send(struct.pack("=BBHHHH", 1, 1, 40, 1000, 20, 16) + large)
    gateway.turn_out()
    gateway.engine.install_sa(gateway.sa(Direction.OUT))
    assert len(gateway.at_peer()) == 9


def test_without_a_trap_nothing_is_asked_for_and_nothing_leaves(gateway: Gateway) -> None:
    gateway.put(policy(trap=False))
    assert gateway.send(out()) == []
    assert gateway.reports == []
    assert gateway.drops() == {Drop.NO_OUTBOUND_SA: 1}


def test_traffic_outside_a_narrowed_sa_asks_again(gateway: Gateway) -> None:
    gateway.put(policy())
    gateway.engine.install_sa(gateway.sa(Direction.OUT, remote_selectors=selectors("10.2.0.0/24")))
    assert len(gateway.send(out(), inet.IP(src="10.1.0.1", dst="10.2.7.1") / inet.UDP(dport=5))) == 1
    (asked,) = acquires(gateway)
    assert asked.remote.first == b"\x0a\2\7\1"


# -- the life of an SA -----------------------------------------------------------------------------


def test_the_newest_outbound_sa_carries_the_flow(gateway: Gateway) -> None:
    gateway.install()
    gateway.engine.install_sa(gateway.sa(Direction.OUT, spi=0x2000, pair=2))
    assert gateway.send(out())[0][:4] == b"\0\0\x20\0"
    gateway.engine.remove_sa(Direction.OUT, 0x2000, b"\x7f\0\0\1", 0)
    assert gateway.send(out())[0][:4] == b"\0\0\x10\1"


def test_a_removed_inbound_sa_still_receives_for_a_while(gateway: Gateway) -> None:
    gateway.install()
    peer = Peer(gateway)
    gateway.engine.remove_sa(Direction.IN, 0x1000, b"\x7f\0\0\1", 5.0)
    assert len(gateway.receive(peer.seal(back()))) == 1
    gateway.pass_time(4.9)
    gateway.engine.tick()
    assert len(gateway.receive(peer.seal(back()))) == 1
    gateway.pass_time(0.2)
    gateway.engine.tick()
    assert gateway.receive(peer.seal(back())) == []
    assert gateway.drops() == {Drop.NO_SA: 1}


def test_an_unknown_spi_is_looked_up_again_after_the_waiting_commands(gateway: Gateway) -> None:
    gateway.put(policy())
    gateway.waiting.append(lambda: gateway.engine.install_sa(gateway.sa(Direction.IN)))
    peer = Peer(gateway)
    assert gateway.receive(peer.seal(back())) == [bytes(back())]
    assert gateway.receive(b"\0\0\x77\x77" + bytes(60)) == []
    assert gateway.drops() == {Drop.NO_SA: 1}


def expires(gateway: Gateway) -> list[tuple[int, bool, str]]:
    return [(r.direction, r.hard, r.why) for r in gateway.reports if isinstance(r, messages.Expire)]


def test_volume_limits_ask_softly_once_and_end_hard(gateway: Gateway) -> None:
    gateway.install(volume=Volume(soft_packets=3, hard_packets=6))
    peer = Peer(gateway)
    for _ in range(2):
        gateway.send(out())
    assert expires(gateway) == []
    for _ in range(3):
        assert len(gateway.send(out())) == 1
    assert expires(gateway) == [(1, False, "packets")]
    assert len(gateway.send(out())) == 1
    gateway.send(out())
    assert expires(gateway) == [(1, False, "packets"), (1, True, "packets")]
    for _ in range(8):
        gateway.receive(peer.seal(back()))
    assert expires(gateway)[2:] == [(0, False, "packets"), (0, True, "packets")]
    assert gateway.drops()[Drop.NO_SA] == 2
    assert gateway.engine.counters(()) == ()


def test_byte_limits_count_inner_octets(gateway: Gateway) -> None:
    size = len(bytes(out()))
    gateway.install(volume=Volume(soft_bytes=size * 2, hard_bytes=size * 4))
    for _ in range(6):
        gateway.send(out())
    assert expires(gateway) == [(1, False, "bytes"), (1, True, "bytes")]


def test_sequence_numbers_ask_for_a_rekey_at_80_percent_and_stop_before_they_wrap(gateway: Gateway) -> None:
    gateway.install()
    (sender,) = gateway.engine.state.sad.outbound_entries()
    sender.sa.sequence = (1 << 32) // 5 * 4
    assert len(gateway.send(out())) == 1
    assert expires(gateway) == [(1, False, "sequence")]
    sender.sa.sequence = (1 << 32) - 11
    assert len(gateway.send(*(out() for _ in range(10)))) == 10
    assert gateway.send(out()) == []
    assert expires(gateway)[1:] == [(1, True, "sequence")]


def test_an_sa_past_its_hard_lifetime_is_removed_though_the_daemon_is_gone(gateway: Gateway) -> None:
    gateway.install(hard_seconds=60.0)
    gateway.pass_time(59)
    gateway.engine.tick()
    assert expires(gateway) == []
    gateway.pass_time(1)
    gateway.engine.tick()
    assert sorted(expires(gateway)) == [(0, True, "seconds"), (1, True, "seconds")]
    assert gateway.send(out()) == []


def test_drops_of_an_sa_that_is_gone_stay_counted(gateway: Gateway) -> None:
    gateway.install()
    gateway.receive(Peer(gateway).seal(back())[:-1] + b"x")
    gateway.engine.remove_sa(Direction.IN, 0x1000, b"\x7f\0\0\1", 0)
    assert gateway.drops() == {Drop.BAD_ICV: 1}


def test_thousands_of_rekeyed_sas_leave_nothing_behind(gateway: Gateway) -> None:
    gateway.put(policy())
    for number in range(2000):
        for direction in (Direction.IN, Direction.OUT):
            gateway.engine.install_sa(
                gateway.sa(direction, spi=0x10000 + number, pair=number, hard_seconds=3960.0)
            )
            gateway.engine.remove_sa(direction, 0x10000 + number - 5, b"\x7f\0\0\1", 0)
    assert len(gateway.engine.state.sad) == len(list(gateway.engine.state.sad.entries())) == 10
    assert len(gateway.engine._ends) < 100
    gateway.pass_time(4000)
    gateway.engine.tick()
    assert len(gateway.engine.state.sad) == len(gateway.engine.state.sad.pairs) == 0
    assert len(expires(gateway)) == 10


def test_first_use_is_told_once_and_only_after_authentication(gateway: Gateway) -> None:
    gateway.install(notify_first_use=True)
    sealed = Peer(gateway).seal(back())
    gateway.receive(sealed[:-1] + b"x")
    assert gateway.reports == []
    gateway.receive(sealed, Peer(gateway).seal(back()))
    assert gateway.reports == [messages.FirstUse(PAIR, 0x1000)]


def test_a_peer_that_moved_is_told_when_authentic_and_newest_only(gateway: Gateway) -> None:
    gateway.install()
    peer = Peer(gateway)
    old, older = peer.seal(back()), peer.seal(back())
    gateway.receive(peer.seal(back()))
    elsewhere = gateway._socket()
    gateway.receive(older, source=elsewhere)  # authentic, not newest
    gateway.receive(old[:-1] + b"x", source=elsewhere)  # not authentic
    assert gateway.reports == []
    for _ in range(3):
        gateway.receive(peer.seal(back()), source=elsewhere)
    port = elsewhere.getsockname()[1]
    assert gateway.reports == [messages.PeerMoved(PAIR, 0x1000, b"\x7f\0\0\1", port)]
    assert gateway.send(out()) != []  # still to the old port, until the daemon decides
    moved = UdpEncapsulation(gateway.port, port)
    gateway.engine.update_sa(PAIR, ip_address("127.0.0.1"), ip_address("127.0.0.1"), moved)
    assert gateway.send(out()) == []
    assert len(elsewhere.recv(2000)) > 60
    gateway.receive(peer.seal(back()), source=elsewhere)
    assert len(gateway.reports) == 1
    elsewhere.close()


def test_sweep_leaves_what_is_named(gateway: Gateway) -> None:
    gateway.install()
    gateway.put(policy(2))
    gateway.engine.install_sa(gateway.sa(Direction.IN, spi=0x3000, pair=2))
    gateway.engine.sweep((2,), (2,))
    assert [p.id for p in gateway.engine.state.spd] == [2]
    assert list(gateway.engine.state.sad.pairs) == [2]
    gateway.engine.clear()
    assert gateway.kernel.swept
    assert gateway.kernel.cleared
    assert not gateway.engine.state.sad.pairs


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"replay_window": 31}, "replay window 31"),
        ({"encryption": 99}, "encryption"),
        ({"encryption_key": b"short"}, "key length"),
        ({"encryption": Encr.AES_CBC, "encryption_key": bytes(32)}, "integrity"),
        ({"encapsulation": None}, "no socket"),
        ({"local": ip_address("::1"), "remote": ip_address("::1")}, "no socket"),
    ],
)
def test_an_sa_that_cannot_be_is_refused_with_a_sentence(
    gateway: Gateway, changed: dict[str, Any], text: str
) -> None:
    direction = Direction.IN if "replay_window" in changed else Direction.OUT
    wrong = gateway.sa(direction, **changed)
    with pytest.raises(Refused, match=text):
        gateway.engine.install_sa(wrong)


def test_an_spi_in_use_is_refused(gateway: Gateway) -> None:
    gateway.install()
    with pytest.raises(Refused, match="in use"):
        gateway.engine.install_sa(gateway.sa(Direction.IN, pair=5))


# -- the outer header ------------------------------------------------------------------------------


def outer_class(gateway: Gateway) -> int:
    _, ancillary, _, _ = gateway.peer.recvmsg(2000, 100)
    return next(value[0] for level, kind, value in ancillary if (level, kind) == (0, 1))


def test_dscp_and_ecn_go_out_as_the_sa_says(gateway: Gateway) -> None:
    for header, expected in (
        (TunnelHeader(), 0xBA),
        (TunnelHeader(copy_dscp_out=False), 0x02),
        (TunnelHeader(copy_ecn=False), 0xB8),
    ):
        gateway.engine.sweep((), ())
        gateway.install(header=header)
        gateway.tun.give(out(tos=0xBA))
        gateway.turn_out()
        assert outer_class(gateway) == expected


def test_congestion_marked_outside_comes_in_and_kills_what_cannot_carry_it(gateway: Gateway) -> None:
    gateway.install()
    gateway.udp.setsockopt(socket.IPPROTO_IP, 13, 1)
    peer = Peer(gateway)
    gateway.peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 3)
    capable, incapable = peer.seal(back(tos=0x02)), peer.seal(back())
    assert [data[1] for data in gateway.receive(capable, incapable)] == [3]
    assert gateway.drops() == {Drop.ECN: 1}


# -- what does not fit -----------------------------------------------------------------------------


def narrow(gateway: Gateway, inner: int) -> None:
    (entry,) = gateway.engine.state.sad.outbound_entries()
    entry.max_inner = inner
    if isinstance(gateway.engine, NativeEngine):
        gateway.engine.tell_path(entry)


def test_what_does_not_fit_and_must_not_be_cut_is_answered_with_its_size(gateway: Gateway) -> None:
    gateway.install()
    narrow(gateway, 1300)
    assert gateway.send(out(size=1300)) == []
    answer = inet.IP(gateway.tun.taken()[0][VNET:])
    assert (answer.src, answer.dst, answer[inet.ICMP].type, answer[inet.ICMP].code) == (
        "10.2.0.1",
        "10.1.0.1",
        3,
        4,
    )
    assert answer[inet.ICMP].nexthopmtu == 1300
    assert answer.__class__(bytes(answer)).chksum == answer.chksum
    remade = inet.IP(bytes(answer))
    del remade.chksum, remade[inet.ICMP].chksum
    assert bytes(remade) == bytes(answer)
    assert bytes(answer[inet.ICMP].payload)[:28] == bytes(out(size=1300))[:28]
    assert gateway.drops() == {Drop.TOO_BIG: 1}


def test_ipv6_that_does_not_fit_gets_packet_too_big_and_never_less_than_1280(gateway: Gateway) -> None:
    gateway.install()
    large = inet6.IPv6(src="2001:db8:1::1", dst="2001:db8:2::1") / inet.UDP(dport=5) / (b"o" * 1300)
    for inner, announced in ((1320, 1320), (900, 1280)):
        narrow(gateway, inner)
        assert gateway.send(large) == []
        data = gateway.tun.taken()[0][VNET:]
        answer = inet6.IPv6(data)
        assert answer[inet6.ICMPv6PacketTooBig].mtu == announced
        del answer[inet6.ICMPv6PacketTooBig].cksum
        assert bytes(answer) == data


def test_on_a_path_below_the_smallest_mtu_packets_leave_and_are_cut_outside(gateway: Gateway) -> None:
    gateway.install()
    narrow(gateway, 500)
    assert len(gateway.send(out(size=540))) == 1
    assert gateway.send(out(size=560)) == []
    six = inet6.IPv6(src="2001:db8:1::1", dst="2001:db8:2::1") / inet.UDP(dport=5) / (b"o" * 1200)
    assert len(gateway.send(six)) == 1
    large = bytes(inet.IP(src="10.1.0.1", dst="10.2.0.1", flags="DF") / inet.TCP(flags="A") / bytes(5000))
    for segment, count in ((536, 10), (537, 0)):
        gateway.tun.ours.send(struct.pack("=BBHHHH", 1, 1, 40, segment, 20, 16) + large)
        gateway.turn_out()
        assert len(gateway.at_peer()) == count


def test_ipv4_that_may_be_cut_leaves_and_the_kernel_cuts_it_outside(gateway: Gateway) -> None:
    gateway.install()
    narrow(gateway, 1000)
    packet = inet.IP(src="10.1.0.1", dst="10.2.0.1") / inet.UDP() / (b"o" * 1200)
    assert len(gateway.send(packet, packet, out())) == 3


def test_a_sealed_packet_that_comes_back_to_the_tun_is_not_sealed_again(gateway: Gateway) -> None:
    everything = selectors("0.0.0.0/0")
    rules = (rule(Action.PROTECT, "0.0.0.0/0", "0.0.0.0/0"),)
    gateway.put(Policy(1, "all", 0, rules, True, None, None))
    gateway.engine.install_sa(
        gateway.sa(Direction.OUT, local_selectors=everything, remote_selectors=everything)
    )
    own = inet.IP(src="127.0.0.1", dst="127.0.0.1") / inet.UDP(sport=gateway.port, dport=gateway.peer_port)
    assert gateway.send(own, inet.IP(src="127.0.0.1", dst="127.0.0.1", proto=50) / b"esp") == []
    assert gateway.drops() == {Drop.LOOP: 2}


# -- foreign datagrams -----------------------------------------------------------------------------


def test_ike_among_esp_goes_to_the_daemon_with_its_path_and_keepalives_go_nowhere(gateway: Gateway) -> None:
    gateway.install()
    peer = Peer(gateway)
    got = gateway.receive(b"\xff", bytes(4) + b"ike message", peer.seal(back()), b"\xff\xff", b"abc")
    assert got == [bytes(back())]
    assert gateway.reports == [
        messages.ForeignDatagram(
            b"\x7f\0\0\1", gateway.lane, b"\x7f\0\0\1", gateway.peer_port, bytes(4) + b"ike message"
        )
    ]
    assert gateway.drops() == {Drop.RUNT: 2}


def test_aggregates_with_everything_in_them_are_cut_right(gateway: Gateway) -> None:
    gateway.install()
    gateway.engine.install_sa(gateway.sa(Direction.IN, spi=0x3000, pair=2))
    gateway.udp.setsockopt(socket.IPPROTO_UDP, 104, 1)
    first, second = Peer(gateway), Peer(gateway, spi=0x3000)
    made = [back(size=60, id=n) for n in range(9)]
    sealed = [first.seal(p) for p in made[:4]] + [second.seal(p) for p in made[4:]]
    ike = bytes(4) + bytes(range(1, len(sealed[0]) - 3))
    order = [*sealed[:2], ike, *sealed[2:6], ike, *sealed[6:], b"\0\0\x99\x99" + bytes(30)]
    assert gateway.receive(b"".join(order), segment=len(sealed[0])) == [bytes(p) for p in made]
    assert [report.data for report in gateway.reports] == [ike, ike]
    assert gateway.drops() == {Drop.NO_SA: 1}


def test_an_esp_datagram_from_the_daemons_socket_is_opened(gateway: Gateway) -> None:
    gateway.install()
    sealed = Peer(gateway).seal(back())
    gateway.engine.inward.forwarded(sealed, b"\x7f\0\0\1", 4500, ("127.0.0.1", gateway.peer_port))
    gateway.engine.inward.forwarded(b"x", b"\x7f\0\0\1", 4500, ("127.0.0.1", gateway.peer_port))
    assert [data[VNET:] for data in gateway.tun.taken()] == [bytes(back())]


# -- hostile input ---------------------------------------------------------------------------------


def test_mutated_datagrams_and_aggregates_never_raise_and_never_come_out_of_the_tun(gateway: Gateway) -> None:
    gateway.install()
    source = random.Random(11)
    good = [Peer(gateway).seal(back(size=size)) for size in (1, 60, 300)]
    inward = gateway.engine.inward
    for _ in range(3000):
        data = bytearray(source.choice(good) * source.choice((1, 1, 2, 9)))
        for _ in range(source.randrange(1, 4)):
            if not data:
                break
            at = source.randrange(len(data))
            kind = source.randrange(4)
            if kind == 0:
                data[at] ^= 1 << source.randrange(8)
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at:at] = source.randbytes(source.randrange(1, 20))
            else:
                del data[at : at + source.randrange(1, 9)]
        if len(data) < 8 or bytes(data[: len(good[0])]) in good:
            continue
        segment = min(len(data), source.choice((len(data), len(data), 1, 7, 8, 60, len(good[1]), 1400)))
        inward._received.buffer[: len(data)] = data
        inward._cut(len(data), segment, source.randrange(256), b"\x7f\0\0\1", 4500, ("127.0.0.1", 5))
    # Some pieces were whole and honest; each packet came out once at most.
    assert len(gateway.tun.taken()) <= 3


def test_tun_reads_with_headers_that_lie_never_raise(gateway: Gateway) -> None:
    gateway.install()
    source = random.Random(12)
    good = [bytes(out()), bytes(inet.IP(src="10.1.0.1", dst="10.2.0.1") / inet.TCP(flags="A") / bytes(3000))]
    for _ in range(1500):
        data = bytearray(source.choice(good))
        for _ in range(source.randrange(0, 4)):
            data[source.randrange(min(len(data), 60))] = source.randrange(256)
        data = data[: source.choice((len(data), source.randrange(len(data) + 1)))]
        header = struct.pack(
            "=BBHHHH",
            source.choice((0, 1, 2, 255)),
            source.choice((0, 0, 1, 4, 5, 0x81, 3, 255)),
            source.choice((0, 40, 65535)),
            source.choice((0, 1, 8, 100, 1000, 65535)),
            source.choice((0, 20, 24, 40, 65535)),
            source.choice((0, 6, 16, 65535)),
        )
        gateway.tun.ours.send(header + data)
        if source.random() < 0.3:
            gateway.turn_out()
            gateway.at_peer()
            gateway.tun.taken()


def test_what_somebody_flushed_from_the_kernel_comes_back_and_is_told(gateway: Gateway) -> None:
    gateway.install()
    told = []
    for flushed, refuse in ((True, set[int]()), (False, set[int]()), (False, {1})):
        gateway.kernel.flushed, gateway.kernel.refuse = flushed, refuse
        gateway.reports.clear()
        gateway.pass_time(31)
        gateway.engine.tick()
        told.append([report.code for report in gateway.reports])
    assert told == [["policy_restored"], [], ["policy_lost"]]
