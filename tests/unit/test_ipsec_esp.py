"""ESP against independent judges: published packets, scapy; and every way a packet can be wrong."""

from __future__ import annotations

import json
import logging
import os
import random
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from cygnet.crypto.suites import UnsupportedAlgorithm
from cygnet.dataplane.engines import native, native_available
from cygnet.ipsec.drops import Drop
from cygnet.ipsec.esp import EXTENDED_LIMIT, SEQUENCE_LIMIT, InboundSa, OutboundSa, Workspace
from cygnet.ipsec.rows import Rows, Run
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol
from cygnet.wire.numbers import Encr, Integ

logging.getLogger("scapy").setLevel(logging.ERROR)

SHARED = Path(__file__).parents[2].parent / "shared"
PACKETS = SHARED / "vectors" / "esp-packets" / "esp_ah_packets.json"

ENGINES: list[str] = ["portable"]
"""The last one is the one under test; who takes `Gateway` elsewhere gets the first."""

SUITES = {
    "gcm16-128": (Encr.AES_GCM_16, 128, Integ.NONE, 20, 0),
    "gcm16-192": (Encr.AES_GCM_16, 192, Integ.NONE, 28, 0),
    "gcm16-256": (Encr.AES_GCM_16, 256, Integ.NONE, 36, 0),
    "gcm12-256": (Encr.AES_GCM_12, 256, Integ.NONE, 36, 0),
    "gcm8-128": (Encr.AES_GCM_8, 128, Integ.NONE, 20, 0),
    "ccm16-128": (Encr.AES_CCM_16, 128, Integ.NONE, 19, 0),
    "ccm12-192": (Encr.AES_CCM_12, 192, Integ.NONE, 27, 0),
    "ccm8-256": (Encr.AES_CCM_8, 256, Integ.NONE, 35, 0),
    "chacha": (Encr.CHACHA20_POLY1305, 256, Integ.NONE, 36, 0),
    "cbc128-sha1": (Encr.AES_CBC, 128, Integ.HMAC_SHA1_96, 16, 20),
    "cbc192-sha256": (Encr.AES_CBC, 192, Integ.HMAC_SHA2_256_128, 24, 32),
    "cbc256-sha384": (Encr.AES_CBC, 256, Integ.HMAC_SHA2_384_192, 32, 48),
    "cbc256-sha512": (Encr.AES_CBC, 256, Integ.HMAC_SHA2_512_256, 32, 64),
    "ctr128-xcbc": (Encr.AES_CTR, 128, Integ.AES_XCBC_96, 20, 16),
    "ctr256-cmac": (Encr.AES_CTR, 256, Integ.AES_CMAC_96, 36, 16),
    "null-sha256": (Encr.NULL, 0, Integ.HMAC_SHA2_256_128, 0, 32),
    "gmac-128": (Encr.NULL_AES_GMAC, 128, Integ.NONE, 20, 0),
    "gmac-256": (Encr.NULL_AES_GMAC, 256, Integ.NONE, 36, 0),
    "camellia128-sha256": (Encr.CAMELLIA_CBC, 128, Integ.HMAC_SHA2_256_128, 16, 32),
    "camellia256-cmac": (Encr.CAMELLIA_CBC, 256, Integ.AES_CMAC_96, 32, 16),
    "3des-md5": (Encr.TRIPLE_DES_CBC, 0, Integ.HMAC_MD5_96, 24, 16),
    "des-sha1": (Encr.DES_CBC, 0, Integ.HMAC_SHA1_96, 8, 20),
    "gcm16iiv-256": (Encr.AES_GCM_16_IIV, 256, Integ.NONE, 36, 0),
    "ccm8iiv-128": (Encr.AES_CCM_8_IIV, 128, Integ.NONE, 19, 0),
    "chachaiiv": (Encr.CHACHA20_POLY1305_IIV, 0, Integ.NONE, 36, 0),
}
SCAPY = {
    "gcm16": ("AES-GCM", "NULL"),
    "chacha": ("CHACHA20-POLY1305", "NULL"),
    "ccm16": ("AES-CCM", "NULL"),
    "cbc128-sha1": ("AES-CBC", "HMAC-SHA1-96"),
    "cbc192-sha256": ("AES-CBC", "SHA2-256-128"),
    "cbc256-sha384": ("AES-CBC", "SHA2-384-192"),
    "cbc256-sha512": ("AES-CBC", "SHA2-512-256"),
    "ctr256-cmac": ("AES-CTR", "AES-CMAC-96"),
    "null-sha256": ("NULL", "SHA2-256-128"),
    "gmac": ("AES-NULL-GMAC", "NULL"),
    "3des-md5": ("3DES", "HMAC-MD5-96"),
}


