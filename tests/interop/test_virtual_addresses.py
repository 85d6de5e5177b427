"""Virtual addresses with strongSwan, each side as client: IPv4, IPv6, name servers, rekeys, reconnection."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cygnet.lab.namespaces import Namespace
from cygnet.lab.strongswan import StrongSwan
from cygnet.lab.topology import ALICE, ALICE6, BOB, BOB6, MOON_NET, MOON_NET6, SUN_NET, SUN_NET6
from tests.interop.sides import Setup, Sides, sides
from tests.waiting import until

POOLS = """
pools {
  four {
    addrs = 10.3.0.0/24
    dns = 10.9.9.53
    subnet = 10.1.0.0/16
  }
  six {
    addrs = fd03::/112
    dns = fd09::53
  }
}
"""
BOTH = "vips = 0.0.0.0, ::"
SERVES = "pools = four, six"


def client_setup(tmp_path: Path, vips: str = BOTH) -> Setup:
    """Cygnet on moon asks strongSwan on sun."""
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    return Setup(
        moon_ts="dynamic",
        sun_ts=f"{SUN_NET}, {SUN_NET6}",
        moon_connection=vips,
        sun_connection=SERVES,
        moon_extra=f"options {{ resolver = {tmp_path}/resolv.conf }}",
        sun_extra=POOLS,
    )


def server_setup(vips: str = BOTH) -> Setup:
    """strongSwan on sun asks Cygnet on moon."""
    return Setup(
        moon_ts=f"{MOON_NET}, {MOON_NET6}",
        sun_ts="dynamic",
        moon_connection=SERVES,
        sun_connection=vips,
        moon_extra=POOLS,
    )


def addresses(space: Namespace) -> str:
    return space.run("ip", "-o", "addr").stdout


def pings(space: Namespace, *targets: str) -> bool:
    return all(
        space.run("ping", "-c", "3", "-i", "0.2", "-W", "3", target, check=False).returncode == 0
        for target in targets
    )


def test_cygnet_gets_addresses_and_name_servers_and_gives_them_up(tmp_path: Path) -> None:
    with sides(tmp_path, client_setup(tmp_path)) as both:
        both.up("cygnet")
        (sa,) = both.moon.sas()
        assert sa["local-vips"] == ["10.3.0.1", "fd03::1"]
        (child,) = sa["child-sas"].values()
        assert child["local-ts"] == ["10.3.0.1/32", "fd03::1/128"]
        moon = both.net.moon
        assert "10.3.0.1/32" in addresses(moon)
        assert "src 10.3.0.1" in moon.run("ip", "route", "get", BOB).stdout
        assert "src fd03::1" in moon.run("ip", "-6", "route", "get", BOB6).stdout
        assert pings(moon, BOB, BOB6), both.moon.log()[-3000:]
        resolver = tmp_path / "resolv.conf"
        servers = [line for line in resolver.read_text().splitlines() if line.startswith("nameserver")]
        assert servers == ["nameserver 10.9.9.53", "nameserver fd09::53", "nameserver 192.0.2.53"]
        assert both.moon.cygnet("down", "peer").returncode == 0
        until(lambda: "10.3.0.1" not in addresses(moon), 10, "the address is gone")
        assert "fd03::1" not in addresses(moon)
        assert resolver.read_text() == "nameserver 192.0.2.53\n"


def test_strongswan_gets_addresses_and_name_servers(tmp_path: Path) -> None:
    with sides(tmp_path, server_setup()) as both:
        both.up("strongswan")
        (sa,) = both.moon.sas()
        assert sa["remote-vips"] == ["10.3.0.1", "fd03::1"]
        (theirs,) = both.sun.sas()
        assert theirs["local-vips"] == ["10.3.0.1", "fd03::1"]
        assert pings(both.net.sun, ALICE, ALICE6), both.moon.log()[-3000:]
        assert pings(both.net.alice, "10.3.0.1", "fd03::1")
        resolver = (tmp_path / "sun" / "resolv.conf").read_text()
        assert "nameserver 10.9.9.53" in resolver
        assert "nameserver fd09::53" in resolver


def listed_leases(both: Sides) -> str:
    """What strongSwan's own tool says about Cygnet's pools."""
    done = subprocess.run(
        ["swanctl", "--list-pools", "--leases", "--uri", f"unix://{both.moon.socket}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_swanctl_lists_the_leases_of_cygnet(tmp_path: Path) -> None:
    with sides(tmp_path, server_setup()) as both:
        both.up("strongswan")
        listed = " ".join(listed_leases(both).split())
        assert "four 10.3.0.1 1 / 0 / 254" in listed, listed
        assert "10.3.0.1 online 'sun.example'" in listed
        assert both.sun.swanctl("--terminate", "--ike", "peer").returncode == 0
        until(
            lambda: "10.3.0.1 offline 'sun.example'" in " ".join(listed_leases(both).split()), 10, "offline"
        )


@pytest.mark.parametrize("by", ["cygnet", "strongswan"])
def test_an_address_survives_the_rekey_of_the_ike_sa_by_either(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, server_setup()) as both:
        both.up("strongswan")
        # One that has just been made is not rekeyed again at once (T30).
        until(lambda: int(both.moon.sas()[0]["established"]) >= 2, 10, "an IKE SA of some age")
        (before,) = both.moon.sas()
        done = (
            both.moon.cygnet("rekey", "--ike", "peer")
            if by == "cygnet"
            else both.sun.swanctl("--rekey", "--ike", "peer")
        )
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: both.moon.sas()[-1]["uniqueid"] != before["uniqueid"], 10, "a new IKE SA")
        assert both.moon.sas()[-1]["remote-vips"] == ["10.3.0.1", "fd03::1"]
        assert pings(both.net.sun, ALICE, ALICE6)


def settled_anew(peer: StrongSwan, before: object) -> bool:
    """Whether strongSwan has one IKE SA, another than `before`, with its addresses and an installed pair."""
    found = peer.sas()
    return (
        len(found) == 1
        and found[0]["uniqueid"] != before
        and found[0].get("local-vips") == ["10.3.0.1", "fd03::1"]
        and [child["state"] for child in found[0]["child-sas"].values()] == ["INSTALLED"]
    )


def test_an_address_survives_authentication_anew(tmp_path: Path) -> None:
    with sides(tmp_path, server_setup()) as both:
        both.up("strongswan")
        (before,), (theirs,) = both.moon.sas(), both.sun.sas()
        done = both.sun.swanctl("--rekey", "--ike", "peer", "--reauth")
        assert done.returncode == 0, done.stdout + done.stderr
        until(
            lambda: (
                [sa["uniqueid"] for sa in both.moon.sas()] not in ([], [before["uniqueid"]])
                and len(both.moon.sas()) == 1
            ),
            20,
            "one new IKE SA",
        )
        assert both.moon.sas()[0]["remote-vips"] == ["10.3.0.1", "fd03::1"]
        # strongSwan gives the address and its pairs up before it asks anew; between, it sends in clear.
        until(lambda: settled_anew(both.sun, theirs["uniqueid"]), 20, "strongSwan's new pairs")
        assert pings(both.net.sun, ALICE, ALICE6)


def test_leases_survive_a_restart_of_cygnet(tmp_path: Path) -> None:
    """Another identity does not get the address of whoever had it before the restart."""
    with sides(tmp_path, server_setup()) as both:
        both.up("strongswan")
        both.moon.stop()
        both.moon.start()
        listed = " ".join(listed_leases(both).split())
        assert "10.3.0.1 offline 'sun.example'" in listed
        both.up("strongswan")
        assert both.moon.sas()[0]["remote-vips"] == ["10.3.0.1", "fd03::1"]


def test_strongswan_without_an_address_to_give_is_told_as_the_reason(tmp_path: Path) -> None:
    setup = client_setup(tmp_path).but(sun_connection="", sun_extra="")
    with sides(tmp_path, setup) as both:
        done = both.moon.cygnet("up", "net")
        assert done.returncode != 0
        assert "address-refused" in done.stdout + done.stderr


def test_strongswan_that_asks_for_none_is_refused_its_child(tmp_path: Path) -> None:
    with sides(tmp_path, server_setup(vips="")) as both:
        done = both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
        assert done.returncode != 0
        assert "FAILED_CP_REQUIRED" in both.sun.log()
