"""Dead peer detection on demand (RFC 3706, section 5.5), both versions: who sends and hears nothing asks."""

from __future__ import annotations

import pytest

from cygnet.ike.errors import Reason
from cygnet.ike.events import IkeSaDown
from cygnet.testing import Pair

DELAY = 30
MODES = {
    1: 'proposals = ["aes128-sha256-x25519"]\ndpd_timeout = "60s"\n',
    2: 'proposals = ["aes256gcm16-prfsha256-x25519"]\n',
}
VERSIONS = pytest.mark.parametrize("version", MODES)


def up(version: int) -> Pair:
    text = f'{MODES[version]}dpd_delay = "{DELAY}s"\ndpd_mode = "on-demand"\n'
    pair = Pair(3, connection=text, version=version).up()
    # An IKEv2 peer that began and has said nothing since is asked once, whatever is configured (T31).
    pair.network.run_for(2 * DELAY)
    return pair


def asked(pair: Pair) -> int:
    return sum(pair.network.ike_datagrams_of(gateway.address) for gateway in pair.both)


@VERSIONS
def test_who_has_nothing_to_send_does_not_ask(version: int) -> None:
    pair = up(version)
    before = asked(pair)
    pair.network.run_for(600)
    assert asked(pair) == before
    pair.b.die()
    pair.network.run_for(600)
    assert pair.a.sas()


@VERSIONS
def test_who_hears_the_peers_packets_does_not_ask(version: int) -> None:
    pair = up(version)
    before = asked(pair)
    for number in range(60):
        pair.a.send(pair.packet(forward=True, number=number))
        pair.b.send(pair.packet(forward=False, number=number))
        pair.network.run_for(DELAY / 3)
    assert asked(pair) == before


@VERSIONS
def test_who_sends_and_hears_nothing_asks_and_a_peer_that_lives_answers(version: int) -> None:
    pair = up(version)
    before = asked(pair)
    for number in range(12):
        pair.a.send(pair.packet(forward=True, number=number))
        pair.network.run_for(DELAY / 3)
    # Each question has one answer, and none comes sooner than the delay.
    assert 2 <= asked(pair) - before <= 2 * 4
    assert len(pair.a.sas()) == len(pair.b.sas()) == 1


@VERSIONS
def test_who_sends_to_a_dead_peer_notices(version: int) -> None:
    pair = up(version)
    pair.b.die()
    for number in range(60):
        pair.a.send(pair.packet(forward=True, number=number))
        pair.network.run_for(DELAY / 3)
    assert not pair.a.sas()
    (down,) = pair.a.of(IkeSaDown)
    assert down.failure.reason in (Reason.PEER_DEAD, Reason.PEER_UNREACHABLE)
