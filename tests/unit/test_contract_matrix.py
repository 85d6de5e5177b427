"""The contract's whole matrix: mode x transform x IP version, for each engine as sender and as receiver.

What one engine sealed the other opens, both ways, and each is held against the reference talking to itself:
equal packets out of the TUN, equal sizes on the wire, equal verdicts on what is hostile, equal counters. In
place of the kernel's sockets stand pairs; what the kernel says beside a datagram (UDP, IPv6) comes with it as
the daemon's hand-over brings it (`forwarded`, `arrived`).
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import pytest

from cygnet.crypto.integrity import SUPPORTED_INTEGRITY
from cygnet.crypto.suites import SUPPORTED_ENCRYPTION, UnsupportedAlgorithm, is_aead, suite
from cygnet.dataplane.descriptors import Options
from cygnet.dataplane.engines import native_available
from cygnet.dataplane.engines.native import NativeEngine
from cygnet.dataplane.engines.portable import PortableEngine, Sockets
from cygnet.dataplane.engines.singly import made_head
from cygnet.dataplane.messages import PairCounters
from cygnet.dataplane.tun import VNET
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.headers import joined, split
from cygnet.policy.sa import Mode, SaProtocol, UdpEncapsulation
from cygnet.wire.numbers import Integ
from tests.unit import test_ipsec_ah as ah
from tests.unit.test_dataplane_engine import Kernel, StandIn
from tests.unit.test_dataplane_singly import OUTER, Between, End, Wire, host, inner

PORT = 4500
SIZES = (0, 1, 13, 64, 1150)
UDP, AH = 17, int(SaProtocol.AH)
GMAC = (Integ.AES_128_GMAC, Integ.AES_192_GMAC, Integ.AES_256_GMAC)
Datagram = tuple[int, bytes]
"""50 or 51 and an IP packet, or UDP and what is in it."""


class Pipe:
    """A socket of the crate's: what it sends is in `sent`, what is given to `give` it receives."""

    def __init__(self, port: int = 0) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._port = port

    def fileno(self) -> int:
        return self._theirs.fileno()

    def getsockname(self) -> tuple[str, int]:
        return "", self._port

    def give(self, data: bytes) -> None:
        self._ours.send(data)

    def take(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self._ours.recv(1 << 16))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class Fake(Wire):
    """The same for the portable engine."""

    def __init__(self, version: int, protocol: int, port: int = 0) -> None:
        super().__init__(version, protocol)
        self._port = port

    def fileno(self) -> int:
        return 1000 + self.proto + (1 if self.family == socket.AF_INET6 else 0)

    def getsockname(self) -> tuple[str, int]:
        return "", self._port

    def take(self) -> list[bytes]:
        found, self.sent = self.sent, []
        return found


class Place(End):
    """One end with an engine of either kind."""

    wire: Mapping[int, Fake]

    def __init__(self, index: int, kind: str) -> None:
        self.index = index
        self.tun, self.reports = StandIn(), []
        self.wire = {version: Fake(version, AH) for version in (4, 6)}
        self.plain: dict[int, Any] = {}
        self.udp: dict[int, Any] = {}
        for version in (4, 6):
            self.plain[version] = Pipe() if kind == "native" else Fake(version, 50)
            self.udp[version] = Pipe(PORT) if kind == "native" else Fake(version, UDP, PORT)
        sockets: Any = (self.udp[4], self.udp[6], self.plain[4], self.plain[6], self.wire[4], self.wire[6])
        made = NativeEngine if kind == "native" else PortableEngine
        self.engine: PortableEngine = made(
            self.tun, Sockets(*sockets), Kernel(), Options(tun_mtu=1400), self.reports.append, lambda: None
        )
        self.engine.state.now = 1000.0
        if isinstance(self.engine, NativeEngine):
            self.engine.crate.stop_clock(1000.0)

    def close(self) -> None:
        self.tun.close()
        for one in (*self.plain.values(), *self.udp.values()):
            if isinstance(one, Pipe):
                one.close()

    def send(self, packet: bytes) -> list[Datagram]:
        self.tun.give(packet)
        if isinstance(self.engine, NativeEngine):
            self.engine.crate.step(0)
            self.engine.events()
        else:
            self.engine.outward.readable()
        found: list[Datagram] = []
        for version in (4, 6):
            for whole in self.wire[version].take():
                parts = split(whole)
                inside = parts.payload[8:] if parts.next_header == UDP else whole
                found.append((parts.next_header, inside))
            here, there = (ip_address(end) for end in ends(self.index, version))
            head = made_head(here, there, 0, 1, True)  # the kernel's
            found += [(50, joined(*head, 50, data)) for data in self.plain[version].take()]
            found += [(UDP, data) for data in self.udp[version].take()]
        return found

    def arrive(self, version: int, kind: int, data: bytes) -> list[bytes]:
        """What comes out of the TUN for it."""
        local, source = ends(self.index, version)
        here = ip_address(local).packed
        if kind == UDP:
            self.engine.forwarded(data, here, PORT, (source, PORT))
        elif kind == 50 and isinstance(self.engine, NativeEngine):
            if version == 6:
                self.engine.inward.arrived(split(data).payload, b"", [], 0, here, source)
            else:
                self.plain[4].give(data)
                self.engine.crate.step(1)
                self.engine.events()
        else:
            sock: Any = self.wire[version] if kind == AH else self.plain[version]
            told = [(41, socket.IPV6_PKTINFO, here + bytes(4))] if version == 6 else []
            sock.waiting.append((data if version == 4 else split(data).payload, told, source))
            self.engine.inward.raw_readable(sock)
        return [read[VNET:] for read in self.tun.taken()]


