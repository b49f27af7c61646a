"""The method that serves a request where none is named, and what is said of one that does not suit it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs.subjects import PRUNED, RECIPE, subject
from unweave import Request
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.jobs import ForgetJob, PruneJob, UnsuitedWarning
from unweave.jobs.choice import Choice, choose, doubt, kind_of
from unweave.prune import GMP, Channel, Magnitude, Prune, Scope, Uniform
from unweave.unlearn import FineTune, FixedMask, Retrain, SalUn, ShortRetrain
from unweave.unlearn.suits import KINDS, SMALL, suits, why_unsuited

FRESH = replace(RECIPE, init_seed=None)


class Builds:
    """A user's own recipe: it can build, and nothing else."""

    def build(self, data: Any, *, rng: Any) -> Any:
        return None


def request(forget: list[int], n: int = 300) -> Request[Any]:
    labels = torch.arange(n) % 3
    data = of_tensors(torch.zeros(n, 2), labels, classes=3, batch_size=16)
    return Request.of(data, data, forget)


def test_kinds_of_requests() -> None:
    assert kind_of(request(list(range(0, 300, 3)))) == "class"
    assert kind_of(request(list(range(0, 300, 3)) + [1])) == "random"  # a class and one example more
    assert kind_of(request(list(range(SMALL)))) == "random"
    assert kind_of(request(list(range(SMALL - 1)))) == "small"
    assert kind_of(request(list(range(0, 60, 3)), 60)) == "class"  # few, but a class


@pytest.mark.parametrize(
    ("kind", "recipe", "pruned", "steps", "name", "cost", "why"),
    [
        ("random", FRESH, False, 500, "short-retrain", 3 / 16, "exact"),
        ("class", FRESH, False, 500, "short-retrain", 3 / 16, "exact"),
        ("small", RECIPE, False, None, "short-retrain", 3 / 16, "exact"),
        ("random", FRESH, False, 53, "retrain", 1.0, "save nothing, or teach nothing"),
        ("random", FRESH, False, 54, "short-retrain", 3 / 16, "exact"),
        ("random", Builds(), False, None, "retrain", 1.0, "only build"),
        ("class", PRUNED, True, 500, "short-retrain", 3 / 11, "a quarter of a retraining"),
        ("random", PRUNED, True, 500, "short-retrain", 9 / 11, "three quarters of a retraining"),
        (
            "class",
            replace(PRUNED, init_seed=None),
            True,
            500,
            "retrain",
            1.0,
            "other initial weights each time",
        ),
        ("random", replace(RECIPE, sparse=GMP()), True, 500, "retrain", 1.0, "sparsely from the first step"),
        ("class", None, False, None, "sfron", None, "no recipe"),
        ("random", None, True, None, "l1-sparse", None, "stops short"),
    ],
)
def test_each_case(kind, recipe, pruned, steps, name, cost, why) -> None:
    chosen = choose(kind, recipe, pruned=pruned, steps=steps)
    assert chosen.name == name
    assert chosen.cost == (None if cost is None else pytest.approx(cost))
    assert why in chosen.why
    assert getattr(chosen.edit, "recipe", recipe) is recipe
    assert not why_unsuited(chosen.edit, kind) or recipe is None


def test_nothing_serves_a_small_request_without_a_recipe() -> None:
    with pytest.raises(InputError, match="only exact methods"):
        choose("small", None)


def test_says_what_it_costs() -> None:
    assert str(Choice("a", FineTune(), "so", 0.1875)) == "a, about 0.19 of one retraining: so"
    assert str(Choice("a", FineTune(), "so", None)) == "a, its cost is not known: so"


