"""docs/faults.md: each fault has tests that are there, and these look for the words that the table quotes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")][
    1:
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def source(file: str, name: str) -> str:
    """A test with its decorators; empty if it is not there."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return ""


def test_the_table_is_read():
    assert len(ROWS) > 10
    assert all(len(row) == 3 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_fault_has_its_tests(row):
    fault, seen, tests = row
    named = NAMED.findall(tests)
    assert named, fault
    sources = {f"{file}::{name}": source(file, name) for file, name in named}
    assert [name for name, text in sources.items() if not text] == []
    quoted = [words for words in re.findall(r"`([^`]+)`", seen) if not words.startswith("ldm")]
    assert [words for words in quoted if words not in "\n".join(sources.values())] == []
