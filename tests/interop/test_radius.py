"""A gateway that asks FreeRADIUS: strongSwan as the client, accounting, failover, disconnect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cygnet.lab import freeradius
from cygnet.lab.freeradius import FreeRadius, radclient
from tests.interop.sides import SUN_ID, Setup, Sides, sides, swanctl_conf
from tests.interop.test_certificates import Authority
from tests.interop.test_eap import GATEWAY_MOON
from tests.interop.test_ikev1_remote_access import POOLS, setup_of
from tests.waiting import until

USERS = """\
carol Cleartext-Password := "Ar3etTnp"
\tClass = "staff"
dave Cleartext-Password := "Ar3etTnp"
\tClass = "guests"
"""
SERVERS = """
radius {
  servers {
    absent {
      address = 127.0.0.1
      secret = testing123
      auth_port = 18
      acct_port = 19
    }
    here {
      address = 127.0.0.1
      secret = testing123
    }
  }
  accounting = yes
  accounting_interval = 6s
  retransmit_timeout = 1s
  retransmit_tries = 2
  dae {
    enable = yes
    secret = testing123
  }
}
"""


def password(user: str) -> str:
    return f'secrets {{ eap-user {{ id = {user}\n secret = "Ar3etTnp" }} }}'


def equipped(served: Path, ca: Authority) -> Path:
    """FreeRADIUS's folder, with a certificate for its TLS methods."""
    ca.equip(served, "radius", "radius.example")
    (served / "server.pem").write_bytes((served / "x509" / "radius.pem").read_bytes())
    (served / "server.key").write_bytes((served / "private" / "radius.pem").read_bytes())
    (served / "ca.pem").write_bytes((served / "x509ca" / "ca.pem").read_bytes())
    return served


@contextmanager
def gateway(
    tmp_path: Path, method: str, user: str = "carol", demand: str = ""
) -> Iterator[tuple[Sides, FreeRadius]]:
    """Cygnet with a certificate and a RADIUS server on its loopback, strongSwan's user on the other side."""
    if not freeradius.available():
        pytest.skip("FreeRADIUS is not installed: make packages")
    ca = Authority(tmp_path / "ca")
    ca.equip(tmp_path / "moon", "moon", "moon.example")
    ca.equip(tmp_path / "sun", "sun", "sun.example")
    served = equipped(tmp_path / "radius", ca)
    setup = Setup(
        auth="eap",
        moon_local=GATEWAY_MOON,
        moon_remote=f"auth = eap-radius\n id = %any\n {demand}",
        moon_extra=SERVERS,
        sun_local=f"auth = {method}\n id = laptop.example\n eap_id = {user}\n aaa_id = radius.example",
        sun_remote="auth = pubkey\n id = moon.example",
        sun_extra=password(user),
    )
    with sides(tmp_path, setup) as both:
        server = FreeRadius(served, USERS, both.net.moon, tls="1.2")
        try:
            yield both, server
        finally:
            server.stop()


@pytest.mark.parametrize("method", ["eap-mschapv2", "eap-md5", "eap-gtc", "eap-ttls"])
def test_freeradius_authenticates_the_user_behind_a_server_that_is_silent(
    tmp_path: Path, method: str
) -> None:
    with gateway(tmp_path, method) as (both, _):
        both.up("strongswan")
        both.assert_traffic_passes()
        (sa,) = both.moon.sas()
        assert sa["remote-eap-id"] == "carol"
        assert "RADIUS server absent" in both.moon.log()


def test_a_user_of_another_group_is_refused(tmp_path: Path) -> None:
    with gateway(tmp_path, "eap-mschapv2", "dave", "groups = staff") as (both, _):
        both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
        assert "in none of the groups staff" in both.moon.cygnet("status").stdout
        assert not both.moon.sas()


