"""`cygnet pki`: what it makes is good for us and for strongSwan, and what it says when it cannot."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cygnet.auth.certificate import parse_any
from cygnet.auth.credentials import Credentials
from cygnet.auth.errors import CredentialError
from cygnet.auth.identity import Identity
from cygnet.auth.issue import DAY, Issued, generate_key, issue, make_ca
from cygnet.cli.pki import pki_app

NAMES = ["moon.example.org", "192.0.2.1", "2001:db8::1", "moon@example.org"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pki(*arguments: str) -> Result:
    return CliRunner().invoke(pki_app, arguments)


def done(*arguments: str) -> str:
    result = pki(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = pki(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "key", [("ecdsa",), ("ecdsa", "--size", "384"), ("rsa", "--size", "2048"), ("ed25519",), ("ed448",)]
)
def test_a_first_deployment_takes_two_commands(here: Path, key: tuple[str, ...]) -> None:
    done("ca", "--dn", "C=CH, O=Example, CN=CA", "--type", *key)
    done("issue", *NAMES, "--type", *key)
    assert sorted(contents(here)) == ["ca.key", "ca.pem", "moon.example.org.key", "moon.example.org.pem"]
    store = Credentials()
    store.add_certificate((here / "ca.pem").read_bytes(), ca=True)
    moon = store.add_certificate((here / "moon.example.org.pem").read_bytes())
    store.add_private_key((here / "moon.example.org.key").read_bytes())
    for name in (*NAMES, "CN=moon.example.org"):
        identity = Identity.parse(name)
        assert store.own_key(identity=identity).certificate is moon
        assert store.trusted_key(identity, [moon.der], wall=time.time()).chain[1].is_ca
        assert done("verify", "moon.example.org.pem", "--ca", "ca.pem", "--id", name).startswith("trusted")


@pytest.mark.interop
@pytest.mark.parametrize("ca_key", ["ecdsa", "rsa", "ed25519"])
@pytest.mark.parametrize("key", ["ecdsa", "rsa", "ed25519", "ed448"])
def test_strongswan_accepts_and_reads_what_is_made(here: Path, ca_key: str, key: str) -> None:
    if shutil.which("pki") is None:
        pytest.skip("strongSwan's pki is not installed")
    done("ca", "--dn", "C=CH, O=Example, CN=CA", "--type", ca_key)
    done("issue", *NAMES, "--dn", "C=CH, O=Example, CN=moon", "--type", key, "-o", "m.pem", "-k", "m.key")

    def strongswan(*arguments: str) -> str:
        return subprocess.run(["pki", *arguments], capture_output=True, text=True, check=True).stdout

    assert "certificate trusted" in strongswan("--verify", "--in", "m.pem", "--cacert", "ca.pem")
    shown = strongswan("--print", "--in", "m.pem")
    assert f"altNames:  {', '.join(NAMES)}" in shown
    assert '"C=CH, O=Example, CN=moon"' in shown
    authority = strongswan("--print", "--in", "ca.pem")
    assert "CA CRLSign self-signed" in authority
    number = strongswan(
        "--keyid", "--in", "m.key", "--type", "priv", "--id", "spk", "--format", "hex"
    ).strip()
    assert done("show", "m.key").split()[-1] == number


def test_keys_are_for_their_owner_only_and_nothing_is_overwritten(here: Path) -> None:
    done("ca")
    done("issue", "moon.example.org")
    for key in here.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = contents(here)
    for arguments in (["ca"], ["issue", "moon.example.org"]):
        assert "--force" in refused(*arguments)
    (here / "moon.example.org.key").unlink()
    before.pop("moon.example.org.key")
    assert "--force" in refused("issue", "moon.example.org")
    (here / "dangling.pem").symlink_to(here / "nowhere")
    assert "--force" in refused("ca", "-o", "dangling.pem", "-k", "new.key")
    (here / "dangling.pem").unlink()
    assert contents(here) == before
    done("issue", "moon.example.org", "--force")
    assert contents(here)["moon.example.org.pem"] != before["moon.example.org.pem"]


def test_a_key_that_was_readable_to_others_is_not_when_it_is_overwritten(here: Path) -> None:
    (here / "ca.key").write_bytes(b"old")
    (here / "ca.key").chmod(0o644)
    done("ca", "--force")
    assert stat.S_IMODE((here / "ca.key").stat().st_mode) == 0o600


def test_a_certificate_ends_no_later_than_its_ca(here: Path) -> None:
    done("ca", "--days", "10")
    done("issue", "moon.example.org", "--days", "100")
    authority, moon = (parse_any((here / name).read_bytes()) for name in ("ca.pem", "moon.example.org.pem"))
    assert moon.not_after == authority.not_after


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["*.example.org"], "pattern"),
        (["@#0102"], "neither an address nor a name"),
        (["münchen.example.org"], "cannot stand in a certificate"),
        (["moon", "--ca", "missing.pem"], "missing.pem: No such file"),
        (["moon", "--ca", "ca.key"], "not a certificate"),
        (["moon", "--ca-key", "ca.pem"], "no unencrypted private key"),
        (["moon", "--ca-key", "other.key"], "not the one of the CA certificate"),
        (["moon", "--ca", "gateway.pem", "--ca-key", "gateway.key"], "no CA certificate"),
        (["moon", "--size", "1024", "--type", "rsa"], "not 1024"),
        (["moon", "--dn", "C=Switzerland"], "subject"),
        (["moon", "--dn", "CN"], "subject"),
        (["moon", "-o", "x", "-k", "x"], "a file each"),
        (["moon", "-o", ".", "-k", "y.key"], "exists"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence_and_leaves_nothing(
    here: Path, arguments: list[str], said: str
) -> None:
    done("ca")
    done("ca", "-o", "other.pem", "-k", "other.key")
    done("issue", "gateway.example.org", "-o", "gateway.pem", "-k", "gateway.key")
    before = contents(here)
    assert said in refused("issue", *arguments)
    assert contents(here) == before


def test_show_describes_certificates_and_keys_without_their_secret(here: Path) -> None:
    done("ca")
    done("issue", *NAMES, "-o", "m.pem", "-k", "m.key")
    (here / "chain.pem").write_bytes((here / "m.pem").read_bytes() + (here / "ca.pem").read_bytes())
    first, second, third = json.loads(done("show", "chain.pem", "m.key", "--json"))
    assert first["identities"] == [*NAMES, "CN=moon.example.org"]
    assert second["CA"].startswith("yes")
    assert set(third) == {"file", "private key", "key id"}
    assert third["key id"] == first["key id"]
    for data in (b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b""):
        (here / "bad").write_bytes(data)
        refused("show", "bad")
    refused("show", "/dev/zero")
    refused("show", ".")


def test_verify_gives_the_reason_that_a_gateway_would(here: Path) -> None:
    done("ca")
    done("ca", "-o", "other.pem", "-k", "other.key")
    done("issue", "moon.example.org", "-o", "m.pem", "-k", "m.key", "--days", "10")
    reasons = {
        "certificate-untrusted": ["--ca", "other.pem"],
        "certificate-expired": ["--ca", "ca.pem", "--at", "2100-01-01"],
        "certificate-not-yet-valid": ["--ca", "ca.pem", "--at", "2001-01-01T00:00:00"],
        "certificate-id-mismatch": ["--ca", "ca.pem", "--id", "sun.example.org"],
    }
    for reason, arguments in reasons.items():
        assert f"cygnet: {reason}: " in refused("verify", "m.pem", *arguments)
    assert "no CA certificate" in refused("verify", "m.pem", "--ca", "m.pem")
    assert done("verify", "m.pem", "--ca", "other.pem", "--ca", "ca.pem").startswith("trusted until")
    assert "signed by CN=Cygnet CA" in done("verify", "m.pem", "--ca", "ca.pem")


def test_a_ca_beneath_a_ca_issues_too() -> None:
    now = time.time()
    start, end = now - DAY, now + DAY
    root = make_ca("CN=Root", path_length=None, not_before=start, not_after=end)
    below = make_ca("CN=Below", issuer=root, not_before=start, not_after=end)
    moon = issue(below, [Identity.parse("moon.example.org")], not_before=start, not_after=end)
    store = Credentials()
    store.add_certificate(root.certificate, ca=True)
    sent = [parse_any(one.certificate).der for one in (moon, below)]
    assert len(store.trusted_key(Identity.parse("moon.example.org"), sent, wall=now).chain) == 3


def test_what_makes_no_sense_is_refused() -> None:
    now = time.time()
    root = make_ca("CN=Root", not_before=now, not_after=now + DAY)
    with pytest.raises(CredentialError, match="end before it begins"):
        make_ca("CN=Root", not_before=now, not_after=now)
    with pytest.raises(CredentialError, match="times"):
        make_ca("CN=Root", not_before=now, not_after=1e15)
    with pytest.raises(CredentialError, match="an identity or a subject"):
        issue(root, [], not_before=now, not_after=now + DAY)
    for name in ("bad name!!", "-moon", "moon..example", "x" * 64):
        with pytest.raises(CredentialError, match="no name that a host can have"):
            issue(root, [Identity.parse(name)], not_before=now, not_after=now + DAY)
    with pytest.raises(CredentialError, match="no key type"):
        generate_key("dsa")
    assert parse_any(root.certificate).is_ca
    assert "PRIVATE" not in repr(root)
    long_name = Identity.parse("x" * 63 + ".example.org")
    nameless = parse_any(issue(root, [long_name], not_before=now, not_after=now + DAY).certificate)
    assert nameless.subject == b"\x30\x00"
    assert nameless.vouches_for(long_name)
    assert isinstance(root, Issued)
