"""The shape of the whole: imports run one way, and every method has all its rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from unweave.catalogue import FAMILIES, Method, methods

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "unweave"

LAYERS = [
    {"errors", "moved", "paper", "random", "masks", "progress", "settings", "shown", "types"},
    {"io", "tasks", "models", "fit", "derivatives", "statistics", "parallel"},
    set(FAMILIES),
    {"embedded", "catalogue"},
    {"audit"},
    {"report"},
    {"jobs"},
    {"cli"},
]
"""From below: a part imports its own layer and those under it (DESIGN.md, section 5)."""
FAMILIES_USE: set[str] = {"prune"}
ALLOWED = {("masks", "tasks")} | {(f, used) for f in FAMILIES for used in FAMILIES_USE}


def layer(name: str) -> int:
    found = [i for i, names in enumerate(LAYERS) if name in names]
    assert found, (
        f"unweave.{name} is in no layer: add it to LAYERS in {Path(__file__).name}, where its imports allow"
    )
    return found[0]


def test_a_module_without_a_layer_is_told_where_to_go() -> None:
    with pytest.raises(
        AssertionError, match=r"unweave\.new is in no layer: add it to LAYERS in test_architecture\.py"
    ):
        layer("new")


def file_of(method: Method) -> Path:
    """A method's own file, in its family's folder or in one of its own there: family/name.py, family/name/name.py."""
    stem = method.cls.__module__.rpartition(".")[2]
    family = SRC / method.family
    return next(f for f in (family / stem / f"{stem}.py", family / f"{stem}.py") if f.exists())


def imported(file: Path) -> set[str]:
    """Top-level parts of unweave that a file imports, inside functions too."""
    package = file.relative_to(SRC).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            full = [*base, *(node.module or "").split(".")] if node.level else (node.module or "").split(".")
            if not node.level:
                if full[0] != "unweave":
                    continue
                full = full[1:]
            full = [part for part in full if part]
            found |= {full[0]} if full else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("file", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_run_one_way(file: Path) -> None:
    parts = file.relative_to(SRC).parts
    own = parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    for other in imported(file) - {own, "__version__"}:
        assert layer(other) <= layer(own) or (own, other) in ALLOWED, f"{'/'.join(parts)} imports {other}"
        if own in FAMILIES and other in FAMILIES:
            assert (own, other) in ALLOWED, f"family {own} imports family {other}"


@pytest.mark.parametrize("method", methods(), ids=lambda m: f"{m.family}/{m.name}")
def test_every_method_has_all_its_rooms(method: Method) -> None:
    stem = method.cls.__module__.rpartition(".")[2]
    rooms = [
        file_of(method),
        ROOT / "tests" / method.family / f"test_{stem}.py",
        ROOT / "claims" / method.family / f"{stem}.py",
        ROOT / "docs" / "methods" / method.family / f"{stem.replace('_', '-')}.md",
    ]
    absent = [str(room.relative_to(ROOT)) for room in rooms if not room.exists()]
    assert not absent, f"{method.cls.__name__} lacks {', '.join(absent)}"


def test_no_method_file_is_too_long() -> None:
    assert not {
        str(file_of(m)): n for m in methods() if (n := len(file_of(m).read_text().splitlines())) > 400
    }


def private_names(file: Path, own: set[str]) -> list[str]:
    """Names of other libraries that begin with an underscore, where a file uses them."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Attribute) and node.attr not in own:
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        found += [f"line {node.lineno}: {n}" for n in names if n.startswith("_") and not n.startswith("__")]
    return found


def own_names() -> set[str]:
    """What this package itself defines: functions, classes, attributes of instances, fields."""
    own = {"_exit"}  # os._exit: documented
    for file in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr if ast.unparse(node.value) == "self" else "")
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
    return own


def test_no_private_name_of_another_library() -> None:
    """A release may move or rename them on any day. torch._foreach_* and the dispatch mode that torch's own notes on
    extending it name (torch.utils._python_dispatch) alone: nothing public does the same."""
    own = own_names()
    found = {str(f.relative_to(SRC)): private_names(f, own) for f in SRC.rglob("*.py")}
    lean = {
        f: [n for n in names if ": _foreach_" not in n and ": _python_dispatch" not in n]
        for f, names in found.items()
    }
    assert not {f: names for f, names in lean.items() if names}
    assert any(found.values()), "the search finds nothing at all"


def test_private_names_are_found(tmp_path: Path) -> None:
    file = tmp_path / "leaning.py"
    file.write_text(
        "from torch._C import x\nimport a._b\nfrom a import _c\nm._parameters\nm._own\nm.__class__\n"
    )
    assert private_names(file, {"_own"}) == ["line 1: _C", "line 2: _b", "line 3: _c", "line 4: _parameters"]


def test_the_command_line_only_parses_calls_and_shows() -> None:
    """No file of cli/ is past 120 lines, so that what a job does cannot live there."""
    lengths = {f.name: len(f.read_text().splitlines()) for f in (SRC / "cli").glob("*.py")}
    assert not {name: n for name, n in lengths.items() if n > 120}


LONG = {"fit_": "its docstring is the contract of everything that trains; 55 lines of it are code"}
"""Functions past sixty lines, and why."""


def test_no_function_is_past_sixty_lines_nor_a_file_past_four_hundred() -> None:
    functions = {
        f"{file.relative_to(SRC)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name not in LONG
    }
    assert not {name: n for name, n in functions.items() if n > 60}
    files = {str(file.relative_to(SRC)): len(file.read_text().splitlines()) for file in SRC.rglob("*.py")}
    assert not {name: n for name, n in files.items() if n > 400}


def test_the_top_of_the_package_stays_small() -> None:
    assert len(list(SRC.glob("*.py"))) <= 12


def test_imports_with_only_the_core_packages() -> None:
    blocked = [
        "torchvision",
        "transformers",
        "datasets",
        "accelerate",
        "torch_pruning",
        "pyarrow",
        "PIL",
        "pandas",
        "pytorch_optimizer",
        "diffusers",
        "peft",
        "onnx",
        "onnxruntime",
        "ray",
    ]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "import unweave, unweave.jobs, unweave.audit, unweave.unlearn, unweave.prune\n"
        "import unweave.optim, unweave.augment, unweave.erase, unweave.experts\n"
        "import unweave.cli.forget, unweave.cli.prune\n"
        "from unweave.catalogue import methods; assert methods()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    import unweave

    assert set(unweave.__all__) >= {
        "Data",
        "Edit",
        "Mask",
        "Measure",
        "Measurement",
        "Recipe",
        "Request",
        "Score",
        "Task",
        "fit_",
        "resumable",
        "seeded",
        "Supervised",
    }
    assert all(hasattr(unweave, name) for name in unweave.__all__)


def test_the_list_of_slow_tests_names_tests_that_are_there() -> None:
    listed = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").split("\n")[:-1]
    stale = set()
    for name in listed:
        path, *_, test = name.partition("[")[0].split("::")
        there = (ROOT / path).is_file() and f"def {test}(" in (ROOT / path).read_text()
        if not there:
            stale.add(name)
    assert not stale, "write tests/slow.txt anew: see tests/durations.py"
    assert listed == sorted(listed)
