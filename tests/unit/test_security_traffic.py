"""The data plane under attack: lengths, inner packets, fragments, full queues, keys and IVs.

The engine of the tests of the data plane, its peer sealing whatever a test wants with the right keys.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from cygnet.crypto.entropy import SeededEntropy, SystemEntropy
from cygnet.crypto.suites import UnsupportedAlgorithm
from cygnet.dataplane import messages, path_mtu
from cygnet.dataplane.engines import native_available
from cygnet.dataplane.engines.outbound import HELD_OCTETS, MAX_HELD_FLOWS
from cygnet.ike.configuration import Options
from cygnet.ike.endpoint import Endpoint
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import InboundSa, OutboundSa, Workspace
from cygnet.ipsec.fragments import MAX_PACKETS, Fragments
from cygnet.ipsec.inner import MAX_EXTENSIONS, describe, total_length
from cygnet.ipsec.rows import Rows
from cygnet.policy.sa import Direction, SaParameters
from cygnet.policy.spd import Action, Policy
from cygnet.wire.message import decode
from cygnet.wire.numbers import Encr, Exchange, Protocol
from cygnet.wire.payloads import (
    DeletePayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    KePayload,
    NoncePayload,
    SaPayload,
)
from tests.unit.ike_by_hand import NOW, esp_proposal
from tests.unit.security_by_hand import (
    OPEN_DOOR,
    ROLES,
    Talk,
    Watched,
    first_request,
    store,
)
from tests.unit.test_dataplane_engine import (
    ENGINES,
    PAIR,
    Gateway,
    Peer,
    back,
    inet,
    inet6,
    out,
    policy,
    rule,
    selectors,
)
from tests.unit.test_ipsec_esp import SUITES, ipv4, open_, parameters, seal


@pytest.fixture(params=["portable", "native"])
def each_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """What is one gateway's holds for either engine."""
    if request.param == "native" and not native_available():
        pytest.skip("the native engine was not built: no Rust toolchain")
    ENGINES.append(request.param)
    yield request.param
    ENGINES.pop()


@pytest.fixture
def gateway(each_engine: str) -> Iterator[Gateway]:
    made = Gateway()
    made.install()
    yield made
    made.close()


# V70, V71, V76: octets


def test_v70_esp_of_every_length_is_dropped_and_counted(gateway: Gateway) -> None:
    """VU#459371: shorter than its ICV, the length went below zero."""
    good = Peer(gateway).seal(back())
    for size in range(1, len(good)):
        assert gateway.receive(good[:size]) == []
    for size in range(81):
        assert gateway.receive(good[:8] + os.urandom(size)) == []
    drops = gateway.drops()
    assert set(drops) <= {Drop.SHORT, Drop.BAD_ICV, Drop.RUNT}
    assert sum(drops.values()) == len(good) - 1 + 81
    assert gateway.receive(good) == [bytes(back())]


@pytest.mark.parametrize("name", SUITES)
def test_v70_no_suite_reads_beyond_what_there_is(name: str) -> None:
    (good,) = seal(OutboundSa(parameters(name)), [ipv4(40)])
    for size in range(8, len(good)):
        receiver = InboundSa(parameters(name))
        assert open_(receiver, [good[:size]]) == []
        assert sum(receiver.drops.values()) == 1
        assert receiver.window.top == 0


def inner_4(**changed: int) -> bytes:
    """An IPv4 packet of 60 octets, UDP, with header fields as they are given."""
    packet = bytearray(bytes(back(size=32)))
    packet[0] = changed.get("version", 4) << 4 | changed.get("ihl", 5)
    packet[2:4] = changed.get("total", 60).to_bytes(2, "big")
    packet[6:8] = changed.get("fragment", 0x4000).to_bytes(2, "big")
    return bytes(packet)


def inner_6(following: int, payload: int, *headers: bytes, more: bytes = b"") -> bytes:
    source, destination = (ip_address(text).packed for text in ("2001:db8:2::1", "2001:db8:1::1"))
    body = b"".join(headers) + more
    return struct.pack(">IHBB", 6 << 28, payload, following, 64) + source + destination + body


