"""IKEv1: every message of every exchange lost, doubled, delayed, reordered, corrupted, truncated (C49).

As `test_single_faults` does it with IKEv2: whatever happens to one datagram, both ends agree in the end, and
what was asked for is done.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from cygnet.ike.errors import Reason
from cygnet.testing import ACTS, Fault, Gateway, Nat, Network, Pair, connection_text
from cygnet.wire.v1.numbers import Exchange
from tests.simulation.test_single_faults import Scenario, judge, positions

PLAIN = 'proposals = ["aes128-sha256-x25519"]\n'
WATCHED = PLAIN + 'dpd_delay = "60s"\n'
AGGRESSIVE = WATCHED + "aggressive = true\n"
OFF = "i_dont_care_about_security_and_use_aggressive_mode_psk = true"
ESP = 'esp_proposals = ["aes128-sha256"]'
PFS = 'esp_proposals = ["aes128-sha256-x25519"]'


def fresh(connection: str = WATCHED, settings: str = ESP, **how: str) -> Callable[[], Pair]:
    return lambda: Pair(3, connection=connection, settings=settings, version=1, **how)  # type: ignore[arg-type]


def grown(connection: str = WATCHED, settings: str = ESP, **how: str) -> Callable[[], Pair]:
    return lambda: fresh(connection, settings, **how)().up()


class NatPair(Pair):
    """`a` stands behind a NAT."""

    def __init__(self) -> None:
        super().__init__(3)
        self.network = Network(3)
        outside, inside = "203.0.113.9", "10.9.9.9"
        how = {"connection": WATCHED, "settings": ESP, "version": 1}
        self.a_text = connection_text("peer", 1, 2, local_address=inside, **how)  # type: ignore[arg-type]
        self.b_text = connection_text("peer", 2, 1, remote_address=outside, **how)  # type: ignore[arg-type]
        self.a = Gateway(self.network, "a", inside, self.a_text)
        self.b = Gateway(self.network, "b", "192.0.2.2", self.b_text)
        self.nat = Nat(self.network, ip_address(outside), ip_address(inside), timeout=1e9)


SCENARIOS: dict[str, Scenario] = {
    "main mode": Scenario(fresh(), lambda p: p.a.initiate("peer", "net")),
    "main mode and PFS": Scenario(fresh(settings=PFS), lambda p: p.a.initiate("peer", "net")),
    "main mode through NAT": Scenario(NatPair, lambda p: p.a.initiate("peer", "net")),
    "aggressive mode": Scenario(fresh(AGGRESSIVE, options=OFF), lambda p: p.a.initiate("peer", "net")),
    "rekey child by a": Scenario(grown(), lambda p: p.a.rekey("net")),
    "rekey child by b": Scenario(grown(), lambda p: p.b.rekey("net") * 0 or None),
    "replace phase 1 by a": Scenario(grown(), lambda p: p.a.rekey()),
    "replace phase 1 by b": Scenario(grown(), lambda p: p.b.rekey() * 0 or None),
    "replace phase 1 in aggressive mode": Scenario(grown(AGGRESSIVE, options=OFF), lambda p: p.a.rekey()),
    "delete child": Scenario(grown(), lambda p: p.a.terminate("net"), ()),
    "delete phase 1 by a": Scenario(grown(), lambda p: p.a.terminate(), (), gone=True),
    "delete phase 1 by b": Scenario(grown(), lambda p: p.b.terminate() * 0 or None, (), gone=True),
    "liveness": Scenario(grown(), lambda p: p.network.run_for(70) * 0 or None),
    "both start at once": Scenario(
        fresh(), lambda p: (p.a.initiate("peer", "net"), p.b.initiate("peer", "net"))[0] * 0 or None
    ),
    "rekey a bundle": Scenario(grown(settings="bundle = true"), lambda p: p.a.rekey("net")),
    "both rekey a bundle": Scenario(
        grown(settings="bundle = true"), lambda p: (p.a.rekey("net"), p.b.rekey("net"))[0] * 0 or None
    ),
    "delete a bundle": Scenario(grown(settings="bundle = true"), lambda p: p.a.terminate("net"), ()),
    "both rekey child": Scenario(grown(), lambda p: (p.a.rekey("net"), p.b.rekey("net"))[0] * 0 or None),
    "both replace phase 1": Scenario(grown(), lambda p: (p.a.rekey(), p.b.rekey())[0] * 0 or None),
}


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
            if act == "corrupted" and operation is not None and pair.a.operations.get(operation) is not None:
                # Nothing protects a key exchange value or a nonce: then the ends have different keys.
                failure = pair.a.operations[operation]
                assert failure is not None
                assert failure.reason is Reason.PSK_MISMATCH
                operation = scenario.act(pair)
                pair.settle()
            try:
                judge(pair, scenario, operation)
            except AssertionError as error:
                where = f"{name}: datagram {position} of {pair.both[side].name} {act}"
                raise AssertionError(f"{where}: {error}") from error


def test_who_was_refused_does_not_refuse_in_turn() -> None:
    """An error is not answered by an error: the responder's reason would be the wrong one."""
    pair = Pair(
        3, connection=WATCHED, a_settings=ESP, b_settings='esp_proposals = ["aes256-sha512"]', version=1
    )
    operation = pair.a.initiate("peer", "net")
    pair.settle()
    failure = pair.a.operations[operation]
    assert failure is not None
    assert failure.reason is Reason.CHILD_PROPOSAL_MISMATCH
    assert [[one.reason for one in gateway.failures()] for gateway in pair.both] == [
        [Reason.CHILD_PROPOSAL_MISMATCH],
        [Reason.CHILD_PROPOSAL_MISMATCH],
    ]
    assert [gateway.failures()[0].detail.split()[:2] for gateway in pair.both] == [
        ["the", "peer"],
        ["peer", "offers"],
    ]


@pytest.mark.parametrize("connection", [WATCHED, AGGRESSIVE], ids=["main", "aggressive"])
def test_where_nothing_is_lost_nothing_is_sent_twice(connection: str) -> None:
    """Aggressive mode's third message leaves again only with what builds on it and is repeated."""
    pair = fresh(connection, options=OFF)()
    pair.a.initiate("peer", "net")
    pair.network.run_for(2)
    sent = [flight.data for flight in pair.network.trace if flight.is_ike]
    assert len(sent) == len(set(sent))
    phases = [data[18] for data in sent]
    assert phases.count(Exchange.QUICK_MODE) == 3
    assert phases.count(Exchange.MAIN_MODE) + 2 * phases.count(Exchange.AGGRESSIVE) == 6
