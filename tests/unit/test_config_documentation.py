"""The documentation says what the code does: reference, schema and examples."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cygnet.cli import terminal
from cygnet.cli.main import app
from cygnet.config.load import load
from cygnet.config.schema import BEGIN, json_schema, with_reference
from tests.unit.config_files import credentials, loaded

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_reference_is_made_from_the_model() -> None:
    text = (DOCS / "configuration.md").read_text()
    assert BEGIN in text
    assert with_reference(text) == text, (
        "python -m cygnet.config.schema docs/configuration.md docs/cygnet.schema.json"
    )


def test_the_reference_says_only_what_people_write() -> None:
    for page in DOCS.glob("*.md"):
        assert "PydanticUndefined" not in page.read_text(), page


def test_actions_that_the_pages_name_are_those_of_the_model() -> None:
    """`default_action` is spelt as the configuration takes it, wherever it is told of."""
    for page in DOCS.glob("*.md"):
        for words in re.findall(r"default_action`: `(\w+)` or `(\w+)`", page.read_text()):
            assert set(words) == {"bypass", "discard"}, page


def test_the_schema_is_made_from_the_model() -> None:
    assert json.loads((DOCS / "cygnet.schema.json").read_text()) == json_schema()


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_file())
)
def test_an_example_is_right_and_without_a_warning(tmp_path: Path, name: str) -> None:
    if name.endswith((".toml", ".conf")):
        credentials(tmp_path, "hub.example.org")
        (tmp_path / "x509/gw.pem").rename(tmp_path / "x509/hub.pem")
        (tmp_path / "private/gw.key").rename(tmp_path / "private/hub.key")
        shutil.copy(ROOT / "examples" / name, tmp_path / name)
        (tmp_path / name).chmod(0o600)
        loaded = load(tmp_path / name)
        assert loaded.connections
        assert not loaded.warnings


def test_every_exit_status_is_documented() -> None:
    text = (DOCS / "commands.md").read_text()
    for status in (terminal.DONE, terminal.FAILED, terminal.USAGE, terminal.UNREACHABLE, terminal.TOO_LATE,
                   terminal.INTERRUPTED):  # fmt: skip
        assert f"\n| {status} | " in text
        assert str(status) in terminal.EXIT_CODES


def test_the_page_for_phones_and_laptops_can_be_followed_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands, its configuration and its user, in order; what needs a daemon is left out."""
    page = (DOCS / "remote-access.md").read_text()
    page = (
        page[page.index("## Phones and laptops") :].replace("/etc/cygnet", str(tmp_path)).replace("\\\n", " ")
    )
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cygnet.toml").write_text(next(text for kind, text in blocks if kind == "toml"))
    (tmp_path / "cygnet.toml").chmod(0o600)
    commands = [line for kind, text in blocks if not kind for line in text.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        if program == "mkdir":
            subprocess.run([program, *words], check=True)
        elif words != ["reload"]:
            assert program == "cygnet"
            words = [*words, str(tmp_path / "cygnet.toml")] if words == ["check"] else words
            done = CliRunner().invoke(app, words, input="open sesame\n")
            assert done.exit_code == 0, f"{command}\n{done.output}"
    found = load(tmp_path / "cygnet.toml")
    assert not found.warnings
    (user,) = found.secrets
    assert [str(owner) for owner in user.owners] == ["carol"]
    assert {path.suffix for path in tmp_path.glob("carol.*")} == {".ps1", ".mobileconfig", ".sswan"}


def test_the_recipes_for_ikev1_are_configurations(tmp_path: Path) -> None:
    text = (DOCS / "ikev1.md").read_text()
    recipes = [block for block in re.findall(r"```toml\n(.*?)```", text, re.S) if "[connections." in block]
    assert len(recipes) == 3
    for recipe in recipes:
        (connection,) = loaded(tmp_path, recipe).connections
        assert connection.version == 1
