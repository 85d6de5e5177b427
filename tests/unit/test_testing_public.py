"""The public face of `cygnet.testing`: what docs/testing.md promises."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest

import cygnet.testing as public
from cygnet.testing import (
    Conditions,
    Disagreement,
    Gateway,
    Network,
    Packet,
    Pair,
    assert_agreement,
    assert_nothing_left,
    connection_text,
)

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_every_name_has_a_docstring() -> None:
    for name in public.__all__:
        thing = getattr(public, name)
        assert name == "ACTS" or thing.__doc__, name


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example is not None
    for name, local, remote in (("a", 1, 2), ("b", 2, 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cygnet.toml").write_text(connection_text("branch", local, remote))
    monkeypatch.chdir(tmp_path)
    exec(compile(example.group(1), str(PAGE), "exec"), {})


def test_the_oracle_sees_what_is_wrong() -> None:
    pair = Pair(1).up()
    assert_agreement(*pair.both, up=[("peer", "net")])
    with pytest.raises(Disagreement, match="is still there"):
        assert_nothing_left(*pair.both)
    with pytest.raises(Disagreement, match="no pairs a flow"):
        assert_agreement(*pair.both, up=[("peer", "other")])
    entry = next(iter(pair.b.plane.inbound.values()))
    pair.b.plane.inbound.clear()
    with pytest.raises(Disagreement, match="no inbound SA"):
        assert_agreement(*pair.both)
    pair.b.plane.inbound[entry.sa.spi] = entry
    pair.b.die()
    with pytest.raises(Disagreement, match="is known at a only"):
        assert_agreement(pair.a)


def test_the_oracle_names_the_seed() -> None:
    pair = Pair(4711).up()
    with pytest.raises(Disagreement, match="seed 4711"):
        assert_agreement(pair.a)


def test_the_data_plane_holds_packets_to_policy_and_selectors() -> None:
    pair = Pair(1).up()
    inside, outside = ip_address("10.1.0.5"), ip_address("198.51.100.7")
    assert pair.a.send(Packet(17, inside, outside)) == "bypass"
    assert pair.a.send(pair.packet()) == "sent"
    entries = next(iter(pair.a.plane.outbound.values()))
    entries.clear()
    assert pair.a.send(pair.packet()) == "dropped"
    assert pair.a.plane.drops["no SA"] == 1


def test_a_gateway_can_fail_installations_and_be_slow() -> None:
    pair = Pair(1)
    pair.b.plane.refuse = lambda sa: "full"
    operation = pair.a.initiate("peer", "net")
    pair.settle(30)
    assert pair.a.operations[operation] is not None
    assert not pair.b.plane.inbound


def test_a_host_name_is_what_the_gateways_resolver_says() -> None:
    network = Network(conditions=Conditions())
    text = connection_text("peer", 1, 2, remote_address="peer.example.org")
    a = Gateway(network, "a", "192.0.2.1", text)
    b = Gateway(network, "b", "192.0.2.2", connection_text("peer", 2, 1))
    a.names["peer.example.org"] = (ip_address("192.0.2.2"),)
    a.initiate("peer", "net")
    network.run_for(5)
    assert_agreement(a, b, up=[("peer", "net")])
