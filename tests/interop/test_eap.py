"""EAP between Cygnet and strongSwan, each as the gateway and as the client."""

from __future__ import annotations

import shutil
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


def equip_carol(tmp_path: Path, client: str) -> None:
    """The gateway's certificate and carol's, each on its side."""
    ca = Authority(tmp_path / "ca")
    gateway, user = ("moon", "sun") if client == "strongswan" else ("sun", "moon")
    ca.equip(tmp_path / gateway, gateway, f"{gateway}.example")
    ca.equip(tmp_path / user, "carol", "carol")


@BY
@pytest.mark.parametrize("alone", [False, True], ids=["behind the gateway's certificate", "EAP-only"])
def test_eap_tls_proves_a_client_by_certificate(tmp_path: Path, client: str, alone: bool) -> None:
    equip_carol(tmp_path, client)
    setup = setup_for(client, "eap-tls", own="certs = carol.pem")
    with sides(tmp_path, only_eap(setup, client, "eap-tls") if alone else setup) as both:
        assert_carol(both, client)


@BY
@pytest.mark.parametrize("alone", [False, True], ids=["behind the gateway's certificate", "EAP-only"])
def test_eap_ttls_carries_a_method_inside(tmp_path: Path, client: str, alone: bool) -> None:
    equip(tmp_path)
    setup = setup_for(client, "eap-ttls")
    ttls = "plugins { eap-ttls { phase2_method = mschapv2\n phase2_piggyback = no } }"
    setup = setup.but(options=setup.options + f"\n {ttls}")
    with sides(tmp_path, only_eap(setup, client, "eap-ttls") if alone else setup) as both:
        assert_carol(both, client)


def only_eap(setup: Setup, client: str, method: str) -> Setup:
    """The gateway too proves itself by EAP alone (RFC 5998)."""
    if client == "strongswan":
        return setup.but(
            moon_local=setup.moon_local.replace("auth = pubkey", f"auth = {method}"),
            sun_remote=f"auth = {method}\n id = moon.example",
        )
    return setup.but(
        sun_local=setup.sun_local.replace("auth = pubkey", f"auth = {method}"),
        moon_remote=f"auth = {method}\n id = sun.example",
    )


@BY
def test_two_rounds_prove_the_machine_by_certificate_and_the_user_by_password(
    tmp_path: Path, client: str
) -> None:
    """RFC 4739."""
    setup = two_rounds(tmp_path, client)
    with sides(tmp_path, setup) as both:
        assert_carol(both, client)


@BY
def test_no_round_of_two_can_be_left_out(tmp_path: Path, client: str) -> None:
    """The client leaves out the second, or the first: neither is let in."""
    setup = two_rounds(tmp_path, client)
    side = "sun_local" if client == "strongswan" else "moon_local"
    rounds = getattr(setup, side)
    first, second = rounds.split("local-2")
    for left in (first, "local-2" + second):
        with sides(tmp_path / str(len(left)), equipped(setup.but(**{side: left}), tmp_path, left)) as both:
            if client == "strongswan":
                done = both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
            else:
                done = both.moon.cygnet("up", "net")
            assert done.returncode != 0
            assert not [sa for sa in both.moon.sas() if sa["state"] == "ESTABLISHED"]


def equipped(setup: Setup, tmp_path: Path, left: str) -> Setup:
    """The same certificates for another run."""
    target = tmp_path / str(len(left))
    for name in ("moon", "sun"):
        shutil.copytree(tmp_path / name, target / name)
    return setup


def two_rounds(tmp_path: Path, client: str) -> Setup:
    ca = Authority(tmp_path / "ca")
    gateway, user = ("moon", "sun") if client == "strongswan" else ("sun", "moon")
    ca.equip(tmp_path / gateway, gateway, f"{gateway}.example")
    ca.equip(tmp_path / user, "laptop", "laptop.example")
    ours = (
        "local-1 { round = 1\n auth = pubkey\n certs = laptop.pem\n id = laptop.example\n }\n"
        "local-2 { round = 2\n auth = eap-mschapv2\n id = laptop.example\n eap_id = carol\n }"
    )
    demand = (
        "remote-1 { round = 1\n auth = pubkey\n id = *.example\n }\n"
        "remote-2 { round = 2\n auth = eap-mschapv2\n id = %any\n eap_id = %any\n }"
    )
    base = Setup(moon_extra=PASSWORD, sun_extra=PASSWORD, auth="eap")
    if client == "strongswan":
        return base.but(
            moon_local=GATEWAY_MOON,
            moon_remote=demand,
            sun_local=ours,
            sun_remote="auth = pubkey\n id = moon.example",
        )
    return base.but(
        sun_local=GATEWAY_SUN,
        sun_remote=demand,
        moon_local=ours,
        moon_remote="auth = pubkey\n id = sun.example",
    )


