"""A list that is too long for one child is refused at load, not when it is put into force."""

from __future__ import annotations

import pytest

from cygnet.dataplane.messages import MAX_MESSAGE, InstallPolicy, Rule, Selector, encode
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
