"""The least sparsity that reaches a cost, and what is said where none does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.jobs.subjects import RECIPE, subject
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.io.checkpoint import load_into
from unweave.jobs import PruneJob, Target
from unweave.jobs.measured import times
from unweave.jobs.target import Candidate, measured_again, searched
from unweave.prune import GMP, NM, Channel, Global, Magnitude, Prune, Scope, SparseGPT, Uniform

HALF = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(), budget=Uniform(0.5))


@pytest.mark.parametrize("share", [0.9, 0.5, 0.27, 0.03])
def test_the_least_sparsity_is_found(share: float) -> None:
    tried: list[float] = []

    def make(sparsity: float) -> Candidate:
        tried.append(sparsity)
        if sparsity > 0.99:
            raise InputError("would be fully pruned")
        return Candidate(nn.Identity(), told=(f"{sparsity}",))

    def cost(found: Candidate) -> float:
        return (1 - float(found.told[0])) ** 2  # as of multiplications where every width falls

    found, told = searched(Target(of="macs", share=share), make, cost)
    reached = cost(found)
    assert share - 0.006 < reached <= share
    assert len(tried) <= 12
    assert f"{reached:.3f} of the dense model's multiplications" in told
    assert f"of {len(tried)} sparsities" in told


def test_steps_are_not_overstepped() -> None:
    # of four units: costs 1, 3/4, 1/2, 1/4
    def cost(found: Candidate) -> float:
        return 1 - int(4 * float(found.told[0]) + 1e-9) / 4

    found, _ = searched(
        Target(of="parameters", share=0.6), lambda s: Candidate(nn.Identity(), told=(f"{s}",)), cost
    )
    assert cost(found) == 0.5
    assert 0.5 <= float(found.told[0]) < 0.52


def test_what_cannot_be_reached_is_refused_with_the_nearest() -> None:
    def make(sparsity: float) -> Candidate:
        if sparsity > 0.6:
            raise InputError("layer x would be fully pruned")
        return Candidate(nn.Identity(), told=(f"{sparsity}",))

    with pytest.raises(InputError, match=r"bytes=0.3 cannot be reached.*nearest is 0\.40.*layer x would be"):
        searched(Target(of="bytes", share=0.3), make, lambda f: 1 - float(f.told[0]))
    still = Candidate(nn.Identity(), why="its channels stay")
    with pytest.raises(InputError, match=r"nearest is 1\.000 .*More was refused: its channels stay"):
        searched(Target(of="macs", share=0.5), lambda s: still, lambda f: 1.0)


@pytest.mark.slow
def test_a_job_reaches_its_target(tmp_path: Path) -> None:
    recipe = replace(RECIPE, network=partial(mlp, 8, 64, 3))
    wide = replace(subject(), recipe=recipe, model=recipe.network())
    done = PruneJob(subject=wide, method=HALF, shrink=True, target=Target(of="macs", share=0.5)).run(
        tmp_path / "macs"
    )
    before, after, _ = done.figures["multiplications an example"]
    assert 0.45 < after / before <= 0.5
    assert done.notes[0].startswith("Target macs=0.5: of ")
    assert "macs=0.5" in done.page.read_text()
    low, high, unit = done.figures["time of one batch, between quartiles"]
    assert low > 0
    assert high > 0
    assert unit == "ms"
    target = Target(of="bytes", share=0.4)
    done = PruneJob(subject=wide, method=Prune(budget=Uniform(0.5)), packed=True, target=target).run(
        tmp_path / "bytes"
    )
    assert (done.model / "packed.safetensors").is_file()
    assert "packed" in " ".join(done.notes)
    small = load_into(recipe.network(), done.model)
    zeros = sum(int((p == 0).sum()) for n, p in small.named_parameters() if p.ndim > 1)
    assert 0.55 < zeros / sum(p.numel() for p in small.parameters() if p.ndim > 1) < 0.8
    assert done.figures["weights on disk"][1] > 0
    target = Target(of="parameters", share=0.7)
    done = PruneJob(subject=wide, method=Prune(budget=Global(0.5)), target=target).run(
        tmp_path / "parameters"
    )
    assert 0.69 < done.figures["non-zero weights"][1] / done.figures["non-zero weights"][0] <= 0.7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "macs=0.5: weights at zero make a model neither smaller nor faster"),
        ({"shrink": True, "method": GMP(pattern=Channel())}, "gmp trains. Give the sparsity"),
        ({"shrink": True, "method": HALF, "sparsity": 0.5}, "sparsity=0.5 would do nothing beside target"),
        ({"target": Target(of="bytes", share=0.5)}, "zeros take the bytes of other weights"),
        ({"method": SparseGPT(pattern=NM(2, 4)), "target": Target(of="parameters", share=0.6)}, "sets its own"),
    ],
)  # fmt: skip
def test_targets_that_make_no_sense_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PruneJob(**{"subject": subject(model=True), "target": Target(of="macs", share=0.5), **given})


def test_targets_are_read() -> None:
    assert Target.read("latency=0.6") == Target(of="latency", share=0.6)
    assert str(Target.read("bytes=0.30")) == "bytes=0.3"
    for text in ("macs", "macs=", "speed=0.5", "macs=half"):
        with pytest.raises(InputError, match="a target is one of macs, latency, bytes, parameters"):
            Target.read(text)
    with pytest.raises(InputError, match="Target.share must be above 0 and below 1; got 1.5"):
        Target.read("macs=1.5")


def test_a_time_that_does_not_hold_is_told() -> None:
    figures = {
        "time of one batch": (2.0, 1.5, "ms"),
        "time of one batch, between quartiles": (0.1, 0.4, "ms"),
    }
    assert measured_again(Target(of="latency", share=0.8), figures) == []
    assert measured_again(Target(of="macs", share=0.5), figures) == []
    (told,) = measured_again(Target(of="latency", share=0.5), figures)
    assert "0.750 of the dense model's, which is above the target; runs differ by 0.4 ms" in told


def test_time_is_measured_in_turns() -> None:
    calls: list[str] = []

    class Called(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.layer = name, nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            found: torch.Tensor = self.layer(x)
            return found

    one, two = times(Called("a"), Called("b"), subject().heldout)
    assert calls[:8] == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert 22 <= len(calls) <= 102
    assert calls.count("a") == calls.count("b")
    assert min(one.median, two.median) > 0
    assert min(one.spread, two.spread) >= 0
