"""Comparing as a job: ways to train or edits, seed by seed, from Python in a few lines."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs.subjects import PRUNED, RECIPE, subject
from unweave import Request, seeded
from unweave.errors import InputError
from unweave.jobs import Compared, CompareJob
from unweave.jobs.compare import EditTrial, TrainTrial
from unweave.jobs.curves import along
from unweave.optim import SAM
from unweave.prune import GMP, SNIP, Global, Prune
from unweave.tasks import accuracy
from unweave.unlearn import FineTune, Retrain, WorstCaseForget

METHODS = {"recipe": None, "sam": replace(RECIPE, optimizer=partial(SAM, rho=0.1, momentum=0.9))}


def test_trainings_are_compared_seed_by_seed(tmp_path: Path) -> None:
    done = CompareJob(subject=subject(), methods=METHODS, seeds=2, jobs=1).run(tmp_path / "run")
    assert [(t.method, t.seed) for t in done.trials] == [("recipe", 0), ("recipe", 1), ("sam", 0), ("sam", 1)]
    assert not done.failed
    rows = done.figures["held-out accuracy"]
    assert list(rows["sam"].differences) == [
        a - b for a, b in zip(rows["sam"].values, rows["recipe"].values, strict=True)
    ]
    assert done.baseline == "recipe"
    assert Compared.read(tmp_path / "run").figures == done.figures
    assert "difference from" in str(done)
    assert CompareJob(subject=subject(), methods=METHODS, seeds=2, jobs=1).run(tmp_path / "run") == done


def test_edits_are_compared_beside_a_retraining(tmp_path: Path) -> None:
    job = CompareJob(
        subject=subject(), methods={"unedited": None, "again": Retrain(recipe=RECIPE), "fine-tune": FineTune()},
        classes=["ash"], seeds=2, jobs=1, cache=tmp_path / "cache", baseline="unedited",
    )  # fmt: skip
    done = job.run(tmp_path / "run")
    gaps = done.figures["average gap to retraining"]
    assert gaps["again"].mean < gaps["unedited"].mean / 3
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert plan["methods"]["unedited"]["edit"] is None
    assert plan["seeds"] == [0, 1]


def test_the_gap_of_an_edit_is_the_mean_over_the_three_parts(tmp_path: Path) -> None:
    on = subject()
    job = CompareJob(
        subject=on, methods={"unedited": None, "fine-tune": FineTune()}, classes=["birch"], cache=tmp_path
    )
    trial = job.work["unedited"]
    assert isinstance(trial, EditTrial)
    request = Request.of(on.train, on.heldout, range(1, 150, 3))
    found = trial(4)
    oracle, model = (RECIPE.build(data, rng=seeded(4)).eval() for data in (request.retain, on.train))
    parts = {"forget": request.forget, "retain": request.retain, "held-out": request.heldout}
    mine = {name: accuracy(model, data) for name, data in parts.items()}
    assert {name: found[f"{name} accuracy"] for name in parts} == {n: (v, "%") for n, v in mine.items()}
    gaps = [abs(mine[name] - accuracy(oracle, data)) for name, data in parts.items()]
    assert max(gaps) > min(gaps) + 1
    assert found["average gap to retraining"] == (pytest.approx(sum(gaps) / 3), "points")


def test_a_training_tells_what_lives_in_per_cent() -> None:
    found = TrainTrial(PRUNED, subject().train, subject().heldout)(0)
    assert found["weights that live"] == (pytest.approx(50, abs=0.5), "%")
    assert found["training accuracy"][0] >= 60
    assert found["held-out accuracy"] == (
        accuracy(PRUNED.build(subject().train, rng=seeded(0)), subject().heldout), "%"
    )  # fmt: skip


def test_other_examples_are_another_plan() -> None:
    def plan(**given: Any) -> Any:
        methods = {"unedited": None, "fine-tune": FineTune()}
        return CompareJob(**{"subject": subject(), "methods": methods, "positions": [3, 5], **given}).plan()

    assert plan() == plan(positions=[5, 3])
    for given in ({"positions": [3, 6]}, {"seeds": 2}, {"baseline": "fine-tune"}):
        assert plan(**given) != plan()


def test_the_set_to_forget_can_be_the_worst_one(tmp_path: Path) -> None:
    methods = {"unedited": None, "fine-tune": FineTune()}
    make = partial(
        CompareJob, subject=subject(), methods=methods, random=15, seed=2, jobs=1, cache=tmp_path / "cache"
    )
    job, drawn, easy = make(hardest="worst"), make(), make(hardest="easiest")
    model = RECIPE.build(subject().train, rng=seeded(0)).eval()
    wanted = WorstCaseForget(size=15).select(model, subject().train, rng=seeded(2))
    assert torch.equal(job.selected[0], wanted.positions)
    share = round(100 * wanted.agreement)
    told = f"15 of 150 training examples, the worst set for the model of seed 0, {share} % of it by extreme losses"
    assert job.plan()["forget"] == told
    assert "forget" not in drawn.plan()
    found = {
        name: j.work["unedited"](0)["average gap to retraining"][0] for name, j in (("w", job), ("e", easy))
    }
    assert found["w"] < found["e"] - 5  # a retraining without the worst set still knows it
    assert len({tuple(j.selected[0].tolist()) for j in (job, drawn, easy)}) == 3


def test_a_failed_trial_is_told_of(tmp_path: Path) -> None:
    broken = replace(RECIPE, network=partial(_broken))
    done = CompareJob(subject=subject(), methods={"recipe": None, "broken": broken}, seeds=1, jobs=1).run(
        tmp_path
    )
    assert [t.method for t in done.failed] == ["broken"]
    assert "failed: broken, seed 0: ValueError: no such net" in str(done)
    with pytest.raises(InputError, match="every trial failed"):
        CompareJob(
            subject=subject(), methods={"a": broken, "b": broken}, seeds=1, jobs=1
        ).run(tmp_path / "none")  # fmt: skip


def _broken() -> Any:
    raise ValueError("no such net")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": {"recipe": None}}, "two or more different methods; got recipe"),
        ({"baseline": "x"}, r"CompareJob.baseline must be one of CompareJob.methods \(recipe, sam\); got 'x'"),
        ({"seeds": 0}, "CompareJob.seeds must be a whole number at least 1; got 0"),
        ({"engine": "rai"}, 'Did you mean "ray"'),
        ({"methods": {"sam": METHODS["sam"], "fine-tune": FineTune()}, "random": 9}, "they cannot be compared"),
        ({"methods": {"recipe": None, "fine-tune": FineTune()}}, "nothing to forget was named"),
        ({"hardest": "worst"}, "CompareJob.hardest='worst' says which set of a size to forget; give CompareJob.random"),
        ({"hardest": "worse"}, 'Did you mean "worst"'),
        ({"hardest": "worst", "random": 9}, "CompareJob.random names examples to forget, but no method forgets"),
        ({"classes": ["ash"]}, "CompareJob.classes names examples to forget, but no method forgets"),
        ({"methods": {"recipe": None, "snip": SNIP()}}, "CompareJob.methods must be"),
        ({"subject": replace(subject(), recipe=None)}, "has no recipe"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CompareJob(**{"subject": subject(), "methods": METHODS, **given})


def test_recipes_refuse_what_would_do_nothing() -> None:
    with pytest.raises(InputError, match="both a sparse training and a pruning method"):
        replace(RECIPE, sparse=GMP(), prune=GMP())


def test_accuracy_over_sparsity_is_drawn_and_kept(tmp_path: Path) -> None:
    dense = replace(RECIPE, epochs=2)
    methods, curves = along(
        {"magnitude": lambda s: replace(dense, prune=Prune(budget=Global(s)))}, [0.2, 0.8]
    )
    job = CompareJob(subject=subject(), methods={"dense": dense, **methods}, curves=curves, seeds=2, jobs=1)
    done = job.run(tmp_path / "run")
    assert Compared.read(tmp_path / "run") == done
    assert done.curves == {"magnitude": {0.2: "magnitude at 0.2", 0.8: "magnitude at 0.8"}}
    assert done.figures["weights that live"]["magnitude at 0.8"].mean == pytest.approx(20, abs=1)
    told = json.loads((tmp_path / "run" / "compare.json").read_text())
    assert told["curves"] == {"magnitude": {"0.2": "magnitude at 0.2", "0.8": "magnitude at 0.8"}}
    page = done.page.read_text()
    assert "Held-out accuracy over sparsity" in page
    assert page.count('class="stroke oracle"') == 1 + 1 + 2, (
        "one in the legend, one between the points, two whiskers"
    )
    assert "SGD (momentum 0.9, weight_decay 0.0005), peak learning rate 0.1, 2 epochs" in str(done)
    assert job.run(tmp_path / "run") == done


def test_curves_name_methods_that_are_there() -> None:
    with pytest.raises(InputError, match="CompareJob.curves names 'x', which is none of CompareJob.methods"):
        CompareJob(subject=subject(), methods=METHODS, curves={"a": {0.1: "x"}})
    for wrong in ([0.5], [0.5, 0.5], [0.5, 1.0]):
        with pytest.raises(InputError, match="sparsities must be two or more different shares"):
            along({"a": lambda s: None}, wrong)
