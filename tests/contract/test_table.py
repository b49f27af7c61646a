"""The table is whole: every exported method has its row, every method file is exported, every room has something in it.

Each failure names the cure.
"""

from __future__ import annotations

import ast
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from tests.contract.table import ROWS, home
from unweave.catalogue import FAMILIES, Method, methods

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "unweave"


@pytest.mark.parametrize("method", methods(), ids=lambda m: f"{m.family}/{m.name}")
def test_every_method_has_one_row_of_its_own_name(method: Method) -> None:
    name = method.cls.__name__
    assert method.role, (
        f"{name} has no role: give it a verb of catalogue.VERBS, or the ecosystem's base class"
    )
    found = [row.name for row in ROWS].count(name)
    assert found == 1, (
        f"{found} rows are named {name}: add one to tests/contract/{home(method.role, method.family)}, for role "
        f"{method.role}"
    )


def test_every_row_is_of_a_method() -> None:
    known = {m.cls.__name__ for m in methods()}
    assert not [row.name for row in ROWS if row.name not in known], (
        "rows of nothing that is exported with a paper"
    )
    assert not [name for name, n in Counter(row.name for row in ROWS).items() if n > 1]


def papers(file: Path) -> list[str]:
    """Classes of a file that say which paper they are of."""
    return [
        node.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
        for inner in node.body
        if isinstance(inner, ast.AnnAssign | ast.Assign)
        and "paper"
        in [getattr(t, "id", "") for t in getattr(inner, "targets", [getattr(inner, "target", None)])]
    ]


def unexported(family: str, folder: Path, exported: list[str]) -> list[str]:
    return [
        f"{file.relative_to(folder)} defines {name}: add `from .{file.stem} import {name}` to {family}/__init__.py"
        for file in sorted(folder.rglob("*.py"))
        for name in papers(file)
        if name not in exported
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_file_is_exported(family: str) -> None:
    assert not unexported(family, SRC / family, import_module(f"unweave.{family}").__all__)


def test_a_method_file_that_is_not_exported_is_found(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("class New:\n    paper: ClassVar[Paper] = Paper()\n")
    assert unexported("unlearn", tmp_path, ["Old"]) == [
        "new.py defines New: add `from .new import New` to unlearn/__init__.py"
    ]
    assert not unexported("unlearn", tmp_path, ["New"])


ASSERTING = ("raises", "warns", "fail", "approx", "skip", "assert_close", "check")


def idle(file: Path) -> list[str]:
    """Tests of a file that assert nothing: no assert that could fail, no raises, no helper that asserts."""
    tree = ast.parse(file.read_text())
    helpers = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}

    def asserts(node: ast.AST, seen: frozenset[str] = frozenset()) -> bool:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Assert) and not isinstance(inner.test, ast.Constant):
                return True
            if isinstance(inner, ast.Call):
                name = getattr(inner.func, "attr", getattr(inner.func, "id", ""))
                if name in ASSERTING or name.startswith("assert_"):
                    return True
                if name in helpers and name not in seen and asserts(helpers[name], seen | {name}):
                    return True
        return False

    return [
        f"{file.name}: {name} asserts nothing: say what must hold, or take it out"
        for name, node in helpers.items()
        if name.startswith("test_") and not asserts(node)
    ]


@pytest.mark.parametrize(
    "folder", sorted({p.parent for p in (ROOT / "tests").rglob("test_*.py")}), ids=lambda p: p.name
)
def test_every_test_asserts_something(folder: Path) -> None:
    assert not [told for file in sorted(folder.glob("test_*.py")) for told in idle(file)]


def test_a_test_that_asserts_nothing_is_found(tmp_path: Path) -> None:
    file = tmp_path / "test_new.py"
    file.write_text(
        "def test_a():\n    run()\ndef test_b():\n    assert True\ndef helper():\n    assert x\n"
        "def test_c():\n    helper()\ndef test_d():\n    with pytest.raises(E):\n        run()\n"
    )
    assert [told.partition(":")[2].split()[0] for told in idle(file)] == ["test_a", "test_b"]
