"""The kernel's ESP, AH and IPComp as Cygnet sets them up, against Cygnet's own engines across a link.

Each is the other's oracle: the kernel has never heard of our engines, and the octets must come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from bench.plane import Pair, Side
from cygnet.crypto.suites import suite
from cygnet.dataplane import messages
from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import (
    ALICE,
    ALICE6,
    BOB,
    BOB6,
    MOON,
    MOON6,
    MOON_NET,
    MOON_NET6,
    SUN,
    SUN6,
    SUN_NET,
    SUN_NET6,
)  # fmt: skip
from cygnet.wire.numbers import Encr, Integ
from tests.guest.extent import EVERYTHING
from tests.guest.moon import Moon, echoed, moon_and_alice

pytestmark = pytest.mark.timeout(150)

NETWORKS = (MOON_NET, MOON_NET6), (SUN_NET, SUN_NET6)
OUTER = {4: (MOON, SUN), 6: (MOON6, SUN6)}
Host = Callable[..., Any]


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[Namespace, Namespace]]:
    with moon_and_alice() as made:
        yield made


@pytest.fixture(scope="module", params=["portable"])
def sun(request: pytest.FixtureRequest, spaces: object) -> Iterator[Host]:
    call: Host = request.getfixturevalue("host")
    call("tests.guest.peer:start", request.param)
    yield call
    assert call("tests.guest.peer:stop") == []  # nothing was seen in clear


@pytest.fixture
def moon(spaces: tuple[Namespace, Namespace]) -> Iterator[Moon]:
    made = Moon(*spaces)
    yield made
    made.close()


_numbers = iter(range(1, 1000))


def pair(outer: int = 4, port: int = 0, **changed: Any) -> Pair:
    """A tunnel between both networks; keys have the lengths that the algorithms want."""
    left, right = (Side(end, nets) for end, nets in zip(OUTER[outer], NETWORKS, strict=True))
    encryption, bits = changed.pop("encryption", int(Encr.AES_GCM_16)), changed.pop("key_bits", 128)
    integrity = changed.pop("integrity", 0)
    if changed.get("protocol") == 51:
        key, mac = b"", bytes(range({2: 20, 1: 16, 5: 16, 8: 16, 12: 32, 13: 48, 14: 64}[integrity]))
        changed |= {"encryption_key": key, "integrity_key": mac}
        return Pair(left, right, next(_numbers), 0, 0, integrity, 0, 0, 0, changed)
    lengths = suite(encryption, bits, integrity)
    return Pair(
        left, right, next(_numbers), encryption, bits, integrity, lengths.encryption_key_length,
        lengths.integrity_key_length, port, changed,
    )  # fmt: skip


def hosts(made: Pair) -> Pair:
    """The same between the gateways themselves, in transport mode."""
    left, right = replace(made.left, inner=(made.left.outer,)), replace(made.right, inner=(made.right.outer,))
    return replace(made, left=left, right=right, changed=made.changed | {"mode": 2})


def hexed(make: Callable[[int], messages.Command]) -> str:
    return messages.encode(make(0)).hex()


def set_up(moon: Moon, sun: Host, *pairs: Pair) -> None:
    """The first pair's policy on both sides, then everybody's SAs, inbound first."""
    moon.do(pairs[0].policy(True))
    errors = sun("tests.guest.peer:do", hexed(pairs[0].policy(False)))
    for each in pairs:
        for direction in (0, 1):
            moon.do(each.sa(True, direction))
        errors += sun("tests.guest.peer:do", *(hexed(each.sa(False, direction)) for direction in (0, 1)))
    assert not any(errors), errors


def take_down(sun: Host, *pairs: Pair) -> None:
    commands = [hexed(lambda request: messages.Sweep(request, (), ()))]
    assert sun("tests.guest.peer:do", *commands) == [""]


def judge(moon: Moon, sun: Host, made: Pair, sizes: tuple[int, ...] = (1, 57, 1372)) -> None:
    """Octets both ways in both families; nothing was dropped at the other end."""
    set_up(moon, sun, made)
    try:
        if made.left.inner == (made.left.outer,):
            echoed(moon.space, made.left.outer, made.right.outer)
        else:
            echoed(moon.alice, ALICE, BOB, sizes)
            echoed(moon.alice, ALICE6, BOB6, sizes)
        inward, outward, drops = sun("tests.guest.peer:counters")["pairs"][str(made.number)]
        assert drops == {}
        ours = moon.counters()[made.number]
        assert min(inward, outward) > 0
        assert (ours.packets_out, ours.packets_in) == (inward, outward)
        assert ours.sequence_out == inward
    finally:
        take_down(sun)


CIPHERS: list[tuple[str, dict[str, Any]]] = [
    *(
        (f"gcm{icv}-{bits}", {"encryption": number, "key_bits": bits})
        for icv, number in ((8, Encr.AES_GCM_8), (12, Encr.AES_GCM_12), (16, Encr.AES_GCM_16))
        for bits in (128, 256)
    ),
    ("gcm16-192", {"key_bits": 192}),
    *(
        (f"ccm{icv}", {"encryption": number})
        for icv, number in ((8, Encr.AES_CCM_8), (12, Encr.AES_CCM_12), (16, Encr.AES_CCM_16))
    ),
    ("chacha", {"encryption": Encr.CHACHA20_POLY1305, "key_bits": 0}),
    ("gmac", {"encryption": Encr.NULL_AES_GMAC}),
    ("null", {"encryption": Encr.NULL, "key_bits": 0, "integrity": Integ.HMAC_SHA2_256_128}),
    ("3des", {"encryption": Encr.TRIPLE_DES_CBC, "key_bits": 0, "integrity": Integ.HMAC_SHA1_96}),
    ("camellia", {"encryption": Encr.CAMELLIA_CBC, "integrity": Integ.HMAC_SHA2_256_128}),
    ("ctr", {"encryption": Encr.AES_CTR, "integrity": Integ.HMAC_SHA2_256_128}),
    *(
        (f"cbc-{Integ.name_of(number).lower()}", {"encryption": Encr.AES_CBC, "integrity": number})
        for number in (
            Integ.HMAC_MD5_96, Integ.HMAC_SHA1_96, Integ.AES_XCBC_96, Integ.AES_CMAC_96,
            Integ.HMAC_SHA2_256_128, Integ.HMAC_SHA2_384_192, Integ.HMAC_SHA2_512_256,
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("chosen", [one for _, one in CIPHERS], ids=[name for name, _ in CIPHERS])
def test_every_cipher_carries_octets_both_ways(moon: Moon, sun: Host, chosen: dict[str, Any]) -> None:
    judge(moon, sun, pair(**chosen))


MACS = (1, 2, 5, 8, 12, 13, 14)
AH = [(outer, mac) for outer in (4, 6) for mac in MACS if EVERYTHING or outer == 4 or mac == 12]


@pytest.mark.parametrize(
    ("outer", "integrity"), AH, ids=[f"{Integ.name_of(mac)}-{outer}" for outer, mac in AH]
)
def test_ah_with_every_mac_in_both_families(moon: Moon, sun: Host, outer: int, integrity: int) -> None:
    judge(moon, sun, pair(outer, protocol=51, integrity=integrity))


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("port", [0, 4500], ids=["plain", "udp"])
@pytest.mark.parametrize(
    "changed",
    [{}, {"esn": True}, {"esn": True, "replay_window": 4096}, {"ipcomp": 0x1001}, {"tfc_padding": 900}],
    ids=["", "esn", "esn-4096", "ipcomp", "tfc"],
)
def test_tunnels_around_both_families(
    moon: Moon, sun: Host, outer: int, port: int, changed: dict[str, Any]
) -> None:
    judge(moon, sun, pair(outer, port, **changed))


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize(
    ("port", "changed"),
    [
        (0, {}),
        (4500, {}),
        (0, {"ipcomp": 0x1001}),
        (0, {"esn": True}),
        (0, {"protocol": 51, "integrity": 12}),
    ],
    ids=["esp", "udp", "ipcomp", "esn", "ah"],
)
def test_transport_mode(moon: Moon, sun: Host, outer: int, port: int, changed: dict[str, Any]) -> None:
    judge(moon, sun, hosts(pair(outer, port, **changed)))


@pytest.mark.parametrize("outer", [4, 6])
def test_a_bundle_of_ah_around_esp(moon: Moon, sun: Host, outer: int) -> None:
    esp = pair(outer)
    ah = hosts(pair(outer, protocol=51, integrity=12))
    # As the negotiation has it (`ike.children`): the AH is of the flow of the ESP inside.
    ah = replace(ah, changed=ah.changed | {"bundle": esp.number, "flow": esp.number})
    esp = replace(esp, changed=esp.changed | {"bundle": ah.number})
    moon.do(esp.policy(True))
    errors = sun("tests.guest.peer:do", hexed(esp.policy(False)))
    for each in (ah, esp):
        for direction in (0, 1):
            moon.do(each.sa(True, direction))
            errors += sun("tests.guest.peer:do", hexed(each.sa(False, direction)))
    assert not any(errors), errors
    try:
        echoed(moon.alice, ALICE, BOB)
        echoed(moon.alice, ALICE6, BOB6)
        assert all(one[2] == {} for one in sun("tests.guest.peer:counters")["pairs"].values())
    finally:
        take_down(sun)


def test_gre_runs_over_transport_mode(moon: Moon, sun: Host) -> None:
    """The recipe of docs/dataplane.md: the tunnel is the kernel's, what protects it is a host-to-host SA."""
    made = hosts(pair())
    set_up(moon, sun, made)
    moon.space.ip(
        f"link add gre7 type gre local {MOON} remote {SUN}", "addr add 10.99.0.1/30 dev gre7",
        "link set gre7 mtu 1380 up",
    )  # fmt: skip
    try:
        sun("tests.guest.peer:answer_gre", 60.0)
        for size in ("56", "1300"):
            for _ in range(10):
                done = moon.space.run("ping", "-c", "1", "-W", "2", "-s", size, "10.99.0.2", check=False)
                if done.returncode == 0:
                    break
            assert done.returncode == 0, done.stdout + moon.show()
        inward, outward, drops = sun("tests.guest.peer:counters")["pairs"][str(made.number)]
        assert (inward >= 2, outward >= 2, drops) == (True, True, {})
    finally:
        moon.space.ip("link del gre7")
        take_down(sun)
