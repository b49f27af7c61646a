"""Data in the forms people have: each is read as a task reads it, and kept in the user's own form."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)  # fmt: skip

from tests.faults import one_line
from unweave import Data, seeded
from unweave.errors import InputError
from unweave.io.opening import Opened, open_data
from unweave.io.padding import Padded
from unweave.tasks import Binary, Classify, MultiLabel, Regress, predict, read_labels

X = torch.randn(20, 4, generator=seeded(0))
Y = torch.arange(20) % 3
WORDS = np.array(["ash", "birch", "cedar"])[Y]


def opened(train: Any, heldout: Any = None, names: tuple[str, ...] = (), **more: Any) -> Opened:
    module = SimpleNamespace(train=train, heldout=train if heldout is None else heldout, **more)
    return open_data(Path("project.py"), module, names)


def whole(data: Data[Any]) -> Any:
    (batch,) = Data(data.examples, data.task, len(data), data.collate).batches()
    return batch


class Pairs(Dataset[Any]):
    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, i: int) -> Any:
        return tuple(part[i] for part in self.parts)


FORMS = {
    "tensors": (X, Y),
    "a list of tensors": [X, Y],
    "arrays": (X.numpy(), Y.numpy()),
    "small arrays": (X.numpy(), Y.numpy().astype("uint8")),
    "a TensorDataset": TensorDataset(X, Y),
    "a list of pairs": [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    "a data set": Pairs(X, Y.tolist()),
    "a data set with positions": Pairs(X, Y.tolist(), range(20)),
    "dictionaries": [{"x": x, "label": int(y)} for x, y in zip(X, Y, strict=True)],
    "a dictionary of tensors": {"inputs": X, "labels": Y},
    "a DataLoader": DataLoader(TensorDataset(X, Y), batch_size=128),
    "subsets joined": ConcatDataset([Subset(TensorDataset(X, Y), range(12)), TensorDataset(X[12:], Y[12:])]),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_is_read_alike(form: Any) -> None:
    world = opened(form)
    assert world.train.task == Classify(3)
    assert torch.equal(read_labels(world.train), Y)
    model = nn.Linear(4, 3)
    assert torch.equal(predict(model, world.train), model(X).detach())


def test_a_loader_gives_its_batch_size_and_collate_and_says_what_it_does_not() -> None:
    def collate(items: list[Any]) -> Any:
        return torch.stack([x for x, _ in items]) + 1, torch.tensor([y for _, y in items])

    world = opened(
        DataLoader(Pairs(X, Y.tolist()), 7, shuffle=True, drop_last=True, collate_fn=collate), (X, Y)
    )
    assert world.train.batch_size == 7
    assert len(world.train) == 20
    assert torch.equal(whole(world.train)[0], X + 1)
    assert "data set, batch size and collate_fn are taken, not its shuffle and drop_last" in " ".join(
        world.notes
    )


@pytest.mark.parametrize(
    ("labels", "order", "names"),
    [
        (WORDS, ["ash", "birch", "cedar"], ("ash", "birch", "cedar")),
        (Y + 1, [1, 2, 3], ("1", "2", "3")),
        (torch.tensor([-1, 1])[Y % 2], [-1, 1], ("-1", "1")),
        (Y > 0, [False, True], ("False", "True")),
        (torch.tensor([40, 7, 19])[Y], [7, 19, 40], ("7", "19", "40")),
    ],
)
def test_labels_that_are_no_numbers_from_0_are_numbered_and_told(labels: Any, order: Any, names: Any) -> None:
    world = opened((X, labels))
    assert read_labels(world.train).tolist() == [order.index(v) for v in labels.tolist()]
    assert world.class_names == names
    assert f"{order[0]} is 0, {order[1]} is 1" in " ".join(world.notes)
    given = world.train.examples.own.item(4)[1]  # type: ignore[attr-defined]
    assert given == labels[4], "the user's own form keeps the user's own labels"


def test_words_follow_the_class_names_given() -> None:
    world = opened((X, WORDS), names=("cedar", "birch", "ash"))
    assert torch.equal(read_labels(world.train), 2 - Y)


def test_ids_of_a_data_set_stay_where_labels_are_renumbered() -> None:
    data = Pairs(X, WORDS.tolist())
    data.ids = [f"r{i}" for i in range(20)]  # type: ignore[attr-defined]
    world = opened(Subset(data, [4, 2, 0]), data)
    assert list(world.train.examples.ids) == ["r4", "r2", "r0"]  # type: ignore[attr-defined]
    assert list(world.heldout.examples.ids) == data.ids  # type: ignore[attr-defined]


def test_items_of_a_data_set_are_renumbered_too() -> None:
    world = opened(Pairs(X, WORDS.tolist(), range(20)))
    assert read_labels(world.train).tolist() == Y.tolist()
    assert whole(world.train)[2].tolist() == list(range(20))
    assert "what follows is passed over" in " ".join(world.notes)


class Sum(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.stack([left.sum(1), right.sum(1), left.sum(1) - right.sum(1)], 1)


@pytest.mark.parametrize(
    "form",
    [
        (X[:, :2], X[:, 2:], Y),
        Pairs(X[:, :2], X[:, 2:], Y.tolist()),
        [{"right": x[2:], "left": x[:2], "label": int(y)} for x, y in zip(X, Y, strict=True)],
    ],
    ids=["tensors", "tuples", "dictionaries"],
)
def test_several_inputs_reach_the_model(form: Any) -> None:
    world = opened(form)
    wanted = Sum()(X[:, :2], X[:, 2:])
    assert torch.allclose(predict(Sum(), world.train), wanted)
    assert torch.equal(read_labels(world.train), Y)
    relabelled = world.train.task.relabel(whole(world.train), Y.flip(0))
    assert torch.equal(world.train.task.labels(relabelled), Y.flip(0))
    with pytest.raises(InputError, match="needs one input that is a tensor of measured values"):
        world.train.task.inputs(whole(world.train))


def test_the_number_of_inputs_can_be_named() -> None:
    world = opened((X[:, 0], X[:, 1], Y), inputs=2)
    assert world.train.task == Classify(3, reads=2)
    with pytest.raises(InputError, match="how many of the 3 parts"):
        opened((X, Y, Y), inputs=3)


def test_tasks_by_name() -> None:
    marks = (X[:, :3] > 0).float()
    assert opened((X, marks), task="multi-label").train.task == MultiLabel(3)
    regress = opened((X, 10 * X[:, 0]), task="regression").train.task
    assert isinstance(regress, Regress)
    assert regress.scale == pytest.approx(float((10 * X[:, 0].double()).std()))
    for labels in ((Y > 0).float(), (Y > 0).long(), Y > 0):
        world = opened((X, labels), task="binary")
        assert world.train.task == Binary()
        assert read_labels(world.train).tolist() == (Y > 0).long().tolist()
    words = opened((X, np.array(["no", "yes"])[(Y > 0).long()]), task="binary")
    assert words.class_names == ("no", "yes")
    assert read_labels(words.train).tolist() == (Y > 0).long().tolist()
    own = Classify(7)
    assert opened((X, Y), task=own).train.task is own


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(X[0], 0)])


ONE_HOT = nn.functional.one_hot(Y, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (((Y, X),), "Are inputs and labels swapped"),
        (((X, ONE_HOT),), r"For one-hot rows give labels.argmax\(1\)"),
        (((X, ONE_HOT.flip(1).cumsum(1)),), "must be whole numbers from 0"),
        (((X, (X > 0).float()),), 'write task = "multi-label"'),
        (((X, X[:, 0]),), 'For measured values write task = "regression"'),
        (((X, Y.double()),), 'for one logit task = "binary"'),
        (((X, torch.where(Y == 0, -100, Y)),), "-100 marks what has no label: drop it"),
        (((X, Y - 1),), "got -1. Number the classes from 0"),
        (((X, Y[:7]),), "pairs 20 inputs with 7 labels"),
        (((X, X, Y[:7]),), "parts of different lengths"),
        (((X, Y), (X, WORDS)), "got numbers in train, words in heldout"),
        (((X[Y > 0], WORDS[Y > 0]), (X, WORDS)), "1 labels of heldout in project.py are not among those of train: ash"),
        (((X, Y), (X, X, Y)), "do not give a model the same"),
        ((X,), "must be an unweave Data"),
        ((nn.Linear,), "got the class Linear"),
        ((Stream(),), "is an IterableDataset"),
        ((DataLoader(TensorDataset(X, Y), sampler=WeightedRandomSampler([1.0] * 20, 20)),), "WeightedRandomSampler"),
        ((DataLoader(TensorDataset(X, Y), batch_size=None),), "batch_sampler chooses"),
        (([{"x": 1, "y2": 2}],), "have no label one of labels"),
        (([(1, "a"), (1,)],), "example 1 has no label"),
        (([1, 2],), r"must hold pairs \(input, label\), or dictionaries"),
        (((np.array(["a"] * 20), Y.numpy()),), "inputs of train in project.py are <U1"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_a_sentence(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        opened(*given)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": "ranking"}, "task in project.py must be one of classes, binary"),
        ({"task": "binary"}, "needs two labels; there are 3"),
        ({"task": "multi-label"}, r"needs labels \[n, k\]"),
    ],
)
def test_names_that_do_not_fit_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened((X, Y), **more)
    with pytest.raises(InputError, match="all targets of train in project.py are the same"):
        opened((X, torch.ones(20)), task="regression")


def test_token_ids_are_filled_up_and_masked() -> None:
    items = [{"input_ids": [5, 6, 7], "labels": 1}, {"input_ids": [8], "labels": 0}]
    batch = Padded(filler=9)(items)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    own = Padded(9)([{**items[0], "attention_mask": [1, 1, 0]}, {**items[1], "attention_mask": [1]}])
    assert own["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0]]


class TestFrames:
    def frame(self) -> Any:
        pandas = pytest.importorskip("pandas")
        made = pandas.DataFrame(X.numpy().astype("float64"), columns=["a", "b", "c", "d"])
        return made.assign(kind=WORDS, owner=[f"u{i // 5}" for i in range(20)])

    def test_a_frame_is_numbers_and_a_label(self) -> None:
        frame = self.frame()
        world = opened(frame[:15], frame[15:], label="kind", inputs=["d", "a"])
        assert torch.equal(whole(world.train)[0], X[:15][:, [3, 0]])
        assert read_labels(world.heldout).tolist() == Y[15:].tolist()
        assert list(world.columns["owner"][4:6]) == ["u0", "u1"]
        assert world.train.examples.own.take([3, 1]).equals(frame.iloc[[3, 1]])  # type: ignore[attr-defined]
        assert not hasattr(world.train.examples, "ids")

    def test_its_ids_are_a_column_or_the_index(self) -> None:
        frame = self.frame().drop(columns="owner")
        assert list(opened(frame[5:], label="kind").train.examples.ids) == list(range(5, 20))  # type: ignore[attr-defined]
        named = opened(frame.assign(id=[f"r{i}" for i in range(20)]), label="kind")
        assert named.train.examples.ids[3] == "r3"  # type: ignore[attr-defined]
        assert whole(named.train)[0].shape == (20, 4)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({}, "name its label column"),
            ({"label": "sort"}, "no label column 'sort'"),
            ({"label": "kind"}, "1 columns of train in project.py are no numbers: owner"),
            ({"label": "kind", "inputs": ["a", "kind"]}, "the label is no input"),
            ({"label": "kind", "inputs": ["a", "z"]}, "there is no z"),
        ],
    )
    def test_what_it_lacks_is_named(self, more: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            opened(self.frame(), **more)

    def test_gaps_are_refused(self) -> None:
        frame = self.frame()
        frame.loc[3, "b"] = np.nan
        with pytest.raises(InputError, match="1 columns of train in project.py have missing values: b"):
            opened(frame, label="kind", inputs=["a", "b"])


class TestHub:
    def data(self, **more: Any) -> Any:
        datasets = pytest.importorskip("datasets")
        columns = {"values": X.tolist(), "label": Y.tolist(), "owner": [f"u{i // 5}" for i in range(20)]}
        return datasets.Dataset.from_dict({**columns, **more})

    def test_columns_become_tensors(self) -> None:
        world = opened(self.data())
        assert torch.equal(predict(nn.Identity(), Data(world.train.examples, _Raw())), X)
        assert read_labels(world.train).tolist() == Y.tolist()
        assert world.columns["owner"][5] == "u1"
        assert "owner are passed over" in " ".join(world.notes)

    def test_class_labels_bring_their_names(self) -> None:
        datasets = pytest.importorskip("datasets")
        features = self.data().features.copy()
        features["label"] = datasets.ClassLabel(names=["ash", "birch", "cedar"])
        data = datasets.Dataset.from_dict(self.data().to_dict(), features=features)
        assert opened(data).class_names == ("ash", "birch", "cedar")

    def test_token_ids_are_filled_up(self) -> None:
        ids = [list(range(1, 2 + i % 4)) for i in range(20)]
        world = opened(self.data(input_ids=ids).remove_columns(["values"]))
        batch = whole(world.train)
        assert batch["input_ids"].shape == (20, 4)
        assert batch["attention_mask"].sum(1).tolist() == [len(i) for i in ids]

    def test_text_and_splits_are_refused(self) -> None:
        datasets = pytest.importorskip("datasets")
        text = datasets.Dataset.from_dict({"text": ["a"] * 4, "label": [0, 1, 0, 1]})
        with pytest.raises(InputError, match=r"holds text \(text\), which a model reads as token ids"):
            opened(text)
        with pytest.raises(InputError, match="give one map-style split"):
            opened(datasets.DatasetDict(train=text))


class _Raw(Classify):
    def __init__(self) -> None:
        object.__setattr__(self, "classes", 4)
        object.__setattr__(self, "reads", None)


def test_variables_of_the_files_own_are_no_settings() -> None:
    world = opened((X, Y), inputs=X, label=Y)
    assert world.train.task == Classify(3)
    assert opened((X, Y), inputs=784).train.task == Classify(3)
