"""Rekeys between two Cygnets while numbered packets flow: none is lost, none comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cygnet.lab.topology import MOON_NET, MOON_NET6, SUN_NET, SUN_NET6
from cygnet.lab.traffic import Report
from tests.network.gateways import Ladder, Two, two
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]


def children(here: str, there: str, here6: str, there6: str) -> str:
    return f"""
[connections.gw.children.net]
local_ts = "{here}"
remote_ts = "{there}"
esp_proposals = "aes256gcm16-x25519-esn"
replay_window = 4096
[connections.gw.children.net6]
local_ts = "{here6}"
remote_ts = "{there6}"
"""


def nothing_lost(pair: Two, report: Report) -> None:
    drops = [pair.drops(side) for side in pair.both()]
    assert (report.lost, report.duplicated) == (0, 0), f"{report}; dropped by moon and by sun: {drops}"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two(
        tmp_path_factory.mktemp("rekey"),
        children(MOON_NET, SUN_NET, MOON_NET6, SUN_NET6),
        children(SUN_NET, MOON_NET, SUN_NET6, MOON_NET6),
    ) as made:
        made.up()
        yield made


@pytest.mark.parametrize("by", ["moon", "sun"])
def test_a_child_is_rekeyed_under_traffic_with_a_key_exchange_of_its_own(pair: Two, by: str) -> None:
    side = pair.moon if by == "moon" else pair.sun
    ladder = Ladder(pair.moon)
    traffic = pair.traffic(interval=0.002)
    assert traffic.wait_for(50, 10)
    for _ in range(3):
        before = {child["spi-in"] for child in pair.children(name="net")}
        pair.rekey("net", side)
        until(
            lambda: not before & {c["spi-in"] for c in pair.children(name="net")},  # noqa: B023
            5,
            "a new pair",
        )
        assert traffic.wait_for(traffic.echoed + 50, 10)
    report = traffic.stop()
    nothing_lost(pair, report)
    (child,) = pair.children(name="net")
    assert child["dh-group"] == "CURVE_25519"
    assert child["esn"] == "1"
    assert len(ladder.of("child-rekey")) == 3
    assert len(pair.children(pair.sun, "net")) == 1
    ladder.close()


@pytest.mark.parametrize("by", ["moon", "sun"])
def test_the_ike_sa_is_rekeyed_under_traffic_and_its_children_go_on(pair: Two, by: str) -> None:
    side = pair.moon if by == "moon" else pair.sun
    spis = pair.spis()
    (old,) = pair.moon.sas()
    traffic = pair.traffic(interval=0.002)
    assert traffic.wait_for(50, 10)
    pair.rekey("ike", side)
    assert traffic.wait_for(traffic.echoed + 50, 10)
    report = traffic.stop()
    nothing_lost(pair, report)
    for gateway in pair.both():
        until(lambda: len(gateway.sas()) == 1, 5, "one IKE SA")  # noqa: B023
        (new,) = gateway.sas()
        assert new["initiator-spi"] != old["initiator-spi"]
    assert pair.spis() == spis
    pair.rekey("net6", pair.sun)
    assert len(pair.children(name="net6")) == 1


@pytest.mark.parametrize("by", ["moon", "sun"])
def test_the_ike_sa_is_authenticated_anew_under_traffic_before_the_old_one_goes(pair: Two, by: str) -> None:
    side = pair.moon if by == "moon" else pair.sun
    spis = pair.spis()
    (old,) = pair.moon.sas()
    traffic = pair.traffic(interval=0.002)
    assert traffic.wait_for(50, 10)
    pair.ask(side, "rekey", ike="gw", reauth="yes", wait="yes")
    assert traffic.wait_for(traffic.echoed + 50, 10)
    report = traffic.stop()
    nothing_lost(pair, report)
    for gateway in pair.both():
        until(lambda: len(gateway.sas()) == 1, 5, "one IKE SA")  # noqa: B023
    (new,) = pair.moon.sas()
    assert ("initiator" in new) is (by == "moon")
    assert new["initiator-spi"] != old["initiator-spi"]
    until(lambda: len(pair.children()) == 2, 5, "both children on the new IKE SA")
    assert not pair.spis() & spis


def test_both_ends_rekey_the_same_child_at_once_and_one_pair_remains(pair: Two) -> None:
    traffic = pair.traffic(interval=0.002)
    assert traffic.wait_for(50, 10)
    before = {child["spi-in"] for child in pair.children(name="net")}
    for side in pair.both():
        # Not waited for: both are under way at the same time.
        pair.ask(side, "rekey", child="net", timeout="-1")
    until(
        lambda: (
            len(pair.children(name="net")) == 1
            and not before & {child["spi-in"] for child in pair.children(name="net")}
        ),
        10,
        "one new pair",
    )
    until(lambda: len(pair.children(pair.sun, "net")) == 1, 10, "one pair at sun")
    assert traffic.wait_for(traffic.echoed + 50, 10)
    report = traffic.stop()
    nothing_lost(pair, report)


def limited(here: str, there: str) -> str:
    """Three children that end soon: by time, by octets, by packets."""
    text = ""
    for name, port, limit in (
        ("seconds", 7001, 'rekey_time = "2s"\nlife_time = "6s"\nrand_time = "0s"'),
        ("octets", 7002, "rekey_bytes = 100000\nlife_bytes = 400000\nrand_bytes = 0"),
        ("packets", 7003, "rekey_packets = 500\nlife_packets = 2000\nrand_packets = 0"),
    ):
        mine, peers = ("", f"/{port}") if here == MOON_NET else (f"/{port}", "")
        text += f"""