def test_accounting_says_who_used_what_and_a_disconnect_ends_it(tmp_path: Path) -> None:
    with gateway(tmp_path, "eap-mschapv2", demand="groups = staff") as (both, server):
        both.up("strongswan")
        until(lambda: len(server.records()) >= 1, 40, "a record")
        both.assert_traffic_passes()
        until(
            lambda: any(int(one.get("Acct-Input-Packets", "0")) >= 20 for one in server.records()),
            40,
            lambda: str(server.records()),
        )
        (start, *interims) = server.records()
        assert start["Acct-Status-Type"] == "Start"
        assert {one["Acct-Status-Type"] for one in interims} == {"Interim-Update"}
        assert start["User-Name"] == "carol"
        assert start["Class"] == "0x7374616666"
        assert start["NAS-Identifier"] == "cygnet"
        assert start["Calling-Station-Id"] == "192.0.2.2"
        wrong = radclient(both.net.moon, ["User-Name = carol"], "127.0.0.1:3799", "disconnect", "another")
        assert wrong.returncode
        nobody = radclient(both.net.moon, ["User-Name = dave"], "127.0.0.1:3799", "disconnect", "testing123")
        assert "Disconnect-NAK" in nobody.stdout
        assert both.moon.sas()
        longer = ["User-Name = carol", "Session-Timeout = 3600"]
        changed = radclient(both.net.moon, longer, "127.0.0.1:3799", "coa", "testing123")
        assert "CoA-ACK" in changed.stdout, changed.stdout + changed.stderr
        other = radclient(
            both.net.moon, ["User-Name = dave", longer[1]], "127.0.0.1:3799", "coa", "testing123"
        )
        assert "CoA-NAK" in other.stdout
        done = radclient(both.net.moon, ["User-Name = carol"], "127.0.0.1:3799", "disconnect", "testing123")
        assert "Disconnect-ACK" in done.stdout, done.stdout + done.stderr
        until(lambda: not both.moon.sas() and not both.sun.sas(), 40, "no SA")
        until(lambda: server.records()[-1]["Acct-Status-Type"] == "Stop", 40, "the record of the end")
        stop = server.records()[-1]
        assert stop["Acct-Session-Id"] == start["Acct-Session-Id"]
        assert stop["Acct-Terminate-Cause"] == "Admin-Reset"
        assert int(stop["Acct-Input-Octets"]) > 0
        assert int(stop["Acct-Output-Octets"]) > 0


def login(user: str) -> Setup:
    """IKEv1: the group's key, then XAUTH, which Cygnet has RADIUS check."""
    setup = setup_of("psk", "sun")
    return setup.but(
        moon_remote=f"remote-1 {{ auth = psk\n id = {SUN_ID} }}\n"
        "remote-2 { auth = xauth-radius\n groups = staff }",
        moon_extra=SERVERS + POOLS,
        sun_local=f"local-1 {{ auth = psk\n id = {SUN_ID} }}\nlocal-2 {{ auth = xauth\n xauth_id = {user} }}",
        sun_extra=f'secrets {{ xauth-{user} {{ id = {user}\n secret = "Ar3etTnp" }} }}',
    )


def test_freeradius_checks_ikev1s_logins(tmp_path: Path) -> None:
    if not freeradius.available():
        pytest.skip("FreeRADIUS is not installed: make packages")
    with sides(tmp_path, login("carol")) as both:
        served = equipped(tmp_path / "radius", Authority(tmp_path / "ca"))
        server = FreeRadius(served, USERS, both.net.moon, tls="1.2")
        try:
            both.up("strongswan")
            (sa,) = both.moon.sas()
            assert (sa["remote-xauth-id"], sa["remote-vips"]) == ("carol", ["10.3.0.1"])
            until(lambda: len(server.records()) >= 1, 40, "a record")
            start = server.records()[0]
            assert (start["Acct-Status-Type"], start["User-Name"]) == ("Start", "carol")
            done = radclient(
                both.net.moon, ["User-Name = carol"], "127.0.0.1:3799", "disconnect", "testing123"
            )
            assert "Disconnect-ACK" in done.stdout, done.stdout + done.stderr
            until(lambda: not both.moon.sas() and not both.sun.sas(), 40, "no SA")
            both.sun.configure(swanctl_conf(login("dave"), "sun", both.net))
            both.sun.load()
            refused = both.sun.swanctl("--initiate", "--child", "net", "--timeout", "20")
            assert refused.returncode
            told = both.moon.cygnet("status").stdout
            assert "dave is in none of the groups" in told, f"{told}{both.moon.log()[-2000:]}"
            assert not both.moon.sas()
        finally:
            server.stop()
