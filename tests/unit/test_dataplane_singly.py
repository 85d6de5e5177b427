"""AH, transport mode, bundles, IPComp, TFC: two portable engines back to back, the wire between in sight."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines.portable import PortableEngine, Sockets
from cygnet.dataplane.translate import Refused
from cygnet.dataplane.tun import VNET
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.pieces import cut
from cygnet.policy.sa import (
    TFC_TO_MTU,
    Direction,
    Mode,
    SaParameters,
    SaProtocol,
    TunnelHeader,
    UdpEncapsulation,
)
from cygnet.policy.spd import Action, Policy, PolicyRule
from cygnet.wire.numbers import Encr, Integ
from tests.unit.test_dataplane_engine import Kernel, StandIn, selectors

logging.getLogger("scapy").setLevel(logging.ERROR)
inet: Any = pytest.importorskip("scapy.layers.inet")
inet6: Any = pytest.importorskip("scapy.layers.inet6")
ipsec: Any = pytest.importorskip("scapy.layers.ipsec")

OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8:ff::1", "2001:db8:ff::2")}
INNER = {4: ("10.1.0.1", "10.2.0.1"), 6: ("2001:db8:1::1", "2001:db8:2::1")}
FLOW = 7


class Wire:
    """A raw socket: what is sent stays in `sent`, what is put into `waiting` arrives."""

    def __init__(self, version: int, protocol: int) -> None:
        self.family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.proto = protocol
        self.sent: list[bytes] = []
        self.waiting: list[tuple[bytes, list[Any], str]] = []

    def fileno(self) -> int:
        return 1000 + self.proto

    def setsockopt(self, *_: Any) -> None:
        pass

    def sendmsg(self, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None) -> int:
        self.sent.append(b"".join(buffers))
        return len(self.sent[-1])

    def recvmsg_into(self, buffers: Any, size: int) -> tuple[int, list[Any], int, tuple[str, int]]:
        if not self.waiting:
            raise BlockingIOError
        data, ancillary, source = self.waiting.pop(0)
        buffers[0][: len(data)] = data
        return len(data), ancillary, 0, (source, 0)


class End:
    """One gateway: index 0 is at the left, 1 at the right."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.tun, self.reports = StandIn(), []  # type: ignore[var-annotated]
        self.wire: Mapping[int, Wire] = {4: Wire(4, 51), 6: Wire(6, 51)}
        self.raw = {4: Wire(4, 50), 6: Wire(6, 50)}
        self.engine = PortableEngine(
            self.tun,
            Sockets(None, None, self.raw[4], self.raw[6], self.wire[4], self.wire[6]),  # type: ignore[arg-type]
            Kernel(),
            Options(tun_mtu=1400),
            self.reports.append,
            lambda: None,
        )
        self.engine.state.now = 1000.0

    def taken(self) -> list[bytes]:
        return [data[VNET:] for data in self.tun.taken()]

    def drops(self) -> dict[str, int]:
        return {reason: count for reason, count in self.engine.drops().items() if count}


