"""What is not a number is refused where it comes in, and named: the side, the first examples, the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs.subjects import RECIPE, subject
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError, NonFiniteError
from unweave.fit.recipe import Supervised
from unweave.jobs import AuditJob, CompareJob, ExactJob, ForgetJob, PruneJob, Subject, TrainJob
from unweave.parallel import build_models
from unweave.prune import Global, Prune
from unweave.unlearn import SISA, FineTune

pytestmark = pytest.mark.filterwarnings("ignore::unweave.jobs.UnsuitedWarning")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))


def damaged(side: str) -> Subject:
    whole = subject()
    x, y = (t.clone() for t in getattr(whole, side).examples.tensors)
    x[7, 2] = float("nan")
    return replace(whole, **{side: of_tensors(x, y, classes=3, batch_size=16)})


FEW: dict[str, Any] = {"oracles": 0, "holders": 0, "quick": True}
JOBS: dict[str, Callable[[Subject], Any]] = {
    "forget": lambda s: ForgetJob(subject=s, random=9, edits={"a": FineTune(epochs=1)}, **FEW),
    "audit": lambda s: AuditJob(
        subject=replace(s, model=subject(model=True).model), random=9, edited=subject(model=True).model, **FEW
    ),
    "prune": lambda s: PruneJob(subject=s, method=Prune(budget=Global(0.5))),
    "train": lambda s: TrainJob(subject=s),
    "compare": lambda s: CompareJob(subject=s, methods={"a": None, "b": None}, seeds=1),
    "exact": lambda s: ExactJob(subject=s, method=SISA(recipe=s.recipe, epochs=1)),
}


@pytest.mark.parametrize("side", ["train", "heldout"])
@pytest.mark.parametrize("name", JOBS)
def test_every_job_refuses_data_that_are_not_finite_and_writes_nothing(
    tmp_path: Path, name: str, side: str
) -> None:
    told = {"train": "training", "heldout": "held-out"}[side]
    with pytest.raises(InputError, match=f"{told} data: 1 of .* holds NaN or infinity, at position 7 "):
        JOBS[name](damaged(side)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_estimate_refuses_them_too() -> None:
    with pytest.raises(InputError, match="held-out data: 1 of 90"):
        JOBS["forget"](damaged("heldout")).estimate()


@dataclass(frozen=True)
class OneBad(Supervised):
    """Trains as it should, but for one seed's model, which is broken."""

    how: str = "weights"

    def build(self, data: Any, *, rng: torch.Generator) -> torch.nn.Module:
        first = torch.randint(1 << 30, (), generator=rng).item()
        if self.how == "diverges":
            raise NonFiniteError("the loss became nan at step 3; the weights before it were kept. Lower lr.")
        model = RECIPE.build(data, rng=torch.Generator().manual_seed(int(first)))
        with torch.no_grad():
            if self.how == "weights":
                next(model.parameters())[0, 0] = float("nan")
            elif self.how == "answers" and len(data) < 150:
                next(model.parameters()).fill_(3e38)  # finite, but the answers are not
        return model


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("weights", "trained with seed 5 holds 1 values"),
        ("diverges", "trains with seed 5: the loss became nan"),
    ],
)
def test_a_model_that_is_not_finite_is_named_by_its_seed(tmp_path: Path, how: str, told: str) -> None:
    bad = OneBad(network=RECIPE.network, epochs=1, how=how)
    for cache in (None, tmp_path):
        with pytest.raises(NonFiniteError, match=told):
            build_models(bad, subject().train, [5], jobs=1, cache=cache)


def test_a_retrained_model_without_answers_is_named(tmp_path: Path) -> None:
    bad = OneBad(network=RECIPE.network, epochs=1, how="answers")
    given = replace(subject(), recipe=bad, model=subject(model=True).model)
    job = ForgetJob(
        subject=given, random=9, edits={"a": FineTune(epochs=1)}, oracles=2, holders=1, quick=True, jobs=1
    )
    with pytest.raises(
        InputError, match=r"^retrained model 1, \w+ examples: the answer to \d+ of \d+ is NaN"
    ):
        job.run(tmp_path / "run")