@BY
def test_a_gateway_proves_itself_in_two_rounds(tmp_path: Path, client: str) -> None:
    """RFC 4739 the other way. To our client the second comes in the middle of the user's EAP; strongSwan's
    client does not bear that."""
    equip(tmp_path)
    gateway = "moon" if client == "strongswan" else "sun"
    secret = 'ike-two { id = two.example\n secret = "a shared secret of thirty octets" }'
    shared = PASSWORD.replace("secrets {", f"secrets {{ {secret}\n")
    two = "auth = psk\n id = two.example\n"
    setup = setup_for(client, "eap-mschapv2").but(moon_extra=shared, sun_extra=shared)
    if client == "strongswan":
        setup = setup.but(sun_local=GATEWAY_SUN, moon_remote="auth = pubkey\n id = sun.example")
    first = {"moon": GATEWAY_MOON, "sun": GATEWAY_SUN}[gateway]
    own, theirs = {"moon": ("moon_local", "sun_remote"), "sun": ("sun_local", "moon_remote")}[gateway]
    rounds = {
        own: f"local-1 {{ round = 1\n {first}\n }}\nlocal-2 {{ round = 2\n {two} }}",
        theirs: f"remote-1 {{ round = 1\n auth = pubkey\n id = {gateway}.example\n }}\n"
        f"remote-2 {{ round = 2\n {two} }}",
    }
    with sides(tmp_path, setup.but(**rounds)) as both:
        both.up(client)
        both.assert_traffic_passes()


NATIVE = {
    # What each native client offers by its documentation, after the profile that `cygnet client add` makes.
    "windows": ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
    "apple": ("aes256gcm16-prfsha384-ecp384, aes256-sha256-modp2048", "aes256gcm16-ecp384"),
    "android": (
        "aes256gcm16-prfsha512-x25519, aes256-sha512-prfsha512-modp4096",
        "aes256gcm16, aes256-sha512",
    ),
    "strongswan": ("aes256gcm16-prfsha384-x25519, aes256gcm16-prfsha384-ecp384", "aes256gcm16-x25519"),
}
GATEWAY = "aes256gcm16-prfsha384-ecp384-x25519, aes256-sha256-prfsha256-modp2048-ecp256, default"


@pytest.mark.parametrize("device", list(NATIVE))
def test_what_devices_offer_is_taken_by_the_documented_gateway(tmp_path: Path, device: str) -> None:
    """With `send_cert = always`, and an IDi that is the device's address, as Windows has it."""
    equip(tmp_path)
    ike, esp = NATIVE[device]
    setup = setup_for("strongswan", "eap-mschapv2").but(
        moon_ike=GATEWAY,
        sun_ike=ike,
        moon_esp="aes256gcm16-ecp384-x25519, aes256gcm16, aes256-sha256, aes256-sha512",
        sun_esp=esp,
        moon_connection="send_cert = always\n unique = never",
        sun_connection="send_certreq = no",
    )
    if device == "windows":
        setup = setup.but(sun_local=setup.sun_local.replace("id = carol.example", "id = 192.0.2.2"))
    with sides(tmp_path, setup) as both:
        assert_carol(both, "strongswan")


@pytest.mark.parametrize("named", [False, True], ids=["not named", "named"])
def test_windows_own_group_is_taken_only_by_name(tmp_path: Path, named: bool) -> None:
    """MODP 1024: what Windows offers without the script."""
    equip(tmp_path)
    setup = setup_for("strongswan", "eap-mschapv2").but(
        moon_ike=GATEWAY + (", aes256-sha256-prfsha256-modp1024" if named else ""),
        sun_ike="aes256-sha256-prfsha256-modp1024",
        moon_esp="aes256gcm16, aes256-sha256",
        sun_esp="aes256-sha256",
    )
    with sides(tmp_path, setup) as both:
        if named:
            assert_carol(both, "strongswan")
            return
        both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
        assert not both.moon.sas()
        assert "ike-proposal-mismatch" in both.moon.cygnet("status").stdout
