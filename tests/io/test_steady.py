"""Data that change from reading to reading are refused before a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from tests.faults import one_line
from unweave import Supervised
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.io.steady import require_steady
from unweave.jobs import ForgetJob
from unweave.jobs.subject import Subject
from unweave.tasks import Classify
from unweave.types import Data
from unweave.unlearn import FineTune

x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
y = x[:, :3].argmax(1)


class Transformed(Dataset[Any]):
    """Pairs whose inputs are transformed: by a part of the readings only, or always the same for an example."""

    def __init__(self, chance: float, fixed: bool = False) -> None:
        self.chance, self.fixed = chance, fixed

    def __len__(self) -> int:
        return len(x)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        rng = torch.Generator().manual_seed(at) if self.fixed else None
        flips = torch.rand(1, generator=rng) < self.chance
        return x[at].flip(0) if flips else x[at], int(y[at])


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_random_transforms_are_found(chance: float) -> None:
    torch.manual_seed(0)
    with pytest.raises(
        InputError, match=r"differ from one reading .* random transforms.*Supervised\(augment="
    ) as caught:
        require_steady(Data(Transformed(chance), Classify(3)), "training data")
    one_line(caught.value)


@pytest.mark.parametrize("examples", [Transformed(0.5, fixed=True), TensorDataset(x[:1], y[:1])])
def test_steady_data_pass_and_leave_the_generator_alone(examples: Any) -> None:
    before = torch.get_rng_state()
    require_steady(Data(examples, Classify(3)), "training data")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore::unweave.jobs.forget.UnsuitedWarning")
@pytest.mark.parametrize("side", ["train", "heldout"])
def test_a_run_on_them_is_refused_before_it_begins(tmp_path: Path, side: str) -> None:
    steady, shaken = of_tensors(x, y, classes=3), Data(Transformed(0.5), Classify(3))
    subject = Subject(
        train=shaken if side == "train" else steady, heldout=shaken if side == "heldout" else steady,
        recipe=Supervised(network=lambda: nn.Linear(8, 3), epochs=1, lr=0.05),
    )  # fmt: skip
    job = ForgetJob(subject=subject, ids=range(100), edits={"ft": FineTune(epochs=1)}, oracles=0, holders=0)
    words = "training data" if side == "train" else "held-out data"
    with pytest.raises(InputError, match=f"{words} of a model at hand: the examples differ"):
        job.run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
