"""`unweave train`, `unweave compare` and the pages they and `unweave prune` write."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.cli.projects import make_project, unweave
from unweave.cli import main
from unweave.errors import InputError
from unweave.io.weights import load_weights
from unweave.jobs.trials import run_trials, to_json, trials_from_json
from unweave.statistics import Trial, summarise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--optimizer", "sgdd"), "there is no method 'sgdd'"),
        (("train", "--optimizer", "fair-sam"), "FairSAM needs weights, which a command line cannot give"),
        (("train", "--sparse", "salun"), "neither an optimiser nor a way to prune"),
        (
            ("train", "--sparse", "gmp", "--sparsity", "1.5"),
            "sparsity must be at least 0 and below 1; got 1.5",
        ),
        (("train", "--sparsity", "0.5"), "nothing that was named prunes"),
        (("train", "--optimizer", "sgd", "--epochs", "0"), "epochs must be a whole number at least 1; got 0"),
        (("compare", "--methods", "recipe"), "two or more different methods"),
        (
            ("compare", "--methods", "recipe", "sgd", "--seeds", "0"),
            "--seeds must be a whole number at least 1; got 0",
        ),
        (("compare", "--methods", "recipe", "sgd", "--baseline", "x"), "--baseline must be one of"),
        (("compare", "--methods", "gmp", "salun"), "they cannot be compared"),
        (
            ("compare", "--methods", "recipe", "sgd", "--hardest", "worst"),
            "hardest='worst' says which set of a size",
        ),
        (("compare", "--methods", "recipe", "gmp+snip"), "both a sparse training and a pruning method"),
        (("compare", "--methods", "recipe", "sgd+adamw"), "two methods for one thing"),
        (("prune", "--method", "soft-filter", "--sparsity", "0.5"), "does not take --sparsity"),
        (("prune", "--method", "salun"), "does not prune a trained model"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import re

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.slow
def test_trains_sparsely_with_another_optimiser(folder: Path) -> None:
    command = (
        "train", "project.py", "--sparse", "gmp", "--gmp.every", "3", "--sparsity", "0.6", "--optimizer", "adamw",
        "--adamw.weight-decay", "0.1", "--lr", "0.003", "--epochs", "6", "--out", "trained", "--json",
    )  # fmt: skip
    done = unweave(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["weights that live"][0] == pytest.approx(40, abs=1)
    weights = load_weights(folder / "trained" / "model" / "model.safetensors")
    dead = {n: int((w == 0).sum()) for n, w in weights.items() if w.ndim > 1}
    assert sum(dead.values()) / sum(weights[n].numel() for n in dead) == pytest.approx(0.6, abs=0.01)
    page = (folder / "trained" / "report.html").read_text()
    assert "Weights that live, layer by layer" in page
    assert 'class="curve"' in page
    record = json.loads((folder / "trained" / "run.json").read_text())
    assert record["settings"]["recipe"]["optimizer"]["weight_decay"] == 0.1
    again = unweave(*command, cwd=folder)
    assert again.stdout == done.stdout  # the finished stage is kept
    shown = unweave("show", "trained", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert "weights that live" in shown.stdout


@pytest.mark.parametrize("name", ["set", "rigl", "mest", "dsr", "itop", "gmp"])
def test_every_sparse_training_by_its_name(folder: Path, name: str) -> None:
    command = ("train", str(folder / "project.py"), "--sparse", name, f"--{name}.every", "2", "--epochs", "4")
    assert main((*command, "--out", str(folder / name))) == 0


@pytest.mark.slow
def test_compares_seed_by_seed_and_survives_a_failure(folder: Path) -> None:
    (folder / "bad.py").write_text(
        "from project import *\nimport dataclasses\nfrom unweave import Supervised\n"
        "recipe = dataclasses.replace(recipe, epochs=2, init_seed=None)\n"
    )
    done = unweave(
        "compare", "bad.py", "--methods", "recipe", "adamw", "rigl", "--rigl.every", "1000", "--seeds", "2",
        "--jobs", "1", "--out", "compared", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "failed: rigl, seed 1: RigL would never exchange" in done.stdout
    assert unweave("show", "compared", cwd=folder).stdout == done.stdout
    told = json.loads((folder / "compared" / "compare.json").read_text())
    rows = told["figures"]["held-out accuracy"]
    assert len(rows["recipe"]["values"]) == len(rows["adamw"]["values"]) == 2
    assert rows["adamw"]["differences"] == [
        a - b for a, b in zip(rows["adamw"]["values"], rows["recipe"]["values"], strict=True)
    ]
    page = (folder / "compared" / "report.html").read_text()
    assert "Failed trials" in page
    assert "2 of 6 trials failed" in page


@pytest.mark.slow
def test_compares_unlearners_beside_a_retraining(folder: Path) -> None:
    done = unweave(
        "compare", "project.py", "--methods", "recipe", "fine-tune", "--classes", "ash", "--epochs", "3",
        "--seeds", "2", "--cache", "cache", "--out", "unlearners", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert figures["average gap to retraining"]["recipe"]["mean"] > 0


def _flaky(seed: int) -> dict[str, tuple[float, str]]:
    if seed == 1:
        raise ValueError("no luck")
    return {"x": (float(seed), "")}


def _steady(seed: int) -> dict[str, tuple[float, str]]:
    return {"x": (2.0 * seed + 1, "")}


def test_trials_are_kept_and_not_run_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(seed: int) -> dict[str, tuple[float, str]]:
        calls.append(seed)
        return {"x": (1.0, "m")}

    methods = {"counted": counted, "flaky": _flaky}
    first = run_trials(methods, [0, 1], keep=tmp_path, jobs=1)
    assert run_trials(methods, [0, 1], keep=tmp_path, jobs=1) == first
    assert calls == [0, 1]
    assert [t.error for t in first] == ["", "", "", first[3].error]
    assert "ValueError: no luck (in test_train_compare.py, line" in first[3].error


def test_differences_pair_the_seeds_that_both_have() -> None:
    trials = [Trial("a", s, {"x": float(s)}, {"x": ""}) for s in range(3)]
    trials += [Trial("b", s, {"x": 3.0 * s + 1}, {"x": ""}) for s in (0, 2)] + [Trial("b", 1, error="lost")]
    told = summarise(trials, "a")["x"]
    assert told["a"].mean == 1.0
    assert told["a"].spread == 1.0
    half = 4.302652729911275 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert told["a"].interval == pytest.approx((1 - half, 1 + half))
    assert list(told["b"].differences) == [1.0, 5.0]
    assert told["b"].difference == 3.0
    assert told["a"].differences == []
    assert trials_from_json(to_json(trials, "a")) == trials
    with pytest.raises(InputError, match="none of the methods"):
        summarise(trials, "c")


def test_ray_runs_the_same_trials(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from unweave.parallel import engine, parallel_map

    with engine("ray"):
        assert parallel_map(_steady, [0, 1, 2], jobs=2) == [_steady(s) for s in (0, 1, 2)]


def test_ray_absent_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from unweave.errors import MissingExtraError
    from unweave.parallel import engine

    for name in [n for n in sys.modules if n == "ray" or n.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"unweave\[ray\]"), engine("ray"):
        pass


@pytest.mark.slow
def test_prune_by_any_method_writes_a_page(folder: Path) -> None:
    done = unweave(
        "prune", "project.py", "--model", "model.safetensors", "--method", "wanda", "--wanda.examples", "20",
        "--pattern", "2:4", "--out", "wanda", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mask = load_weights(folder / "wanda" / "model" / "model.safetensors")
    weight = next(w for w in mask.values() if w.ndim == 2 and w.shape[1] % 4 == 0)
    assert torch.equal(
        (weight.reshape(-1, 4) != 0).sum(1) <= 2, torch.ones(weight.numel() // 4, dtype=torch.bool)
    )
    assert "Weights kept, layer by layer" in (folder / "wanda" / "report.html").read_text()
    shown = unweave("show", "wanda", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert "held-out accuracy" in shown.stdout
    assert json.loads(unweave("show", "wanda", "--json", cwd=folder).stdout)["figures"] == json.loads(
        done.stdout
    )


def test_what_was_deleted_from_a_model_is_kept_out_of_a_training_after_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from unweave.io.deleted import read_deleted

    project = str(folder / "project.py")
    assert main(["train", project, "--epochs", "1", "--out", str(tmp_path / "whole")]) == 0
    edit = [
        "--method",
        "fine-tune",
        "--fine-tune.epochs",
        "1",
        "--random",
        "7",
        "--oracles",
        "0",
        "--holders",
        "0",
    ]
    model = str(tmp_path / "whole" / "model")
    assert main(["forget", project, "--model", model, *edit, "--out", str(tmp_path / "edited")]) == 3
    edited = str(tmp_path / "edited" / "model")
    capsys.readouterr()
    assert main(["train", project, "--epochs", "1", "--after", edited, "--out", str(tmp_path / "anew")]) == 0
    told = "deleted before: 1 earlier request deleted 7 examples from this model: 7 are still in the data"
    assert told in capsys.readouterr().err
    first, second = (read_deleted(tmp_path / run / "model") for run in ("edited", "anew"))
    assert first is not None
    assert second is not None
    assert second.gone == first.gone
    methods = ["--methods", "recipe", "sgd", "--seeds", "1", "--epochs", "1", "--jobs", "1"]
    assert main(["compare", project, *methods, "--after", edited, "--out", str(tmp_path / "both")]) == 0
    assert told in capsys.readouterr().err
    assert main(["train", project, "--exact", "sisa", "--after", edited]) == 2
    assert "--exact does not read --after" in capsys.readouterr().err
