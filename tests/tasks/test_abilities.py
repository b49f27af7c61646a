"""What a task cannot do is refused by name; accuracy has one home and one unit; labels are checked."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Linear
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.random import child, draw_seed
from unweave.tasks import CausalLM, Classify, Labelled, accuracy, requires


def test_a_task_without_labels_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(
        InputError, match="^SalUn needs a task that is Labelled .*; CausalLM has no classes, relabel"
    ):
        requires(CausalLM(), Labelled, "SalUn")
    requires(Classify(3), Labelled, "SalUn")


def test_accuracy_is_in_per_cent_whatever_the_batches() -> None:
    model = Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [1.0]]))  # says 1 for a positive input
    inputs, labels = torch.tensor([[1.0], [1.0], [-1.0]]), torch.tensor([1, 0, 1])
    for size in (1, 2, 8):
        assert accuracy(model, Data(TensorDataset(inputs, labels), Classify(2), size)) == pytest.approx(
            100 / 3
        )
    with pytest.raises(InputError, match="accuracy needs a task that is Labelled"):
        accuracy(model, Data(TensorDataset(inputs), CausalLM()))


@pytest.mark.parametrize("label", [-1, 2, -100])
def test_a_label_out_of_range_is_named(label: int) -> None:
    batch = (torch.zeros(2, 1), torch.tensor([0, label]))
    with pytest.raises(InputError, match=rf"labels must lie from 0 to 1, .*got labels from .*{label}"):
        Classify(2).losses(Linear(1, 2), batch)


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(InputError, match="whole numbers; got torch.float32"):
        Classify(2).labels((torch.zeros(2, 1), torch.tensor([0.0, 1.5])))


def test_batches_a_pass() -> None:
    data = Data(TensorDataset(torch.zeros(10, 1)), CausalLM(), 4)
    assert data.steps == 3 == len(list(data.batches()))
    assert data.subset(range(8)).steps == 2


@pytest.mark.parametrize("draw", [draw_seed, child])
def test_no_generator_is_refused(draw: object) -> None:
    with pytest.raises(InputError, match="rng must be a torch.Generator; got None"):
        draw(None)  # type: ignore[operator]
    assert draw(seeded(0)) is not None  # type: ignore[operator]