class Between:
    """The two, their SAs and the way between them."""

    def __init__(self) -> None:
        self.ends = End(0), End(1)

    def close(self) -> None:
        for end in self.ends:
            end.tun.close()

    def sa(self, index: int, direction: Direction, outer: int = 4, **changed: Any) -> SaParameters:
        """`changed` holds what both ends and directions share; `spi` is made of it and the direction."""
        sender = index if direction == Direction.OUT else 1 - index
        ends = [ip_address(one) for one in OUTER[outer]]
        networks = [selectors("10.1.0.0/16", "2001:db8:1::/48"), selectors("10.2.0.0/16", "2001:db8:2::/48")]
        if changed.get("mode") == Mode.TRANSPORT:
            networks = [selectors(f"{end}/{32 if outer == 4 else 128}") for end in OUTER[outer]]
        values: dict[str, Any] = {
            "protocol": SaProtocol.ESP,
            "mode": Mode.TUNNEL,
            "pair": 1,
            "flow": FLOW,
            "encapsulation": None,
            "encryption": Encr.AES_GCM_16,
            "key_bits": 128,
            "integrity": Integ.NONE,
            "encryption_key": bytes([sender]) * 20,
            "integrity_key": b"",
            "esn": False,
            "replay_window": 64,
        }
        if changed.get("protocol") == SaProtocol.AH:
            values |= {
                "encryption": 0,
                "key_bits": 0,
                "encryption_key": b"",
                "integrity": Integ.HMAC_SHA2_256_128,
                "integrity_key": bytes([sender]) * 32,
            }
        values |= changed
        values["spi"] = changed.get("spi", 0x1000 * values["pair"]) + sender
        return SaParameters(
            direction=direction,
            local=ends[index],
            remote=ends[1 - index],
            local_selectors=networks[index],
            remote_selectors=networks[1 - index],
            **values,
        )

    def install(self, outer: int = 4, **changed: Any) -> None:
        for index, end in enumerate(self.ends):
            incoming = self.sa(index, Direction.IN, outer, **changed)
            outer_part = changed.get("bundle") and incoming.protocol == SaProtocol.AH
            if not end.engine.state.spd.get(1) and not outer_part:
                rules = [
                    PolicyRule(Action.PROTECT, here, there, FLOW)
                    for here in incoming.local_selectors
                    for there in incoming.remote_selectors
                    if here.family == there.family
                ]
                policy = Policy(1, "net", 0, tuple(rules), True, None, None, mode=incoming.mode)
                assert end.engine.change_policies([policy]) == [""]
            end.engine.install_sa(incoming)
            end.engine.install_sa(self.sa(index, Direction.OUT, outer, **changed))

    def send(self, packet: Any, index: int = 0) -> list[bytes]:
        """In at a TUN; what came to the wire, fragments and all."""
        end = self.ends[index]
        end.tun.give(packet)
        end.engine.outward.readable()
        found = []
        for sock in (*end.wire.values(), *end.raw.values()):
            found += sock.sent
            sock.sent = []
        return found

    def arrive(self, packets: list[bytes], index: int = 1) -> list[bytes]:
        """The kernel's part: fragments together, then to the socket of the protocol. What the TUN gives."""
        end = self.ends[index]
        for packet in whole(packets):
            if packet[0] >> 4 == 4:
                sock = end.wire[4] if packet[9] == 51 else end.raw[4]
                sock.waiting.append((packet, [], str(ip_address(packet[12:16]))))
            else:
                ancillary: list[Any] = [(41, socket.IPV6_PKTINFO, packet[24:40] + bytes(4))]
                kind, at = packet[6], 40
                while kind in (0, 43, 60):
                    length = (packet[at + 1] + 1) * 8
                    ancillary.append((41, {0: 54, 43: 57, 60: 59}[kind], packet[at : at + length]))
                    kind, at = packet[at], at + length
                sock = end.wire[6] if kind == 51 else end.raw[6]
                sock.waiting.append((packet[at:], ancillary, str(ip_address(packet[8:24]))))
        for sock in (*end.wire.values(), *end.raw.values()):
            end.engine.inward.raw_readable(sock)  # type: ignore[arg-type]
        return end.taken()

    def through(self, packet: Any) -> list[bytes]:
        return self.arrive(self.send(packet))


def whole(packets: list[bytes]) -> list[bytes]:
    if packets and packets[0][0] >> 4 == 4 and packets[0][6] & 0x20:
        return [bytes(one) for one in inet.defragment([inet.IP(p) for p in packets])]
    if len(packets) > 1 and packets[0][0] >> 4 == 6:
        return [bytes(inet6.defragment6([inet6.IPv6(p) for p in packets]))]
    return packets


@pytest.fixture
def between() -> Iterator[Between]:
    made = Between()
    yield made
    made.close()


def inner(version: int, size: int = 100, df: bool = True, **header: Any) -> bytes:
    source, destination = INNER[version]
    if version == 4:
        made = inet.IP(src=source, dst=destination, flags="DF" if df else 0, id=3, **header)
    else:
        made = inet6.IPv6(src=source, dst=destination, **header)
    return bytes(made / inet.UDP(sport=1, dport=2) / (b"i" * size))


def host(outer: int, size: int = 100, layer: Any = None, df: bool = True, **header: Any) -> bytes:
    source, destination = OUTER[outer]
    if outer == 4:
        made = inet.IP(src=source, dst=destination, flags="DF" if df else 0, **({"id": 3} | header))
    else:
        made = inet6.IPv6(src=source, dst=destination, **header)
    return bytes(made / (layer or inet.UDP(sport=1, dport=2)) / (b"h" * size))


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("outer", [4, 6])
def test_ah_tunnels_carry_either_version_in_either(
    between: Between, outer: int, version: int, esn: bool
) -> None:
    between.install(outer, protocol=SaProtocol.AH, esn=esn)
    packet = inner(version)
    for _ in range(3):
        (sealed,) = between.send(packet)
        assert packet in sealed
        assert between.arrive([sealed]) == [packet]
    assert between.arrive([sealed]) == []
    assert between.ends[1].drops() == {Drop.REPLAY: 1}


