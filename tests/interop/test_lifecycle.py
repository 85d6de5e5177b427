"""Rekeys while traffic flows, liveness, restarts, between Cygnet and strongSwan."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cygnet.lab.topology import forget_mappings
from tests.interop.sides import Setup, Sides, sides
from tests.waiting import until

BY = pytest.mark.parametrize("by", ["cygnet", "strongswan"])


def children(both: Sides) -> list[str]:
    """SPIs (inbound) of Cygnet's installed Child SAs."""
    return [
        child["spi-in"]
        for sa in both.moon.sas()
        for child in sa["child-sas"].values()
        if child["state"] == "INSTALLED"
    ]


def until_replaced(both: Sides, before: list[str], seconds: float) -> None:
    """Until each of the Child SAs that were there before has given way to another."""
    until(lambda: set(children(both)).isdisjoint(before), seconds, "a new Child SA")


def rekey(both: Sides, by: str, what: str) -> None:
    if by == "cygnet":
        done = both.moon.cygnet("rekey", *(["--child", "net"] if what == "child" else ["--ike", "peer"]))
    else:
        done = both.sun.swanctl("--rekey", f"--{what}", "net" if what == "child" else "peer")
    assert done.returncode == 0, done.stdout + done.stderr


@BY
@pytest.mark.parametrize("pfs", ["", "-x25519"], ids=["no-pfs", "pfs"])
def test_rekeying_the_child_loses_no_packet(tmp_path: Path, by: str, pfs: str) -> None:
    with sides(tmp_path, Setup(esp=f"aes256gcm16{pfs}")) as both:
        both.up("cygnet")
        traffic = both.traffic(interval=0.002)
        assert traffic.wait_for(100, 10)
        for _ in range(3):
            before = children(both)
            rekey(both, by, "child")
            until_replaced(both, before, 10)
            assert traffic.wait_for(traffic.echoed + 200, 10)
        report = traffic.stop()
        both.assert_lossless(report)
        assert report.duplicated == 0
        until(lambda: len(children(both)) == 1, 10, "exactly one Child SA")


@BY
def test_rekeying_the_ike_sa_loses_no_packet_and_keeps_the_child(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, Setup()) as both:
        both.up("cygnet")
        before = children(both)
        spis = both.moon.sas()[0]["initiator-spi"]
        traffic = both.traffic(interval=0.002)
        assert traffic.wait_for(100, 10)
        # Cygnet lets nobody replace an IKE SA of less than a second.
        until(lambda: int(both.moon.sas()[0]["established"]) >= 2, 5, "an IKE SA of some age")
        rekey(both, by, "ike")
        until(
            lambda: (
                [sa["initiator-spi"] for sa in both.moon.sas() if sa["state"] == "ESTABLISHED"]
                not in ([], [spis])
            ),
            10,
            "a new IKE SA",
        )
        assert traffic.wait_for(traffic.echoed + 300, 10)
        report = traffic.stop()
        both.assert_lossless(report)
        assert children(both) == before
        until(lambda: len(both.moon.sas()) == 1, 15, "exactly one IKE SA")
        rekey(both, "cygnet", "child")
        until(lambda: children(both) not in ([], before), 10, "the child rekeyed on the new IKE SA")


def test_behind_a_nat_rekeys_lose_nothing_and_a_forgotten_mapping_is_followed(tmp_path: Path) -> None:
    # strongSwan's userspace ESP learns of the new mapping from the next message of IKE.
    with sides(tmp_path, Setup(moon_connection="dpd_delay = 1s"), nat=True) as both:
        both.up("cygnet")
        until(lambda: int(both.moon.sas()[0]["established"]) >= 2, 5, "an IKE SA of some age")
        traffic = both.traffic(interval=0.002)
        assert traffic.wait_for(100, 10)
        for by in ("cygnet", "strongswan"):
            before = children(both)
            rekey(both, by, "child")
            until_replaced(both, before, 10)
            assert traffic.wait_for(traffic.echoed + 100, 10)
        rekey(both, "strongswan", "ike")
        assert traffic.wait_for(traffic.echoed + 100, 10)
        report = traffic.stop()
        both.assert_lossless(report)
        port = both.sun.sas()[0]["remote-port"]
        assert both.net.router is not None
        forget_mappings(both.net.router)
        until(lambda: both.sun.sas()[0]["remote-port"] != port, 10, "a new port")
        both.assert_traffic_passes()
        assert len(both.moon.sas()) == 1


