"""docs/security.md: every case of the security bar has its row, every test that is named there exists."""

from __future__ import annotations

import re
from pathlib import Path as FilePath

HERE = FilePath(__file__).parents[1]
PAGE = (HERE.parent / "docs" / "security.md").read_text()
ROW = re.compile(r"^\| ([VTA]\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
NAME = re.compile(r"`(test_\w+)`")


def cases() -> list[str]:
    """Those of the study that the page is made from: V and T of attacks, A of small implementations."""
    real = [*range(1, 42), *range(50, 64), *range(70, 81)]
    return [
        *[f"V{n}" for n in real],
        *[f"T{n}" for n in range(1, 49)],
        *[f"A{n}" for n in range(1, 15)],
    ]


def existing() -> set[str]:
    return {
        name
        for path in HERE.rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }


def test_every_case_has_one_row_in_order() -> None:
    assert [case for case, _, _ in ROW.findall(PAGE)] == cases()


def test_every_row_names_a_test_that_exists_or_says_why_there_is_none() -> None:
    known = existing()
    for case, what, shown in ROW.findall(PAGE):
        names = NAME.findall(shown)
        assert what
        assert names or shown.startswith("not built: "), case
        assert not set(names) - known, case


def test_every_test_that_is_named_for_a_case_stands_in_its_row() -> None:
    rows = {case: shown for case, _, shown in ROW.findall(PAGE)}
    for name in sorted(existing()):
        numbers = re.match(r"test_((?:[vt]\d+_)+)", name)
        if numbers is None:
            continue
        named = [part.upper() for part in numbers.group(1).strip("_").split("_")]
        assert any(name in rows.get(case, "") for case in named), name
