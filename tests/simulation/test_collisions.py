"""Both ends act at once: the cases of security.md 3.1 (C1 to C46) that IKEv2 without MOBIKE has.

First the named cases with what must come of them, then every pair of actions at every small offset with
every message late. Nonces come from seeds, so that over a few seeds either end wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from cygnet.ike import collisions, steps
from cygnet.ike.changes import Change
from cygnet.ike.errors import Reason
from cygnet.ike.events import (
    ChildSaDown,
    ChildSaRekeyed,
    ChildSaUp,
    IkeSaDown,
    IkeSaRekeyed,
    NegotiationFailed,
    Noted,
)
from cygnet.ike.steps import Steps
from cygnet.ike.v2 import create_child_sa
from cygnet.testing import (
    Flight,
    Gateway,
    Pair,
    When,
    assert_agreement,
    assert_nothing_left,
    disagreements,
    exchange_is,
)
from cygnet.testing.faults import Act, drop
from cygnet.wire.numbers import Exchange, Notify, Protocol
from cygnet.wire.payloads import NotifyPayload, Payload

UP = [("peer", "net")]
WATCHED = 'proposals = ["aes256gcm16-prfsha256-x25519"]\ndpd_delay = "60s"\n'
SEEDS = range(6)
CREATE, INFO = Exchange.CREATE_CHILD_SA, Exchange.INFORMATIONAL


def grown(seed: int, **how: str) -> Pair:
    return Pair(seed, connection=WATCHED, **how).up()  # type: ignore[arg-type]


def late(seconds: float) -> Act:
    return lambda flight, random: ((seconds, flight.data),)


def meddle(pair: Pair, gateway: Gateway, exchange: int, response: bool, act: Act, times: int = 1) -> None:
    """Do something to the next message of this kind that `gateway` sends."""
    condition = exchange_is(exchange, response=response, source=gateway.address)
    pair.network.meddlers.append(When(condition, act, times))


def finish(pair: Pair) -> None:
    """One pair, both ways carry, nothing left over; and the next rekey works (C45: no stale memory)."""
    pair.settle()
    assert_agreement(*pair.both, up=UP)
    assert pair.talk(2) == (2, 2)
    for gateway in pair.both:
        operation = gateway.rekey("net")
        pair.settle(30)
        assert gateway.operations[operation] is None
        assert_agreement(*pair.both, up=UP)


def spis(gateway: Gateway) -> set[int]:
    return {child.spi_in for view in gateway.sas() for child in view.children}


# -- one at a time ------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["a", "b"])
def test_c1_a_rekey_replaces_both_spis_and_is_told_once_at_each_end(who: str) -> None:
    pair = grown(1)
    before = spis(pair.a) | spis(pair.b)
    (pair.a if who == "a" else pair.b).rekey("net")
    pair.settle(30)
    assert not before & (spis(pair.a) | spis(pair.b))
    for gateway in pair.both:
        assert len(gateway.of(ChildSaRekeyed)) == 1
        assert not gateway.of(ChildSaDown)
    finish(pair)


def test_c2_another_group_in_a_rekey_costs_one_retry_and_the_old_pair_serves_meanwhile() -> None:
    pair = grown(
        1,
        a_settings='esp_proposals = ["aes256gcm16-ecp256-x25519"]',
        b_settings='esp_proposals = ["aes256gcm16-x25519"]',
    )
    pair.a.rekey("net")
    assert pair.talk(5) == (5, 5)
    finish(pair)


def test_c3_a_soft_expiry_of_what_was_just_replaced_is_ignored() -> None:
    pair = grown(1)
    meddle(pair, pair.a, INFO, False, late(0.5))
    pair.a.rekey("net")
    pair.network.run_for(0.2)
    replaced = [c.pair for v in pair.b.sas() for c in v.children if c.state == "REKEYED"]
    assert len(replaced) == 1
    pair.b.expire(replaced[0], 0, hard=False, why="bytes")
    pair.network.run_for(0.1)
    assert pair.network.ike_datagrams_of(pair.b.address) == 3
    finish(pair)


def test_c4_a_hard_expiry_before_the_peers_delete_switches_over() -> None:
    pair = grown(1)
    meddle(pair, pair.a, INFO, False, late(3.0))
    pair.a.rekey("net")
    pair.network.run_for(0.5)
    (old,) = [c.pair for v in pair.b.sas() for c in v.children if c.state == "REKEYED"]
    pair.b.expire(old, 0, hard=True, why="bytes")
    pair.network.run_for(0.5)
    assert pair.talk(3) == (3, 3)
    finish(pair)


@pytest.mark.parametrize("seed", SEEDS)
def test_c5_the_new_pair_may_be_closed_before_the_old_one_is(seed: int) -> None:
    pair = grown(seed)
    meddle(pair, pair.a, INFO, False, late(1.0))
    pair.a.rekey("net")
    pair.network.run_for(0.5)
    new = max(c.pair for v in pair.b.sas() for c in v.children)
    pair.b.endpoint.terminate(pair.b.sas()[0].unique_id, new, False, pair.network.now)
    pair.settle()
    assert_agreement(*pair.both)


def test_c6_a_rekey_of_what_the_peer_lost_makes_a_new_one() -> None:
    pair = grown(1)
    meddle(pair, pair.b, INFO, False, late(2.0))
    pair.b.terminate("net")
    pair.network.run_for(0.5)
    # The peer's Delete is late; meanwhile it answers a rekey with CHILD_SA_NOT_FOUND or TEMPORARY_FAILURE.
    pair.a.rekey("net")
    pair.settle()
    assert_agreement(*pair.both)


@pytest.mark.parametrize("who", ["a", "b"])
def test_c8_a_delete_without_an_answer_is_told_once(who: str) -> None:
    pair = grown(1)
    gateway, other = pair.both if who == "a" else pair.both[::-1]
    meddle(pair, other, INFO, True, drop, times=3)
    gateway.terminate("net")
    pair.settle()
    assert_agreement(*pair.both)
    assert len(pair.a.of(ChildSaDown)) == len(pair.b.of(ChildSaDown)) == 1


def test_c9_what_is_up_already_is_not_made_again() -> None:
    pair = grown(1)
    sent = pair.network.ike_datagrams_of(pair.a.address)
    operation = pair.a.initiate("peer", "net")
    pair.network.run_for(1)
    assert pair.a.operations[operation] is None
    assert pair.network.ike_datagrams_of(pair.a.address) == sent
    finish(pair)


# -- two rekeys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(16))
def test_c10_of_two_rekeys_the_one_with_the_lowest_nonce_goes(seed: int) -> None:
    pair = grown(seed)
    pair.a.rekey("net")
    pair.b.rekey("net")
    assert pair.talk(10) == (10, 10)
    finish(pair)


@pytest.mark.parametrize("seed", range(16))
def test_c10_of_two_ike_rekeys_the_one_with_the_lowest_nonce_goes(seed: int) -> None:
    pair = grown(seed)
    pair.a.rekey()
    pair.b.rekey()
    pair.settle()
    for gateway in pair.both:
        assert len(gateway.of(IkeSaRekeyed)) == 1
    finish(pair)


@pytest.mark.parametrize("seed", SEEDS)
def test_c12_a_retry_for_another_group_collides_with_its_own_nonces(seed: int) -> None:
    pair = grown(
        seed,
        a_settings='esp_proposals = ["aes256gcm16-ecp256-x25519"]',
        b_settings='esp_proposals = ["aes256gcm16-x25519"]',
    )
    pair.a.rekey("net")
    pair.b.rekey("net")
    finish(pair)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["net", ""])
@pytest.mark.parametrize("who", ["a", "b"])
def test_c13_c44_a_late_or_lost_answer_to_one_of_two_rekeys(who: str, what: str, seed: int) -> None:
    for act in (late(0.2), late(6.0), drop):
        pair = grown(seed)
        meddle(pair, pair.a if who == "a" else pair.b, CREATE, True, act)
        pair.a.rekey(what)
        pair.b.rekey(what)
        finish(pair)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["net", ""])
@pytest.mark.parametrize("who", ["a", "b"])
def test_c15_c16_c32_c33_a_late_or_lost_request_of_two_rekeys(who: str, what: str, seed: int) -> None:
    for act in (late(0.2), late(0.035), late(6.0), drop):
        pair = grown(seed)
        meddle(pair, pair.a if who == "a" else pair.b, CREATE, False, act)
        pair.a.rekey(what)
        pair.b.rekey(what)
        finish(pair)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["net", ""])
def test_c14_late_answers_after_both_deletes(what: str, seed: int) -> None:
    pair = grown(seed)
    meddle(pair, pair.a, CREATE, True, late(1.0))
    meddle(pair, pair.b, INFO, False, late(0.1))
    pair.a.rekey(what)
    pair.b.rekey(what)
    finish(pair)


# -- a rekey and a delete -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("act", [None, drop, late(0.1)])
@pytest.mark.parametrize("which", ["rekey", "delete"])
def test_c18_c19_c20_c21_a_child_is_rekeyed_and_deleted_at_once(
    which: str, act: Act | None, seed: int
) -> None:
    """RFC 7296, section 2.25.1: the delete wins."""
    pair = grown(seed)
    if act is not None and which == "rekey":
        meddle(pair, pair.a, CREATE, False, act)
    elif act is not None:
        meddle(pair, pair.b, INFO, False, act)
    pair.a.rekey("net")
    pair.b.terminate("net")
    pair.settle()
    assert_agreement(*pair.both)
    assert len(pair.a.of(ChildSaUp)) + len(pair.a.of(ChildSaRekeyed)) >= len(pair.a.of(ChildSaDown))


@pytest.mark.parametrize("seed", SEEDS)
def test_c21_a_delete_that_overtakes_the_answer_is_remembered(seed: int) -> None:
    pair = grown(seed)
    meddle(pair, pair.b, CREATE, True, late(1.0))
    pair.a.rekey("net")
    pair.network.run_for(0.015)
    new = max(c.pair for v in pair.b.sas() for c in v.children)
    pair.b.endpoint.terminate(pair.b.sas()[0].unique_id, new, False, pair.network.now)
    pair.settle()
    assert_agreement(*pair.both)


@pytest.mark.parametrize("act", [None, drop, late(0.1)])
def test_c22_c23_both_delete_the_same_child(act: Act | None) -> None:
    pair = grown(1)
    if act is not None:
        meddle(pair, pair.a, INFO, False, act)
    operations = pair.a.terminate("net"), pair.b.terminate("net")
    pair.settle()
    assert_agreement(*pair.both)
    assert not pair.a.plane.inbound
    assert [g.operations[o] for g, o in zip(pair.both, operations, strict=True)] == [None, None]
    assert len(pair.a.of(ChildSaDown)) == len(pair.b.of(ChildSaDown)) == 1


# -- children and the IKE SA --------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_c24_rekeys_of_child_and_ike_sa_both_come_about_in_the_end(seed: int) -> None:
    pair = grown(seed)
    before = spis(pair.a)
    pair.a.rekey("net")
    pair.b.rekey()
    pair.settle()
    assert not before & spis(pair.a)
    assert len(pair.a.of(IkeSaRekeyed)) >= 1
    finish(pair)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("act", ["rekey", "create", "delete", "close"])
def test_c25_c28_c29_c30_an_ike_sa_that_is_closed_takes_everything_along(act: str, seed: int) -> None:
    pair = Pair(seed, connection=WATCHED, children=("net", "more"))
    operation = pair.a.initiate("peer", "net")
    pair.network.run_until(lambda: operation in pair.a.operations)
    pair.network.run_for(1)
    {
        "rekey": lambda: pair.a.rekey("net"),
        "create": lambda: pair.a.initiate("peer", "more"),
        "delete": lambda: pair.a.terminate("net"),
        "close": lambda: pair.a.terminate(),
    }[act]()
    pair.b.terminate()
    pair.settle()
    assert_nothing_left(*pair.both)


@pytest.mark.parametrize("seed", SEEDS)
def test_c26_a_child_that_is_made_while_the_ike_sa_is_rekeyed_comes_up_on_the_new_one(seed: int) -> None:
    pair = Pair(seed, connection=WATCHED, children=("net", "more"))
    operation = pair.a.initiate("peer", "net")
    pair.network.run_until(lambda: operation in pair.a.operations)
    pair.network.run_for(1)
    pair.a.initiate("peer", "more")
    pair.b.rekey()
    pair.settle()
    assert_agreement(*pair.both, up=[("peer", "net"), ("peer", "more")])
    finish(pair)


@pytest.mark.parametrize("seed", SEEDS)
def test_c27_a_child_that_is_deleted_while_the_ike_sa_is_rekeyed_goes(seed: int) -> None:
    pair = grown(seed)
    pair.a.terminate("net")
    pair.b.rekey()
    pair.settle()
    assert_agreement(*pair.both)
    assert not spis(pair.a)
    assert not spis(pair.b)


def test_c29_a_rekey_of_an_ike_sa_that_the_peer_closes_is_forgotten() -> None:
    pair = grown(1)
    operation = pair.a.rekey()
    pair.b.terminate()
    pair.settle()
    assert operation in pair.a.operations
    assert_nothing_left(*pair.both)


@pytest.mark.parametrize("seed", SEEDS)
def test_c31_a_peer_that_rekeys_twice_in_a_row(seed: int) -> None:
    pair = grown(seed)
    meddle(pair, pair.b, INFO, False, late(0.05))
    pair.b.rekey("net")
    pair.network.run_for(0.03)
    pair.a.rekey("net") if seed % 2 else None
    pair.settle(5)
    pair.b.rekey("net")
    finish(pair)


def test_c34_a_peer_that_is_busy_for_ever_is_not_asked_at_once_again() -> None:
    pair = grown(1)
    pair.b.plane.install_delay = 5.0
    pair.a.rekey("net")
    pair.b.rekey()
    pair.network.run_for(4)
    assert pair.network.ike_datagrams_of(pair.a.address) < 12
    pair.b.plane.install_delay = 0.0
    finish(pair)


def test_rekeys_that_cross_are_put_off_and_are_no_failures() -> None:
    """All fall due at both ends at once; who is told TEMPORARY_FAILURE tries again (section 2.25)."""
    postponed = 0
    for seed in SEEDS:
        ike = WATCHED + 'rekey_time = "60s"\nrand_time = "0s"\n'
        pair = Pair(seed, connection=ike, settings='rekey_time = "60s"\nrand_time = "0s"').up()
        pair.network.run_for(310)
        for gateway in pair.both:
            assert not gateway.of(NegotiationFailed)
            assert len(gateway.of(IkeSaRekeyed)) >= 4
            assert len(gateway.of(ChildSaRekeyed)) >= 4
            postponed += sum(noted.code == "rekey-postponed" for noted in gateway.of(Noted))
        assert_agreement(*pair.both, up=UP)
    assert postponed


def test_a_rekey_that_is_put_off_comes_before_the_hard_end() -> None:
    """One end is to rekey the IKE SA when the other is to rekey the child: the pause is cut to fit."""
    for seed in SEEDS:
        pair = Pair(
            seed,
            a_only=WATCHED + 'rekey_time = "2s"\nover_time = "5s"\nrand_time = "0s"\n',
            b_only=WATCHED + 'rekey_time = "0s"\n',
            a_settings='rekey_time = "0s"\nlife_time = "6s"\n',
            b_settings='rekey_time = "2s"\nlife_time = "6s"\nrand_time = "0s"\n',
        ).up()
        pair.network.run_for(120)
        for gateway in pair.both:
            assert not gateway.of(ChildSaDown)
            assert not gateway.of(IkeSaDown)
            assert len(gateway.of(ChildSaRekeyed)) > 30
        assert any(noted.code == "rekey-postponed" for noted in pair.a.of(Noted))


# -- the rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("when", [0.005, 0.015, 0.025, 0.035])
def test_c37_a_peer_that_restarts_during_ike_auth(when: float, seed: int) -> None:
    pair = Pair(seed, connection=WATCHED)
    pair.a.initiate("peer", "net")
    pair.network.run_for(when)
    pair.restart("b")
    pair.network.run_for(0.1)
    operation = pair.b.initiate("peer", "net")
    pair.settle()
    assert pair.b.operations[operation] is None
    assert_agreement(*pair.both, up=UP)
    assert not pair.a.plane.bypassed


def test_c38_nothing_is_revived_on_an_ike_sa_that_closes() -> None:
    pair = grown(1, settings='close_action = "start"')
    pair.a.terminate("net")
    pair.b.terminate()
    pair.settle()
    assert_agreement(*pair.both)


def test_c39_a_queue_behind_a_lost_message_drains_or_fails_together() -> None:
    children = ("net", "one", "two", "three")
    pair = Pair(1, connection=WATCHED, children=children)
    first = pair.a.initiate("peer", "net")
    pair.network.run_until(lambda: first in pair.a.operations)
    meddle(pair, pair.a, CREATE, False, drop, times=3)
    operations = [pair.a.initiate("peer", child) for child in children[1:]]
    pair.settle()
    assert [pair.a.operations[o] for o in operations] == [None] * 3
    meddle(pair, pair.a, CREATE, False, drop, times=1000)
    meddle(pair, pair.a, INFO, False, drop, times=1000)
    operations = [pair.a.rekey(child) for child in children]
    pair.settle()
    assert all(o in pair.a.operations for o in operations)
    assert all(pair.a.operations[o] is not None for o in operations)


def test_c40_a_connection_that_is_unloaded_with_an_exchange_outstanding() -> None:
    for who in ("a", "b"):
        for when in (0.0, 0.005, 0.015, 0.025):
            pair = grown(1)
            pair.a.rekey("net")
            pair.network.run_for(when)
            (pair.a if who == "a" else pair.b).unload("peer")
            pair.settle()
            assert_nothing_left(*pair.both)


@pytest.mark.parametrize("seed", SEEDS)
def test_c46_an_answer_and_a_delete_that_change_places(seed: int) -> None:
    pair = grown(seed)
    meddle(pair, pair.b, CREATE, True, late(0.1))
    pair.a.rekey("net")
    pair.network.schedule(0.03, lambda: _close_newest(pair.b))
    pair.settle()
    assert_agreement(*pair.both)


def _close_newest(gateway: Gateway) -> None:
    view = gateway.sas()[0]
    newest = max(child.pair for child in view.children)
    gateway.endpoint.terminate(view.unique_id, newest, False, gateway.network.now)


# -- every pair of actions ------------------------------------------------------------------------


def _do(action: str) -> Callable[[Gateway], None]:
    def act(gateway: Gateway) -> None:
        if not gateway.sas():
            return
        try:
            if action == "rekey child":
                gateway.rekey("net")
            elif action == "delete child":
                gateway.terminate("net")
            elif action == "create child":
                gateway.initiate("peer", "more")
            elif action == "rekey IKE":
                gateway.rekey()
            else:
                gateway.terminate()
        except LookupError:
            return

    return act


ACTIONS = ("rekey child", "delete child", "create child", "rekey IKE", "delete IKE")
OFFSETS = (0.0, 0.004, 0.011, 0.021, 0.031, 0.041)


def _slow(flight: Flight, which: int) -> bool:
    header = flight.header
    return header is not None and header.message_id % 2 == which


@pytest.mark.parametrize("second", ACTIONS)
@pytest.mark.parametrize("first", ACTIONS)
def test_any_two_actions_at_any_offset_end_in_agreement(first: str, second: str) -> None:
    for seed in range(4):
        for offset in OFFSETS:
            for lateness in (0.0, 0.03, 0.06):
                pair = Pair(seed, connection=WATCHED, children=("net", "more"))
                operation = pair.a.initiate("peer", "net")
                pair.network.run_until(lambda p=pair, o=operation: o in p.a.operations)  # type: ignore[misc]
                pair.network.run_for(1)
                if lateness:
                    which = seed % 2
                    pair.network.meddlers.append(
                        When(lambda flight, w=which: _slow(flight, w), late(lateness), times=2)  # type: ignore[misc]
                    )
                _do(first)(pair.a)
                pair.network.schedule(offset, lambda p=pair: _do(second)(p.b))  # type: ignore[misc]
                pair.settle()
                found = disagreements(pair.both)
                where = f"{first} / {second}, seed {seed}, offset {offset}, late {lateness}"
                assert not found, f"{where}: {found}"
                gone = "delete IKE" in (first, second)
                assert gone == (not pair.a.sas()), f"{where}: the IKE SA"
                assert not pair.a.plane.bypassed
                assert Reason.INTERNAL not in [f.reason for f in pair.a.failures() + pair.b.failures()]


@pytest.mark.parametrize("lag", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("seed", range(4))
def test_a_peer_that_keeps_both_of_two_children_made_at_once_is_left_with_one(
    seed: int, lag: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """strongSwan does not close the one that lost: after a while of grace we do."""
    pair = Pair(seed, connection=WATCHED, children=("net", "more"))
    operation = pair.a.initiate("peer", "net")
    pair.network.run_until(lambda: operation in pair.a.operations)
    pair.network.run_for(1)
    keeps, twin = str(pair.b.sas()[0].local_id), collisions.twin
    monkeypatch.setattr(
        collisions, "twin", lambda state, child: None if str(state.local_id) == keeps else twin(state, child)
    )
    pair.b.initiate("peer", "more")
    pair.network.run_for(lag)
    pair.a.initiate("peer", "more")
    pair.network.run_for(20)
    assert_agreement(*pair.both, up=[("peer", "net"), ("peer", "more")])


# -- further key exchanges (RFC 9370, section 2.2.4) ------------------------------------------------

HYBRID = 'proposals = ["aes256gcm16-prfsha256-x25519-ke1_mlkem768"]'
HYBRID_CHILD = 'esp_proposals = ["aes256gcm16-x25519-ke1_mlkem768"]'


def test_a_child_that_is_closed_between_its_rekey_and_the_further_key_exchange_is_not_replaced() -> None:
    """The refusal names it by IKE's number of ESP, and by the SPI that its sender receives on."""
    pair = Pair(3, connection=HYBRID, settings=HYBRID_CHILD).up()
    told: list[NotifyPayload] = []
    genuine = steps.answer

    def answer(payloads: Sequence[Payload], *changes: Change) -> Steps[bytes]:
        told.extend(one for one in payloads if isinstance(one, NotifyPayload))
        return genuine(payloads, *changes)

    (view,) = pair.a.sas()
    (child,) = view.children
    pair.network.meddlers.append(When(exchange_is(Exchange.IKE_FOLLOWUP_KE, response=False), late(3.0), 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create_child_sa, "answer", answer)
        pair.a.rekey("net")
        pair.network.run_for(1)
        pair.b.terminate("net")
        pair.settle(60)
    (refusal,) = [notify for notify in told if notify.type == Notify.CHILD_SA_NOT_FOUND]
    assert refusal.protocol == Protocol.ESP
    assert int.from_bytes(refusal.spi, "big") == child.spi_in
    assert_agreement(*pair.both)
