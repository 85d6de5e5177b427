"""IKEv1 tunnels between Cygnet and strongSwan, each as initiator: suites, PFS, modes, families, NAT."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cygnet.lab.topology import forget_mappings
from tests.interop.sides import Setup, Sides, sides, swanctl_conf
from tests.interop.test_certificates import KEYS, Authority
from tests.waiting import until

BY = pytest.mark.parametrize("by", ["cygnet", "strongswan"])
AGGRESSIVE_PSK = "i_dont_care_about_security_and_use_aggressive_mode_psk"
V1 = Setup(ike="aes128-sha256-x25519", esp="aes128-sha256", moon_version=1, sun_version=1)
AGGRESSIVE = V1.but(
    connection="aggressive = yes",
    options=f"{V1.options}\n {AGGRESSIVE_PSK} = yes",
    moon_extra=f"options {{ {AGGRESSIVE_PSK} = yes }}",
)
MODES = pytest.mark.parametrize("setup", [V1, AGGRESSIVE], ids=["main", "aggressive"])


@BY
@pytest.mark.parametrize(
    ("ike", "esp"),
    [
        ("aes128-sha256-x25519", "aes128-sha256"),
        ("aes256-sha384-modp2048", "aes256gcm16-modp2048"),
        ("aes256-sha512-ecp384", "aes192-sha384-ecp384"),
        ("aes128-sha1-modp2048", "aes128-sha1-modp2048"),
    ],
)
def test_traffic_passes_with_each_suite(tmp_path: Path, by: str, ike: str, esp: str) -> None:
    with sides(tmp_path, V1.but(ike=ike, esp=esp)) as both:
        both.up(by)
        both.assert_traffic_passes()
        [sa] = both.moon.sas()
        assert sa["version"] == "1"


@BY
def test_traffic_passes_in_aggressive_mode(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, AGGRESSIVE) as both:
        both.up(by)
        both.assert_traffic_passes()


@BY
def test_traffic_passes_over_ipv6(tmp_path: Path, by: str) -> None:
    with sides(tmp_path, V1.but(outer6=True, inner6=True)) as both:
        both.up(by)
        both.assert_traffic_passes()


def test_version_0_answers_both_versions_and_begins_with_the_newer_one(tmp_path: Path) -> None:
    with sides(tmp_path, V1.but(moon_version=0, sun_version=0)) as both:
        for version in ("2", "1"):
            if version == "1":
                both.sun.configure(swanctl_conf(V1, "sun", both.net))
                both.sun.load()
                both.up("strongswan")
            else:
                both.up("cygnet")
            both.assert_traffic_passes()
            assert [sa["version"] for sa in both.moon.sas()] == [version]
            assert both.sun.swanctl("--terminate", "--ike", "peer").returncode == 0
            until(lambda: not both.moon.sas(), 20, "nothing left")


def equip(directory: Path, kind: str) -> None:
    """Both sides get certificates of one CA."""
    authority = Authority(directory / "ca", key_options=KEYS[kind])
    authority.equip(directory / "moon", "moon", "moon.example")
    authority.equip(directory / "sun", "sun", "sun.example")


@BY
@MODES
@pytest.mark.parametrize("key", ["rsa", "ecdsa256", "ecdsa384"])
def test_certificates_prove_both_ends(tmp_path: Path, by: str, setup: Setup, key: str) -> None:
    equip(tmp_path, key)
    with sides(tmp_path, setup.but(auth="pubkey")) as both:
        both.up(by)
        both.assert_traffic_passes()


@MODES
def test_traffic_passes_from_behind_nat(tmp_path: Path, setup: Setup) -> None:
    with sides(tmp_path, setup, nat=True) as both:
        both.up("cygnet")
        both.assert_traffic_passes()
        [sa] = both.moon.sas()
        assert sa["nat-local"] == "yes"
        assert sa["remote-port"] == "4500"


@MODES
def test_traffic_passes_to_a_strongswan_behind_nat(tmp_path: Path, setup: Setup) -> None:
    extra = setup.but(sun_extra=setup.moon_extra, moon_extra="")
    with sides(tmp_path, extra, nat=True, cygnet="sun") as both:
        both.up("strongswan")
        both.assert_traffic_passes()
        [sa] = both.moon.sas()
        assert sa["nat-remote"] == "yes"
        assert both.net.router is not None
        forget_mappings(both.net.router)
        both.assert_traffic_passes()


def test_a_strongswan_behind_nat_negotiates_transport_mode_with_original_addresses(tmp_path: Path) -> None:
    """RFC 3947, section 5.2. Its userspace ESP has tunnel mode alone, so that here the negotiation is judged:
    each understands the other's NAT-OA, and our data plane knows what to put right."""
    setup = V1.but(moon_ts="dynamic", sun_ts="dynamic", child="mode = transport")
    with sides(tmp_path, setup, nat=True, cygnet="sun") as both:
        with ladder(both) as seen:
            both.sun.swanctl("--initiate", "--child", "net", "--timeout", "15")
            understood = re.compile(r"parsed QUICK_MODE response .* NAT-OA NAT-OA")
            until(lambda: understood.search(both.sun.log()) is not None, 10, "ours")
        quick = [line for line in seen if "NAT-OA" in line]
        assert ["<--" in line for line in quick[:2]] == [True, False], "\n".join(seen)
        # It took our answer, and only then its own data plane refused.
        assert "IPsec SA: unsupported mode" in understood.split(both.sun.log())[-1]


@contextmanager
def ladder(both: Sides) -> Iterator[list[str]]:
    """When it ends, the arrows of all messages in between."""
    following = both.moon.follow("trace")
    arrows: list[str] = []
    assert following.stdout is not None
    # The ladder says who is who when it listens.
    following.stdout.readline()
    try:
        yield arrows
    finally:
        following.terminate()
        text, _ = following.communicate(timeout=10)
        arrows.extend(line for line in text.splitlines() if "HDR(" in line)


@BY
@pytest.mark.parametrize(("setup", "messages"), [(V1, 9), (AGGRESSIVE, 6)], ids=["main", "aggressive"])
def test_a_tunnel_takes_as_many_messages_as_the_figures_show(
    tmp_path: Path, by: str, setup: Setup, messages: int
) -> None:
    with sides(tmp_path, setup) as both:
        with ladder(both) as seen:
            both.up(by)
            both.assert_traffic_passes()
            if setup is AGGRESSIVE:
                until(lambda: "N(DPD_ACK)" in both.sun.log(), 10, "its answer")
        # Aggressive mode has no place for INITIAL-CONTACT: it and its answer are an exchange of their own.
        beside = [line for line in seen if "R_U_THERE" in line]
        told = any("INITIAL_CONTACT" in line for line in beside)
        assert told == (setup is AGGRESSIVE), "\n".join(seen)
        assert len(seen) - len(beside) == messages, "\n".join(seen)


@BY
def test_messages_that_are_too_long_come_in_pieces(tmp_path: Path, by: str) -> None:
    """strongSwan cuts the third message, too: a public value of 512 octets."""
    equip(tmp_path, "rsa")
    setup = V1.but(
        ike="aes128-sha256-modp4096",
        auth="pubkey",
        connection="fragmentation = yes\n send_cert = always",
        options=f"{V1.options}\n fragment_size = 576",
        moon_extra="options { fragment_size = 576 }",
    )
    with sides(tmp_path, setup) as both:
        both.up(by)
        both.assert_traffic_passes()
        assert "fragment" in both.sun.log()
        if by == "sun":
            assert re.search(r"ID_PROT request 0 \[ KE .*\n.*splitting IKE message", both.sun.log())
