"""A tunnel between Cygnet and strongSwan, each as initiator: authentication, ciphers, families, NAT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.sides import Setup, sides

BY = pytest.mark.parametrize("by", ["cygnet", "strongswan"])


@BY
@pytest.mark.parametrize(
    ("ike", "esp"),
    [
        ("aes256gcm16-prfsha384-x25519", "aes256gcm16"),
        ("aes128-sha256-modp2048", "aes128-sha256"),
        ("aes256-sha512-ecp384", "aes256-sha512"),
        ("aes256-sha384-ecp521", "aes192-sha384"),
        ("chacha20poly1305-prfsha256-x448", "chacha20poly1305"),
        ("aes128gcm8-prfsha256-ecp256", "aes128gcm8"),
        ("aes256ccm16-prfsha256-modp3072", "aes256ccm16"),
        ("aes128ctr-aesxcbc-prfaesxcbc-ecp256bp", "aes128ctr-aesxcbc"),
        ("aes128-aescmac-prfaescmac-curve25519", "aes128-aescmac"),
        ("aes128-sha1-modp4096", "aes128-sha1"),
    ],
)
def test_traffic_passes_with_each_suite(tmp_path: Path, by: str, ike: str, esp: str) -> None:
    with sides(tmp_path, Setup(ike=ike, esp=esp)) as both:
        both.up(by)
        both.assert_traffic_passes()


@BY
@pytest.mark.parametrize(
    ("outer6", "inner6"), [(False, True), (True, False), (True, True)], ids=["6in4", "4in6", "6in6"]
)
def test_traffic_passes_in_each_pair_of_families(tmp_path: Path, by: str, outer6: bool, inner6: bool) -> None:
    with sides(tmp_path, Setup(outer6=outer6, inner6=inner6)) as both:
        both.up(by)
        both.assert_traffic_passes()


@BY
def test_the_wrong_guess_of_a_key_exchange_is_corrected(tmp_path: Path, by: str) -> None:
    first, common = "aes256gcm16-prfsha384-x25519", "aes256gcm16-prfsha384-ecp384"
    ours, theirs = (f"{first}-ecp384", common) if by == "cygnet" else (common, f"{first}-ecp384")
    with sides(tmp_path, Setup(moon_ike=ours, sun_ike=theirs)) as both:
        both.up(by)
        [sa] = both.moon.sas()
        assert sa["dh-group"] == "ECP_384"
        assert "INVAL_KE" in both.sun.log()
        both.assert_traffic_passes()


def test_traffic_passes_from_behind_nat(tmp_path: Path) -> None:
    with sides(tmp_path, Setup(), nat=True) as both:
        both.up("cygnet")
        both.assert_traffic_passes()
        [sa] = both.moon.sas()
        assert sa["nat-local"] == "yes"


def test_the_first_pair_takes_four_messages_and_each_further_one_two(tmp_path: Path) -> None:
    more = """}
      more {
        local_ts = 10.1.0.0/16[udp]
        remote_ts = 10.2.0.0/16[udp]
        esp_proposals = aes256gcm16"""
    with sides(tmp_path, Setup(child=more)) as both:
        both.up("cygnet")
        first = both.sun.log().count("parsed IKE_") + both.sun.log().count("generating IKE_")
        both.up("cygnet", "more")
        again = both.sun.log().count("CREATE_CHILD_SA re")
        assert first == 4
        # Each is logged once as it is parsed or generated, and the request once when it is sent.
        assert again >= 2
        [sa] = both.moon.sas()
        assert len(sa["child-sas"]) == 2