IMPOSSIBLE = {
    "total 0": inner_4(total=0),
    "total below the header": inner_4(total=19),
    "total beyond the packet": inner_4(total=61),
    "total 65535": inner_4(total=65535),
    "header of 0": inner_4(ihl=0),
    "header of 16": inner_4(ihl=4),
    "header beyond the packet": inner_4(ihl=15, total=59),
    "ports missing": inner_4(total=22),
    "payload 0": inner_6(17, 0),
    "jumbo": inner_6(0, 0, struct.pack(">BBBBI", 17, 0, 0xC2, 4, 70000)),
    "payload beyond the packet": inner_6(17, 200, more=bytes(20)),
    "headers without end": inner_6(60, 8 * 40, *[struct.pack(">BB6x", 60, 0)] * 40),
    "a header that is longer than all": inner_6(60, 16, struct.pack(">BB14x", 17, 255)),
    "a cut extension": inner_6(60, 4, b"\x11\0\0\0"),
    "an authentication header beyond": inner_6(51, 8, struct.pack(">BB6x", 17, 200)),
}


@pytest.mark.parametrize("title", IMPOSSIBLE)
def test_v71_inner_lengths_that_lie_are_dropped(gateway: Gateway, title: str) -> None:
    """CVE-2026-31472: an inner length of 0 looped for ever. Alone and in a run of forty."""
    packet = IMPOSSIBLE[title]
    peer = Peer(gateway)
    assert gateway.receive(peer.seal(packet)) == []
    gateway.udp.setsockopt(socket.IPPROTO_UDP, 104, 1)
    sealed = [peer.seal(packet) for _ in range(40)]
    assert gateway.receive(b"".join(sealed), segment=len(sealed[0])) == []
    assert gateway.drops() == {Drop.BAD_INNER: 41}
    assert gateway.receive(peer.seal(back())) == [bytes(back())]


def test_v71_the_walk_over_extension_headers_is_bounded() -> None:
    for count in (0, 1, MAX_EXTENSIONS, MAX_EXTENSIONS + 1, 200):
        headers = [struct.pack(">BB6x", 60, 0)] * max(count - 1, 0) + [struct.pack(">BB6x", 17, 0)] * bool(
            count
        )
        packet = inner_6(60 if count else 17, 8 * count + 8, *headers, more=struct.pack(">HHHH", 5, 6, 8, 0))
        found = describe(memoryview(packet), 0, len(packet))
        assert (found is not None) == (count <= MAX_EXTENSIONS)
        if found is not None:
            assert (found.protocol, found.source_port) == (17, 5)


def test_v71_no_octets_make_a_description_that_reaches_beyond_them() -> None:
    for length in range(100):
        for first in range(256):
            packet = bytes((first,)) + os.urandom(99)
            total = total_length(memoryview(packet), 0, length)
            assert total <= length
            found = describe(memoryview(packet), 0, length)
            assert found is None or found.length <= length


def test_v76_t39_a_later_fragment_comes_in_only_where_its_first_one_did(each_engine: str) -> None:
    """CVE-2022-34718, and RFC 4301, section 7: alone it shows no ports, and matches no port selector."""
    ports = ("10.1.0.0/16[udp/53]", "2001:db8:1::/48[udp/53]")
    other = ("10.1.0.0/16[udp/54]", "2001:db8:1::/48[udp/54]")
    first, later = inner_4(fragment=0x2000), inner_4(fragment=3)
    first_6, later_6 = (
        inner_6(44, 24, struct.pack(">BBHI", 17, 0, at, 7), more=struct.pack(">HHHH", 9, 53, 8, 0) * 2)
        for at in (1, 8)
    )
    atomic = inner_6(44, 16, struct.pack(">BBHI", 17, 0, 0, 9), more=struct.pack(">HHHH", 9, 53, 8, 0))
    overlap = inner_4(fragment=0x2001)
    for texts, packets, expected in (
        (ports, [later, later_6, overlap], []),
        (ports, [first, later, overlap, first_6, later_6, atomic], "all"),
        (other, [first, later, overlap, first_6, later_6, atomic], []),
        (("10.1.0.0/16[udp]", "2001:db8:1::/48[udp]"), [later, later_6, atomic], "all"),
        (("10.1.0.0/16[tcp]", "2001:db8:1::/48[tcp]"), [first, later, first_6, later_6, atomic], []),
    ):
        gateway = Gateway()
        gateway.install(local_selectors=selectors(*texts))
        peer = Peer(gateway, local_selectors=selectors(*texts))
        got = gateway.receive(*map(peer.seal, packets))
        assert got == (packets if expected == "all" else []), texts
        assert gateway.drops() == ({} if expected == "all" else {Drop.SELECTOR: len(packets)})
        gateway.close()