def parameters(
    name: str = "gcm16-256", *, esn: bool = False, spi: int = 0x1234ABCD, **changed: Any
) -> SaParameters:
    encryption, bits, integrity, key, mac = SUITES[name]
    values: dict[str, Any] = {
        "direction": Direction.IN,
        "protocol": SaProtocol.ESP,
        "mode": Mode.TUNNEL,
        "spi": spi,
        "pair": 1,
        "flow": 1,
        "local": IPv4Address("192.0.2.1"),
        "remote": IPv4Address("192.0.2.2"),
        "encapsulation": None,
        "encryption": encryption,
        "key_bits": bits,
        "integrity": integrity,
        "encryption_key": random.Random(name).randbytes(key),
        "integrity_key": random.Random(name).randbytes(mac),
        "esn": esn,
        "replay_window": 64,
        "local_selectors": (),
        "remote_selectors": (),
    }
    return SaParameters(**(values | changed))


def ipv4(length: int, seed: int = 0) -> bytes:
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 1, 0, 64, 253, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return header + random.Random(seed).randbytes(length - 20)


def seal(
    sa: OutboundSa, payloads: list[bytes], work: Workspace | None = None, next_header: int = 4
) -> list[bytes]:
    """A run: all of one size but the last."""
    work = work or Workspace()
    length, last = len(payloads[0]), len(payloads[-1])
    stride = sa.sealed_length(length)
    for index, payload in enumerate(payloads):
        at = index * stride + sa.head
        work.sealed.buffer[at : at + len(payload)] = payload
    end = sa.seal_batch(work, 0, len(payloads), length, last, next_header)
    if end == 0:
        return []
    sizes = [stride] * (len(payloads) - 1) + [end]
    return [bytes(work.sealed.buffer[i * stride : i * stride + size]) for i, size in enumerate(sizes)]


def lay(packets: list[bytes]) -> tuple[Rows, int]:
    rows, stride = Rows(1 << 17), len(packets[0])
    for index, packet in enumerate(packets):
        rows.buffer[index * stride : index * stride + len(packet)] = packet
    return rows, stride


def sizes(run: Run) -> Iterator[tuple[int, int]]:
    for index in range(run.count):
        yield run.start + index * run.stride, run.length if index < run.count - 1 else run.last


def open_(sa: InboundSa, packets: list[bytes]) -> list[bytes]:
    work = Workspace()
    rows, stride = lay(packets)
    runs, _ = sa.open_batch(work, rows, 0, stride, len(packets), len(packets[-1]))
    return [bytes(work.opened.buffer[at : at + size]) for run in runs for at, size in sizes(run)]


@pytest.fixture(autouse=True, params=["reference", "native"])
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """All of this holds for the crate too; what it does not carry is left to the reference there as well."""
    if request.param == "native" and not native_available():
        pytest.skip("the native engine was not built: no Rust toolchain")
    ENGINES.append(request.param)
    yield
    ENGINES.pop()


def sender_of(sa: SaParameters, **given: Any) -> OutboundSa:
    if ENGINES[-1] == "native" and native.carries(sa):
        return native.NativeOutbound(1, sa, **given)
    return OutboundSa(sa, **given)


def receiver_of(sa: SaParameters) -> InboundSa:
    if ENGINES[-1] == "native" and native.carries(sa):
        return native.NativeInbound(1, sa)
    return InboundSa(sa)


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("name", SUITES)
def test_what_is_sealed_opens_again_in_runs_of_every_size(name: str, esn: bool) -> None:
    for count, length, last in (
        (1, 60, 60),
        (2, 61, 60),
        (3, 1400, 1400),
        (9, 100, 40),
        (46, 1380, 1380),
        (64, 28, 20),
    ):
        sender, receiver = sender_of(parameters(name, esn=esn)), receiver_of(parameters(name, esn=esn))
        payloads = [ipv4(length, i) for i in range(count - 1)] + [ipv4(last, count)]
        packets = seal(sender, payloads)
        assert [len(p) for p in packets] == [sender.sealed_length(len(p)) for p in payloads]
        assert open_(receiver, packets) == payloads
        assert receiver.drops == {}
        assert receiver.packets == sender.packets == count
        assert receiver.bytes == sender.bytes == sum(map(len, payloads))
        assert open_(receiver, packets) == []
        assert receiver.drops == {Drop.REPLAY: count}