@pytest.mark.parametrize("protocol", [SaProtocol.ESP, SaProtocol.AH])
@pytest.mark.parametrize("outer", [4, 6])
def test_transport_mode_keeps_the_packet_as_it_was(between: Between, outer: int, protocol: int) -> None:
    between.install(outer, mode=Mode.TRANSPORT, protocol=protocol)
    header = {"tos": 0x2E, "ttl": 17} if outer == 4 else {"tc": 0, "fl": 0}
    for layer in (None, inet.TCP(sport=5, dport=6), inet.ICMP() if outer == 4 else inet6.ICMPv6EchoRequest()):
        packet = host(outer, layer=layer, **header)  # type: ignore[arg-type]
        (sealed,) = between.send(packet)
        assert sealed[9 if outer == 4 else 6] == protocol
        assert between.arrive([sealed]) == [packet]
    assert between.ends[1].drops() == {}


@pytest.mark.parametrize("protocol", [SaProtocol.ESP, SaProtocol.AH])
def test_options_and_extension_headers_stand_before_the_ipsec_header(between: Between, protocol: int) -> None:
    between.install(4, mode=Mode.TRANSPORT, protocol=protocol)
    packet = host(4, options=[inet.IPOption_Router_Alert()])
    (sealed,) = between.send(packet)
    assert (sealed[0] & 15, sealed[9], sealed[20:24]) == (6, protocol, packet[20:24])
    assert between.arrive([sealed]) == [packet]


@pytest.mark.parametrize("protocol", [SaProtocol.ESP, SaProtocol.AH])
def test_hop_by_hop_and_destination_options_of_ipv6_come_through(between: Between, protocol: int) -> None:
    between.install(6, mode=Mode.TRANSPORT, protocol=protocol)
    source, destination = OUTER[6]
    packet = bytes(
        inet6.IPv6(src=source, dst=destination)
        / inet6.IPv6ExtHdrHopByHop(options=[inet6.RouterAlert()])
        / inet6.IPv6ExtHdrDestOpt(options=[inet6.PadN(optdata=b"\0\0\0\0")])
        / inet.UDP(sport=1, dport=2)
        / b"extension headers"
    )
    (sealed,) = between.send(packet)
    assert (sealed[6], sealed[40]) == (0, protocol)
    assert between.arrive([sealed]) == [packet]


@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
@pytest.mark.parametrize("protocol", [SaProtocol.ESP, SaProtocol.AH])
def test_scapy_opens_what_leaves_in_every_mode(between: Between, mode: Mode, protocol: int) -> None:
    between.install(4, mode=mode, protocol=protocol, tfc_padding=0 if protocol == 51 or mode == 2 else 200)
    p = between.sa(0, Direction.OUT, mode=mode, protocol=protocol)
    packet = host(4) if mode == Mode.TRANSPORT else inner(4)
    (sealed,) = between.send(packet)
    theirs = ipsec.SecurityAssociation(
        ipsec.AH if protocol == SaProtocol.AH else ipsec.ESP,
        spi=p.spi,
        crypt_algo=None if protocol == SaProtocol.AH else "AES-GCM",
        crypt_key=p.encryption_key or None,
        auth_algo="SHA2-256-128" if protocol == SaProtocol.AH else "NULL",
        auth_key=p.integrity_key or None,
        tunnel_header=inet.IP(src=OUTER[4][0], dst=OUTER[4][1]) if mode == Mode.TUNNEL else None,
    )
    opened = bytes(theirs.decrypt(inet.IP(sealed)))
    assert opened[: len(packet)] == packet
    assert set(opened[len(packet) :]) <= {0}


