"""SAs keyed by hand: installed with their connection, gone with it, and what must not be keyed so."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.ike.errors import LocalMisuse
from cygnet.policy.sa import Direction, Mode, SaParameters, SaProtocol
from cygnet.testing import Gateway, Pair
from cygnet.testing.configurations import connection_text
from cygnet.wire.numbers import Encr, Integ
from tests.unit.config_files import problems

KEYS = [bytes([n]) * 16 for n in (1, 2)] + [bytes([n]) * 32 for n in (3, 4)]


def manual(
    first: bool, algorithms: str = 'esp_proposals = ["aes128-sha256"]', more: str = "", **keys: str
) -> str:
    """The child's lines at one end; what is `in` here is `out` there."""
    words = [f"0x{key.hex()}" for key in KEYS]
    directions = (("in", "out"), ("out", "in"))[not first]
    values = {
        f"spi_{directions[0]}": "0x1001",
        f"spi_{directions[1]}": "0x1002",
        f"encryption_key_{directions[0]}": f'"{words[0]}"',
        f"encryption_key_{directions[1]}": f'"{words[1]}"',
        f"integrity_key_{directions[0]}": f'"{words[2]}"',
        f"integrity_key_{directions[1]}": f'"{words[3]}"',
    } | keys
    table = ", ".join(f"{key} = {value}" for key, value in values.items() if value)
    return f"{algorithms}\nmanual = {{ {table} }}\n{more}"


def sas(gateway: Gateway) -> dict[Direction, SaParameters]:
    (inbound,) = gateway.plane.inbound.values()
    ((outbound,),) = gateway.plane.outbound.values()
    return {Direction.IN: inbound.sa, Direction.OUT: outbound.sa}


def test_they_stand_as_soon_as_both_ends_are_loaded_and_carry_traffic_without_a_word() -> None:
    pair = Pair(a_settings=manual(True), b_settings=manual(False))
    pair.settle(1)
    a, b = sas(pair.a), sas(pair.b)
    assert a[Direction.IN].spi == b[Direction.OUT].spi == 0x1001
    assert a[Direction.OUT].encryption_key == b[Direction.IN].encryption_key == KEYS[1]
    assert a[Direction.IN].integrity_key == b[Direction.OUT].integrity_key == KEYS[2]
    for sa in (*a.values(), *b.values()):
        assert (sa.protocol, sa.mode, sa.manual, sa.replay_window) == (SaProtocol.ESP, Mode.TUNNEL, True, 0)
        assert (sa.encryption, sa.key_bits, sa.integrity) == (Encr.AES_CBC, 128, Integ.HMAC_SHA2_256_128)
        assert (sa.esn, sa.encapsulation, sa.hard_seconds) == (False, None, 0.0)
    assert pair.talk(5) == (5, 5)
    assert pair.network.trace == [] or all(flight.esp is not None for flight in pair.network.trace)


def test_they_go_with_their_connection_and_change_with_it() -> None:
    pair = Pair(a_settings=manual(True), b_settings=manual(False))
    pair.settle(1)
    before = sas(pair.a)
    (connection,) = pair.a.endpoint.connections()
    pair.a.endpoint.load(connection, pair.network.now)
    pair.settle(1)
    assert sas(pair.a) == before
    pair.a.unload("peer")
    pair.settle(1)
    assert not any(entry.dies_at == 0 for entry in pair.a.plane.inbound.values())
    assert not any(pair.a.plane.outbound.values())
    assert pair.a.plane.policies == {}


def test_ah_by_hand_has_integrity_keys_alone() -> None:
    words = {f"encryption_key_{way}": "" for way in ("in", "out")}
    more = {"mode": "transport"}
    settings = [
        manual(first, 'ah_proposals = ["sha256"]', f'mode = "{more["mode"]}"', **words)
        for first in (True, False)
    ]
    pair = Pair(a_settings=settings[0], b_settings=settings[1])
    pair.settle(1)
    for gateway in pair.both:
        for sa in sas(gateway).values():
            assert (sa.protocol, sa.mode, sa.encryption_key) == (SaProtocol.AH, Mode.TRANSPORT, b"")
            assert len(sa.integrity_key) == 32


