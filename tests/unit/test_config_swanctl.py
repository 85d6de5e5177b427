"""swanctl.conf: its own syntax, read as strongSwan reads it, into the same model as TOML."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cygnet.config.problems import ConfigurationError
from cygnet.config.swanctl_syntax import read_swanctl
from tests.unit.config_files import PSK, loaded, problems, write

CONF = """
# moon's side
connections {
  branch {
    remote_addrs = 192.0.2.2   # the peer
    local { auth = psk
      id = moon.example }
    remote {
      auth = psk
      id = sun.example
    }
    children
    {
      net { local_ts = 10.1.0.0/16
        remote_ts = 10.2.0.0/16
      }
    }
  }
}
secrets {
  ike-branch {
    id = sun.example
    secret = "a secret that nobody guesses"
  }
}
"""


def data(text: str) -> dict[str, Any]:
    return read_swanctl(Path("/nowhere/swanctl.conf"), text).data


def test_both_spellings_mean_the_same(tmp_path: Path) -> None:
    toml, conf = loaded(tmp_path, PSK), loaded(tmp_path, CONF, "swanctl.conf")
    assert conf.connections == toml.connections
    assert conf.secrets == toml.secrets


def test_access_lists_have_a_spelling_there_too(tmp_path: Path) -> None:
    text = CONF.replace("local_ts = 10.1.0.0/16", "acl = office").replace("remote_ts = 10.2.0.0/16", "")
    rules = "20 = permit ip 10.1.0.0/16 10.2.0.0 0.0.255.255\n 10 = deny tcp any any eq 22"
    text += f"acls {{\n office {{\n {rules}\n }}\n}}\n"
    child = loaded(tmp_path, text, "swanctl.conf").connections[0].children[0]
    assert [flow.rule for flow in child.flows] == ["office/20"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("a = b", "b"),
        ("a = b c   d  # comment", "b c d"),
        ('a = "b  c # d"', "b  c # d"),
        ('a = "b" c "d e"', "b c d e"),
        ('a = "x\\n\\t\\"\\\\y"', 'x\n\t"\\y'),
        ('a = "one\\\ntwo"', "onetwo"),
        ("a=b", "b"),
        ("a =\tC=CH, O=x, CN=y", "C=CH, O=x, CN=y"),
        ("a = b }", "b"),
        ("a = b\r\n", "b"),
        ("a = 10.1.0.0/16[tcp/80-90]", "10.1.0.0/16[tcp/80-90]"),
    ],
)
def test_a_value_runs_to_the_end_of_the_line(written: str, value: str) -> None:
    closing = "" if written.endswith("}") else "\n}"
    assert data(f"s {{ {written}{closing}") == {"s": {"a": value}}


def test_an_empty_value_lets_the_default_apply() -> None:
    assert data("s { a =\n b = 1\n}") == {"s": {"b": "1"}}


def test_a_later_section_extends_the_first_and_replaces_its_values() -> None:
    assert data("s { a = 1\n b = 2\n }\n t { }\n s { b = 3\n c { d = 4 } }") == {
        "s": {"a": "1", "b": "3", "c": {"d": "4"}},
        "t": {},
    }


def test_a_section_inherits_from_those_that_it_names_its_own_first() -> None:
    text = """
    defaults { a = 1
      b = 2
      child { x = 1
        y = 2 } }
    more { c = 3
      b = 9 }
    connections {
      one : defaults, more { b = 5
        child { y = 7 } }
      two : connections.one { a =
      }
    }
    """
    assert data(text) == {
        "connections": {
            "one": {"b": "5", "a": "1", "c": "3", "child": {"y": "7", "x": "1"}},
            "two": {"b": "5", "c": "3", "child": {"y": "7", "x": "1"}},
        }
    }


def test_inherited_settings_keep_their_lines(tmp_path: Path) -> None:
    text = "base {\n version = 9\n}\nconnections {\n one : base {\n }\n}\n"
    (problem,) = problems(tmp_path, text, "swanctl.conf")
    assert (problem.position.line, problem.key) == (2, "connections.one.version")


def test_included_files_stand_where_the_include_stands(tmp_path: Path) -> None:
    write(tmp_path, "version = 2\nlocal_addrs = 192.0.2.1\n", "defaults.inc")
    write(tmp_path, "two {\n include ../defaults.inc\n version = 8\n}\n", "conf.d/two.conf")
    path = write(tmp_path, "connections {\n include conf.d/*.conf\n include none/*.conf\n}\n", "swanctl.conf")
    tree = read_swanctl(path)
    assert tree.data == {"connections": {"two": {"version": "8", "local_addrs": "192.0.2.1"}}}
    assert tree.where(("connections", "two", "version")).line == 3
    assert Path(tree.where(("connections", "two", "local_addrs")).file).name == "defaults.inc"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("s {\n a = 1\n", 1, "not closed"),
        ("s {\n}\n}\n", 3, "closes nothing"),
        ("\n s a = 1\n", 2, "neither = nor {"),
        ("\n= 1", 2, "a name is expected"),
        ("s {\n a = \"x\n y\n", 2, "quoted string is not closed"),
        ("s {\n a = 1\n b = 2\n a = 3\n}", 4, "twice, first in line 2"),
        ("s {\n c { }\n c { }\n}", 3, "twice, first in line 2"),
        ("a.b = 1", 1, "holds a dot"),
        ("s : t {\n}", 1, "no such section"),
        ("s : s {\n}", 1, "refers to itself"),
        ("a : b { }\nb : a { }", 1, "refers to itself"),
        ("include nowhere.conf", 1, "there is no file"),
        ("include\n", 1, "names no file"),
        ("s { a = 1\n }\n s { a { } }", 1, "both a value and a section"),
        ("s : {\n}", 1, "section's name is expected"),
    ],
)  # fmt: skip
def test_a_syntax_error_has_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        data(text)
    problem = next(problem for problem in caught.value.problems if words in problem.text)
    assert problem.position.line == line


def test_nesting_is_bounded() -> None:
    with pytest.raises(ConfigurationError, match="deeper"):
        data("s {" * 1000)
    with pytest.raises(ConfigurationError):
        data("a { b : a { } }")


def test_a_file_that_includes_itself_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "include swanctl.conf\n", "swanctl.conf")
    with pytest.raises(ConfigurationError, match="deeper"):
        read_swanctl(path)


def test_an_unknown_section_is_an_error_unless_something_inherits_from_it(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "conections {\n}\n", "swanctl.conf")
    assert "did you mean connections" in problem.text
    assert not problems(
        tmp_path, "tmpl {\n encap = no\n}\n" + CONF.replace("branch {", "branch : tmpl {", 1), "swanctl.conf"
    )


def test_strongswans_words_at_their_defaults_are_taken(tmp_path: Path) -> None:
    text = CONF.replace(
        "    children\n",
        """    version = 0
    vips =
    aggressive = no
    pull = yes
    dscp = 000000
    mobike = yes
    ppk_required = no
    reauth_time = 0s
    if_id_in = 0
    fragmentation = yes
    children