@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
@pytest.mark.parametrize("outer", [4, 6])
def test_a_bundle_is_ah_around_esp_and_neither_comes_alone(between: Between, outer: int, mode: Mode) -> None:
    between.install(outer, pair=2, protocol=SaProtocol.AH, mode=Mode.TRANSPORT, bundle=1)
    between.install(outer, pair=1, mode=mode, bundle=2)
    packet = host(outer) if mode == Mode.TRANSPORT else inner(4)
    (sealed,) = between.send(packet)
    at = 20 if outer == 4 else 40
    assert sealed[9 if outer == 4 else 6] == 51
    assert sealed[at] == 50
    assert between.arrive([sealed]) == [packet]
    length = (sealed[at + 1] + 2) * 4
    bare = bytearray(sealed[:at] + sealed[at + length :])
    bare[9 if outer == 4 else 6] = 50
    assert between.arrive([bytes(bare)]) == []
    assert between.ends[1].drops() == {Drop.NOT_BUNDLED: 1}
    for end in between.ends:
        for pair in (1, 2):
            (counted,) = end.engine.counters((pair,))
            assert (counted.packets_out, counted.packets_in) == ((1, 0) if end.index == 0 else (0, 1))


def test_without_its_ah_an_esp_sa_of_a_bundle_is_refused_or_sends_nothing(between: Between) -> None:
    with pytest.raises(Refused, match="bundle"):
        between.ends[0].engine.install_sa(between.sa(0, Direction.OUT, bundle=2))
    between.install(4, pair=2, protocol=SaProtocol.AH, mode=Mode.TRANSPORT, bundle=1)
    between.install(4, pair=1, bundle=2)
    out = between.sa(0, Direction.OUT, pair=2, protocol=SaProtocol.AH, mode=Mode.TRANSPORT)
    between.ends[0].engine.remove_sa(Direction.OUT, out.spi, out.remote.packed, 0.0, 2)
    assert between.send(inner(4)) == []
    assert between.ends[0].drops() == {Drop.NO_OUTBOUND_SA: 1}


def test_ah_of_a_bundle_carries_nothing_but_its_esp(between: Between) -> None:
    between.install(4, pair=2, protocol=SaProtocol.AH, mode=Mode.TRANSPORT, bundle=1)
    between.install(4, pair=1, bundle=2)
    sender = between.ends[0].engine.state.sad.outbound_of_pair(2)
    assert sender is not None
    head = host(4)[:20]
    packet = sender.sa.protect(head, 9, 17, host(4)[20:])  # type: ignore[union-attr]
    assert packet is not None
    assert between.arrive([packet]) == []
    assert between.ends[1].drops() == {Drop.NOT_BUNDLED: 1}


@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_ipcomp_is_used_where_it_pays(between: Between, mode: Mode) -> None:
    between.install(4, mode=mode, ipcomp=0x1234)
    make = host if mode == Mode.TRANSPORT else inner
    packet = make(4, size=1000)
    (sealed,) = between.send(packet)
    assert len(sealed) < 200
    assert between.arrive([sealed]) == [packet]
    noise = packet[:-900] + os.urandom(900)
    (sealed,) = between.send(noise)
    assert len(sealed) > 1000
    assert between.arrive([sealed]) == [noise]
    assert between.through(make(4, size=10)) == [make(4, size=10)]


def test_ipcomp_that_nobody_agreed_on_or_that_is_wrong_is_dropped(between: Between) -> None:
    between.install(4, ipcomp=0x1234)
    right = between.ends[1].engine
    sealed = between.send(inner(4, size=1000))
    (entry,) = [e for e in right.state.sad.entries() if e.sa.parameters.direction == Direction.IN]
    entry.sa.parameters = replace(entry.sa.parameters, ipcomp=0x4321)
    assert between.arrive(sealed) == []
    assert between.ends[1].drops() == {Drop.BAD_COMPRESSION: 1}


@pytest.mark.parametrize("padding", [300, TFC_TO_MTU])
def test_tfc_padding_makes_all_packets_one_size(between: Between, padding: int) -> None:
    between.install(4, tfc_padding=padding)
    sizes = set()
    for size in (1, 50, 200):
        packet = inner(4, size=size)
        (sealed,) = between.send(packet)
        sizes.add(len(sealed))
        assert between.arrive([sealed]) == [packet]
    assert len(sizes) == 1


def test_dummy_packets_go_out_in_silence_and_are_dropped_at_the_other_end(between: Between) -> None:
    between.install(4, dummy_interval=2.0)
    left = between.ends[0].engine
    for moment in (1000.5, 1002.5, 1003.0, 1005.0):
        left.state.now = moment
        left.tick()
    sent = between.ends[0].raw[4].sent + between.ends[0].wire[4].sent
    assert len(sent) == 2
    packets = [
        bytes(inet.IP(src=OUTER[4][0], dst=OUTER[4][1], proto=50) / one) if one[0] != 0x45 else one
        for one in sent
    ]
    assert between.arrive(packets) == []
    assert between.ends[1].drops() == {Drop.DUMMY: 2}


