"""Every message of every exchange: lost, doubled, delayed, reordered, corrupted, truncated (C49).

Each scenario is run once without a fault to count its datagrams, then once for every position of
either side and every fault. Whatever happens, both ends agree in the end, and what was asked for is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cygnet.testing import (
    ACTS,
    Fault,
    Gateway,
    Nat,
    Network,
    Pair,
    assert_agreement,
    assert_nothing_left,
    connection_text,
)

PLAIN = 'proposals = ["aes256gcm16-prfsha256-x25519"]\n'
WATCHED = PLAIN + 'dpd_delay = "60s"\n'
UP = (("peer", "net"),)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`make` gives a pair in which everything before is done; `act` does what is tested.

    If `act` returns an operation (of a's), that must succeed. `up` must be up afterwards; `gone`: nothing.
    """

    make: Callable[[], Pair]
    act: Callable[[Pair], int | None]
    up: tuple[tuple[str, str], ...] = UP
    gone: bool = False


def fresh(**how: str) -> Callable[[], Pair]:
    return lambda: Pair(3, connection=WATCHED, **how)  # type: ignore[arg-type]


def grown(**how: str) -> Callable[[], Pair]:
    return lambda: Pair(3, connection=WATCHED, **how).up()  # type: ignore[arg-type]


class NatPair(Pair):
    """`a` stands behind a NAT."""

    def __init__(self) -> None:
        super().__init__(3)
        self.network = Network(3)
        outside, inside = "203.0.113.9", "10.9.9.9"
        self.a_text = connection_text("peer", 1, 2, connection=WATCHED, local_address=inside)
        self.b_text = connection_text("peer", 2, 1, connection=WATCHED, remote_address=outside)
        self.a = Gateway(self.network, "a", inside, self.a_text)
        self.b = Gateway(self.network, "b", "192.0.2.2", self.b_text)
        from ipaddress import ip_address

        self.nat = Nat(self.network, ip_address(outside), ip_address(inside), timeout=1e9)


CIPHERS = [(n, k, e) for n in (128, 192, 256) for k in (8, 12, 16) for e in ("esn", "noesn")]
MANY = "esp_proposals = [" + ", ".join(f'"aes{n}gcm{k}-{e}"' for n, k, e in CIPHERS) + "]"
"""An offer that does not fit into one datagram of 576 octets."""


def under_load() -> Pair:
    """`b` has a half-open SA already, of which nothing more is heard: more first messages need a cookie."""
    pair = Pair(3, connection=WATCHED, b_options="cookie_threshold = 1")
    other = Pair(seed=99)
    other.a.initiate("peer", "net")
    pair.network.send(pair.a.address, pair.b.address, (500, 500), other.network.trace[0].data)
    pair.network.run_for(1)
    return pair


HYBRID = 'proposals = ["aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke2_ecp256"]\ndpd_delay = "60s"'
HYBRID_CHILD = 'esp_proposals = ["aes256gcm16-x25519-ke1_mlkem768-ke3_ecp384"]'


def hybrid(up: bool = True) -> Callable[[], Pair]:
    """Further key exchanges with every key (RFC 9370). The seed is one whose corruption of IKE_SA_INIT is
    seen: a plausible public value in its place ends the attempt, as in IKEv2 at large."""

    def make() -> Pair:
        pair = Pair(7, connection=HYBRID, settings=HYBRID_CHILD)
        return pair.up() if up else pair

    return make


def two_children() -> Pair:
    pair = Pair(3, connection=WATCHED, children=("net", "more"))
    operation = pair.a.initiate("peer", "net")
    pair.network.run_until(lambda: operation in pair.a.operations)
    pair.network.run_for(2)
    return pair


BUNDLE = {"settings": "bundle = true"}

