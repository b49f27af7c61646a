"""Classification reads pairs and dictionaries alike, and changes a batch without touching the one it was given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unweave.errors import InputError
from unweave.tasks import Classify

X, Y = torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 1], dtype=torch.int32)
PAIR = (X, Y, "beside")
NAMED = {"pixel_values": X, "labels": Y, "id": "beside"}


@pytest.mark.parametrize("batch", [PAIR, NAMED])
def test_other_labels_and_inputs_leave_the_rest_as_it_is(batch: Any) -> None:
    task = Classify(2)
    assert task.labels(batch).dtype == torch.int64
    assert task.labels(batch).tolist() == [0, 1, 1]
    assert task.inputs(batch) is X
    other = task.relabel(batch, torch.tensor([1, 0, 0]))
    moved = task.replace_inputs(other, X + 1)
    assert task.labels(other).tolist() == task.labels(moved).tolist() == [1, 0, 0]
    assert task.inputs(other) is X
    assert torch.equal(task.inputs(moved), X + 1)
    assert task.labels(batch).tolist() == [0, 1, 1]
    for made in (other, moved):
        assert type(made) is type(batch)
        assert len(made) == len(batch)
        assert "beside" in (made.values() if isinstance(made, dict) else made)


class Net(nn.Module):
    """Answers in half precision, in an object as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 2)
        self.half()

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.last(self.first(x).relu()))


def test_outputs_are_wide_and_features_are_what_the_last_layer_reads() -> None:
    task, net = Classify(2), Net()
    logits = task.outputs(net, PAIR)
    assert logits.dtype == torch.float32
    features = task.features(net, PAIR)
    assert features.dtype == torch.float32
    assert torch.equal(features, net.first(X.half()).relu().float())
    expected = nn.functional.cross_entropy(logits, Y.long(), reduction="none")
    assert torch.equal(task.losses(net, PAIR), expected)
    assert expected.shape == (3,)


def test_refuses() -> None:
    with pytest.raises(InputError, match="classes must be at least 2; got 1"):
        Classify(1)
    with pytest.raises(InputError, match=r"has shape \(3, 2\); a classifier of 3 classes"):
        Classify(3).outputs(Net(), PAIR)
    with pytest.raises(InputError, match="no Linear layer"):
        Classify(2).features(nn.Flatten(), PAIR)
    with pytest.raises(InputError, match="must have one of labels, label.*; it has x"):
        Classify(2).labels({"x": X})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.eye(3, dtype=torch.long), r"must have shape \[n\].*got \(3, 3\)\. Give labels\.argmax\(1\)"),
        (torch.tensor([[0], [1]]), r"got \(2, 1\)\. Give labels\.squeeze\(1\)"),
        (torch.tensor(1), r"must have shape \[n\]"),
        (torch.tensor([0.0, 1.0]), r"must be whole numbers; got torch\.float32.*labels\.long\(\)"),
        (torch.tensor([True, False]), r"must be whole numbers; got torch\.bool"),
        (
            torch.tensor([1, 2, 3]),
            r"must lie from 0 to 2.* from 1 to 3\. They seem to count from 1: give labels - 1",
        ),
        (torch.tensor([0, -100]), r"must lie from 0 to 2.* Leave out examples without a class"),
        (torch.tensor([0, 7]), r"must lie from 0 to 2.* Count classes from 0, or give Classify more"),
        (("ant", "bee"), r"must be whole numbers.*got 'ant', 'bee' \(a tuple\).*names\.index\(word\)"),
    ],
)
def test_labels_are_one_whole_number_an_example(labels: object, message: str) -> None:
    batch = (torch.zeros(len(labels) if getattr(labels, "ndim", 1) else 1, 2), labels)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        Classify(3).labels(batch)
    with pytest.raises(InputError, match=message):
        Classify(3).losses(torch.nn.Linear(2, 3), batch)


def test_labels_and_answers_are_as_many() -> None:
    with pytest.raises(InputError, match="a batch has 2 labels, and the model answers with 3 rows"):
        Classify(3).losses(torch.nn.Linear(2, 3), (torch.zeros(3, 2), torch.tensor([0, 1])))


def test_a_model_of_other_classes_is_refused_with_the_cure() -> None:
    batch = (torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    with pytest.raises(InputError, match=r"has shape \(3, 4\).*give Data\(examples, Classify\(4\)\)"):
        Classify(2).outputs(torch.nn.Linear(2, 4), batch)
    with pytest.raises(InputError, match=r"has shape \(3, 2\).*Give the model 5 outputs"):
        Classify(5).outputs(torch.nn.Linear(2, 2), batch)