@pytest.mark.parametrize("protocol", [SaProtocol.ESP, SaProtocol.AH])
@pytest.mark.parametrize("outer", [4, 6])
def test_transport_mode_puts_fragments_together_first_and_cuts_the_sealed_packet(
    between: Between, outer: int, protocol: int
) -> None:
    between.install(outer, mode=Mode.TRANSPORT, protocol=protocol)
    between.ends[0].engine.state.sad.outbound_of_pair(1).path_mtu = 1280  # type: ignore[union-attr]
    packet = host(outer, size=3000, df=False)
    pieces = cut(packet, 1280)
    assert between.send(pieces[1]) == between.send(pieces[2]) == []
    sealed = between.send(pieces[0])
    assert len(sealed) > 1
    assert max(map(len, sealed)) <= 1280
    assert between.arrive(sealed) == [packet]


@pytest.mark.parametrize("outer", [4, 6])
def test_what_does_not_fit_and_may_not_be_cut_is_answered_inwards(between: Between, outer: int) -> None:
    between.install(outer, mode=Mode.TRANSPORT, protocol=SaProtocol.AH)
    entry = between.ends[0].engine.state.sad.outbound_of_pair(1)
    assert entry is not None
    entry.path_mtu, entry.max_inner = 1300, 1300 - entry.sa.header  # type: ignore[union-attr]
    assert between.send(host(outer, size=1260)) == []
    (answer,) = between.ends[0].taken()
    assert (inet.IP(answer)[inet.ICMP].nexthopmtu if outer == 4 else inet6.IPv6(answer).mtu) == max(
        entry.max_inner, 1280 if outer == 6 else 0
    )
    assert between.ends[0].drops() == {Drop.TOO_BIG: 1}


@pytest.mark.parametrize("known", ["10.0.0.5", "0.0.0.0"])
@pytest.mark.parametrize("layer", [inet.TCP(sport=5, dport=6), inet.UDP(sport=5, dport=6)])
def test_checksums_that_a_nat_made_wrong_are_put_right(between: Between, layer: Any, known: str) -> None:
    # RFC 3948, section 3.1.2: the client is 10.0.0.5, behind a NAT that shows it as 192.0.2.1.
    between.install(4, mode=Mode.TRANSPORT)
    right = between.ends[1].engine
    (entry,) = [e for e in right.state.sad.entries() if e.sa.parameters.direction == Direction.IN]
    entry.sa.parameters = replace(entry.sa.parameters, original_remote=ip_address(known))
    seen_inside = bytes(inet.IP(src="10.0.0.5", dst=OUTER[4][1], id=3) / layer / b"odd payload")
    left = between.ends[0].engine.state.sad.outbound_of_pair(1)
    assert left is not None
    failed = between.ends[0].engine.singly.send(left, seen_inside)
    assert failed is None
    (sealed,) = between.ends[0].wire[4].sent
    translated = inet.IP(sealed)
    translated.src = OUTER[4][0]
    del translated.chksum
    (packet,) = between.arrive([bytes(translated)])
    right_one = bytes(inet.IP(src=OUTER[4][0], dst=OUTER[4][1], id=3) / layer / b"odd payload")
    assert packet == right_one


def test_t36_transport_mode_lets_out_only_what_the_peer_may_send(between: Between) -> None:
    between.install(4, mode=Mode.TRANSPORT)
    left = between.ends[0].engine.state.sad.outbound_of_pair(1)
    assert left is not None
    for source in ("192.0.2.9", "10.9.9.9", "0.0.0.1", "224.0.0.1"):
        spoofed = bytes(inet.IP(src=source, dst=OUTER[4][1], id=3) / inet.UDP(dport=9))
        between.ends[0].engine.singly.send(left, spoofed)
        assert between.arrive(between.ends[0].wire[4].sent.copy()) == []
        between.ends[0].wire[4].sent.clear()
    assert between.ends[1].drops() == {Drop.SELECTOR: 4}


def test_v75_ah_around_what_has_no_icv_is_no_bundle(between: Between) -> None:
    # Degabriele and Paterson 2007: integrity beneath does not make encryption without integrity safe.
    between.install(4, pair=2, protocol=SaProtocol.AH, mode=Mode.TRANSPORT, bundle=1)
    for encryption, key in ((Encr.AES_CBC, 16), (Encr.AES_CTR, 20), (Encr.NULL, 0)):
        with pytest.raises(Refused):
            between.ends[0].engine.install_sa(
                between.sa(0, Direction.IN, bundle=2, encryption=encryption, encryption_key=bytes(key))
            )


