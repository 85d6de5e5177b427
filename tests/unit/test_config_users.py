"""Users and their passwords in a configuration: as text, as hashes, in a file of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cygnet.auth import passwords
from cygnet.config.load import load
from cygnet.config.problems import ConfigurationError
from cygnet.config.requests import shared_message, shared_secret
from cygnet.crypto.entropy import SeededEntropy

HASH = passwords.hash_password(b"open sesame", SeededEntropy(1))
NT = "$nt$" + "0123456789abcdef" * 2


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_password_is_text_or_hashes(tmp_path: Path) -> None:
    file = write(
        tmp_path / "cygnet.conf",
        f"""secrets {{
          eap-carol {{ id = carol@example.org
            secret = "as it is" }}
          eap-dave {{ id = dave
            hash = {HASH}, {NT}
            groups = staff, vpn }}
        }}""",
    )
    loaded = load(file)
    store = loaded.credentials()
    carol, dave = store.user(b"carol@example.org"), store.user(b"dave")
    assert carol is not None
    assert carol.text == b"as it is"
    assert dave is not None
    assert (dave.text, dave.scrypt, dave.nt.hex()) == (b"", HASH, NT[4:])
    assert dave.groups == {"staff", "vpn"}
    for secret in loaded.secrets:
        assert shared_secret(shared_message(secret)) == secret


def test_users_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "users", f"# staff\ncarol {NT} {HASH} groups=staff,vpn\n\ndave@example.org {HASH}\n")
    loaded = load(write(tmp_path / "cygnet.toml", '[secrets]\nusers = ["users"]\n'))
    carol = loaded.credentials().user(b"CAROL")
    assert carol is not None
    assert carol.groups == {"staff", "vpn"}
    assert carol.scrypt == HASH
    dave = loaded.credentials().user(b"dave@example.org")
    assert dave is not None
    assert not dave.nt


@pytest.mark.parametrize("line", ["carol", "carol secret", "carol $nt$12", f"* {HASH} x", "carol groups=a"])
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    write(tmp_path / "users", f"dave {NT}\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 2"):
        load(write(tmp_path / "cygnet.toml", '[secrets]\nusers = ["users"]\n'))


def test_a_file_of_users_that_everybody_reads_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "users", f"carol {NT}\n", 0o644)
    with pytest.raises(ConfigurationError, match="everybody can read it"):
        load(write(tmp_path / "cygnet.toml", '[secrets]\nusers = ["users"]\n'))


def test_a_password_without_either_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither the password nor"):
        load(write(tmp_path / "cygnet.conf", "secrets { eap-carol { id = carol } }"))
