"""docs/pitfalls.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_test_that_the_page_names_is_there():
    page = (ROOT / "docs" / "pitfalls.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 40
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
    assert {f"1.{n}" for n in range(1, 21)} == set(re.findall(r"^\| (1\.\d+) \|", page, re.M))
