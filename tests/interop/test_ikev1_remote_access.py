"""IKEv1's remote access with strongSwan, each side as client: XAUTH, hybrid, mode config pulled, pushed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.lab.topology import ALICE, BOB, MOON_NET, SUN_NET
from tests.interop.sides import MOON_ID, SUN_ID, Setup, sides
from tests.interop.test_certificates import Authority
from tests.interop.test_virtual_addresses import addresses, pings
from tests.waiting import until

V1 = Setup(ike="aes256-sha256-x25519", esp="aes256-sha256", moon_version=1, sun_version=1)
AGGRESSIVE = "aggressive = yes\n"
OPTIONS = "i_dont_care_about_security_and_use_aggressive_mode_psk = yes"
POOLS = """
pools {
  four {
    addrs = 10.3.0.0/24
    dns = 10.9.9.53
    nbns = 10.9.9.54
  }
}
"""
PASSWORD = "open sesame, please"
SECRETS = f'secrets {{ xauth-joe {{ id = joe\n secret = "{PASSWORD}" }} }}\n'
PSK_CLIENT = """
local-1 {{ auth = psk\n id = {client} }}
local-2 {{ auth = xauth\n xauth_id = joe }}
"""
PSK_SERVER = """
remote-1 {{ auth = psk\n id = {client} }}
remote-2 {{ auth = xauth }}
"""
CERT_CLIENT = """
local-1 {{ auth = pubkey\n id = {client}\n certs = {certificate} }}
local-2 {{ auth = xauth\n xauth_id = joe }}
"""
CERT_SERVER = """
remote-1 {{ auth = pubkey\n id = {client} }}
remote-2 {{ auth = xauth }}
"""
HYBRID_CLIENT = "local {{ auth = xauth\n id = {client}\n xauth_id = joe }}"
HYBRID_SERVER = "remote {{ auth = xauth }}"
WAYS = {
    "psk": ("psk", PSK_CLIENT, PSK_SERVER),
    "certificate": ("pubkey", CERT_CLIENT, CERT_SERVER),
    "hybrid": ("pubkey", HYBRID_CLIENT, HYBRID_SERVER),
}


def setup_of(way: str, client: str, mode: str = "", password: str = PASSWORD) -> Setup:
    """`client`: which side is it."""
    auth, client_rounds, server_rounds = WAYS[way]
    other = "sun" if client == "moon" else "moon"
    ids = {"moon": MOON_ID, "sun": SUN_ID}
    named = {"client": ids[client], "certificate": f"{client}.pem"}
    nets = {"moon_ts": "dynamic", "sun_ts": SUN_NET}
    if client == "sun":
        nets = {"moon_ts": MOON_NET, "sun_ts": "dynamic"}
    options = "retransmit_tries = 3\n retransmit_timeout = 0.5"
    if AGGRESSIVE in mode and way == "psk":
        options += f"\n {OPTIONS}"
    cygnet = f"options {{ {OPTIONS} }}\n" if AGGRESSIVE in mode and way == "psk" else ""
    return V1.but(
        auth=auth,
        connection=mode,
        options=options,
        **nets,
        **{
            f"{client}_local": client_rounds.format(**named),
            f"{other}_remote": server_rounds.format(**named),
            f"{client}_connection": "vips = 0.0.0.0",
            f"{other}_connection": "pools = four",
            f"{client}_extra": SECRETS.replace(PASSWORD, password) + (cygnet if client == "moon" else ""),
            f"{other}_extra": SECRETS + POOLS + (cygnet if other == "moon" else ""),
        },
    )


def prepare(way: str) -> object:
    """Certificates where the way needs them: IKEv1's XAUTH knows RSA alone."""

    def make(directory: Path) -> None:
        if way != "psk":
            authority = Authority(directory / "ca", key_options=("--type", "rsa", "--size", "2048"))
            for side, san in (("moon", MOON_ID), ("sun", SUN_ID)):
                authority.equip(directory / side, side, san)

    return make


MODES = {
    "main": "",
    "aggressive": AGGRESSIVE,
    "push": "pull = no\n",
    "aggressive push": AGGRESSIVE + "pull = no\n",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_cygnet_logs_in_and_gets_an_address(tmp_path: Path, way: str, mode: str) -> None:
    setup = setup_of(way, "moon", MODES[mode])
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 192.0.2.53\n")
    setup = setup.but(moon_extra=setup.moon_extra + f"options {{ resolver = {resolver} }}")
    with sides(tmp_path, setup, prepare=prepare(way)) as both:
        both.up("cygnet")
        (sa,) = both.moon.sas()
        assert sa["local-vips"] == ["10.3.0.1"]
        (theirs,) = both.sun.sas()
        assert theirs["remote-vips"] == ["10.3.0.1"]
        assert theirs["remote-xauth-id"] == "joe"
        assert pings(both.net.moon, BOB), both.moon.log()[-3000:]
        assert "nameserver 10.9.9.53" in resolver.read_text()
        assert both.moon.cygnet("down", "peer").returncode == 0
        until(lambda: "10.3.0.1" not in addresses(both.net.moon), 10, "the address is gone")
        until(lambda: resolver.read_text() == "nameserver 192.0.2.53\n", 10, "the resolver as before")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_strongswan_logs_in_and_gets_an_address(tmp_path: Path, way: str, mode: str) -> None:
    with sides(tmp_path, setup_of(way, "sun", MODES[mode]), prepare=prepare(way)) as both:
        both.up("strongswan")
        (sa,) = both.moon.sas()
        assert sa["remote-vips"] == ["10.3.0.1"]
        assert sa["remote-xauth-id"] == "joe"
        assert pings(both.net.sun, ALICE), both.moon.log()[-3000:]
        assert pings(both.net.alice, "10.3.0.1")
        assert "nameserver 10.9.9.53" in (tmp_path / "sun" / "resolv.conf").read_text()
        assert both.sun.swanctl("--terminate", "--ike", "peer").returncode == 0
        until(lambda: not both.moon.sas(), 10, "the SA is gone")


@pytest.mark.parametrize("way", ["psk", "hybrid"])
def test_strongswan_with_a_wrong_password_does_not_come_in(tmp_path: Path, way: str) -> None:
    setup = setup_of(way, "sun", password="something else")
    with sides(tmp_path, setup, prepare=prepare(way)) as both:
        done = both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
        assert done.returncode != 0
        until(lambda: not both.moon.sas(), 10, "no SA")
        assert "login-failed" in both.moon.cygnet("status").stdout
        assert PASSWORD not in both.moon.log()


@pytest.mark.parametrize("way", ["psk", "hybrid"])
def test_cygnet_with_a_wrong_password_says_that_it_was_refused(tmp_path: Path, way: str) -> None:
    setup = setup_of(way, "moon", password="something else")
    with sides(tmp_path, setup, prepare=prepare(way)) as both:
        done = both.moon.cygnet("up", "net")
        assert done.returncode != 0
        assert "peer-refused-authentication" in done.stdout + done.stderr
        until(lambda: not both.sun.sas(), 10, "no SA")


def test_v37_a_client_that_does_not_log_in_is_let_in_by_no_other_method(tmp_path: Path) -> None:
    """CVE-2026-50751: the group's key alone is no way in where a login is demanded."""
    setup = setup_of("psk", "sun").but(sun_local=f"auth = psk\n id = {SUN_ID}", sun_extra="")
    with sides(tmp_path, setup) as both:
        done = both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
        assert done.returncode != 0
        assert both.moon.sas() == []
