"""Every row points at tests that exist, and every test here at a row."""

import ast
import re
from pathlib import Path

import pytest

from tests.security.rows import PROVEN_BY

ROOT = Path(__file__).parent.parent.parent


def names_in(path: Path) -> set[str]:
    """Names of the tests of a file, those of classes as `Class::test`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = (one for one in inner if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
        found |= {prefix + one.name for one in functions if one.name.startswith("test_")}
    return found


@pytest.mark.parametrize("node_id", [node_id for node_ids in PROVEN_BY.values() for node_id in node_ids])
def test_every_test_that_a_row_names_exists(node_id: str) -> None:
    path, _, name = node_id.partition("::")
    assert name in names_in(ROOT / path)


def test_every_row_is_one() -> None:
    assert all(re.fullmatch("[A-H][1-9][0-9]?", row) for row in PROVEN_BY)


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("test_[a-h]_*.py")), ids=lambda path: path.name)
def test_every_test_here_begins_with_its_row(path: Path) -> None:
    letter = path.name.removeprefix("test_")[0]
    names = names_in(path)
    assert names
    assert all(re.match(rf"test_{letter}[1-9][0-9]?_", name) for name in names)