SCENARIOS: dict[str, Scenario] = {
    "set up a bundle": Scenario(fresh(**BUNDLE), lambda p: p.a.initiate("peer", "net")),
    "rekey a bundle": Scenario(grown(**BUNDLE), lambda p: p.a.rekey("net")),
    "both rekey a bundle": Scenario(
        grown(**BUNDLE), lambda p: (p.a.rekey("net"), p.b.rekey("net"))[0] * 0 or None
    ),
    "delete a bundle": Scenario(grown(**BUNDLE), lambda p: p.a.terminate("net"), ()),
    "set up": Scenario(fresh(), lambda p: p.a.initiate("peer", "net")),
    "set up with cookie": Scenario(under_load, lambda p: p.a.initiate("peer", "net")),
    "set up with another group": Scenario(
        fresh(
            a_only='proposals = ["aes256gcm16-prfsha256-ecp256-x25519"]\ndpd_delay = "60s"',
            b_only='proposals = ["aes256gcm16-prfsha256-x25519"]\ndpd_delay = "60s"',
        ),
        lambda p: p.a.initiate("peer", "net"),
    ),
    "set up in fragments": Scenario(
        fresh(options="fragment_size = 576", settings=MANY), lambda p: p.a.initiate("peer", "net")
    ),
    "set up through NAT": Scenario(NatPair, lambda p: p.a.initiate("peer", "net")),
    "second child": Scenario(two_children, lambda p: p.a.initiate("peer", "more"), (*UP, ("peer", "more"))),
    "rekey child by a": Scenario(grown(), lambda p: p.a.rekey("net")),
    "rekey child by b": Scenario(grown(), lambda p: p.b.rekey("net") * 0 or None),
    "rekey child with PFS": Scenario(
        grown(settings='esp_proposals = ["aes256gcm16-x25519"]'), lambda p: p.a.rekey("net")
    ),
    "rekey child with another group": Scenario(
        grown(
            a_settings='esp_proposals = ["aes256gcm16-ecp256-x25519"]',
            b_settings='esp_proposals = ["aes256gcm16-x25519"]',
        ),
        lambda p: p.a.rekey("net"),
    ),
    "rekey IKE by a": Scenario(grown(), lambda p: p.a.rekey()),
    "rekey IKE by b": Scenario(grown(), lambda p: p.b.rekey() * 0 or None),
    "set up with further key exchanges": Scenario(hybrid(up=False), lambda p: p.a.initiate("peer", "net")),
    "rekey child with further key exchanges": Scenario(hybrid(), lambda p: p.a.rekey("net")),
    "rekey IKE with further key exchanges": Scenario(hybrid(), lambda p: p.b.rekey() * 0 or None),
    "both rekey child with further key exchanges": Scenario(
        hybrid(), lambda p: (p.a.rekey("net"), p.b.rekey("net"))[0] * 0 or None
    ),
    "both rekey IKE with further key exchanges": Scenario(
        hybrid(), lambda p: (p.a.rekey(), p.b.rekey())[0] * 0 or None
    ),
    "delete child": Scenario(grown(), lambda p: p.a.terminate("net"), ()),
    "delete IKE by a": Scenario(grown(), lambda p: p.a.terminate(), (), gone=True),
    "delete IKE by b": Scenario(grown(), lambda p: p.b.terminate() * 0 or None, (), gone=True),
    "liveness": Scenario(grown(), lambda p: p.network.run_for(70) * 0 or None),
    "both start at once": Scenario(
        fresh(), lambda p: (p.a.initiate("peer", "net"), p.b.initiate("peer", "net"))[0] * 0 or None
    ),
    "both rekey child": Scenario(grown(), lambda p: (p.a.rekey("net"), p.b.rekey("net"))[0] * 0 or None),
    "both rekey IKE": Scenario(grown(), lambda p: (p.a.rekey(), p.b.rekey())[0] * 0 or None),
}


def positions(scenario: Scenario) -> tuple[int, int]:
    """How many IKE datagrams each side sends in the scenario and its aftermath."""
    pair = scenario.make()
    before = [pair.network.ike_datagrams_of(g.address) for g in pair.both]
    scenario.act(pair)
    pair.network.run_for(20)
    after = [pair.network.ike_datagrams_of(g.address) for g in pair.both]
    return after[0] - before[0], after[1] - before[1]


def judge(pair: Pair, scenario: Scenario, operation: int | None) -> None:
    if scenario.gone:
        assert_nothing_left(*pair.both)
    else:
        assert_agreement(*pair.both, up=scenario.up)
        if ("peer", "net") in scenario.up:
            assert pair.talk(2) == (2, 2)
    if operation is not None:
        assert operation in pair.a.operations, "the operation did not end"
        assert pair.a.operations[operation] is None


@pytest.mark.parametrize("name", SCENARIOS)
def test_without_a_fault_it_is_done(name: str) -> None:
    scenario = SCENARIOS[name]
    pair = scenario.make()
    operation = scenario.act(pair)
    pair.settle()
    judge(pair, scenario, operation)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_with_a_fault_at_any_position_both_ends_agree(name: str, act: str) -> None:
    scenario = SCENARIOS[name]
    counts = positions(scenario)
    assert min(counts) >= 1
    for side in (0, 1):
        for position in range(counts[side]):
            pair = scenario.make()
            source = pair.both[side].address
            fault = Fault(source, pair.network.ike_datagrams_of(source) + position, ACTS[act])
            pair.network.meddlers.append(fault)
            operation = scenario.act(pair)
            pair.settle()
            assert fault.hit, f"{name}: position {position} of side {side} was never sent"
            try:
                judge(pair, scenario, operation)
            except AssertionError as error:
                where = f"{name}: datagram {position} of {pair.both[side].name} {act}"
                raise AssertionError(f"{where}: {error}") from error


@pytest.mark.parametrize("name", ["set up", "rekey child by a", "rekey IKE by a", "delete IKE by a"])
def test_any_two_losses_are_survived(name: str) -> None:
    """security.md B15: every pair of drops."""
    scenario = SCENARIOS[name]
    counts = positions(scenario)
    spots = [(side, n) for side in (0, 1) for n in range(counts[side] + 1)]
    for i, first in enumerate(spots):
        for second in spots[i + 1 :]:
            pair = scenario.make()
            for side, position in (first, second):
                source = pair.both[side].address
                base = pair.network.ike_datagrams_of(source)
                pair.network.meddlers.append(Fault(source, base + position, ACTS["lost"]))
            operation = scenario.act(pair)
            pair.settle()
            try:
                judge(pair, scenario, operation)
            except AssertionError as error:
                raise AssertionError(f"{name}: losses at {first} and {second}: {error}") from error