[connections.gw.children.{name}]
local_ts = "{here}[udp{mine}]"
remote_ts = "{there}[udp{peers}]"
{limit}
"""
    return text


def test_lifetimes_by_time_octets_and_packets_renew_each_child_without_loss(tmp_path: Path) -> None:
    connection = 'rekey_time = "3s"\nover_time = "5s"\nrand_time = "0s"\n'
    with two(
        tmp_path,
        limited(MOON_NET, SUN_NET),
        limited(SUN_NET, MOON_NET),
        connection=connection,
    ) as pair:
        pair.up()
        ladder = Ladder(pair.moon)
        flows = [pair.traffic(interval=0.005, port=port) for port in (7001, 7002, 7003)]
        until(
            lambda: (
                len(ladder.of("ike-rekey")) >= 2
                and {"seconds", "octets", "packets"}
                <= {
                    name
                    for name in ("seconds", "octets", "packets")
                    if sum(name in told["gw"]["child-sas"] for told in ladder.of("child-rekey")) >= 2
                }
            ),
            30,
            "two rekeys of each",
        )
        for traffic in flows:
            report = traffic.stop()
            nothing_lost(pair, report)
        assert not ladder.of("ike-failure")
        for side in pair.both():
            until(lambda: len(side.sas()) == 1, 5, "one IKE SA")  # noqa: B023
            until(lambda: len(pair.children(side)) == 3, 5, "three pairs")  # noqa: B023
        ladder.close()


def test_a_child_that_cannot_be_rekeyed_ends_hard_and_nothing_goes_in_clear(tmp_path: Path) -> None:
    moon = f"""
[connections.gw.children.net]
local_ts = "{MOON_NET}"
remote_ts = "{SUN_NET}"
rekey_packets = 0
life_packets = 300
"""
    with two(tmp_path, moon) as pair:
        pair.up("net")
        ladder = Ladder(pair.moon)
        traffic = pair.traffic(interval=0.002)
        down = until(lambda: ladder.of("child-updown"), 20, "the child's end")
        assert down[0]["reason"] == "expired"
        assert until(lambda: not pair.children(pair.sun), 5, "sun's side too")
        traffic.stop()
        assert pair.moon.sas()[0]["state"] == "ESTABLISHED"
        ladder.close()