def test_t39_what_is_remembered_of_first_fragments_is_bounded() -> None:
    kept, packet = Fragments(), bytearray(inner_4(fragment=0x2000))
    for number in range(3 * MAX_PACKETS):
        packet[4:6] = (number % 65536).to_bytes(2, "big")
        found = describe(memoryview(packet), 0, len(packet))
        assert found is not None
        kept.whole(found, 1, 0.0)
    assert len(kept) <= MAX_PACKETS


def test_t36_what_comes_out_of_a_tunnel_has_the_peers_addresses_and_ours(gateway: Gateway) -> None:
    """RFC 4301, section 5.2: spoofs of another client, of this gateway, of machines that nobody is."""
    peer = Peer(gateway)
    wrong: list[Any] = [
        back(src="10.1.0.9"), back(src="127.0.0.1"), back(src="10.3.0.1"), back(src="0.1.2.3"),
        back(src="224.0.0.5"), back(src="255.255.255.255"), back(dst="10.2.0.7"), back(dst="127.0.0.1"),
        back(dst="224.0.0.1"), back(dst="255.255.255.255"), back(src="192.0.2.1"), back(dst="192.0.2.1"),
    ]  # fmt: skip
    assert gateway.receive(*map(peer.seal, wrong)) == []
    assert gateway.drops() == {Drop.SELECTOR: len(wrong)}


# V72, V78, T32, T33: numbers that must not repeat


class Scripted(SeededEntropy):
    """Gives what the script says for requests of four octets, and else as ever."""

    def __init__(self, script: list[bytes]) -> None:
        super().__init__(3)
        self.script = script

    def octets(self, count: int) -> bytes:
        return self.script.pop(0) if count == 4 and self.script else super().octets(count)


def test_v72_no_spi_is_reserved_and_none_is_given_twice() -> None:
    """CVE-2025-39965: SPI 0 was handed out."""
    entropy = Scripted([bytes(4), b"\0\0\0\1", b"\0\0\0\xff", b"\0\0\1\0", b"\0\0\1\0", b"\0\0\1\1"])
    made = Endpoint(Options(), store(), entropy, NOW)
    first, second = (made.obtain_child()[0] for _ in range(2))
    assert (first, second) == (0x100, 0x101)
    assert entropy.script == []


@ROLES
def test_v72_a_peer_that_gives_a_reserved_spi_gets_no_pair(we_answer: bool) -> None:
    for spi in (0, 1, 255):
        talk = Talk(we_answer).established()
        before = set(talk.moon.in_force)
        answer = talk.ask(Exchange.CREATE_CHILD_SA, talk.child_request(spi=spi.to_bytes(4, "big")))
        assert answer is not None
        assert set(talk.moon.in_force) <= before
        talk = Talk(we_answer, spi=b"\x12" * 8)
        (proposal,) = esp_proposal().proposals
        reserved = SaPayload((replace(proposal, spi=spi.to_bytes(4, "big")),))
        payloads = [reserved if isinstance(p, SaPayload) else p for p in talk.good()]
        talk.authenticate(payloads)
        assert talk.moon.in_force == set()