def ends(index: int, version: int) -> tuple[str, str]:
    """This end's address and the other's."""
    return OUTER[version][index], OUTER[version][1 - index]


class Mixed(Between):
    """The sender's engine and the receiver's."""

    ends: tuple[Place, Place]

    def __init__(self, *kinds: str) -> None:
        self.ends = Place(0, kinds[0]), Place(1, kinds[1])

    def close(self) -> None:
        for place in self.ends:
            place.close()


@contextmanager
def all_pairs() -> Iterator[list[Mixed]]:
    """The reference with itself first."""
    kinds = [("portable", "portable")]
    if native_available():
        kinds += [("portable", "native"), ("native", "portable"), ("native", "native")]
    made = [Mixed(*one) for one in kinds]
    yield made
    for pair in made:
        pair.close()


def every_suite() -> list[tuple[int, int, int]]:
    """Each cipher with each size of key; MACs take turns, and each is there."""
    found: list[tuple[int, int, int]] = []
    macs = itertools.cycle(SUPPORTED_INTEGRITY)
    for cipher, bits in itertools.product(SUPPORTED_ENCRYPTION, (0, 128, 192, 256)):
        mac = Integ.NONE if is_aead(cipher) else next(macs)
        with suppress(UnsupportedAlgorithm):  # no such size
            suite(cipher, bits, mac)
            found.append((cipher, bits, mac))
    return found


def suite_of(cipher: int, bits: int, mac: int) -> dict[str, Any]:
    """What `SaParameters` says of an ESP suite; each direction has the same keys."""
    lengths = suite(cipher, bits, mac)
    return {
        "encryption": cipher,
        "key_bits": bits,
        "integrity": mac,
        "encryption_key": bytes(range(7, 7 + lengths.encryption_key_length)),
        "integrity_key": bytes(range(lengths.integrity_key_length)),
    }


def mac_of(number: int) -> dict[str, Any]:
    key = bytes(range(ah.KEYS[number]))
    return {"protocol": SaProtocol.AH, "integrity": number, "integrity_key": key}


def verdicts(pair: Mixed, outer: int, number: int, packets: list[bytes]) -> tuple[Any, ...]:
    """Sizes on the wire; what came out, of what is right and of what is hostile; counters of both ends."""
    left, right = pair.ends
    sizes, out = [], []
    for packet in packets:
        (datagram,) = left.send(packet)
        kind, data = datagram
        sizes.append((kind, len(data)))
        out += right.arrive(outer, kind, data)
    for hostile in (data, data[:-1] + bytes((data[-1] ^ 1,)), resized(kind, data)):
        out += right.arrive(outer, kind, hostile)
    (last,) = left.send(packets[0])
    flipped = last[1][:-1] + bytes((last[1][-1] ^ 0x80,))
    out += right.arrive(outer, last[0], flipped)
    out += right.arrive(outer, *last)
    return sizes, out, *(counted(place, number) for place in pair.ends)


