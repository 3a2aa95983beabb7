"""Does every promise in docs/conformance.md have the test that it names?"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "conformance.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)))
ROWS = re.findall(r"^\| ([0-9][0-9.]*) \| (.+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)


@cache
def functions_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("name", NAMED)
def test_the_named_test_exists(name: str) -> None:
    """Who doubts a row can run its test."""
    path, _, function = name.partition("::")
    assert function.startswith("test_")
    assert function in functions_in(path)


def test_every_row_names_a_test() -> None:
    """No promise without proof."""
    assert len(ROWS) > 60
    assert [
        row for row in ROWS if not re.fullmatch(r"`tests/[^`]+`(, `tests/[^`]+`)*", row[3])
    ] == []