def vectors() -> list[dict[str, Any]]:
    if not PACKETS.exists():
        return []
    names = {"AES_GCM": Encr.AES_GCM_16, "AES_CCM": Encr.AES_CCM_16, "AES_CBC": Encr.AES_CBC,
             "AES_CTR": Encr.AES_CTR, "3DES_CBC": Encr.TRIPLE_DES_CBC, "NULL": Encr.NULL}  # fmt: skip
    macs = {"MD5_HMAC": Integ.HMAC_MD5_96,
            "SHA256_HMAC": Integ.HMAC_SHA2_256_128, "SHA384_HMAC": Integ.HMAC_SHA2_384_192,
            "SHA512_HMAC": Integ.HMAC_SHA2_512_256, "AES_XCBC_MAC": Integ.AES_XCBC_96,
            None: Integ.NONE}  # fmt: skip
    found = []
    for item in json.loads(PACKETS.read_text()):
        cipher = item["aead_alg"] or item["cipher_alg"]
        if item["proto"] == "ESP" and cipher in names and item["auth_alg"] in macs:
            found.append(item | {"encr": names[cipher], "integ": macs[item["auth_alg"]]})
    return found


def _one_after_the_other(*octets: bytes) -> Callable[[int], bytes]:
    left = list(octets)
    return lambda _: left.pop(0)


@pytest.mark.skipif(not PACKETS.exists(), reason="../shared/vectors is not here")
def test_published_packets_are_sealed_and_opened_octet_for_octet() -> None:
    checked = 0
    for item in vectors():
        key = bytes.fromhex(item.get("key") or "") + bytes.fromhex(item.get("salt") or "")
        whole, inner = bytes.fromhex(item["output_text"]), bytes.fromhex(item["input_text"])
        packet = whole[40 if whole[0] >> 4 == 6 else 20 :]
        iv = bytes.fromhex(item.get("iv") or "")
        sa = parameters(
            encryption=item["encr"],
            key_bits=0 if item["encr"] in (Encr.NULL, Encr.TRIPLE_DES_CBC) else item["key_length"][0] * 8,
            integrity=item["integ"],
            encryption_key=b"" if item["encr"] == Encr.NULL else key,
            integrity_key=bytes.fromhex(item.get("auth_key") or ""),
            spi=int(item["spi"], 0),
        )
        assert open_(receiver_of(sa), [packet]) == [inner], item["name"]
        start = (int.from_bytes(iv[:8], "big") - 1) % (1 << 64) if len(iv) == 8 else 0
        sender = sender_of(sa, random=_one_after_the_other(start.to_bytes(8, "big"), iv))
        version = 4 if inner[0] >> 4 == 4 else 41
        assert seal(sender, [inner], next_header=version) == [packet], item["name"]
        checked += 1
    assert checked >= 18


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("name", [n for n in SUITES if n in SCAPY or n.split("-")[0] in SCAPY])
def test_scapy_opens_what_we_seal_and_we_open_what_scapy_seals(name: str, esn: bool) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.ipsec import ESP, SecurityAssociation

    cipher, mac = SCAPY.get(name) or SCAPY[name.split("-")[0]]
    p = parameters(name, esn=esn)
    theirs = SecurityAssociation(
        ESP, spi=p.spi, crypt_algo=cipher, crypt_key=p.encryption_key, auth_algo=mac,
        auth_key=p.integrity_key or None, tunnel_header=IP(src="192.0.2.2", dst="192.0.2.1"), esn_en=esn,
    )  # fmt: skip
    inner = bytes(IP(src="10.2.0.9", dst="10.1.0.7", id=7) / UDP(sport=9, dport=53) / (b"hello" * 20))
    (packet,) = seal(sender_of(p), [inner])
    opened = theirs.decrypt(
        IP(bytes(IP(src="192.0.2.1", dst="192.0.2.2", proto=50) / packet)), esn_en=esn, esn=0
    )
    assert bytes(opened) == inner
    for sequence in (1, 2):
        sealed = bytes(theirs.encrypt(IP(inner), seq_num=sequence, esn_en=esn, esn=0))
        receiver = receiver_of(p)
        assert open_(receiver, [sealed[20:]])[0][:-1] == IP(inner).__bytes__()[:-1]


