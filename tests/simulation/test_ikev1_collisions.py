"""IKEv1: both ends act at once (C1 to C30 of security.md 3.1, as far as IKEv1 has them), and INITIAL-CONTACT.

Each named case with what must come of it; then every pair of actions at small offsets, with messages late.
Nonces come from seeds, so that over a few seeds either end wins.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cygnet.ike.errors import LocalMisuse, Reason
from cygnet.ike.events import ChildSaDown
from cygnet.testing import Gateway, Pair, When, assert_agreement, assert_nothing_left, disagreements
from cygnet.testing.faults import Fault, drop
from cygnet.testing.network import Flight
from cygnet.wire.v1.numbers import Exchange
from tests.simulation.test_collisions import SEEDS, UP, late

MAIN = 'proposals = ["aes128-sha256-x25519"]\ndpd_delay = "60s"\n'
AGGRESSIVE = MAIN + "aggressive = true\n"
MODES = pytest.mark.parametrize("mode", [MAIN, AGGRESSIVE], ids=["main", "aggressive"])
OFF = "i_dont_care_about_security_and_use_aggressive_mode_psk = true"
ESP = 'esp_proposals = ["aes128-sha256-x25519"]'
QUICK = Exchange.QUICK_MODE


def fresh(seed: int, mode: str = MAIN, children: tuple[str, ...] = ("net",)) -> Pair:
    return Pair(seed, connection=mode, settings=ESP, options=OFF, version=1, children=children)


def grown(seed: int, mode: str = MAIN) -> Pair:
    return fresh(seed, mode).up()


def finish(pair: Pair) -> None:
    """One pair, both ways carry, nothing left over; and the next rekey works."""
    pair.settle()
    assert_agreement(*pair.both, up=UP)
    assert pair.talk(2) == (2, 2)
    for gateway in pair.both:
        operation = gateway.rekey("net")
        pair.settle(60)
        assert gateway.operations[operation] is None
        assert_agreement(*pair.both, up=UP)


def afterwards(pair: Pair, delay: float, act: Callable[[], int]) -> None:
    def go() -> None:
        act()

    pair.network.schedule(delay, go)


# -- the same at both ends ------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("offset", [0.0, 0.004, 0.011, 0.021, 0.031, 0.045, 0.055])
@pytest.mark.parametrize("seed", SEEDS)
def test_both_start_phase_1_at_once(seed: int, offset: float, mode: str) -> None:
    pair = fresh(seed, mode)
    pair.a.initiate("peer", "net")
    afterwards(pair, offset, lambda: pair.b.initiate("peer", "net"))
    finish(pair)


@MODES
@pytest.mark.parametrize("seed", SEEDS)
def test_both_replace_phase_1_at_once(seed: int, mode: str) -> None:
    pair = grown(seed, mode)
    pair.a.rekey()
    pair.b.rekey()
    finish(pair)


@pytest.mark.parametrize("lateness", [0.0, 0.03])
@pytest.mark.parametrize("seed", SEEDS)
def test_both_rekey_the_child_at_once(seed: int, lateness: float) -> None:
    pair = grown(seed)
    if lateness:
        pair.network.meddlers.append(When(of(QUICK, pair.b), late(lateness), times=1))
    pair.a.rekey("net")
    pair.b.rekey("net")
    finish(pair)


@pytest.mark.parametrize("lost", [None, "a", "b"])
def test_both_delete_the_child_at_once(lost: str | None) -> None:
    pair = grown(1)
    if lost is not None:
        loser = pair.a if lost == "a" else pair.b
        pair.network.meddlers.append(When(of(Exchange.INFORMATIONAL, loser), drop, times=1))
    operations = pair.a.terminate("net"), pair.b.terminate("net")
    pair.settle()
    assert_agreement(*pair.both)
    assert not pair.a.plane.inbound
    assert [g.operations[o] for g, o in zip(pair.both, operations, strict=True)] == [None, None]
    assert len(pair.a.of(ChildSaDown)) == len(pair.b.of(ChildSaDown)) == 1


@pytest.mark.parametrize("lost", [None, "a", "b"])
def test_both_delete_phase_1_at_once(lost: str | None) -> None:
    pair = grown(1)
    if lost is not None:
        loser = pair.a if lost == "a" else pair.b
        pair.network.meddlers.append(When(of(Exchange.INFORMATIONAL, loser), drop, times=1))
    pair.a.terminate()
    pair.b.terminate()
    pair.settle()
    assert_nothing_left(*pair.both)


# -- delete against rekey -------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 0.004, 0.011, 0.015, 0.021, 0.031])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_delete_of_what_the_peer_rekeys_ends_both(seed: int, offset: float) -> None:
    """Whichever was first: the ends agree, and nothing carries in clear."""
    pair = grown(seed)
    pair.a.rekey("net")
    afterwards(pair, offset, lambda: pair.b.terminate("net"))
    pair.settle()
    assert_agreement(*pair.both)
    assert not pair.a.plane.bypassed
    operation = pair.a.initiate("peer", "net")
    finish(pair)
    assert pair.a.operations[operation] is None


# -- every pair of actions ------------------------------------------------------------------------

ACTIONS: dict[str, Callable[[Gateway], int]] = {
    "rekey child": lambda gateway: gateway.rekey("net"),
    "delete child": lambda gateway: gateway.terminate("net"),
    "create child": lambda gateway: gateway.initiate("peer", "more"),
    "replace phase 1": lambda gateway: gateway.rekey(),
    "delete phase 1": lambda gateway: gateway.terminate(),
}


def _do(action: str, gateway: Gateway) -> None:
    try:
        if gateway.sas():
            ACTIONS[action](gateway)
    except (LookupError, LocalMisuse):
        return


def _slow(flight: Flight, which: int) -> bool:
    header = flight.header
    return header is not None and header.message_id % 2 == which


@pytest.mark.parametrize("second", ACTIONS)
@pytest.mark.parametrize("first", ACTIONS)
def test_any_two_actions_at_any_offset_end_in_agreement(first: str, second: str) -> None:
    for seed in range(2):
        for offset in (0.0, 0.011, 0.031, 0.055):
            for lateness in (0.0, 0.03):
                pair = fresh(seed, children=("net", "more"))
                operation = pair.a.initiate("peer", "net")
                pair.network.run_until(lambda p=pair, o=operation: o in p.a.operations)  # type: ignore[misc]
                pair.network.run_for(1)
                if lateness:
                    pair.network.meddlers.append(
                        When(lambda flight, w=seed % 2: _slow(flight, w), late(lateness), times=2)  # type: ignore[misc]
                    )
                _do(first, pair.a)
                pair.network.schedule(offset, lambda p=pair: _do(second, p.b))  # type: ignore[misc]
                pair.settle()
                found = disagreements(pair.both)
                where = f"{first} / {second}, seed {seed}, offset {offset}, late {lateness}"
                assert not found, f"{where}: {found}"
                assert not pair.a.plane.bypassed, where
                assert Reason.INTERNAL not in [f.reason for f in pair.a.failures() + pair.b.failures()]


# -- INITIAL-CONTACT behind aggressive mode ---------------------------------------------------------


def of(exchange: int, gateway: Gateway) -> Callable[[Flight], bool]:
    """Of an exchange, from this gateway."""

    def condition(flight: Flight) -> bool:
        header = flight.header
        return header is not None and header.exchange == exchange and flight.source == gateway.address

    return condition


def stale(seed: int = 3) -> Pair:
    """`b` has restarted; `a` has a phase 1 and a Child SA that `b` knows nothing of."""
    pair = grown(seed, AGGRESSIVE)
    pair.restart("b")
    return pair


def call(pair: Pair, by: str) -> int:
    return pair.b.initiate("peer", "net") if by == "b" else pair.a.rekey()


@pytest.mark.parametrize("by", ["a", "b"])
def test_behind_aggressive_mode_who_restarted_says_that_it_has_no_other_sa(by: str) -> None:
    """In either role: as responder it is all that tells the peer, whose new phase 1 would go on with what is
    not there any more."""
    pair = stale()
    call(pair, by)
    pair.settle(20)
    assert_agreement(*pair.both)
    assert Reason.PEER_RESTARTED in [event.failure.reason for event in pair.a.of(ChildSaDown)]
    pair.a.initiate("peer", "net")
    finish(pair)


@pytest.mark.parametrize("by", ["a", "b"])
def test_whatever_is_lost_the_peer_hears_of_it(by: str) -> None:
    trial = stale()
    before = trial.network.ike_datagrams_of(trial.b.address)
    call(trial, by)
    trial.settle(20)
    count = trial.network.ike_datagrams_of(trial.b.address) - before
    assert count >= 3
    for position in range(count):
        pair = stale()
        pair.network.meddlers.append(Fault(pair.b.address, before + position, drop))
        call(pair, by)
        pair.settle()
        assert_agreement(*pair.both)


def test_where_nobody_is_unique_nobody_says_it_or_believes_it() -> None:
    pair = grown(3, AGGRESSIVE + 'unique = "never"\n')
    pair.restart("b")
    pair.b.initiate("peer", "net")
    pair.network.run_for(20)
    assert sum(len(view.children) for view in pair.a.sas()) == 2
    assert not pair.a.of(ChildSaDown)


# -- PFS --------------------------------------------------------------------------------------------


def test_a_child_agreed_on_without_pfs_is_rekeyed_without_it_by_either_end() -> None:
    """The peer wants none; ours would take it, and prefers it where there is nothing to replace."""
    plain = 'esp_proposals = ["aes256-sha256"]'
    pair = Pair(3, connection=MAIN, a_settings=plain, b_settings="", version=1).up()
    finish(pair)
    for gateway in pair.both:
        (sa,) = gateway.endpoint.by_number.values()
        assert [child.suite.key_exchange for child in sa.state.children] == [0]
