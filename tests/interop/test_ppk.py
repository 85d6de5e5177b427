"""Postquantum pre-shared keys (RFC 8784) with strongSwan, in both roles, with PSK and with EAP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.sides import Setup, sides

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

SECRET = 'secrets {\n ppk-office {\n id = "office"\n secret = "carried by hand, and long enough"\n }\n}'
OTHER = SECRET.replace("by hand", "by foot")
NAMED = "ppk_id = office"
REQUIRED = "ppk_id = office\n ppk_required = yes"


@pytest.mark.parametrize("by", ["cygnet", "strongswan"])
@pytest.mark.parametrize("how", [NAMED, REQUIRED], ids=["optional", "required"])
def test_both_ends_mix_the_key_in(tmp_path: Path, by: str, how: str) -> None:
    setup = Setup(connection=how, moon_extra=SECRET, sun_extra=SECRET)
    with sides(tmp_path, setup) as both:
        both.up(by)
        both.assert_traffic_passes()
        assert "PPK" in both.sun.log()


def test_where_it_is_optional_the_one_who_lacks_it_is_met_without(tmp_path: Path) -> None:
    with sides(tmp_path, Setup(moon_connection=NAMED, moon_extra=SECRET)) as both:
        both.up("cygnet")
        both.assert_traffic_passes()


@pytest.mark.parametrize("by", ["cygnet", "strongswan"])
def test_another_key_of_the_same_name_opens_nothing(tmp_path: Path, by: str) -> None:
    setup = Setup(connection=REQUIRED, moon_extra=SECRET, sun_extra=OTHER)
    with sides(tmp_path, setup) as both, pytest.raises(AssertionError):
        both.up(by)