def test_a_job_chooses_and_keeps_what_it_compares_with() -> None:
    long = subject(replace(RECIPE, epochs=16))
    job = ForgetJob(subject=long, random=70, oracles=2, holders=1, compare={"fine-tune": FineTune()})
    assert job.choice is not None
    assert job.choice.name == "short-retrain"
    assert isinstance(job.choice.edit, ShortRetrain)
    assert list(job.work) == ["short-retrain", "fine-tune"]
    assert job.plan()["chosen"] == str(job.choice)
    assert job.plan()["methods"] == ["short-retrain", "fine-tune"]
    (doubt,) = job.doubts  # the method suits the request, but the references are too few to say so
    assert "2 retrained models and 2 that hold the data decide nothing" in doubt
    sparse = ForgetJob(subject=subject(PRUNED), classes=["ash"], oracles=2, holders=1)
    assert sparse.choice is not None
    assert "chooses its mask again" in sparse.choice.why  # the recipe says that the model will be pruned
    held = ForgetJob(subject=subject(PRUNED, model=True), random=70, oracles=2, holders=1)
    assert held.choice is not None
    assert held.choice.name == "short-retrain"
    named = ForgetJob(subject=subject(), random=70, edits={"mine": FineTune()}, oracles=2, holders=1)
    assert named.choice is None
    assert "chosen" not in named.plan()
    with pytest.raises(InputError, match="compare goes with a method that is chosen"):
        ForgetJob(
            subject=subject(), random=70, edits={"mine": FineTune()}, compare={"a": FineTune()}, oracles=2
        )


@pytest.mark.slow
def test_runs_what_it_chose(tmp_path) -> None:
    job = ForgetJob(
        subject=subject(replace(RECIPE, epochs=16)), random=70, oracles=8, holders=7, jobs=1, quick=True
    )
    done = job.run(tmp_path / "run")
    assert [audit.method for audit in done.audits] == ["short-retrain"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["chosen"] == str(job.choice)


def test_doubts() -> None:
    scattered, few = request(list(range(60))), request(list(range(5)))
    told = doubt("mine", FineTune(), scattered)
    assert told == f"mine does not suit scattered examples: it {FineTune.unsuited['random']}."
    assert "take an exact method" in doubt("mine", FineTune(), few)
    for exact in (Retrain(recipe=RECIPE), ShortRetrain(recipe=RECIPE)):
        assert not any(doubt("exact", exact, r) for r in (scattered, few, request(list(range(0, 300, 3)))))
    assert "holds FineTune, which leaves" in doubt("wrapped", FixedMask(unlearn=FineTune()), scattered)
    assert "holds FineTune, which leaves" in doubt(
        "twice", FixedMask(unlearn=SalUn(unlearn=FineTune())), scattered
    )


def test_a_job_warns_before_it_trains_and_goes_on(tmp_path) -> None:
    job = ForgetJob(
        subject=subject(model=True), random=70, edits={"mine": FineTune(epochs=1)}, oracles=0, holders=0
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = job.run(tmp_path / "run")
    assert [str(w.message) for w in said if w.category is UnsuitedWarning] == list(job.doubts)
    assert len(job.doubts) == 1
    assert done.audits[0].verdict.outcome == "inconclusive"


def test_suits_is_what_is_not_unsuited() -> None:
    assert set(suits(FineTune)) == set(KINDS) - set(FineTune.unsuited)
    assert suits(Retrain) == KINDS
    assert suits(dict) == ()


def test_a_shrunk_model_is_edited_and_keeps_its_structure(tmp_path: Path) -> None:
    whole = subject(model=True)
    channels = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(), budget=Uniform(0.5))
    PruneJob(subject=whole, method=channels, shrink=True).run(tmp_path / "small")
    owner = replace(whole, model=tmp_path / "small" / "model")
    given = owner.given()
    assert given is not None
    assert sum(p.numel() for p in given.parameters()) < 24 * 8 + 24 + 24 * 3 + 3
    job = ForgetJob(subject=owner, classes=["ash"], oracles=0, holders=0)
    assert job.choice is not None
    assert job.choice.name == "sfron"  # the recipe trains the network before it was shrunk
    done = job.run(tmp_path / "run")
    again = replace(owner, model=done.model).given()
    assert again is not None
    assert [p.shape for p in again.parameters()] == [p.shape for p in given.parameters()]
    with pytest.raises(
        InputError, match="makes another network than the model .* Or --method retrain, and shrink"
    ):
        _ = ForgetJob(subject=owner, random=5, oracles=0, holders=0).choice
    # what a whole retraining makes has no structure removed
    made = replace(job, edits={"retrain": Retrain(recipe=RECIPE)}).run(tmp_path / "whole")
    assert not (made.model / "structure.json").exists()
    assert replace(owner, model=made.model).given() is not None