def test_v78_no_key_nonce_or_spi_ever_repeats() -> None:
    """ePDGs of 13 operators shared ten static keys. Ours are new each time, from the system's entropy."""
    moon = Watched(options=OPEN_DOOR)
    moon.endpoint.entropy = SystemEntropy()
    seen: set[bytes] = set()
    count = 0
    for number in range(1500):
        (answer,) = moon.receive(first_request(spi=(number + 1).to_bytes(8, "big")))
        message = decode(answer)
        seen |= {message.one(KePayload).data, message.one(NoncePayload).data, message.header.responder_spi}
        count += 3
    moon.wait(31)
    for _ in range(100):
        moon.initiate("peer")
        message = decode(moon.sent[-1])
        seen |= {message.one(KePayload).data, message.one(NoncePayload).data, message.header.initiator_spi}
        count += 3
        (view,) = moon.views
        moon.endpoint.terminate(view.unique_id, 0, True, moon.now)
        moon.carry_out()
    assert len(seen) == count


@ROLES
@pytest.mark.parametrize("fragment_size", [1280, 576])
def test_t32_no_iv_of_an_ike_sa_is_used_for_two_messages(we_answer: bool, fragment_size: int) -> None:
    """GCM: one nonce for two messages gives the key away. Repeats are the same octets."""
    moon = Watched(options=replace(Options(), fragment_size=fragment_size))
    talk = Talk(we_answer, moon).established()
    (sa,) = moon.endpoint.by_number.values()
    sa.state = replace(sa.state, fragmentation=True)
    own = 0 if we_answer else 2
    for number in range(1, 6):
        spi = (0x20000 + number).to_bytes(4, "big")
        talk.ask(Exchange.CREATE_CHILD_SA, talk.child_request(spi=spi, nonce=bytes((number,)) * 256))
        talk.ask(Exchange.INFORMATIONAL, [DeletePayload(Protocol.ESP, (spi,))])
        talk.next_id -= 1
        talk.ask(Exchange.INFORMATIONAL, [])  # another request with the same id
    (view,) = moon.views
    moon.endpoint.rekey(view.unique_id, view.children[0].pair, moon.now)
    moon.carry_out()
    moon.wait(30)  # repeats
    talk.answers([], Exchange.CREATE_CHILD_SA, own)
    ivs: dict[bytes, bytes] = {}
    for datagram in moon.sent:
        message = decode(datagram)
        for payload in message.payloads:
            if isinstance(payload, EncryptedPayload | EncryptedFragmentPayload):
                assert ivs.setdefault(payload.body[:8], datagram) == datagram
    assert len(ivs) > 12


@pytest.mark.parametrize("name", ["gcm16-256", "ccm8-256", "chacha", "ctr256-cmac"])
def test_t32_a_key_that_is_installed_again_does_not_meet_its_ivs_again(name: str) -> None:
    """A restart, a fork, a restored machine: the counter begins at random for each installation."""
    ivs: set[bytes] = set()
    for _ in range(200):
        sender = OutboundSa(parameters(name))
        ivs |= {packet[8:16] for packet in seal(sender, [ipv4(60)] * 5)}
    assert len(ivs) == 1000


# V73, V74: memory that is not ours, queues that are full


def test_v73_nothing_is_decrypted_where_it_was_received_nor_handed_on_from_there(gateway: Gateway) -> None:
    """CVE-2026-43284: in-place decryption of memory that others still read."""
    sealed = Peer(gateway).seal(back())
    (delivered,) = gateway.receive(sealed, bytes(4) + b"ike message")
    received = gateway.engine.inward._received
    assert bytes(received.view[:4]) == bytes(4)
    gateway.receive(sealed[:8] + bytes(60))
    report = next(r for r in gateway.reports if isinstance(r, messages.ForeignDatagram))
    assert type(report.data) is bytes
    assert report.data == bytes(4) + b"ike message"
    assert delivered == bytes(back())


def test_v73_the_buffer_of_received_packets_is_the_same_after_opening() -> None:
    (sealed,) = seal(OutboundSa(parameters()), [ipv4(60)])
    rows = Rows(1 << 12)
    rows.buffer[: len(sealed)] = sealed
    runs, _ = InboundSa(parameters()).open_batch(Workspace(), rows, 0, len(sealed), 1, len(sealed))
    assert runs
    assert bytes(rows.buffer[: len(sealed)]) == sealed


