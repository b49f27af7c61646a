"""Tasks with one logit, several labels and measured values: losses by hand, abilities, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.audit.classifier.scores import Answers, confidence
from unweave.errors import InputError
from unweave.tasks import (
    Binary,
    Classify,
    Labelled,
    Measured,
    MultiLabel,
    Perturbing,
    Regress,
    Representing,
    ability,
    able,
    predict,
    read_labels,
    refuse_measured,
    require_readable,
)  # fmt: skip

X = torch.randn(12, 5, generator=seeded(0), dtype=torch.float64)
NET = nn.Linear(5, 1).double()
WIDE = nn.Linear(5, 3).double()
Z = NET(X).detach()[:, 0]


@pytest.mark.parametrize("labels", [(Z > 0.1).float(), (Z > 0.1).long(), (Z > 0.1).double()[:, None]])
def test_one_logit_is_two_classes(labels: Tensor) -> None:
    data = Data(TensorDataset(X, labels), Binary(), 12)
    (batch,) = data.batches()
    wanted = nn.functional.binary_cross_entropy_with_logits(Z, labels.flatten().double(), reduction="none")
    assert torch.allclose(Binary().losses(NET, batch), wanted, rtol=1e-12)
    assert torch.allclose(predict(NET, data).softmax(1)[:, 1], Z.sigmoid(), rtol=1e-12)
    assert torch.allclose(torch.tensor(confidence(NET, data)), torch.where(labels.flatten() > 0, Z, -Z))
    assert (Answers.of(NET, data).correct == ((Z > 0) == (labels.flatten() > 0)).double().numpy()).all()
    flipped = Binary().relabel(batch, 1 - read_labels(data))
    assert flipped[1].dtype == labels.dtype
    assert flipped[1].shape == labels.shape
    assert able(Binary(), Labelled)
    assert able(Binary(), Perturbing)
    assert able(Binary(), Representing)


def test_one_logit_may_have_no_second_dimension() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0]

    assert torch.equal(Binary().outputs(Flat(), (X, None)), torch.stack([-X[:, 0] / 2, X[:, 0] / 2], 1))


def test_several_labels() -> None:
    marks = (X[:, :3] > 0).long()
    data = Data(TensorDataset(X, marks), MultiLabel(3), 5)
    losses = predict(WIDE, data, data.task.losses)
    p = WIDE(X).sigmoid().detach()
    by_hand = -(marks * p.log() + (1 - marks) * (1 - p).log()).mean(1)
    assert torch.allclose(losses, by_hand, rtol=1e-10)
    assert ability(WIDE, data) == (
        "labels right",
        pytest.approx(100 * float(((p > 0.5) == marks).double().mean())),
        "%",
    )
    phi = torch.tensor(confidence(WIDE, data))
    assert torch.allclose(phi, torch.log(torch.exp(-by_hand) / (1 - torch.exp(-by_hand))), rtol=1e-8)
    assert not able(MultiLabel(3), Labelled)


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_measured_values(shape: tuple[int, ...]) -> None:
    wanted = 3 * X[:, 0]
    data = Data(TensorDataset(X, wanted.reshape(shape)), Regress(scale=2.0), 5)
    losses = predict(NET, data, data.task.losses)
    assert torch.allclose(losses, ((Z - wanted) / 2).square(), rtol=1e-12)
    explained = 1 - (Z - wanted).square().sum() / (wanted - wanted.mean()).square().sum()
    assert ability(NET, data) == ("variance explained", pytest.approx(100 * float(explained)), "%")
    assert able(Regress(), Measured)
    assert not able(Regress(), Labelled)


def test_the_scale_makes_an_audit_see_errors_of_any_unit() -> None:
    far = Data(TensorDataset(X, 1e4 * X[:, 0]), Regress(), 12)
    assert (confidence(NET, far) == -100).sum() > 6, "saturated: nothing could be told apart"
    seen = confidence(NET, Data(far.examples, Regress(1e4), 12))
    assert len(set(seen)) == 12
    assert (abs(seen) < 100).all()


@pytest.mark.parametrize(
    ("task", "batch", "model", "message"),
    [
        (Binary(), (X, torch.full((12,), 2)), NET, "one label an example, 0 or 1; got torch.int64 .* from 2 to 2"),
        (Binary(), (X, torch.zeros(12)), WIDE, r"has shape \(12, 3\); Binary reads one logit"),
        (Classify(2), (X, torch.zeros(12).long()), NET, "For a model with one logit give data of tasks.Binary"),
        (MultiLabel(3), (X, torch.zeros(12)), WIDE, r"takes labels \[n, 3\]"),
        (MultiLabel(3), (X, torch.full((12, 3), 0.5)), WIDE, "each 0 or 1"),
        (MultiLabel(4), (X, torch.zeros(12, 4)), WIDE, r"for 4 labels it must return \[n, 4\]"),
        (Regress(), (X, torch.zeros(12, 2)), NET, r"returned \(12, 1\) for targets \(12, 2\)"),
        (Regress(), (X, torch.zeros(12, 2, 2)), NET, r"targets \[n\] or \[n, m\]"),
        (Classify(3), (X, ["a"] * 12), WIDE, "labels must be whole numbers, one an example; got 'a'"),
        (Classify(3), X, WIDE, "a batch must be a tuple of 1 input and the target"),
        (Classify(3, reads=("a", "b")), {"a": X, "labels": X}, WIDE, "it has a, labels and lacks b"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(task: Any, batch: Any, model: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        task.losses(model, batch)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"MultiLabel.count must be at least 2; got 1"):
        MultiLabel(1)
    for scale in (0.0, float("nan"), -1.0):
        with pytest.raises(InputError, match=r"Regress.scale must be above 0"):
            Regress(scale)
    with pytest.raises(InputError, match="SalUn reads outputs as logits of classes"):
        refuse_measured(Regress(), "SalUn")
    refuse_measured(Binary(), "SalUn")


class NoForward(nn.Module):
    def training_step(self) -> None: ...


class Summed:
    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0]).sum()  # type: ignore[no-any-return]

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])  # type: ignore[no-any-return]


def test_a_model_that_cannot_answer_is_named_before_it_is_used() -> None:
    data = Data(TensorDataset(X.float(), torch.zeros(12).long()), Classify(3), 8)
    require_readable(nn.Linear(5, 3), data)
    bytes_ = Data(TensorDataset(X.byte(), torch.zeros(12).long()), Classify(3), 8)
    for model, of, message in (
        (lambda x: x, data, "must be a torch.nn.Module; got a function"),
        (NoForward(), data, r"a NoForward, has no forward\(inputs\)"),
        (nn.Linear(4, 3), data, r"given \(float32 \[8, 5\], int64 \[8\]\) it failed with RuntimeError"),
        (nn.Linear(5, 4), data, r"must return \[n, 3\]"),
        (nn.Linear(5, 3), bytes_, r"The inputs are bytes \(uint8\)"),
        (nn.Linear(5, 3), Data(data.examples, Summed(), 8), r"Summed.losses must return \[8\] .* got \[\]"),
    ):
        with pytest.raises(InputError, match=message):
            require_readable(model, of)
