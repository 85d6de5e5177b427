"""moon behind a NAT that chooses ports at random: rekeys from either side, and forgotten mappings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cygnet.lab.topology import SUN, forget_mappings
from tests.network.gateways import Two, two
from tests.network.test_modes import transfer
from tests.waiting import until

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two(tmp_path_factory.mktemp("nat"), nat=True, options='keep_alive = "1s"') as made:
        made.up()
        yield made


@pytest.mark.parametrize("version", [1, 2])
def test_transport_mode_carries_tcp_through_the_nat(tmp_path: Path, version: int) -> None:
    """The NAT changes the address that the checksums cover: each end puts them right."""
    child = (
        '[connections.gw.children.net]\nmode = "transport"\nlocal_ts = "dynamic"\nremote_ts = "dynamic"\n'
        'esp_proposals = "aes128-sha256"\n'
    )
    proposals = "aes128-sha256-x25519" if version == 1 else "aes128-sha256-prfsha256-x25519"
    said = f"version = {version}"
    with two(tmp_path, child, child, nat=True, clear=True, connection=said, proposals=proposals) as made:
        made.up()
        (there,) = made.children(made.sun)
        assert (there["mode"], there["encap"]) == ("TRANSPORT", "yes")
        transfer(made.net.sun, made.net.moon, SUN)
        (before,), (after,) = made.spis(), made.spis(made.sun)
        made.rekey("net", made.sun)
        until(lambda: before not in made.spis() and after not in made.spis(made.sun), 20, "a new pair")
        transfer(made.net.sun, made.net.moon, SUN)
        assert made.capture.seen.frames["esp"] > 100


def test_both_see_the_nat_and_traffic_passes_in_udp(pair: Two) -> None:
    (here,), (there,) = pair.moon.sas(), pair.sun.sas()
    assert here["nat-local"] == "yes"
    assert there["nat-remote"] == "yes"
    assert there["remote-host"] == "192.0.2.1"
    assert there["remote-port"] not in ("500", "4500")
    (child,) = pair.children()
    assert child["encap"] == "yes"
    traffic = pair.traffic()
    assert traffic.wait_for(100, 10)
    assert traffic.stop().lost == 0


def test_the_one_behind_the_nat_keeps_its_mapping_alive(pair: Two) -> None:
    seen = pair.capture.seen.frames
    before = seen["keepalive"]
    until(lambda: seen["keepalive"] > before, 5, "a keepalive")


@pytest.mark.parametrize("by", ["moon", "sun"])
def test_rekeys_from_either_side_lose_no_packet(pair: Two, by: str) -> None:
    side = pair.moon if by == "moon" else pair.sun
    before = pair.spis()
    traffic = pair.traffic(interval=0.002)
    assert traffic.wait_for(50, 10)
    pair.rekey("net", side)
    assert traffic.wait_for(traffic.echoed + 50, 10)
    pair.rekey("ike", side)
    assert traffic.wait_for(traffic.echoed + 50, 10)
    report = traffic.stop()
    assert (report.lost, report.duplicated) == (0, 0), report
    assert not before & pair.spis()
    (sa,) = pair.sun.sas()
    assert sa["nat-remote"] == "yes"


def test_when_the_nat_forgets_its_mappings_the_tunnel_follows_its_peer(pair: Two) -> None:
    assert pair.net.router is not None
    traffic = pair.traffic()
    assert traffic.wait_for(50, 10)
    spis = pair.spis()
    for _ in range(2):
        (before,) = pair.sun.sas()
        forget_mappings(pair.net.router)
        until(lambda: pair.sun.sas()[0]["remote-port"] != before["remote-port"], 5, "a new port")  # noqa: B023
        assert traffic.wait_for(traffic.echoed + 50, 10), pair.logs()
    report = traffic.stop()
    assert report.longest_gap < 1.0, report
    assert pair.spis() == spis, "nothing was negotiated anew"
    # And the negotiation itself goes to where the packets came from.
    pair.rekey("ike", pair.sun)
    pair.rekey("net", pair.sun)
    assert len(pair.moon.sas()) == 1
