"""A list that is too long for one child is refused at load, not when it is put into force."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from cygnet.dataplane.messages import MAX_MESSAGE, InstallPolicy, Rule, Selector, encode
from cygnet.policy import expansion
from cygnet.policy.access_list import parse_access_list
from cygnet.policy.expansion import MAX_CHILD_RULES, TooManyRanges, expand

LONGEST = Selector(6, 255, bytes([255]) * 16, bytes([255]) * 16, 65535, 65535)


def access_list(rules: int) -> list[str]:
    return [f"permit udp 10.1.0.0/16 10.2.{n >> 8}.{n & 255}" for n in range(rules)]


def test_the_longest_list_is_taken_and_a_longer_one_is_refused() -> None:
    longest = parse_access_list("office", access_list(MAX_CHILD_RULES))
    assert len(expand(longest, per_rule=False).rules) == MAX_CHILD_RULES
    with pytest.raises(TooManyRanges, match="at most 2048"):
        expand(parse_access_list("office", access_list(MAX_CHILD_RULES + 1)), per_rule=False)


def test_the_longest_list_fits_one_message_to_the_data_plane() -> None:
    rules = (Rule(1, LONGEST, LONGEST, (1 << 64) - 1),) * MAX_CHILD_RULES
    most = InstallPolicy((1 << 64) - 1, 1 << 63, "n" * 255, 1 << 63, rules, True, bytes(16), bytes(16))
    assert len(encode(most)) <= MAX_MESSAGE


def test_a_list_of_two_thousand_rules_costs_no_look_from_each_to_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    cut = expansion._cut

    def counted(*given: Any) -> Any:
        nonlocal looks
        looks += 1
        return cut(*given)

    monkeypatch.setattr(expansion, "_cut", counted)
    lines = [f"permit tcp 10.1.0.0/16 10.2.0.0/16 eq {number}" for number in range(1, 2001)]
    found = expand(parse_access_list("long", lines), per_rule=True)
    assert len(found.flows) == 2000
    assert looks < 100


@pytest.mark.parametrize("per_rule", [True, False])
def test_looking_only_at_rules_that_may_meet_changes_nothing(
    per_rule: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(20_000)
    networks = ["any", "10.1.0.0/16", "10.1.2.0/24", "10.0.0.0/8", "192.0.2.1", "fd01::/64", "fd01::1"]
    ports = ["", " eq 22", " range 1000 2000", " gt 1500", " neq 53"]

    def line() -> str:
        while True:
            protocol = random.choice(["ip", "tcp", "udp", "icmp", "icmp"])
            given = f"{random.choice(['permit', 'deny'])} {protocol} {random.choice(networks)}"
            given += random.choice(ports) if protocol in ("tcp", "udp") else ""
            given += f" {random.choice(networks)}"
            given += random.choice(ports) if protocol in ("tcp", "udp") else ""
            given += random.choice(["", " icmp-type echo"]) if protocol == "icmp" else ""
            try:
                parse_access_list("one", [given])
            except ValueError:
                continue  # two families
            return given

    def of_all(earlier: Any, place: int) -> Any:
        return iter(earlier._rules[:place])

    for _ in range(60):
        acl = parse_access_list("some", [line() for _ in range(12)])
        found = expand(acl, per_rule)
        with monkeypatch.context() as patched:
            patched.setattr(expansion._Earlier, "meeting", of_all)
            assert expand(acl, per_rule) == found
