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
    {"errors", "paper", "random", "masks", "progress", "settings", "types"},
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
    return next(i for i, names in enumerate(LAYERS) if name in names)


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
    from tests.contract.optimizers import OPTIMIZERS
    from tests.contract.plain import PLAIN
    from tests.contract.table import ROWS

    stem = method.cls.__module__.rpartition(".")[2]
    rooms = [
        SRC / method.family / f"{stem}.py",
        ROOT / "tests" / method.family / f"test_{stem}.py",
        ROOT / "claims" / method.family / f"{stem}.py",
        ROOT / "docs" / "methods" / method.family / f"{stem.replace('_', '-')}.md",
    ]
    assert not [str(room.relative_to(ROOT)) for room in rooms if not room.exists()]
    if method.role in ("Score", "Recipe"):
        return
    rows = {row.name for row in (*ROWS, *OPTIMIZERS, *PLAIN)}
    assert any(name.startswith(method.cls.__name__) for name in rows), (
        "no row in the tables of tests/contract"
    )


def test_no_method_file_is_too_long() -> None:
    assert not {
        str(f): n
        for m in methods()
        if (
            n := len(
                (f := SRC / m.family / f"{m.cls.__module__.rpartition('.')[2]}.py").read_text().splitlines()
            )
        )
        > 250
    }


def test_the_command_line_only_parses_calls_and_shows() -> None:
    """No file of cli/ is past 120 lines, so that what a job does cannot live there."""
    lengths = {f.name: len(f.read_text().splitlines()) for f in (SRC / "cli").glob("*.py")}
    assert not {name: n for name, n in lengths.items() if n > 120}


@pytest.mark.parametrize("part", ["cli", "jobs"])
def test_no_function_is_past_sixty_lines(part: str) -> None:
    functions = [
        (file.name, node)
        for file in (SRC / part).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    lengths = {f"{name}: {node.name}": (node.end_lineno or 0) - node.lineno + 1 for name, node in functions}
    assert not {name: n for name, n in lengths.items() if n > 60}


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
        "import unweave.optim, unweave.augment, unweave.erase\n"
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
