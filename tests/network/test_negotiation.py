"""How much is negotiated: messages counted from the ladder, and one IKE SA between two peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.network.gateways import Ladder, two
from tests.network.probes import ICMP, TCP, UDP, Probe, Probes
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]

CHILD = """
[connections.gw.children.lists]
acl = "lists"
start_action = "trap"
"""
MOON = (
    CHILD
    + """
[acls]
lists = [
    "permit tcp  10.1.0.0/16 10.2.0.0/16",
    "permit udp  10.1.0.0/16 10.2.0.0/16",
    "permit icmp 10.1.0.0/16 10.2.0.0/16",
]
"""
)
SUN = (
    CHILD
    + """
[acls]
lists = [
    "permit tcp  10.2.0.0/16 10.1.0.0/16",
    "permit udp  10.2.0.0/16 10.1.0.0/16",
    "permit icmp 10.2.0.0/16 10.1.0.0/16",
]
"""
)
INITIAL = [
    "sent IKE_SA_INIT request",
    "received IKE_SA_INIT response",
    "sent IKE_AUTH request",
    "received IKE_AUTH response",
]
FURTHER = ["sent CREATE_CHILD_SA request", "received CREATE_CHILD_SA response"]


def test_the_first_pair_takes_four_messages_each_further_one_two_and_closing_two(tmp_path: Path) -> None:
    with two(tmp_path, MOON, SUN) as pair:
        ladder = Ladder(pair.moon)
        pair.up("lists")
        assert ladder.messages(repeats=True) == INITIAL + 2 * FURTHER
        (sa,) = pair.moon.sas()
        assert len(sa["child-sas"]) == 3
        pair.rekey("ike")
        told = ladder.messages(repeats=True)[8:]
        # RFC 7296, section 2.18: the new IKE SA, and the Delete of the old one.
        informational = ["sent INFORMATIONAL request", "received INFORMATIONAL response"]
        assert told == [*FURTHER, *informational]
        pair.ask(pair.moon, "terminate", ike="gw")
        assert ladder.messages(repeats=True)[12:] == informational
        assert pair.sun.sas() == []
        ladder.close()


@pytest.mark.parametrize("rules", [1, 3])
def test_when_both_ends_start_at_once_one_ike_sa_remains_with_one_pair_for_each_rule(
    tmp_path: Path, rules: int
) -> None:
    with two(tmp_path, MOON, SUN) as pair:
        probes = Probes(pair.net)
        flows = [Probe(TCP, 443), Probe(UDP, 500), Probe(ICMP, 13)][:rules]
        both = [way for probe in flows for way in (probe, probe.back())]
        ladder = Ladder(pair.moon)
        assert probes.send(*both, patience=8) == ["tunnel"] * len(both), pair.logs()
        until(
            lambda: all(len(side.sas()) == 1 for side in pair.both()),
            15,
            f"one IKE SA {pair.moon.sas()}",
        )
        until(
            lambda: all(len(pair.children(side)) == rules for side in pair.both()),
            15,
            f"{rules} pairs {pair.children()}",
        )
        assert probes.send(*both) == ["tunnel"] * len(both), pair.logs()
        assert len(pair.children()) == rules
        assert not ladder.of("ike-failure")
        probes.close()
        ladder.close()
