"""Lines of keys in TOML: every spelling of a key path leads to its line."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cygnet.config.locate import toml_lines
from cygnet.config.problems import KeyPath

TEXT = '''\
# a comment with [brackets] and "quotes
title = "x # no comment"

[a]
b = 1
"c.d" = [1, [2,
  3], { e = 4,  f = 5 },
  { e = 6 }]   # [not.a.table]
g.h.'i j' = """
several
lines \\"""
"""
k = true

[[list]]
n = 1
[list.sub]
m = 2
[[list]]
n = 3

[ a . "q[]" ]
r = \'\'\'
[x]
\'\'\'
s = 1979-05-27T07:32:00Z
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("a",), 4),
        (("a", "b"), 5),
        (("a", "c.d"), 6),
        (("a", "c.d", 1, 1), 7),
        (("a", "c.d", 2, "e"), 7),
        (("a", "c.d", 3, "e"), 8),
        (("a", "g", "h", "i j"), 9),
        (("a", "k"), 13),
        (("list", 0), 15),
        (("list", 0, "n"), 16),
        (("list", 0, "sub", "m"), 18),
        (("list", 1, "n"), 20),
        (("a", "q[]"), 22),
        (("a", "q[]", "s"), 26),
    ],
)
def test_a_key_path_has_its_line(path: KeyPath, line: int) -> None:
    tomllib.loads(TEXT)
    assert toml_lines(TEXT)[path] == line


def test_a_broken_file_of_any_line_ends_is_counted_the_same() -> None:
    text = "a = 1\r\n[b]\r\nc = 2\r\n"
    assert toml_lines(text)[("b", "c")] == 3


KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6)
VALUES = st.recursive(
    st.integers()
    | st.booleans()
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def emit(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value % (1 << 62))
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(emit, value)) + "]"
    return "{ " + ", ".join(f"{quote(key)} = {emit(inner)}" for key, inner in value.items()) + " }"


def quote(text: str) -> str:
    shown = "".join(
        f"\\U{ord(one):08x}" if ord(one) < 0x20 or ord(one) == 0x7F or one in '"\\' else one for one in text
    )
    return f'"{shown}"'


def paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*path, key))
    return found


@settings(max_examples=150)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_key_of_any_document_is_found(data: dict[str, Any]) -> None:
    text = "\n".join(f"{quote(key)} = {emit(value)}" for key, value in data.items())
    lines = toml_lines(text)
    wanted = paths(tomllib.loads(text))
    assert set(wanted) <= set(lines)
    tops = [lines[(key,)] for key in data]
    assert tops == sorted(tops)
