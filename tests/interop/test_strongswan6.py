"""ML-KEM and several key exchanges (RFC 9370) with strongSwan 6, which Debian does not have yet.

Collected only where `CYGNET_STRONGSWAN` names one that was built (docs/testing.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.sides import Setup, Sides, sides
from tests.interop.test_lifecycle import children, rekey, until_replaced
from tests.interop.test_ppk import REQUIRED
from tests.interop.test_ppk import SECRET as PPK
from tests.waiting import until

pytestmark = pytest.mark.timeout(180)
BY = pytest.mark.parametrize("by", ["cygnet", "strongswan"])
FIRST = "aes256gcm16-prfsha384-x25519"
FURTHER = ["ke1_mlkem768", "ke1_mlkem1024", "ke1_mlkem768-ke2_mlkem1024", "ke1_ecp384-ke2_mlkem768"]


def spis(both: Sides) -> list[tuple[str, str]]:
    """Of Cygnet's IKE SAs."""
    return [(sa["initiator-spi"], sa["responder-spi"]) for sa in both.moon.sas()]


def until_new_ike_sa(both: Sides, former: tuple[str, str]) -> None:
    until(lambda: spis(both) != [former], 20, "a new IKE SA")
    until(lambda: len(spis(both)) == 1, 20, "the old IKE SA is gone")


def assert_further(both: Sides, further: str) -> None:
    """That strongSwan says it did all of them."""
    suite = both.sun.swanctl("--list-sas").stdout
    for name in further.split("-"):
        kind, method = name.split("_")
        said = f"{kind.upper()}_{method.upper().replace('MLKEM', 'ML_KEM_').replace('ECP', 'ECP_')}"
        assert said in suite, suite


@BY
@pytest.mark.parametrize("further", FURTHER)
def test_further_key_exchanges_come_before_ike_auth_and_behind_rekeys(
    tmp_path: Path, by: str, further: str
) -> None:
    setup = Setup(ike=f"{FIRST}-{further}", esp=f"aes256gcm16-x25519-{further}")
    with sides(tmp_path, setup) as both:
        both.up(by)
        assert_further(both, further)
        traffic = both.traffic()
        assert traffic.wait_for(50, 20)
        for who in ("cygnet", "strongswan"):
            before = children(both)
            rekey(both, who, "child")
            until_replaced(both, before, 20)
            assert traffic.wait_for(traffic.echoed + 50, 20)
            (former,) = spis(both)
            rekey(both, who, "ike")
            until_new_ike_sa(both, former)
            assert_further(both, further)
            assert traffic.wait_for(traffic.echoed + 50, 20)
        both.assert_lossless(traffic.stop())


@BY
def test_ml_kem_and_a_postquantum_pre_shared_key_go_together(tmp_path: Path, by: str) -> None:
    setup = Setup(ike=f"{FIRST}-ke1_mlkem768", connection=REQUIRED, moon_extra=PPK, sun_extra=PPK)
    with sides(tmp_path, setup) as both:
        both.up(by)
        assert_further(both, "ke1_mlkem768")
        assert "PPK" in both.sun.log()
        both.assert_traffic_passes()


@BY
def test_the_default_proposals_of_both_come_to_ml_kem(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, Setup(moon_ike="default", sun_ike=f"{FIRST}-ke1_mlkem768,{FIRST}")) as both:
        both.up(by)
        assert_further(both, "ke1_mlkem768")
        both.assert_traffic_passes()