def test_v74_a_full_tun_costs_its_packets_and_no_memory(gateway: Gateway) -> None:
    """CVE-2026-31518: packets were not released when the queue was full."""
    peer = Peer(gateway)
    packet = bytes(back(size=1000))
    for _ in range(15):
        for datagram in [peer.seal(packet) for _ in range(64)]:
            gateway.peer.sendto(datagram, ("127.0.0.1", gateway.port))
        for _ in range(8):
            gateway.turn_in()
    lost = gateway.drops()[Drop.TUN_FULL]
    assert lost > 0
    # What came together may have been joined: 1000 octets each, behind headers of 28.
    taken = sum((len(one) - 28) // 1000 for one in gateway.tun.taken())
    assert taken + lost == 15 * 64
    assert gateway.receive(peer.seal(back())) == [bytes(back())]


def test_v74_what_cannot_be_sent_is_counted_and_the_next_packet_leaves(gateway: Gateway) -> None:
    (entry,) = gateway.engine.state.sad.outbound_entries()
    genuine, here = entry.sa.parameters, ip_address("127.0.0.1")
    ports = genuine.encapsulation
    gateway.engine.update_sa(PAIR, here, ip_address("255.255.255.255"), ports)
    assert gateway.send(out(), out(), out()) == []
    gateway.engine.update_sa(PAIR, genuine.local, genuine.remote, ports)
    assert len(gateway.send(out())) == 1
    assert gateway.drops()[Drop.SEND_FAILED] == 3


def test_v74_held_packets_are_bounded_for_all_flows_together(each_engine: str) -> None:
    gateway = Gateway()
    gateway.put(policy())
    packet = bytes(out(size=1200))
    for _ in range(100):
        gateway.send(*[packet] * 16)
    assert gateway.engine.outward._held_octets <= HELD_OCTETS
    assert len(gateway.engine.outward._held) <= MAX_HELD_FLOWS
    assert sum(gateway.drops().values()) + 16 == 1600
    gateway.close()


# T38, T41, T43, and whose SA it is


def test_t38_a_forged_path_mtu_is_not_believed_below_the_floor() -> None:
    """A Packet Too Big of 68 octets, of a live SA: down to the floor, for a while, and no farther."""
    paths = path_mtu.PathMtus()
    for local, remote, floor in (("127.0.0.1", "127.0.0.2", 576), ("::1", "::1", 1280)):
        ends = ip_address(local), ip_address(remote)
        before = paths.of(*ends, 0.0)
        assert before > 1500
        paths.believe(path_mtu.TooBig(68, *ends, 0x1001), 0.0)
        assert paths.of(*ends, 1.0) == floor
        assert paths.of(*ends, path_mtu.BELIEVED_FOR + 1) == before


def test_t38_what_is_remembered_of_paths_is_bounded() -> None:
    paths = path_mtu.PathMtus()
    here = ip_address("127.0.0.1")
    for number in range(path_mtu.MAX_BELIEVED + 10):
        paths.believe(path_mtu.TooBig(1000, here, ip_address(0x0A000000 + number), 0x1001), 0.0)
    assert len(paths._believed) == path_mtu.MAX_BELIEVED


def test_t38_what_a_path_says_makes_it_narrower_and_never_wider() -> None:
    """RFC 8201, section 4: only time makes it wider, whoever says that it is."""
    paths, ends = path_mtu.PathMtus(), (ip_address("127.0.0.1"), ip_address("127.0.0.2"))
    before = paths.of(*ends, 0.0)
    said = [(1000, 1000, True), (1400, 1000, False), (1000, 1000, False), (900, 900, True)]
    for mtu, believed, narrower in said:
        assert paths.believe(path_mtu.TooBig(mtu, *ends, 0x1001), 1.0) is narrower
        assert paths.of(*ends, 1.0) == believed
    assert paths.of(*ends, path_mtu.BELIEVED_FOR + 2) == before
    assert paths.believe(path_mtu.TooBig(1400, *ends, 0x1001), path_mtu.BELIEVED_FOR + 2)


class Icmp:
    """A listener at which so many messages wait."""

    family = socket.AF_INET

    def __init__(self, *waiting: bytes) -> None:
        self.waiting = list(waiting)

    def recv(self, _: int) -> bytes:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop()


def test_t38_who_repeats_what_a_path_says_costs_the_others_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of SAs between the same ends: each is measured once, not with every message."""
    engine = gateway.engine
    engine.state.now = time.monotonic()
    for number in range(2, 300):
        engine.install_sa(gateway.sa(Direction.OUT, pair=number, spi=0x2000 + number, flow=number))
    measured = 0
    asked = path_mtu.route_mtu

    def counted(*ends: Any) -> int:
        nonlocal measured
        measured += 1
        return asked(*ends)

    monkeypatch.setattr(path_mtu, "route_mtu", counted)
    sa = gateway.sa(Direction.OUT)
    head = inet.IP(src=str(sa.local), dst=str(sa.remote), proto=50)
    for mtu in (1200, 1200, 1100, 1300, 1100):
        about = inet.ICMP(type=3, code=4, nexthopmtu=mtu) / head / struct.pack(">II", sa.spi, 1)
        one = bytes(inet.IP(src="192.0.2.9", dst=str(sa.local)) / about)
        for _ in range(20):
            engine.path_said(Icmp(*[one] * 20))  # type: ignore[arg-type]
    while engine._to_measure:
        engine._measure_some()
    assert 299 <= measured <= 3 * 299
    assert {entry.path_mtu for entry in engine.state.sad.outbound_entries()} == {1100}


def test_v74_unknown_spis_do_not_hold_up_what_is_known_while_a_command_takes_long() -> None:
    """The crate's receiving thread waits for commands once, not for every SPI that somebody makes up."""
    if not native_available():
        pytest.skip("the native engine was not built: no Rust toolchain")
    ENGINES.append("native")
    gateway = Gateway()
    try:
        gateway.install()
        peer = Peer(gateway)
        gateway.engine.draining(True)
        for _ in range(4):
            for _ in range(15):
                gateway.peer.sendto(b"\xff" + os.urandom(63), ("127.0.0.1", gateway.port))
            gateway.peer.sendto(peer.seal(back()), ("127.0.0.1", gateway.port))
        since = time.monotonic()
        for _ in range(4):
            gateway.turn_in()
        assert time.monotonic() - since < 1.5  # of 3.0 if each of the 60 waited for the 50 ms
        assert len(gateway.tun.taken()) == 4
        assert gateway.drops() == {Drop.NO_SA: 60}
    finally:
        gateway.engine.draining(False)
        ENGINES.pop()
        gateway.close()


def test_v74_packets_for_the_interpreter_leave_room_for_the_daemons_own() -> None:
    """Forged packets of an SA that the crate hands up fill half of the way up; IKE has the other half."""
    if not native_available():
        pytest.skip("the native engine was not built: no Rust toolchain")
    ENGINES.append("native")
    gateway = Gateway()
    try:
        gateway.engine.crate.install_other_inbound(  # type: ignore[attr-defined]
            7, 0x7000, ip_address("127.0.0.1")
        )
        told = [b"\0\0\x70\0" + bytes(60)] * 1500 + [bytes(4) + b"ike" * 20]
        for number, datagram in enumerate(told, 1):
            gateway.peer.sendto(datagram, ("127.0.0.1", gateway.port))
            if not number % 16 or number == len(told):
                gateway.engine.crate.step(1)  # type: ignore[attr-defined]
        gateway.engine.events()  # type: ignore[attr-defined]
        (foreign,) = [one for one in gateway.reports if isinstance(one, messages.ForeignDatagram)]
        assert foreign.data == told[-1]
        assert gateway.drops()[Drop.REPORT_FULL] == 1500 - 1024
    finally:
        ENGINES.pop()
        gateway.close()


@pytest.mark.parametrize("version", [4, 6])
def test_t38_of_icmp_only_packet_too_big_with_an_spi_says_anything(version: int) -> None:
    """Cut anywhere, of any other kind or about any other protocol it says nothing."""
    esp = bytes.fromhex("00010101") + bytes(8)
    if version == 4:
        head = inet.IP(src="192.0.2.1", dst="192.0.2.2")
        whole = bytes(
            inet.IP(src="192.0.2.9", dst="192.0.2.1")
            / inet.ICMP(type=3, code=4, nexthopmtu=1300)
            / head
            / inet.UDP(sport=4500, dport=4500, len=1000)
            / esp
        )
        read, said, ends, type_at, protocol_at = path_mtu.read_v4, 20 + 8 + 20 + 8 + 4, head, 20, 28 + 9
    else:
        head = inet6.IPv6(src="2001:db8::1", dst="2001:db8::2")
        whole = bytes(
            inet6.ICMPv6PacketTooBig(mtu=1300) / head / inet.UDP(sport=4500, dport=4500, len=1000) / esp
        )
        read, said, ends, type_at, protocol_at = path_mtu.read_v6, 8 + 40 + 8 + 4, head, 0, 8 + 6
    told = path_mtu.TooBig(1300, ip_address(ends.src), ip_address(ends.dst), 0x00010101)
    for length in range(len(whole) + 1):
        assert read(whole[:length]) == (told if length >= said else None)
    for kind in set(range(256)) - {whole[type_at]}:
        assert read(whole[:type_at] + bytes((kind,)) + whole[type_at + 1 :]) is None
    for protocol in set(range(256)) - {17, 50, 51}:
        assert read(whole[:protocol_at] + bytes((protocol,)) + whole[protocol_at + 1 :]) is None


def test_t41_what_is_sealed_already_is_not_sealed_again_at_any_size(gateway: Gateway) -> None:
    everything = selectors("0.0.0.0/0")
    gateway.put(Policy(1, "all", 0, (rule(Action.PROTECT, "0.0.0.0/0", "0.0.0.0/0"),), True, None, None))
    gateway.engine.install_sa(
        gateway.sa(Direction.OUT, spi=0x5000, pair=9, local_selectors=everything, remote_selectors=everything)
    )
    for size in (0, 100, 1300):
        own = inet.IP(src="127.0.0.1", dst="127.0.0.1") / inet.UDP(
            sport=gateway.port, dport=gateway.peer_port
        )
        assert gateway.send(*[own / bytes(size)] * 10) == []
    assert gateway.drops() == {Drop.LOOP: 30}


def test_t43_a_replay_from_elsewhere_moves_no_tunnel(gateway: Gateway) -> None:
    peer = Peer(gateway)
    sealed = [peer.seal(back()) for _ in range(5)]
    elsewhere = gateway._socket()
    assert len(gateway.receive(*sealed)) == 5
    assert gateway.receive(*sealed, source=elsewhere) == []
    assert gateway.drops() == {Drop.REPLAY: 5}
    assert [r for r in gateway.reports if isinstance(r, messages.PeerMoved)] == []
    elsewhere.close()


def test_a_peer_that_takes_its_neighbours_spi_takes_down_only_its_own(gateway: Gateway) -> None:
    """Behind one address are two peers; outbound SPIs are their choice. An SA is removed by its pair."""
    gateway.engine.install_sa(gateway.sa(Direction.OUT, pair=2))
    outbound = int(Direction.OUT)
    gateway.engine.remove_sa(outbound, 0x1001, b"\x7f\0\0\1", 0, 2)
    gateway.engine.remove_sa(outbound, 0x1001, b"\x7f\0\0\1", 0, 2)
    assert [entry.sa.parameters.pair for entry in gateway.engine.state.sad.outbound_entries()] == [PAIR]
    assert len(gateway.send(out())) == 1


def test_an_esp_suite_without_integrity_is_refused_wherever_it_comes_from() -> None:
    """V75, once more where packets are made: nothing but an ICV lets a packet in."""
    for encryption, bits, key in ((Encr.AES_CBC, 256, 32), (Encr.AES_CTR, 128, 20), (Encr.NULL, 0, 0)):
        wrong: SaParameters = parameters(
            encryption=encryption, key_bits=bits, encryption_key=bytes(key), integrity=0, integrity_key=b""
        )
        for kind in (InboundSa, OutboundSa):
            with pytest.raises((UnsupportedAlgorithm, ValueError)):
                kind(wrong)
