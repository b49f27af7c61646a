"""Pruning as a job: from Python in a few lines, refused at once where it cannot work, and resumable."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.jobs.subjects import PRUNED, RECIPE, killed_at, subject, untimed
from unweave import Mask, seeded
from unweave.embedded.nets import mlp
from unweave.errors import InputError, IntegrityError
from unweave.fit.own_loop import OwnLoop
from unweave.io.checkpoint import save_model
from unweave.jobs import Pruned, PruneJob
from unweave.prune import (
    ERK,
    GMP,
    NM,
    SNIP,
    Channel,
    Global,
    Magnitude,
    Prune,
    RigL,
    Scope,
    SoftFilter,
    Uniform,
    recalibrate_,
)  # fmt: skip
from unweave.prune.one_shot import NarrowWarning
from unweave.tasks import accuracy


def test_a_score_prunes_at_a_sparsity(tmp_path: Path) -> None:
    done = PruneJob(subject=subject(model=True), method=Magnitude(), sparsity=0.75).run(tmp_path / "run")
    model = subject(model=True).model
    again = Prune(budget=Global(0.75)).apply(model, subject().train, rng=seeded(0))
    written = subject(model=True).read(done.model)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, written.state_dict()[name]), name
    assert done.figures["matrix weights kept"][1] == pytest.approx(25, abs=0.5)
    assert done.layers.keys() == Mask.of(written).keep.keys()
    assert Pruned.read(tmp_path / "run") == done
    assert "matrix weights kept" in str(done)
    assert str(done.page) in str(done)
    assert "magnitude on a model at hand" in done.page.read_text()


def test_without_a_model_the_dense_one_is_trained_first(tmp_path: Path) -> None:
    done = PruneJob(subject=subject(PRUNED), method=SNIP(), sparsity=0.5, recover_epochs=1).run(tmp_path)
    dense = subject(PRUNED).read(tmp_path / "original")
    assert Mask.of(dense).density() == 1
    assert done.figures["matrix weights kept"][:2] == (100, pytest.approx(50, abs=1))


def test_a_method_takes_the_sparsity_where_it_has_one() -> None:
    assert PruneJob(subject=subject(), method=GMP(), sparsity=0.3).edit.budget == Global(0.3)
    assert PruneJob(subject=subject(), method=Prune(budget=Uniform(0.2))).edit == Prune(budget=Uniform(0.2))
    assert PruneJob(subject=subject(), method=SNIP()).edit == Prune(score=SNIP(), budget=Global(0.9))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparsity": 1.0}, r"PruneJob.sparsity must be at least 0 and below 1, or None; got 1.0"),
        ({"sparsity": 0.5, "method": SoftFilter()}, "sparsity does not apply to SoftFilter"),
        ({"method": RigL()}, r"PruneJob.method must be an Edit \(with apply\), or a Score"),
        ({"recover_epochs": -1}, "PruneJob.recover_epochs must be a whole number at least 0; got -1"),
        ({"shrink": True, "method": Prune(pattern=NM(2, 4))}, "needs a method with the pattern Channel"),
        ({"subject": replace(subject(), recipe=None)}, "has no recipe, so no model can be trained"),
        ({"recover_lr": 0.1}, "PruneJob.recover_lr=0.1 would do nothing with recover_epochs=0"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PruneJob(**{"subject": subject(), **given})


def test_channels_are_removed_for_real(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    method = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(), budget=Uniform(0.5))
    done = PruneJob(subject=subject(model=True), method=method, shrink=True).run(tmp_path)
    before, after, _ = done.figures["weights in all"]
    assert after < before
    small = subject(model=True).read(done.model)
    assert sum(p.numel() for p in small.parameters()) == after


def test_killed_and_resumed_is_as_if_it_was_not(tmp_path: Path) -> None:
    def job() -> PruneJob:
        return PruneJob(
            subject=subject(PRUNED), method=GMP(epochs=3, every=2), sparsity=0.6, recover_epochs=2
        )

    job().run(tmp_path / "whole")
    expected = untimed(tmp_path / "whole", "prune.json")
    kills = 0
    for renaming in (4, 30, 60, 130):
        at = tmp_path / f"run{renaming}"
        kills += killed_at(renaming, lambda at=at: job().run(at))  # type: ignore[misc]
        kills += killed_at(20, lambda at=at: job().run(at))  # type: ignore[misc]
        job().run(at)
        assert untimed(at, "prune.json") == expected
        assert not (at / ".work").exists()
    assert kills >= 6


def test_another_model_is_another_run(tmp_path: Path) -> None:
    PruneJob(subject=subject(model=True), sparsity=0.5).run(tmp_path)
    other = replace(subject(), model=RECIPE.build(subject().train, rng=seeded(9)))
    with pytest.raises(IntegrityError, match="input model is not what the run"):
        PruneJob(subject=other, sparsity=0.5).run(tmp_path)
    with pytest.raises(InputError, match="other settings"):
        PruneJob(subject=subject(model=True), sparsity=0.6).run(tmp_path)


def test_a_function_that_trains_is_recovered_from_by_adamw_and_says_so(tmp_path: Path) -> None:
    on = replace(subject(model=True), recipe=OwnLoop(function=_whole))
    done = PruneJob(subject=on, sparsity=0.5, recover_epochs=2).run(tmp_path / "run")
    assert done.figures["matrix weights kept"][1] == pytest.approx(50, abs=1)
    assert "AdamW at a peak learning rate of 0.001" in done.notes[0]
    assert "recovered by AdamW" in str(done)
    assert Pruned.read(tmp_path / "run") == done
    other = PruneJob(subject=on, sparsity=0.5, recover_epochs=2, recover_lr=0.1).run(tmp_path / "other")
    assert "learning rate of 0.1" in other.notes[0]
    first, second = (on.read(d.model).state_dict() for d in (done, other))
    assert not torch.equal(first["1.weight"], second["1.weight"])


def _whole(train: Any, seed: int) -> Any:
    raise AssertionError("nothing is trained here")


def test_the_first_layer_is_not_cut_to_one_channel(tmp_path: Path) -> None:
    method = Prune(pattern=Channel(), budget=Uniform(0.95), score=Magnitude(scope=Scope(last=False)))
    done = PruneJob(subject=subject(model=True), method=method).run(tmp_path / "run")
    assert "1 keeps 3 of its 24 channels, not 1: the first and the last layer keep a tenth." in done.notes
    with pytest.warns(NarrowWarning, match="1 keeps 3 of its 24 channels, not 1"):
        method.apply(subject(model=True).model, subject().train, rng=seeded(0))  # type: ignore[arg-type]
    wide = PruneJob(subject=subject(model=True), method=replace(method, budget=Uniform(0.5))).run(
        tmp_path / "wide"
    )
    assert not any("keeps" in note for note in wide.notes)


def test_what_is_left_dense_is_counted_and_named(tmp_path: Path) -> None:
    method = Prune(score=Magnitude(scope=Scope(skip=("3",), least=0.0)), budget=Uniform(0.5))
    done = PruneJob(subject=subject(model=True), method=method).run(tmp_path)
    assert done.layers == {"1.weight": 50.0, "3.weight": 100.0}
    kept = 100 * (8 * 24 / 2 + 24 * 3) / (8 * 24 + 24 * 3)
    assert done.figures["matrix weights kept"] == (100.0, pytest.approx(kept), "%")
    assert done.left == {"3.weight": "out of scope: not chosen, or skipped"}
    assert (
        f"Of the matrix weights {100 * 192 / 264:.1f} % were looked at and {100 - kept:.1f} % are zero"
        in str(done)
    )
    page = done.page.read_text()
    assert f"{kept:.1f} % of the matrix weights are left" in page
    assert "3.weight" in page


def test_the_budget_may_leave_a_layer_whole(tmp_path: Path) -> None:
    done = PruneJob(subject=subject(model=True), method=Prune(budget=ERK(0.1))).run(tmp_path)
    assert done.left == {"3.weight": "the budget leaves it whole"}
    assert done.notes[0].startswith(
        "Of the matrix weights 100.0 % were looked at and 9.8 % are zero; matrices left dense: 1 "
    )


def test_a_pattern_that_fits_some_layers_names_the_others(tmp_path: Path) -> None:
    done = PruneJob(subject=subject(model=True), method=Prune(pattern=NM(1, 3), budget=Global(2 / 3))).run(
        tmp_path
    )
    assert done.left == {"1.weight": "3 does not divide its 8 inputs"}
    assert done.layers["3.weight"] == pytest.approx(100 / 3)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    whole = subject(model=True)
    done = PruneJob(subject=whole, sparsity=0.5).run(tmp_path / "right")
    assert "read back from its folder" in done.notes[1]

    def save(model: nn.Module, folder: Path, mask: Mask | None) -> None:
        wrong = deepcopy(model)
        wrong[3].bias.data += 0.01
        save_model(wrong, folder, mask=mask)

    with pytest.raises(IntegrityError, match="answers otherwise than the one in memory"):
        PruneJob(subject=replace(whole, save=save), sparsity=0.5).run(tmp_path / "wrong")


def test_a_writer_without_room_for_the_record_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")

    def save(model: nn.Module, folder: Path, mask: Mask | None) -> None:
        save_model(model, folder, mask=mask)

    method = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(), budget=Uniform(0.5))
    with pytest.raises(InputError, match="takes no record of removed structure"):
        PruneJob(subject=replace(subject(model=True), save=save), method=method, shrink=True).run(tmp_path)


def test_batch_normalisation_is_measured_again_and_both_figures_are_told(tmp_path: Path) -> None:
    recipe = replace(RECIPE, network=partial(mlp, 8, 24, 3, batch_norm=True))
    normed = replace(subject(), recipe=recipe, model=recipe.build(subject().train, rng=seeded(1)).eval())
    plain = PruneJob(subject=normed, sparsity=0.8, recalibrate=False).run(tmp_path / "plain")
    done = PruneJob(subject=normed, sparsity=0.8).run(tmp_path / "again")
    assert done.figures["held-out accuracy before recalibration"] == plain.figures["held-out accuracy"]
    expected = recalibrate_(normed.read(plain.model), subject().train)
    written = normed.read(done.model)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(written.state_dict()[name], tensor)
    assert not torch.equal(written[2].running_var, normed.read(plain.model)[2].running_var)
    assert done.figures["held-out accuracy"][1] == pytest.approx(accuracy(expected, normed.heldout))


def test_recalibration_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no batch normalisation with running statistics"):
        PruneJob(subject=subject(model=True), sparsity=0.5, recalibrate=True).run(tmp_path)
    with pytest.raises(InputError, match="recalibrate=True would do nothing beside recover_epochs"):
        PruneJob(subject=subject(model=True), recalibrate=True, recover_epochs=1)