@pytest.mark.parametrize("esn", [False, True])
def test_t33_ah_and_transport_ask_for_a_rekey_and_stop_before_numbers_wrap(
    between: Between, esn: bool
) -> None:
    between.install(4, mode=Mode.TRANSPORT, protocol=SaProtocol.AH, esn=esn)
    entry = between.ends[0].engine.state.sad.outbound_of_pair(1)
    assert entry is not None
    entry.sa.sequence = entry.sa.limit - 10
    for _ in range(10):
        assert len(between.send(host(4))) == 1
    assert between.send(host(4)) == []
    assert [(r.hard, r.why) for r in between.ends[0].reports if hasattr(r, "hard")] == [
        (False, "sequence"),
        (True, "sequence"),
    ]


@pytest.mark.parametrize("protocol", [SaProtocol.ESP, SaProtocol.AH])
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_v70_every_length_at_the_socket_is_dropped_and_counted(
    between: Between, mode: Mode, protocol: int
) -> None:
    between.install(4, mode=mode, protocol=protocol)
    spi = between.sa(1, Direction.IN, mode=mode, protocol=protocol).spi.to_bytes(4, "big")
    for size in range(81):
        data = (
            bytes(size)
            if size < 8
            else (spi + bytes(size - 4) if protocol == 50 else bytes(4) + spi + bytes(size - 8))
        )
        packet = bytes(inet.IP(src=OUTER[4][0], dst=OUTER[4][1], proto=int(protocol)) / data)
        before = sum(between.ends[1].drops().values())
        assert between.arrive([packet]) == []
        assert sum(between.ends[1].drops().values()) == before + 1


@pytest.mark.parametrize(("header", "inner_df", "expected"), [
    (TunnelHeader(), True, True), (TunnelHeader(), False, False),
    (TunnelHeader(copy_df=False), True, False), (TunnelHeader(copy_df=False, set_df=True), False, True),
])  # fmt: skip
def test_df_is_copied_set_or_cleared(
    between: Between, header: TunnelHeader, inner_df: bool, expected: bool
) -> None:
    between.install(4, protocol=SaProtocol.AH, header=header)
    (sealed,) = between.send(inner(4, df=inner_df))
    assert bool(sealed[6] & 0x40) is expected


def test_fragmentation_before_keeps_sealed_packets_whole(between: Between) -> None:
    between.install(4, header=TunnelHeader(fragment_before=True))
    entry = between.ends[0].engine.state.sad.outbound_of_pair(1)
    assert entry is not None
    entry.path_mtu, entry.max_inner = 800, 740
    sealed = between.send(inner(4, size=1300, df=False))
    assert len(sealed) == 2
    assert max(map(len, sealed)) <= 800 - 20
    arrived = [
        p
        for one in sealed
        for p in between.arrive([bytes(inet.IP(src=OUTER[4][0], dst=OUTER[4][1], proto=50) / one)])
    ]
    assert len(arrived) == 2
    (packet,) = inet.defragment([inet.IP(p) for p in arrived])
    assert bytes(packet[inet.UDP].payload) == b"i" * 1300


@pytest.mark.parametrize("version", [4, 6])
def test_transport_mode_in_udp_comes_out_with_a_header_of_its_own(version: int) -> None:
    between = Between()
    try:
        ports = UdpEncapsulation(4500, 4500)
        between.install(version, mode=Mode.TRANSPORT, encapsulation=ports)
        packet = host(version)
        (sealed,) = between.send(packet)
        datagram = (inet.IP if version == 4 else inet6.IPv6)(sealed)[inet.UDP]
        assert (datagram.sport, datagram.dport) == (4500, 4500)
        if version == 6:
            again = inet6.IPv6(sealed)
            del again[inet.UDP].chksum
            assert inet6.IPv6(bytes(again))[inet.UDP].chksum == datagram.chksum
        right = between.ends[1]
        source, destination = (ip_address(one) for one in OUTER[version])
        right.engine.inward.forwarded(bytes(datagram.payload), destination.packed, 4500, (str(source), 4500))
        (arrived,) = right.taken()
        assert arrived[-108:] == packet[-108:]
    finally:
        between.close()
