"""Certificates that end soon, in virtual time: each stage is told once, and before it is too late."""

from __future__ import annotations

from datetime import timedelta

from cygnet.auth.expiry import DAY, EVERY, STAGES, Watch, expiring
from tests.unit.auth_material import NOW, Held, ca, entity, holding, key

ENDS = NOW + timedelta(days=40)
ROOT = ca(end=NOW + timedelta(days=35))
OURS = entity(ROOT, "CN=moon", ["dns:moon"], holder=key("p256", "moon"), end=ENDS)
THEIRS = entity(ROOT, "CN=sun", ["dns:sun"], holder=key("p256", "sun"), end=ENDS)


def lived(*held: Held, days: int, named: tuple[bytes, ...] = ()) -> list[tuple[int, str]]:
    """(day, what is told) of so many days, looked at as often as a daemon does."""
    store = holding(OURS)
    store.add_certificate(ROOT.der, ca=True)
    for one in held:
        store.add_certificate(one.der)
    watch = Watch()
    told = []
    start = NOW.timestamp()
    for hour in range(days * 24):
        wall = start + hour * EVERY + 1
        if watch.is_due(wall):
            found = watch.news(expiring(store, named, wall), wall)
            told += [(hour // 24, one.text(wall)) for one in found]
    return told


def test_a_life_of_a_certificate_is_told_in_stages() -> None:
    told = lived(days=45)
    ours = [(day, text) for day, text in told if "our certificate CN=moon" in text]
    assert [day for day, _ in ours] == [10, 26, 33, 37, 39, 40]
    assert ours[0][1] == "our certificate CN=moon expires in 29 days"
    assert ours[4][1] == "our certificate CN=moon expires in 23 hours"
    assert ours[5][1] == "our certificate CN=moon has expired"
    of_ca = [day for day, text in told if "the CA certificate O=Test, CN=CA" in text]
    assert of_ca == [5, 21, 28, 32, 34, 35]
    assert len(told) == 2 * len(STAGES)


def test_the_certificates_of_peers_are_their_affair_and_those_of_connections_ours() -> None:
    assert not [text for _, text in lived(THEIRS, days=45) if "sun" in text]
    assert [text for _, text in lived(days=45, named=(THEIRS.der, b"unreadable")) if "sun" in text]


def test_a_renewed_certificate_is_heard_of_no_more_and_a_clock_set_back_is_no_reason_to_wait() -> None:
    store = holding(OURS)
    watch = Watch()
    late = ENDS.timestamp() - DAY / 2
    assert len(watch.news(expiring(store, (), late), late)) == 1
    store.remove_certificate(OURS.der)
    assert watch.news(expiring(store, (), late), late) == ()
    store.add_certificate(OURS.der)
    assert len(watch.news(expiring(store, (), late), late)) == 1
    assert not watch.is_due(late + 1)
    assert watch.is_due(late + EVERY)
    assert watch.is_due(late - 10 * DAY)


def test_what_has_long_to_live_is_not_listed() -> None:
    store = holding(OURS)
    assert [one.title for one in expiring(store, (), ENDS.timestamp() - DAY)] == ["CN=moon"]
    assert expiring(store, (), NOW.timestamp()) == ()
