"""`default_action = "discard"`: what no policy names does not pass, in any direction; the tunnel does."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import ALICE, BOB, MOON, SUN
from tests.network.gateways import NET, NET_AT_SUN, two, until

DISCARD = 'default_action = "discard"'


def answers(source: Namespace, target: str) -> bool:
    return source.run("ping", "-c", "1", "-W", "1", target, check=False).returncode == 0


@pytest.mark.network
def test_by_default_discard_only_the_tunnel_passes(tmp_path: Path) -> None:
    with two(tmp_path, NET, NET_AT_SUN, options=DISCARD) as pair:
        pair.up("net")
        until(lambda: answers(pair.net.alice, BOB), 10, "an answer through the tunnel")
        until(lambda: answers(pair.net.bob, ALICE), 10, "an answer through the tunnel")
        assert not answers(pair.net.moon, SUN)
        assert not answers(pair.net.sun, MOON)
        assert not answers(pair.net.alice, SUN)
        assert answers(pair.net.moon, "127.0.0.1")