@pytest.mark.parametrize("name", SUITES)
def test_every_length_up_to_80_octets_is_dropped_and_counted(name: str) -> None:
    # VU#459371: an ESP packet shorter than its ICV underflowed in two stacks.
    for size in range(8, 81):
        sa = receiver_of(parameters(name))
        assert open_(sa, [os.urandom(4) + struct.pack(">I", 1) + os.urandom(size - 8)]) == []
        assert sum(sa.drops.values()) == 1
        assert set(sa.drops) <= {Drop.SHORT, Drop.BAD_ICV}
        assert sa.window.top == 0


@pytest.mark.parametrize(
    "name", ["gcm16-256", "ccm8-256", "chacha", "cbc256-sha384", "gcm8-128", "ctr128-xcbc", "null-sha256"]
)
def test_one_flipped_bit_anywhere_is_refused_and_the_window_stays(name: str) -> None:
    (packet,) = seal(sender_of(parameters(name)), [ipv4(40)])
    receiver = receiver_of(parameters(name))
    for at in range(4, len(packet)):  # the SPI chose the SA; with AEADs and MACs it is covered too
        broken = bytearray(packet)
        broken[at] ^= 1 << at % 8
        assert open_(receiver, [bytes(broken)]) == []
        assert receiver.window.top == 0
    assert open_(receiver, [packet]) == [ipv4(40)]


def test_a_bad_packet_in_a_run_costs_only_itself() -> None:
    payloads = [ipv4(200, i) for i in range(20)]
    packets = seal(sender_of(parameters()), payloads)
    packets[7] = packets[7][:-1] + bytes((packets[7][-1] ^ 1,))
    packets[12] = packets[3]
    receiver = receiver_of(parameters())
    assert open_(receiver, packets) == payloads[:7] + payloads[8:12] + payloads[13:]
    assert receiver.drops == {Drop.BAD_ICV: 1, Drop.REPLAY: 1}


def test_reordered_runs_are_accepted_within_the_window_only() -> None:
    payloads = [ipv4(60, i) for i in range(60)]
    sender, receiver = sender_of(parameters()), receiver_of(parameters(replay_window=32))
    packets = seal(sender, payloads)
    assert open_(receiver, packets[40:]) == payloads[40:]
    assert open_(receiver, packets[:40]) == payloads[28:40]
    assert receiver.drops == {Drop.REPLAY: 28}


def sealed_raw(plaintext: bytes, name: str = "gcm16-256", sequence: int = 1) -> bytes:
    p = parameters(name)
    protector = sender_of(p).protector
    header, iv = struct.pack(">II", p.spi, sequence), bytes(8)
    return header + iv + protector.seal(header, iv, plaintext)


