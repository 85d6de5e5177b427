"""Ten misconfigurations, each side starting: a stable reason, and both offers where the wire reveals them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.interop.sides import Setup, sides
from tests.interop.test_certificates import Authority

BASE = Setup()

# name: (setup, reason when Cygnet starts, reason on Cygnet when strongSwan starts, words of both offers)
CASES: dict[str, tuple[Setup, str, str, tuple[str, ...]]] = {
    "ike-group": (
        BASE.but(moon_ike="aes256gcm16-prfsha384-x25519", sun_ike="aes256gcm16-prfsha384-modp3072"),
        "ike-proposal-mismatch",
        "ike-proposal-mismatch",
        ("CURVE_25519",),
    ),
    "esp-cipher": (
        BASE.but(moon_esp="aes256gcm16", sun_esp="aes128-sha256"),
        "child-proposal-mismatch",
        "child-proposal-mismatch",
        ("AES_GCM_16",),
    ),
    "psk": (BASE.but(moon_secret="x" * 30), "peer-refused-authentication", "psk-mismatch", ()),
    "own-id": (
        BASE.but(moon_id="mars.example", sun_expects="moon.example"),
        "peer-refused-authentication",
        "local-id-refused",
        ("mars.example",),
    ),
    "peer-id": (
        BASE.but(moon_expects="venus.example"),
        "peer-refused-authentication",
        "peer-id-mismatch",
        ("venus.example",),
    ),
    "selectors": (
        BASE.but(moon_ts="10.77.0.0/16", moon_ts_at_sun="10.1.0.0/16"),
        "selector-mismatch",
        "selector-mismatch",
        ("10.77.0.0/16",),
    ),
    # strongSwan says only NO_PROPOSAL_CHOSEN to a version that it has no connection for.
    "version": (BASE.but(sun_version=1), "ike-proposal-mismatch", "version-mismatch", ()),
}  # fmt: skip


@pytest.mark.parametrize("by", ["cygnet", "strongswan"])
@pytest.mark.parametrize("case", list(CASES))
def test_a_misconfiguration_has_a_reason_of_its_own(tmp_path: Path, case: str, by: str) -> None:
    setup, when_we_start, when_they_start, words = CASES[case]
    with sides(tmp_path, setup) as both:
        if by == "cygnet":
            done = both.moon.cygnet("up", "net")
            assert done.returncode != 0
            said = done.stdout + done.stderr
            assert when_we_start in said, said
        else:
            both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
            said = both.moon.cygnet("status").stdout
            assert when_they_start in said, said + both.moon.log()[-2000:]
        for word in words:
            assert word in said


@pytest.mark.parametrize("by", ["cygnet", "strongswan"])
@pytest.mark.parametrize("case", ["wrong-ca", "expired"])
def test_a_bad_certificate_of_the_peer_has_a_reason_of_its_own(tmp_path: Path, case: str, by: str) -> None:
    ca = Authority(tmp_path / "ca")
    other = Authority(tmp_path / "other", name="other")
    ca.equip(tmp_path / "moon", "moon", "moon.example")
    if case == "wrong-ca":
        other.equip(tmp_path / "sun", "sun", "sun.example", trusted=ca.certificate)
        reason = "certificate-untrusted"
    else:
        ca.equip(
            tmp_path / "sun", "sun", "sun.example",
            "--not-before", "01.01.20 00:00:00", "--not-after", "01.01.21 00:00:00",
        )  # fmt: skip
        reason = "certificate-expired"
    with sides(tmp_path, Setup(auth="pubkey", sun_connection="send_cert = always")) as both:
        if by == "cygnet":
            done = both.moon.cygnet("up", "net")
            assert done.returncode != 0
            said = done.stdout + done.stderr
        else:
            both.sun.swanctl("--initiate", "--child", "net", "--timeout", "10")
            said = both.moon.cygnet("status").stdout
        assert reason in said, said + both.moon.log()[-2000:]


def test_an_unreachable_peer_has_a_reason_of_its_own(tmp_path: Path) -> None:
    with sides(tmp_path, Setup()) as both:
        both.sun.stop(kill=True)
        done = both.moon.cygnet("up", "net", "--timeout", "170", timeout=200)
        assert done.returncode != 0
        assert "peer-unreachable" in done.stdout + done.stderr


def test_status_says_it_for_programs_too(tmp_path: Path) -> None:
    with sides(tmp_path, CASES["ike-group"][0]) as both:
        both.moon.cygnet("up", "net")
        status = json.loads(both.moon.cygnet("status", "--json").stdout)
        assert "ike-proposal-mismatch" in json.dumps(status)
