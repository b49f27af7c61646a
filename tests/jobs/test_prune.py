"""Pruning as a job: from Python in a few lines, refused at once where it cannot work, and resumable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs.subjects import PRUNED, RECIPE, killed_at, subject, untimed
from unweave import Mask, seeded
from unweave.errors import InputError, IntegrityError
from unweave.fit.own_loop import OwnLoop
from unweave.jobs import Pruned, PruneJob
from unweave.masks.scope import Scope
from unweave.prune import GMP, NM, SNIP, Channel, Global, Magnitude, Prune, RigL, SoftFilter, Uniform
from unweave.prune.one_shot import NarrowWarning


def test_a_score_prunes_at_a_sparsity(tmp_path: Path) -> None:
    done = PruneJob(subject=subject(model=True), method=Magnitude(), sparsity=0.75).run(tmp_path / "run")
    model = subject(model=True).model
    again = Prune(budget=Global(0.75)).apply(model, subject().train, rng=seeded(0))
    written = subject(model=True).read(done.model)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, written.state_dict()[name]), name
    assert done.figures["density under the mask"][1] == pytest.approx(0.25, abs=0.005)
    assert done.layers.keys() == Mask.of(written).keep.keys()
    assert Pruned.read(tmp_path / "run") == done
    assert "density under the mask" in str(done)
    assert str(done.page) in str(done)
    assert "magnitude on a model at hand" in done.page.read_text()


def test_without_a_model_the_dense_one_is_trained_first(tmp_path: Path) -> None:
    done = PruneJob(subject=subject(PRUNED), method=SNIP(), sparsity=0.5, recover_epochs=1).run(tmp_path)
    dense = subject(PRUNED).read(tmp_path / "original")
    assert Mask.of(dense).density() == 1
    assert done.figures["density under the mask"][:2] == (1, pytest.approx(0.5, abs=0.01))


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
    method = Prune(pattern=Channel(), budget=Uniform(0.5))
    from unweave.masks.scope import Scope

    method = replace(method, score=Magnitude(scope=Scope(last=False)))
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
    assert done.figures["density under the mask"][1] == pytest.approx(0.5, abs=0.01)
    assert "AdamW at a peak learning rate of 0.001" in done.notes[0]
    assert "note: recovered by AdamW" in str(done)
    assert Pruned.read(tmp_path / "run") == done
    other = PruneJob(subject=on, sparsity=0.5, recover_epochs=2, recover_lr=0.1).run(tmp_path / "other")
    assert "learning rate of 0.1" in other.notes[0]
    first, second = (on.read(d.model).state_dict() for d in (done, other))
    assert not torch.equal(first["1.weight"], second["1.weight"])


def _whole(train: Any, seed: int) -> Any:
    raise AssertionError("nothing is trained here")


def test_a_layer_cut_to_few_channels_is_named(tmp_path: Path) -> None:
    method = Prune(pattern=Channel(), budget=Uniform(0.95), score=Magnitude(scope=Scope(last=False)))
    done = PruneJob(subject=subject(model=True), method=method).run(tmp_path / "run")
    assert any("1 is left with 1 of its 24 channels" in note for note in done.notes)
    with pytest.warns(NarrowWarning, match="1 is left with 1 of its 24 channels"):
        method.apply(subject(model=True).model, subject().train, rng=seeded(0))  # type: ignore[arg-type]
    wide = PruneJob(subject=subject(model=True), method=replace(method, budget=Uniform(0.5))).run(
        tmp_path / "wide"
    )
    assert wide.notes == ()
