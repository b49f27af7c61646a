"""Training as a job: from Python in a few lines, refused at once where it cannot work, and resumable."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.jobs.subjects import RECIPE, killed_at, subject, untimed
from unweave import Mask
from unweave.errors import InputError
from unweave.jobs import Trained, TrainJob
from unweave.jobs.compare import TrainTrial
from unweave.optim import SAM
from unweave.prune import ERK, RigL, Scope, Uniform

SPARSE = replace(
    RECIPE, optimizer=partial(SAM, rho=0.1, momentum=0.9), sparse=RigL(budget=ERK(0.5), every=4), epochs=4
)


def test_trains_sparsely_with_another_optimiser(tmp_path: Path) -> None:
    done = TrainJob(subject=replace(subject(), recipe=SPARSE)).run(tmp_path / "run")
    assert done.figures["weights that live"][0] == pytest.approx(50, abs=1)
    assert done.figures["optimiser steps"] == (40, "steps")  # 150 examples in batches of 16, four times
    assert done.figures["calls of the loss"][0] >= 80  # SAM looks twice
    assert len(done.losses) == 40
    model = subject().read(done.model)
    assert 100 * Mask.of(model).density() == pytest.approx(done.figures["weights that live"][0])
    assert Trained.read(tmp_path / "run") == done
    assert "weights that live" in str(done)
    assert "Training of a model at hand" in done.page.read_text()


def test_layers_that_stay_dense_count_in_every_figure(tmp_path: Path) -> None:
    sparse = RigL(budget=Uniform(0.5), every=4, scope=Scope(skip=("3",), least=0.0))
    recipe = replace(RECIPE, sparse=sparse, epochs=1)
    done = TrainJob(subject=replace(subject(), recipe=recipe)).run(tmp_path)
    share = 100 * (96 + 72) / (192 + 72)
    assert done.layers == {"1.weight": 50.0, "3.weight": 100.0}
    assert done.figures["weights that live"] == (pytest.approx(share), "%")
    assert f"with {share:.1f} % of the matrix weights alive" in done.page.read_text()
    assert TrainTrial(recipe, subject().train, subject().heldout)(0)["weights that live"][0] == pytest.approx(
        share
    )
    dense = TrainJob(subject=replace(subject(), recipe=replace(RECIPE, epochs=1))).run(tmp_path / "dense")
    assert (dense.figures["weights that live"][0], dense.layers) == (100.0, {})


def test_the_model_is_what_the_recipe_makes_in_the_stage(tmp_path: Path) -> None:
    first, second = (TrainJob(subject=subject(), seed=seed).run(tmp_path / str(seed)) for seed in (0, 1))
    a, b = (subject().read(done.model).state_dict() for done in (first, second))
    assert not all(torch.equal(a[n], b[n]) for n in a)  # the seed governs it
    before = (tmp_path / "0" / "run.json").read_bytes()
    assert TrainJob(subject=subject()).run(tmp_path / "0") == first
    assert (tmp_path / "0" / "run.json").read_bytes() == before


def test_without_a_recipe_nothing_is_trained() -> None:
    with pytest.raises(InputError, match="a model at hand has no recipe, so nothing can be trained"):
        TrainJob(subject=replace(subject(), recipe=None))
    with pytest.raises(InputError, match=r"TrainJob.seed must be a whole number; got 0.5"):
        TrainJob(subject=subject(), seed=0.5)  # type: ignore[arg-type]


def test_killed_and_resumed_is_as_if_it_was_not(tmp_path: Path) -> None:
    def job() -> TrainJob:
        return TrainJob(subject=replace(subject(), recipe=SPARSE))

    job().run(tmp_path / "whole")
    expected = untimed(tmp_path / "whole", "train.json")
    kills = 0
    for renaming in (5, 25, 41):
        at = tmp_path / f"run{renaming}"
        kills += killed_at(renaming, lambda at=at: job().run(at))  # type: ignore[misc]
        kills += killed_at(9, lambda at=at: job().run(at))  # type: ignore[misc]
        job().run(at)
        assert untimed(at, "train.json") == expected
    assert kills >= 5