@pytest.mark.parametrize(
    ("trailer", "reason"),
    [
        (b"\x02\x01\x02\x04", Drop.BAD_PADDING),
        (b"\x01\x03\x02\x04", Drop.BAD_PADDING),
        (b"\x01\x02\xff\x04", Drop.BAD_PADDING),
        (b"\x01\x02\x02\x3b", Drop.DUMMY),
        (b"\x01\x02\x02\x29", Drop.WRONG_PROTOCOL),
        (b"\x01\x02\x02\x06", Drop.WRONG_PROTOCOL),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_wrong_pads_and_next_headers_are_dropped_after_authentication(
    trailer: bytes, reason: Drop, count: int
) -> None:
    receiver = receiver_of(parameters())
    packets = [sealed_raw(ipv4(40) + trailer, sequence=n + 1) for n in range(count)]
    assert open_(receiver, packets) == []
    assert receiver.drops == {reason: count}
    assert receiver.window.top == count


def test_a_pad_length_longer_than_the_packet_is_dropped() -> None:
    receiver = receiver_of(parameters())
    assert open_(receiver, [sealed_raw(b"\x01\x02\x03\x04")]) == []
    assert open_(receiver, [sealed_raw(bytes(range(1, 31)) + b"\x1e\x04", sequence=2)]) == []
    assert receiver.drops == {Drop.BAD_PADDING: 1, Drop.WRONG_PROTOCOL: 1}


@pytest.mark.parametrize("esn", [False, True])
def test_sequence_numbers_end_before_they_wrap(esn: bool) -> None:
    limit = EXTENDED_LIMIT if esn else SEQUENCE_LIMIT
    sender, receiver = sender_of(parameters(esn=esn)), receiver_of(parameters(esn=esn))
    sender.sequence = receiver.window.top = limit - 10
    payloads = [ipv4(64, i) for i in range(10)]
    packets = seal(sender, payloads)
    assert open_(receiver, packets) == payloads
    assert seal(sender, [ipv4(64)]) == []
    assert sender.sequence == limit
    assert sender.drops == {Drop.SEQUENCE_EXHAUSTED: 1}


def test_extended_numbers_cross_the_edge_of_their_lower_half() -> None:
    sender, receiver = sender_of(parameters(esn=True)), receiver_of(parameters(esn=True))
    sender.sequence = receiver.window.top = (1 << 32) - 10
    payloads = [ipv4(64, i) for i in range(40)]
    packets = seal(sender, payloads)
    assert open_(receiver, [*packets[:20], packets[2], *packets[20:]]) == payloads
    assert receiver.window.top == (1 << 32) + 30


@pytest.mark.parametrize("name", ["gcm16iiv-256", "ccm8iiv-128", "chachaiiv"])
@pytest.mark.parametrize("esn", [False, True])
def test_an_implicit_iv_is_the_sequence_number_and_is_not_sent(name: str, esn: bool) -> None:
    # The library's AEAD called by hand is the judge (RFC 8750, section 4).
    p = parameters(name, esn=esn)
    salt = 3 if "ccm" in name else 4
    sender = sender_of(p)
    sender.sequence = (1 << 32) + 4 if esn else 4
    for packet, number in zip(seal(sender, [ipv4(60)] * 9), range(5, 14), strict=True):
        sequence = number + ((1 << 32) if esn else 0)
        key, nonce = p.encryption_key[:-salt], p.encryption_key[-salt:] + sequence.to_bytes(8, "big")
        kinds = {"gcm16iiv": AESGCM, "ccm8iiv": lambda k: AESCCM(k, 8), "chachaiiv": ChaCha20Poly1305}
        aead: Any = kinds[name.split("-")[0]](key)
        aad = struct.pack(">IQ", p.spi, sequence) if esn else packet[:8]
        assert aead.decrypt(nonce, packet[8:], aad) == ipv4(60) + b"\x01\x02\x02\x04"


def test_keys_made_by_hand_are_refused_where_a_restart_would_repeat_their_ivs() -> None:
    # RFC 8221, section 3; RFC 4543, section 2.
    for name in SUITES:
        counter = not name.startswith(("cbc", "camellia", "3des", "des", "null"))
        if counter:
            with pytest.raises(ValueError, match="RFC 8221"):
                sender_of(parameters(name, manual=True))
            with pytest.raises(ValueError, match="RFC 8221"):
                receiver_of(parameters(name, manual=True))
        else:
            sender_of(parameters(name, manual=True))


@pytest.mark.parametrize(
    "name", ["gcm16-128", "ctr128-xcbc", "chacha", "cbc128-sha1", "gmac-128", "3des-md5"]
)
def test_no_iv_ever_repeats_and_a_key_installed_twice_starts_elsewhere(name: str) -> None:
    seen = set()
    for _ in range(2):
        sender = sender_of(parameters(name))
        for count in (1, 2, 5, 64):
            for packet in seal(sender, [ipv4(60)] * count):
                seen.add(packet[8 : 8 + sender.iv_length])
    assert len(seen) == 2 * 72


def test_encryption_without_integrity_is_refused() -> None:
    for encryption, key in ((Encr.AES_CBC, 16), (Encr.AES_CTR, 20)):
        with pytest.raises((UnsupportedAlgorithm, ValueError)):
            sender_of(parameters(encryption=encryption, key_bits=128, encryption_key=bytes(key)))
    with pytest.raises((UnsupportedAlgorithm, ValueError)):
        receiver_of(parameters(encryption=Encr.NULL, key_bits=0, encryption_key=b"", integrity_key=b""))


def test_keys_of_the_wrong_length_are_refused_at_installation() -> None:
    with pytest.raises(ValueError, match="key length"):
        sender_of(parameters(encryption_key=bytes(35)))


def test_random_octets_never_open_and_never_raise() -> None:
    source = random.Random(1)
    for name in SUITES:
        receiver = receiver_of(parameters(name))
        for _ in range(60):
            size, count = source.randrange(8, 200), source.randrange(1, 9)
            rows = Rows(1 << 16)
            rows.buffer[: size * count] = source.randbytes(size * count)
            runs, newest = receiver.open_batch(
                Workspace(), rows, 0, size, count, source.randrange(8, size + 1)
            )
            assert runs == []
            assert not newest
        assert receiver.window.top == 0
