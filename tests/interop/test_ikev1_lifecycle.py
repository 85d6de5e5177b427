"""IKEv1 under traffic with strongSwan: rekeys by either side, phase 1 replaced, liveness, deletes, both at
once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.sides import Setup, Sides, sides
from tests.interop.test_ikev1_tunnel import AGGRESSIVE, V1
from tests.interop.test_lifecycle import children, rekey
from tests.waiting import until

BY = pytest.mark.parametrize("by", ["cygnet", "strongswan"])


def until_added(both: Sides, before: list[str]) -> None:
    """Until there is a Child SA besides those of before, which IKEv1 leaves for a while."""
    until(lambda: not set(children(both)) <= set(before), 10, "a new pair")


def established(both: Sides) -> list[str]:
    """The initiator's cookies of Cygnet's phase 1 SAs."""
    return [sa["initiator-spi"] for sa in both.moon.sas() if sa["state"] == "ESTABLISHED"]


@BY
@pytest.mark.parametrize("pfs", ["", "-x25519"], ids=["no-pfs", "pfs"])
def test_rekeying_the_child_loses_no_packet(tmp_path: Path, by: str, pfs: str) -> None:
    with sides(tmp_path, V1.but(esp=f"aes128-sha256{pfs}")) as both:
        both.up("cygnet")
        traffic = both.traffic(interval=0.002)
        assert traffic.wait_for(100, 10)
        for _ in range(2):
            before = children(both)
            rekey(both, by, "child")
            until_added(both, before)
            assert traffic.wait_for(traffic.echoed + 700, 15)
        report = traffic.stop()
        both.assert_lossless(report)
        assert report.duplicated == 0


@pytest.mark.parametrize("setup", [V1, AGGRESSIVE], ids=["main", "aggressive"])
@BY
def test_replacing_phase_1_loses_no_packet_and_keeps_the_child(tmp_path: Path, by: str, setup: Setup) -> None:
    with sides(tmp_path, setup) as both:
        both.up("cygnet")
        before, spis = children(both), established(both)
        traffic = both.traffic(interval=0.002)
        assert traffic.wait_for(100, 10)
        if by == "cygnet":
            assert both.moon.cygnet("rekey", "--ike", "peer").returncode == 0
        else:
            assert both.sun.swanctl("--rekey", "--ike", "peer", "--reauth").returncode == 0
        until(lambda: established(both) not in ([], spis), 15, "a new phase 1")
        assert traffic.wait_for(traffic.echoed + 500, 15)
        until(lambda: len(both.moon.sas()) == len(both.sun.sas()) == 1, 20, "one phase 1")
        report = traffic.stop()
        both.assert_lossless(report)
        if by == "cygnet":
            assert children(both) == before
        rekey(both, "cygnet", "child")
        until(lambda: not set(children(both)) <= set(before), 10, "rekeyed under the new phase 1")
        both.assert_traffic_passes()


def test_soft_lifetimes_rekey_by_themselves(tmp_path: Path) -> None:
    short = "rekey_time = 4s\n life_time = 70s\n rand_time = 0"
    setup = V1.but(
        moon_child=short,
        moon_connection="rekey_time = 0\n reauth_time = 7s\n over_time = 60s\n rand_time = 0",
    )
    with sides(tmp_path, setup) as both:
        both.up("cygnet")
        first, spis = children(both), established(both)
        traffic = both.traffic()
        until(lambda: not set(children(both)) <= set(first), 15, "the child rekeyed")
        until(lambda: established(both) not in ([], spis), 20, "phase 1 replaced")
        assert traffic.wait_for(traffic.echoed + 100, 10)
        both.assert_lossless(traffic.stop())


@BY
@pytest.mark.parametrize("what", ["child", "ike"])
def test_closing_on_one_side_closes_the_other(tmp_path: Path, by: str, what: str) -> None:
    with sides(tmp_path, V1) as both:
        both.up("cygnet")
        name = "net" if what == "child" else "peer"
        if by == "cygnet":
            assert both.moon.cygnet("down", f"--{what}", name).returncode == 0
        else:
            assert both.sun.swanctl("--terminate", f"--{what}", name).returncode == 0
        until(lambda: not children(both), 10, "no pair at Cygnet")
        until(lambda: not any(sa["child-sas"] for sa in both.sun.sas()), 10, "no pair at strongSwan")
        if what == "ike":
            until(lambda: not both.moon.sas() and not both.sun.sas(), 10, "nothing left")


def test_a_dead_peer_is_noticed(tmp_path: Path) -> None:
    with sides(tmp_path, V1.but(connection="dpd_delay = 1s\n dpd_timeout = 5s")) as both:
        both.up("cygnet")
        until(lambda: "DPD" in both.sun.log() or "R_U_THERE" in both.sun.log(), 20, "questions")
        assert len(both.moon.sas()) == 1
        both.sun.stop(kill=True)
        until(lambda: not both.moon.sas(), 60, "phase 1 given up")
        assert "peer-dead" in both.moon.cygnet("status").stdout


@BY
def test_the_tunnel_comes_back_after_strongswan_restarts(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, V1) as both:
        both.up("cygnet")
        both.sun.stop(kill=True)
        both.sun.start()
        if by == "cygnet":
            both.moon.cygnet("down", "--ike", "peer", "--force")
        both.up(by)
        both.assert_traffic_passes()


def test_when_both_start_at_once_traffic_passes_over_one_pair(tmp_path: Path) -> None:
    with sides(tmp_path, V1) as both:
        with ThreadPoolExecutor(2) as at_once:
            list(at_once.map(both.up, ("cygnet", "strongswan")))
        both.assert_traffic_passes()
        until(lambda: len(children(both)) == 1, 30, "one pair")


def test_traffic_starts_the_negotiation_by_itself(tmp_path: Path) -> None:
    with sides(tmp_path, V1.but(moon_child="start_action = trap")) as both:
        both.assert_traffic_passes()
        assert len(both.moon.sas()) == 1


WRONG = {
    "ike proposal": (
        V1.but(sun_ike="aes256-sha512-modp2048"),
        "ike-proposal-mismatch",
        "ike-proposal-mismatch",
    ),
    "esp proposal": (V1.but(sun_esp="aes256-sha512"), "child-proposal-mismatch", "child-proposal-mismatch"),
    "pre-shared key": (
        V1.but(sun_secret="quite another secret of 32 octets"),
        "psk-mismatch",
        "psk-mismatch",
    ),
    "selectors": (V1.but(moon_ts_at_sun="10.77.0.0/16"), "selector-mismatch", "selector-mismatch"),
    "our identity": (V1.but(sun_expects="nobody.example"), "peer-refused-authentication", ""),
    "its identity": (V1.but(moon_expects="nobody.example"), "peer-id-mismatch", "peer-id-mismatch"),
}


@BY
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_configured_wrong_has_a_stable_reason(tmp_path: Path, by: str, wrong: str) -> None:
    setup, initiating, answering = WRONG[wrong]
    with sides(tmp_path, setup) as both:
        if by == "cygnet":
            done = both.moon.cygnet("up", "net")
            assert done.returncode != 0
            assert initiating in done.stdout + done.stderr
        else:
            done = both.sun.swanctl("--initiate", "--child", "net", "--timeout", "15")
            assert done.returncode != 0
            if answering:
                until(lambda: answering in both.moon.cygnet("status").stdout, 10, answering)
