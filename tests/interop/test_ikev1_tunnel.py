"""IKEv1 tunnels between Cygnet and strongSwan, each as initiator: suites, PFS, modes, families, NAT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.sides import Setup, sides

BY = pytest.mark.parametrize("by", ["cygnet", "strongswan"])
V1 = Setup(ike="aes128-sha256-x25519", esp="aes128-sha256", moon_version=1, sun_version=1)


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
