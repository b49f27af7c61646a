"""Every script in examples/ runs as it stands."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.processes import Done, run_file, run_module

ROOT = Path(__file__).parent.parent
ADULT = ROOT.parent / "shared" / "data" / "tabular"
CIFAR = ROOT.parent / "shared" / "data" / "cifar10"


@pytest.fixture
def pages(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cache that the pages of the documentation use too: the same world's references are trained once."""
    return str(tmp_path_factory.getbasetemp() / "pages")


def test_digits(tmp_path: Path, pages: str) -> None:
    done = run_file(ROOT / "examples" / "digits.py", cwd=tmp_path, UNWEAVE_CACHE=pages)
    assert done.returncode == 0, done.stderr
    assert "accuracy on forgotten examples" in done.stdout


@pytest.mark.slow
def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: str) -> None:
    """Its cells, one after another; the last value of each is shown as a notebook would show it."""
    notebook = json.loads((ROOT / "examples" / "forget_a_class.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert all(
        not c["outputs"] for c in notebook["cells"] if c["cell_type"] == "code"
    )  # none that could grow old
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNWEAVE_CACHE", pages)
    names: dict[str, object] = {}
    shown = []
    for cell in cells:
        *first, last = ast.parse(cell).body
        exec(compile(ast.Module(first, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    assert any("Forgotten" in value._repr_html_() for value in shown if hasattr(value, "_repr_html_"))
    assert "1 earlier request deleted" in str(names["second"].before)  # type: ignore[attr-defined]


def test_examples_import_nothing_of_this_repository_but_unweave() -> None:
    ours = {p.name for p in ROOT.iterdir() if p.is_dir()} - {"src"}
    for file in (ROOT / "examples").rglob("*.py"):
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        names = {a.name for n in tree if isinstance(n, ast.Import) for a in n.names}
        tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        names |= {n.module or "" for n in tree if isinstance(n, ast.ImportFrom)}
        assert not {n.partition(".")[0] for n in names} & ours, file


def test_own_loop(tmp_path: Path) -> None:
    done = run_file(ROOT / "examples" / "own_loop.py", cwd=tmp_path, UNWEAVE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("retrain, about 1 of one retraining")
    assert "# ✓ Forgotten" in done.stdout
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 16


def forget_rows(tmp_path: Path, where: str, **environment: str) -> Done:
    pytest.importorskip("pandas")
    return run_module(
        "unweave", "forget", str(ROOT / "examples" / "adult.py"), "--where", where, "--method",
        "retrain", "--oracles", "0", "--holders", "0", "--quick", "--out", "run", cwd=tmp_path, **environment,
    )  # fmt: skip


@pytest.mark.slow
def test_a_table_that_is_drawn(tmp_path: Path) -> None:
    done = forget_rows(tmp_path, "occupation=Sales", ROWS="400")
    assert done.returncode == 0, done.stderr  # exact by construction, whatever two models can judge
    assert "all with one value of occupation" in done.stdout
    assert "as outputs of the model <=50K is 0, >50K is 1" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not ADULT.is_dir(), reason="the shared data folder is not there")
def test_adult_itself(tmp_path: Path) -> None:
    done = forget_rows(tmp_path, "occupation=Sales", ROWS="2000", ADULT=str(ADULT))
    assert done.returncode == 0, done.stderr
    audit = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    figures = {m["name"]: m for m in audit["audits"][0]["measurements"]}
    assert figures["accuracy on held-out examples"]["original"] > 80, "the share of the larger class is 76 %"


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason="the shared data folder is not there")
def test_cifar10_project_with_a_pruned_resnet(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    project = str(ROOT / "examples" / "cifar10" / "project.py")
    small = {
        "CIFAR10": str(CIFAR),
        "SPARSITY": "0.9",
        "EXAMPLES": "200",
        "EPOCHS": "1",
        "UNWEAVE_CACHE": str(tmp_path / "cache"),
    }
    done = run_module(
        "unweave", "forget", project, "--classes", "dog", "--method", "unprune+continue",
        "--unprune.scout-epochs", "1", "--continue.epochs", "1", "--oracles", "1", "--holders", "1", "--out", "run",
        cwd=tmp_path, **small,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "20 of 200 training examples, all of class dog" in done.stdout
    assert (tmp_path / "run" / "model" / "mask.safetensors").is_file()
