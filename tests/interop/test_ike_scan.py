"""What ike-scan, which people look at IKEv1 responders with, sees of Cygnet; psk-crack checks HASH_R."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cygnet.lab.gateway import Gateway
from cygnet.lab.namespaces import Namespace
from cygnet.lab.topology import MOON_NET, SUN, SUN_NET, two_gateways

SECRET = "a-secret-of-more-than-twenty-octets"
OPTION = "i_dont_care_about_security_and_use_aggressive_mode_psk"
CONFIGURATION = """
[connections.anybody]
version = 1
aggressive = {aggressive}
local_addrs = "{sun}"
remote_addrs = "%any"
proposals = ["aes256-sha256-modp2048", "aes128-sha1-modp2048", "3des-md5-modp1024"]
local = {{ auth = "psk", id = "sun.example" }}
remote = {{ auth = "psk" }}
[connections.anybody.children.net]
local_ts = "{sun_net}"
remote_ts = "{moon_net}"
[secrets.ike-all]
secret = "{secret}"
[options]
{option} = "{answers}"
"""

AES256_SHA256_G14 = "(1=7,14=256,2=4,3=1,4=14)"
AES128_SHA1_G14 = "(1=7,14=128,2=2,3=1,4=14)"
TRIPLE_DES_MD5_G2 = "(1=5,2=1,3=1,4=2)"
DES_SHA1_G1 = "(1=1,2=2,3=1,4=1)"
AES256_SHA1_G14 = "(1=7,14=256,2=2,3=1,4=14)"
RSA_ENCRYPTION = "(1=7,14=256,2=4,3=4,4=14)"


@pytest.fixture(autouse=True)
def _tool() -> None:
    if shutil.which("ike-scan") is None:
        pytest.skip("ike-scan is not installed: make packages")


@contextmanager
def scanned(directory: Path, *, aggressive: bool = False, answers: str = "no") -> Iterator[Namespace]:
    """Cygnet as sun; yields the namespace to look at it from."""
    with two_gateways() as net:
        text = CONFIGURATION.format(
            aggressive=str(aggressive).lower(),
            sun=SUN,
            sun_net=SUN_NET,
            moon_net=MOON_NET,
            secret=SECRET,
            option=OPTION,
            answers=answers,
        )
        gateway = Gateway(net.sun, directory / "sun", text)
        try:
            yield net.moon
        finally:
            gateway.stop()


def scan(where: Namespace, *arguments: str) -> str:
    done: subprocess.CompletedProcess[str] = where.run(
        "ike-scan", "--multiline", "--retry=2", "--timeout=5000", *arguments, SUN, timeout=60
    )
    return done.stdout


def trans(*transforms: str) -> list[str]:
    return [f"--trans={transform}" for transform in transforms]


def test_main_mode_answers_the_first_transform_that_is_configured_and_refuses_others(tmp_path: Path) -> None:
    with scanned(tmp_path) as moon:
        for offered, chosen in (
            ([AES256_SHA256_G14], "Enc=AES KeyLength=256 Hash=SHA2-256 Auth=PSK Group=14:modp2048"),
            (
                [DES_SHA1_G1, TRIPLE_DES_MD5_G2, AES256_SHA256_G14],
                "Enc=3DES Hash=MD5 Auth=PSK Group=2:modp1024",
            ),
            (
                [AES256_SHA1_G14, AES128_SHA1_G14],
                "Enc=AES KeyLength=128 Hash=SHA1 Auth=PSK Group=14:modp2048",
            ),
        ):
            said = scan(moon, *trans(*offered))
            assert "Main Mode Handshake returned" in said, said
            assert set(chosen.split()) <= suite_in(said), said
            assert "1 returned handshake; 0 returned notify" in said
        for foreign in (DES_SHA1_G1, AES256_SHA1_G14, RSA_ENCRYPTION):
            said = scan(moon, *trans(foreign))
            assert "NO-PROPOSAL-CHOSEN" in said, said
            assert "0 returned handshake; 1 returned notify" in said


def suite_in(said: str) -> set[str]:
    """The attributes of the one transform that came back, as ike-scan prints them."""
    (line,) = [line.strip() for line in said.splitlines() if "SA=(" in line]
    return set(line.removeprefix("SA=(").rstrip(")").split())


def aggressive_scan(where: Namespace, *more: str) -> str:
    return scan(where, "--aggressive", "--id=moon.example", "--idtype=2", "--dhgroup=14", *more)


def test_t12_aggressive_mode_with_a_key_is_silent_unless_it_was_asked_for(tmp_path: Path) -> None:
    with scanned(tmp_path, aggressive=True) as moon:
        said = aggressive_scan(moon, *trans(AES128_SHA1_G14))
        assert "0 returned handshake" in said, said
        assert "Hash(" not in said


def test_aggressive_mode_that_was_asked_for_answers_with_the_hash_of_its_key(tmp_path: Path) -> None:
    parameters, dictionary = tmp_path / "psk", tmp_path / "words"
    with scanned(tmp_path, aggressive=True, answers="yes") as moon:
        said = aggressive_scan(moon, *trans(AES128_SHA1_G14), f"--pskcrack={parameters}")
        assert "Aggressive Mode Handshake returned" in said, said
        assert "Hash(20 bytes)" in said
        refused = aggressive_scan(moon, *trans(AES256_SHA1_G14))
        assert "0 returned handshake" in refused, refused
        assert "Hash(" not in refused
    dictionary.write_text(f"guess\n{SECRET}\nanother\n")
    cracked = subprocess.run(
        ["psk-crack", f"--dictionary={dictionary}", str(parameters)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f'key "{SECRET}" matches SHA1 hash' in cracked.stdout
