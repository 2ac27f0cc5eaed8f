"""Limits that keep the code easy to read: lines per function, class and file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pipeline

PACKAGE = Path(pipeline.__file__).parent
MOST_IN_A_FUNCTION, MOST_IN_A_CLASS, MOST_IN_A_FILE, MOST_IN_A_TEST_FILE = 60, 250, 400, 600


def long_parts(path: Path) -> Iterator[str]:
    """Name the functions and classes that are too long."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            most = MOST_IN_A_CLASS if isinstance(node, ast.ClassDef) else MOST_IN_A_FUNCTION
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > most:
                yield f"{path.name}: {node.name} has {lines} lines, at most {most}"


def long_files(folder: Path, most: int) -> list[str]:
    lines = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(folder.rglob("*.py"))
    }
    assert lines
    return [f"{path.name} has {count} lines, at most {most}" for path, count in lines.items() if count > most]


def test_functions_and_classes_are_short() -> None:
    assert [part for path in sorted(PACKAGE.rglob("*.py")) for part in long_parts(path)] == []


def test_files_are_short() -> None:
    assert long_files(PACKAGE, MOST_IN_A_FILE) == []


def test_test_files_are_short() -> None:
    assert long_files(Path(__file__).parent, MOST_IN_A_TEST_FILE) == []


def test_a_long_function_is_found(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("def long():\n" + "    pass\n" * MOST_IN_A_FUNCTION)
    assert list(long_parts(path)) == ["long.py: long has 61 lines, at most 60"]
