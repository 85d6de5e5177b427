"""Thousands of seeds: a bad network, both ends doing things at random, then quiet; both ends must agree.

A failure names its seed; `run(seed)` repeats it. CYGNET_SEEDS=from-to runs others (the soak of B15 and B17).
"""

from __future__ import annotations

import os
from random import Random

import pytest

from cygnet.ike.errors import LocalMisuse, Reason
from cygnet.testing import Conditions, Gateway, Pair, assert_agreement, disagreements

CHUNK = 50
CONNECTION = 'proposals = ["aes256gcm16-prfsha256-x25519"]\ndpd_delay = "20s"\n'
HYBRID = 'proposals = ["aes256gcm16-prfsha256-x25519-ke1_mlkem768"]\ndpd_delay = "20s"\n'
HYBRID_SETTINGS = ('esp_proposals = ["aes256gcm16-x25519-ke1_mlkem768"]\n',)
CHILDREN = ("net", "more")
SETTINGS = (
    "",
    'esp_proposals = ["aes256gcm16-x25519"]\n',
    "rekey_packets = 30\nlife_packets = 60\n",
    'start_action = "trap"\n',
)


V1 = 'proposals = ["aes256-sha256-x25519"]\ndpd_delay = "20s"\n'
AGGRESSIVE = V1 + "aggressive = true\n"
AGGRESSIVE_PSK = "i_dont_care_about_security_and_use_aggressive_mode_psk = true"
V1_SETTINGS = (
    "",
    'esp_proposals = ["aes256-sha256-x25519"]\n',
    "rekey_packets = 30\nlife_packets = 60\n",
    'start_action = "trap"\n',
)


def seeds() -> range:
    first, _, last = os.environ.get("CYGNET_SEEDS", "0-2000").partition("-")
    return range(int(first), int(last))


def bad(random: Random) -> Conditions:
    return Conditions(
        latency=random.choice((0.001, 0.01, 0.1)),
        jitter=random.choice((0.0, 0.02, 0.3)),
        loss=random.choice((0.0, 0.05, 0.2, 0.4)),
        duplicate=random.choice((0.0, 0.1, 0.4)),
        corrupt=random.choice((0.0, 0.0, 0.05)),
    )


def act(gateway: Gateway, random: Random) -> None:
    """Something that a person or the traffic may do at any time; what cannot be is refused in words."""
    child = random.choice(CHILDREN)
    what = random.randrange(8)
    try:
        if what < 2:
            gateway.initiate("peer", child)
        elif what < 4:
            gateway.rekey(child)
        elif what == 4:
            gateway.rekey()
        elif what == 5:
            gateway.terminate(child)
        elif what == 6 and random.random() < 0.4:
            gateway.terminate(force=random.random() < 0.2)
        elif what == 7 and random.random() < 0.3:
            _, pair = gateway.numbers_of(child)
            gateway.expire(pair, random.randrange(2), hard=random.random() < 0.5, why="bytes")
    except (LookupError, LocalMisuse):
        return


def run(
    seed: int,
    connection: str = CONNECTION,
    settings: tuple[str, ...] = SETTINGS,
    version: int = 2,
    options: str = "",
) -> Pair:
    random = Random(seed)
    pair = Pair(
        seed,
        conditions=bad(random),
        connection=connection + random.choice(('encap = "yes"\n', "")),
        settings=random.choice(settings),
        children=CHILDREN,
        version=version,
        options=options,
    )
    network = pair.network
    end = network.now.monotonic + 40.0
    while network.now.monotonic < end:
        network.run_for(random.choice((0.0, 0.003, 0.02, 0.2, 3.0)))
        gateway = random.choice(pair.both)
        act(gateway, random)
        for n in range(random.choice((0, 0, 3))):
            gateway.send(pair.packet(forward=gateway is pair.a, number=n))
        if random.random() < 0.02:
            pair.restart("a" if gateway is pair.a else "b")
    network.conditions = Conditions()
    pair.settle(600)
    found = disagreements(pair.both)
    assert not found, f"seed {seed}: {found}"
    for gateway in pair.both:
        assert not gateway.plane.bypassed, f"seed {seed}: packets in clear"
        assert Reason.INTERNAL not in {f.reason for f in gateway.failures()}, f"seed {seed}"
    for child in CHILDREN:
        pair.a.initiate("peer", child)
    # IKEv1 ends may see two phase 1 SAs come in another order, and then let a minute pass.
    pair.settle(30 if version == 2 else 90)
    assert_agreement(*pair.both, up=[("peer", child) for child in CHILDREN])
    assert pair.talk(3) == (3, 3), f"seed {seed}"
    return pair


@pytest.mark.parametrize("first", range(seeds().start, seeds().stop, CHUNK))
def test_after_any_turmoil_both_ends_agree(first: int) -> None:
    for seed in range(first, min(first + CHUNK, seeds().stop)):
        run(seed)


@pytest.mark.parametrize("first", range(seeds().start, seeds().stop // 8, CHUNK))
def test_after_any_turmoil_with_further_key_exchanges_both_ends_agree(first: int) -> None:
    for seed in range(first, min(first + CHUNK, seeds().stop // 8)):
        run(seed, HYBRID, HYBRID_SETTINGS)


@pytest.mark.parametrize("first", range(seeds().start, seeds().stop // 5, CHUNK))
def test_after_any_turmoil_both_ends_of_ikev1_agree(first: int) -> None:
    for seed in range(first, min(first + CHUNK, seeds().stop // 5)):
        run(seed, V1, V1_SETTINGS, version=1)


@pytest.mark.parametrize("first", range(seeds().start, seeds().stop // 20, CHUNK))
def test_after_any_turmoil_in_aggressive_mode_both_ends_agree(first: int) -> None:
    for seed in range(first, min(first + CHUNK, seeds().stop // 20)):
        run(seed, AGGRESSIVE, V1_SETTINGS, version=1, options=AGGRESSIVE_PSK)


def test_a_peer_that_never_used_its_phase_1_is_told_that_there_is_no_other() -> None:
    """Main mode's last message, lost, had the INITIAL-CONTACT of a gateway that had restarted: once another
    seed found that, its later ones had none, and the peer kept the Child SAs of the time before."""
    run(413, V1, V1_SETTINGS, version=1)


def test_a_run_can_be_repeated_from_its_seed() -> None:
    def shape(seed: int) -> list[tuple[float, str, int]]:
        return [(flight.at, str(flight.source), len(flight.data)) for flight in run(seed).network.trace]

    assert shape(5) == shape(5)
