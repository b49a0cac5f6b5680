"""The house keeps its shape: every room says what it is for, stays small, and exports what it says."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest
import support

PACKAGE = support.REPOSITORY / "mnemo_coord"
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMY = {"registry.py": 410, "queue.py": 380, "coordinator.py": 370, "files.py": 370}
"""Modules that are longer than the rest, with how long they may be."""


def name_of(path: Path) -> str:
    dotted = ".".join(path.relative_to(support.REPOSITORY).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_says_what_it_is_for_and_stays_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    documentation = ast.get_docstring(tree) or ""
    assert documentation.splitlines(), "no docstring"
    assert documentation.split("\n\n")[0].rstrip().endswith((".", ":")), "the first paragraph is no sentence"
    assert len(text.splitlines()) <= ROOMY.get(path.name, 360)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("path", [path for path in MODULES if "cli" not in path.parts], ids=name_of)
def test_what_a_room_exports_is_there(path: Path) -> None:
    module = import_module(name_of(path))
    for name in getattr(module, "__all__", ()):
        assert hasattr(module, name), name


def test_no_room_without_a_noun() -> None:
    assert not {"utils", "util", "helpers", "common", "misc", "base"} & {path.stem for path in MODULES}


def test_functions_are_small_on_the_whole() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1 - (len((ast.get_docstring(node) or "").splitlines()))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    assert lengths[len(lengths) // 2] <= 10


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