def resized(kind: int, data: bytes) -> bytes:
    """An octet less, and a header that says so."""
    if kind == UDP:
        return data[:-1]
    head, names_next, next_header, payload = split(data)
    return joined(head, names_next, next_header, payload[:-1])


def counted(place: End, number: int) -> tuple[Any, ...]:
    (found,) = place.engine.counters((number,))
    assert isinstance(found, PairCounters)
    return (found.packets_in, found.bytes_in, found.packets_out, found.bytes_out, found.sequence_in,
            found.sequence_out, found.drops)  # fmt: skip


ESP_MODES: dict[str, dict[str, Any]] = {
    "tunnel": {},
    "tunnel-udp": {"encapsulation": UdpEncapsulation(PORT, PORT)},
    "tunnel-esn": {"esn": True},
    "transport": {"mode": Mode.TRANSPORT},
    "transport-udp": {"mode": Mode.TRANSPORT, "encapsulation": UdpEncapsulation(PORT, PORT)},
}


def packets_of(outer: int, transport: bool) -> list[bytes]:
    if transport:
        return [host(outer, size) for size in SIZES]
    return [inner(version, size) for size in SIZES for version in (4, 6)]


def judge(pairs: list[Mixed], outer: int, number: int, packets: list[bytes], what: str) -> None:
    reference, *others = (verdicts(pair, outer, number, packets) for pair in pairs)
    came = reference[1]
    if what.startswith("transport-udp"):  # out of UDP their header is made anew
        whole = [*packets, packets[0]]
        heads = [split(packet)[:3] for packet in whole]
        came = [joined(*head, split(one).payload) for head, one in zip(heads, came, strict=True)]
    assert came == [*packets, packets[0]], what
    drops = reference[3][6]
    assert drops.get(Drop.REPLAY, 0) >= 1, what
    assert drops.get(Drop.BAD_ICV, 0) >= 1, what
    assert sum(drops.values()) == 4, what
    for other in others:
        assert other == reference, what


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("mode", ESP_MODES)
def test_every_esp_suite(mode: str, outer: int) -> None:
    changed = ESP_MODES[mode]
    packets = packets_of(outer, "mode" in changed)
    with all_pairs() as pairs:
        for number, transforms in enumerate(every_suite(), 1):
            for pair in pairs:
                pair.install(outer, pair=number, **(suite_of(*transforms) | changed))
            judge(pairs, outer, number, packets, f"{mode} {transforms}")


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
@pytest.mark.parametrize("esn", [False, True])
def test_every_mac_of_ah(mode: Mode, outer: int, esn: bool) -> None:
    packets = packets_of(outer, mode == Mode.TRANSPORT)
    with all_pairs() as pairs:
        for number, mac in enumerate(ah.KEYS, 1):
            for pair in pairs:
                pair.install(outer, pair=number, mode=mode, esn=esn, **mac_of(mac))
            judge(pairs, outer, number, packets, str(mac))


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_every_esp_suite_within_every_mac_of_ah(mode: Mode, outer: int) -> None:
    """A bundle's hostile packets are its AH's affair."""
    packets = packets_of(outer, mode == Mode.TRANSPORT)[:4]
    macs = list(ah.KEYS)
    with all_pairs() as pairs:
        for place, name in enumerate(every_suite()[::2]):
            number = 2 * place + 1
            mac = mac_of(macs[place % len(macs)]) | {"mode": Mode.TRANSPORT}
            for pair in pairs:
                pair.install(outer, pair=number + 1, bundle=number, **mac)
                pair.install(outer, pair=number, bundle=number + 1, mode=mode, **suite_of(*name))
            results = [verdicts(pair, outer, number, packets) for pair in pairs]
            assert results[0][1] == [*packets, packets[0]], name
            assert all(other == results[0] for other in results), name
            outside = [[counted(end, number + 1) for end in pair.ends] for pair in pairs]
            assert sum(outside[0][1][6].values()) == 4, name
            assert all(other == outside[0] for other in outside), name


def test_the_matrix_holds_everything_there_is() -> None:
    ciphers, _, macs = zip(*every_suite(), strict=True)
    assert set(ciphers) == set(SUPPORTED_ENCRYPTION)
    assert set(macs) == {Integ.NONE, *SUPPORTED_INTEGRITY}
    assert set(ah.KEYS) == {*SUPPORTED_INTEGRITY, *GMAC}