def test_nobody_negotiates_them() -> None:
    pair = Pair(a_settings=manual(True), b_settings=manual(False))
    with pytest.raises(LocalMisuse, match="keyed by hand"):
        pair.a.initiate("peer", "net")


def test_a_restarted_data_plane_gets_them_again() -> None:
    pair = Pair(a_settings=manual(True), b_settings=manual(False))
    pair.settle(1)
    before = pair.a.plane.installed
    pair.a.plane.inbound.clear()
    pair.a.plane.outbound.clear()
    pair.a.endpoint.data_plane_restarted(pair.network.now)
    pair.a._carry_out()
    pair.settle(1)
    assert pair.a.plane.installed == before + 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (manual(True, 'esp_proposals = ["aes256gcm16"]'), ["keyed by hand", "RFC 8221"]),
        (manual(True, 'esp_proposals = ["aes256ctr-sha256"]'), ["keyed by hand"]),
        (manual(True, 'esp_proposals = ["chacha20poly1305"]'), ["keyed by hand"]),
        (manual(True, 'esp_proposals = ["aes128ccm16"]'), ["keyed by hand"]),
        (manual(True, 'esp_proposals = ["aes128gmac"]'), ["keyed by hand"]),
        (manual(True, 'esp_proposals = ["aes128gcm16iiv"]'), ["keyed by hand"]),
        (manual(True, 'ah_proposals = ["aes128gmac"]'), ["keyed by hand"]),
        (manual(True, 'esp_proposals = ["aes128-aes256-sha256"]'), ["is a choice"]),
        (manual(True, ""), ["is a choice"]),
        (manual(True, 'esp_proposals = ["aes256-sha256"]'), ["another length", "32 octets"]),
        (manual(True, spi_in="255"), ["out of range", "256"]),
    ],
)
def test_what_must_not_or_cannot_be_keyed_by_hand_is_told(
    tmp_path: Path, settings: str, words: list[str]
) -> None:
    said = " ".join(map(str, problems(tmp_path, connection_text("peer", 1, 2, settings=settings))))
    for word in words:
        assert word in said


def test_they_are_shown_as_long_as_they_stand_and_when_they_failed() -> None:
    pair = Pair(a_settings=manual(True), b_settings=manual(False))
    pair.settle(1)
    pair.b.plane.refuse = lambda sa: "no room"
    pair.b.endpoint.data_plane_restarted(pair.network.now)
    pair.b._carry_out()
    ((failed,),) = [shown.children for shown in pair.b.endpoint.manual.views()]
    assert failed.state == "INSTALLING"
    pair.settle(1)
    ((failed,),) = [shown.children for shown in pair.b.endpoint.manual.views()]
    assert failed.state == "FAILED"
    (shown,) = pair.a.endpoint.manual.views()
    assert (shown.connection, shown.state, str(shown.path.remote)) == ("peer", "MANUAL", "192.0.2.2")
    (child,) = shown.children
    assert (child.name, child.state, child.spi_in, child.spi_out) == ("net", "INSTALLED", 0x1001, 0x1002)
    assert (child.encryption, child.integrity) == (Encr.AES_CBC, Integ.HMAC_SHA2_256_128)
    pair.a.unload("peer")
    assert pair.a.endpoint.manual.views() == ()


@pytest.mark.parametrize("key", ["mark_in", "mark_out", "set_mark_in"])
def test_marks_that_a_tun_device_cannot_carry_are_refused_with_the_reason(tmp_path: Path, key: str) -> None:
    (told,) = problems(tmp_path, connection_text("peer", 1, 2, settings=f'{key} = "7/0xff"'))
    assert "TUN device" in str(told)
    assert problems(tmp_path, connection_text("peer", 1, 2, settings=f'{key} = "0/0"')) == []