""",
    ).replace(
        "net { local_ts",
        "net { reqid = 0\n ipcomp = no\n mark_in = 0/0x00000000\n hw_offload = no\n local_ts",
    )
    assert (
        loaded(tmp_path, text, "swanctl.conf").connections
        == loaded(
            tmp_path, CONF.replace("    children\n", "    version = 0\n    children\n"), "swanctl.conf"
        ).connections
    )


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
NAMES = st.from_regex(r"[A-Za-z0-9_/@+-]{1,8}", fullmatch=True).filter(lambda name: name != "include")
TREES = st.recursive(
    WORDS.filter(bool),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def emit(tree: dict[str, Any]) -> str:
    out = []
    for name, value in tree.items():
        if isinstance(value, dict):
            out.append(f"{name} {{\n{emit(value)}\n}}")
        else:
            quoted = value.replace("\\", "\\\\").replace('"', '\\"')
            out.append(f'{name} = "{quoted}"')
    return "\n".join(out)


@settings(max_examples=150)
@given(st.dictionaries(NAMES, TREES, max_size=4))
def test_what_is_written_quoted_is_read_back(tree: dict[str, Any]) -> None:
    assert data(emit(tree)) == tree


@settings(max_examples=300)
@given(st.text(st.sampled_from('ab{}=:,."#\\ \n\tinclude'), max_size=60))
def test_any_text_is_a_tree_or_a_configuration_error(text: str) -> None:
    with suppress(ConfigurationError):
        data(text.replace("include", "inc"))
