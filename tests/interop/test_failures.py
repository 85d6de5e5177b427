"""Ten misconfigurations, each side starting: a stable reason, and both offers where the wire reveals them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.interop.sides import Setup, sides
from tests.interop.test_certificates import Authority

BASE = Setup()

# name: (setup, reason when Cygnet starts, reason on Cygnet when strongSwan starts, a word of Cygnet's offer,
# one of strongSwan's, which the wire reveals when strongSwan starts)
CASES: dict[str, tuple[Setup, str, str, str, str]] = {
    "ike-group": (
        BASE.but(moon_ike="aes256gcm16-prfsha384-x25519", sun_ike="aes256gcm16-prfsha384-modp3072"),
        "ike-proposal-mismatch",
        "ike-proposal-mismatch",
        "CURVE_25519",
        "MODP_3072",
    ),
    "esp-cipher": (
        BASE.but(moon_esp="aes256gcm16", sun_esp="aes128-sha256"),
        "child-proposal-mismatch",
        "child-proposal-mismatch",
        "AES_GCM_16",
        "AES_CBC",
    ),
    "psk": (BASE.but(moon_secret="x" * 30), "peer-refused-authentication", "psk-mismatch", "", ""),
    "own-id": (
        BASE.but(moon_id="mars.example", sun_expects="moon.example"),
        "peer-refused-authentication",
        "local-id-refused",
        "mars.example",
        "moon.example",
    ),
    "peer-id": (
        BASE.but(moon_expects="venus.example"),
        "peer-refused-authentication",
        "peer-id-mismatch",
        "venus.example",
        "sun.example",
    ),
    "selectors": (
        BASE.but(moon_ts="10.77.0.0/16", moon_ts_at_sun="10.1.0.0/16"),
        "selector-mismatch",
        "selector-mismatch",
        "10.77.0.0/16",
        "10.1.0.0/16",
    ),
    # strongSwan says only NO_PROPOSAL_CHOSEN to a version that it has no connection for.
    "version": (BASE.but(sun_version=1), "ike-proposal-mismatch", "version-mismatch", "", ""),
}  # fmt: skip


TABLES = ("ike-group", "esp-cipher", "selectors")
"""Where two offers stand side by side."""


def columns(said: str) -> tuple[str, str]:
    """This gateway's column and the peer's."""
    lines = said.splitlines()
    head = next(number for number, line in enumerate(lines) if "this gateway" in line)
    edge = lines[head].index("the peer")
    table = [line for line in lines[head:] if "first difference" not in line]
    return "\n".join(line[:edge] for line in table), "\n".join(line[edge:] for line in table)


@pytest.mark.parametrize("by", ["cygnet", "strongswan"])
@pytest.mark.parametrize("case", list(CASES))
def test_a_misconfiguration_has_a_reason_of_its_own(tmp_path: Path, case: str, by: str) -> None:
    setup, when_we_start, when_they_start, ours, theirs = CASES[case]
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
        assert ours in said
        if by == "strongswan":
            assert theirs in said
        if case in TABLES:
            left, right = columns(said)
            assert ours in left
            assert theirs not in left
            assert theirs in right if by == "strongswan" else "(not revealed)" in right


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