def test_a_strongswan_behind_a_nat_is_followed_when_its_mapping_is_forgotten(tmp_path: Path) -> None:
    with sides(tmp_path, Setup(), nat=True, cygnet="sun") as both:
        both.up("strongswan")
        [sa] = both.moon.sas()
        assert sa["nat-remote"] == "yes"
        traffic = both.traffic()
        assert traffic.wait_for(100, 10)
        assert both.net.router is not None
        forget_mappings(both.net.router)
        # The next authentic ESP packet tells.
        until(lambda: both.moon.sas()[0]["remote-port"] != sa["remote-port"], 5, "a new port")
        assert traffic.wait_for(traffic.echoed + 100, 10)
        for by, what in (("cygnet", "child"), ("cygnet", "ike"), ("strongswan", "child")):
            until(lambda: int(both.moon.sas()[0]["established"]) >= 2, 5, "an IKE SA of some age")
            before = children(both)
            rekey(both, by, what)
            if what == "child":
                until_replaced(both, before, 10)
            assert traffic.wait_for(traffic.echoed + 100, 10)
        assert traffic.stop().longest_gap < 2.0
        until(lambda: len(both.moon.sas()) == 1, 10, "one IKE SA")


def test_soft_lifetimes_rekey_by_themselves(tmp_path: Path) -> None:
    short = "rekey_time = 3s\n life_time = 8s\n rand_time = 0"
    with sides(
        tmp_path, Setup(moon_child=short, moon_connection="rekey_time = 5s\n over_time = 5s\n rand_time = 0")
    ) as both:
        both.up("cygnet")
        first_child, first_ike = children(both), both.moon.sas()[0]["uniqueid"]
        traffic = both.traffic()
        until(lambda: bool(children(both)) and children(both) != first_child, 10, "Child SA rekeyed")
        until(
            lambda: first_ike not in [sa["uniqueid"] for sa in both.moon.sas()] and bool(both.moon.sas()),
            15,
            "IKE SA rekeyed",
        )
        assert traffic.wait_for(traffic.echoed + 100, 10)
        both.assert_lossless(traffic.stop())


def test_a_dead_peer_is_noticed(tmp_path: Path) -> None:
    with sides(tmp_path, Setup(connection="dpd_delay = 1s", moon_extra="")) as both:
        both.up("cygnet")
        both.sun.stop(kill=True)
        until(lambda: not both.moon.sas(), 200, "the IKE SA given up")
        assert "peer-dead" in both.moon.cygnet("status").stdout


@BY
def test_the_tunnel_comes_back_after_strongswan_restarts(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, Setup()) as both:
        both.up("cygnet")
        both.sun.stop(kill=True)
        both.sun.start()
        both.up("strongswan" if by == "strongswan" else "cygnet") if by == "strongswan" else reconnect(both)
        both.assert_traffic_passes()


def reconnect(both: Sides) -> None:
    both.moon.cygnet("down", "--ike", "peer", "--force")
    both.up("cygnet")


@BY
def test_the_tunnel_comes_back_after_cygnet_restarts(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, Setup()) as both:
        both.up("cygnet")
        both.moon.stop(kill=False)
        both.moon.start()
        both.up(by)
        both.assert_traffic_passes()


def test_traffic_starts_the_negotiation_by_itself(tmp_path: Path) -> None:
    with sides(tmp_path, Setup(moon_child="start_action = trap")) as both:
        both.assert_traffic_passes()
        assert len(both.moon.sas()) == 1


@BY
def test_closing_on_one_side_closes_the_other(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, Setup()) as both:
        both.up("cygnet")
        if by == "cygnet":
            assert both.moon.cygnet("down", "--ike", "peer").returncode == 0
        else:
            assert both.sun.swanctl("--terminate", "--ike", "peer").returncode == 0
        until(lambda: not both.moon.sas() and not both.sun.sas(), 10, "both sides empty")


def test_when_both_start_at_once_one_ike_sa_remains(tmp_path: Path) -> None:
    with sides(tmp_path, Setup()) as both:
        with ThreadPoolExecutor(2) as at_once:
            list(at_once.map(both.up, ("cygnet", "strongswan")))
        until(lambda: len(both.moon.sas()) == len(both.sun.sas()) == 1, 20, "one IKE SA")
        until(lambda: len(children(both)) == 1, 20, "one pair")
        both.assert_traffic_passes()
