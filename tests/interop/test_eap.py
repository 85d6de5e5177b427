"""EAP between Cygnet and strongSwan, each as the gateway and as the client."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.sides import Setup, Sides, sides
from tests.interop.test_certificates import Authority

BY = pytest.mark.parametrize("client", ["strongswan", "cygnet"])
PASSWORD = 'secrets { eap-carol { id = carol\n secret = "Ar3etTnp" } }'
GATEWAY_MOON = "auth = pubkey\n certs = moon.pem\n id = moon.example"
GATEWAY_SUN = "auth = pubkey\n certs = sun.pem\n id = sun.example"


def setup_for(client: str, method: str, *, own: str = "", theirs: str = "") -> Setup:
    """One side is the gateway, with a certificate; the other is carol, by `method`. `own` are lines of the
    client's local section, `theirs` of the gateway's remote one."""
    carol = f"auth = {method}\n id = carol.example\n eap_id = carol\n {own}"
    demand = f"auth = {method}\n id = %any\n eap_id = %any\n {theirs}"
    base = Setup(moon_extra=PASSWORD, sun_extra=PASSWORD, auth="eap")
    if client == "strongswan":
        return base.but(
            moon_local=GATEWAY_MOON,
            moon_remote=demand,
            sun_local=carol,
            sun_remote="auth = pubkey\n id = moon.example",
        )
    return base.but(
        moon_local=carol,
        moon_remote="auth = pubkey\n id = sun.example",
        sun_local=GATEWAY_SUN,
        sun_remote=demand,
    )


def equip(tmp_path: Path) -> None:
    ca = Authority(tmp_path / "ca")
    ca.equip(tmp_path / "moon", "moon", "moon.example")
    ca.equip(tmp_path / "sun", "sun", "sun.example")


def assert_carol(both: Sides, client: str) -> None:
    both.up(client)
    both.assert_traffic_passes()
    if client == "strongswan":
        assert both.moon.sas()[0]["remote-eap-id"] == "carol"
    else:
        assert both.sun.sas()[0]["remote-eap-id"] == "carol"


@BY
@pytest.mark.parametrize("method", ["eap-mschapv2", "eap-md5", "eap-gtc"])
def test_a_client_proves_itself_by_password_and_the_gateway_by_certificate(
    tmp_path: Path, client: str, method: str
) -> None:
    equip(tmp_path)
    with sides(tmp_path, setup_for(client, method)) as both:
        assert_carol(both, client)


@BY
def test_a_wrong_password_has_a_reason_of_its_own(tmp_path: Path, client: str) -> None:
    equip(tmp_path)
    wrong = PASSWORD.replace("Ar3etTnp", "another one")
    with sides(tmp_path, setup_for(client, "eap-mschapv2").but(moon_extra=wrong)) as both:
        if client == "cygnet":
            done = both.moon.cygnet("up", "net")
            assert done.returncode != 0
            assert "eap-password-wrong" in done.stdout + done.stderr, done.stdout + done.stderr
        else:
            both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
            assert "eap-password-wrong" in both.moon.cygnet("status").stdout
            assert "AUTH_FAILED" in both.sun.log()
        assert not both.sun.sas()
        assert not both.moon.sas()


def test_a_client_that_wants_another_method_gets_it_by_nak(tmp_path: Path) -> None:
    equip(tmp_path)
    setup = setup_for("strongswan", "eap-dynamic")
    setup = setup.but(sun_local=setup.sun_local.replace("eap-dynamic", "eap-mschapv2"))
    with sides(tmp_path, setup) as both:
        assert_carol(both, "strongswan")
