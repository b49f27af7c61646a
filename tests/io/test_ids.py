"""Ids are the data set's own, wherever it keeps them; each is text or a whole number, and one example's alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

from tests.faults import one_line
from unweave import Supervised
from unweave.errors import InputError
from unweave.io.ids import checked_ids, ids_of
from unweave.io.requests import by_ids, read_ids
from unweave.jobs.deletion import Deletion
from unweave.jobs.opened import open_subject
from unweave.jobs.subject import Subject
from unweave.tasks import Classify
from unweave.types import Data

x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
y = torch.arange(12) % 3


class People(TensorDataset):
    def __init__(self, ids: Any) -> None:
        super().__init__(x, y)
        self.ids = ids


NAMES = [f"p{(7 * i) % 12}" for i in range(12)]


def test_ids_are_followed_through_subsets_and_concatenations() -> None:
    people = People(NAMES)
    part, rest = random_split(people, [8, 4], generator=torch.Generator().manual_seed(1))
    assert ids_of(part) == [NAMES[i] for i in part.indices]
    twice = Subset(part, torch.tensor([3, 0]))
    assert ids_of(twice) == [NAMES[part.indices[3]], NAMES[part.indices[0]]]
    assert ids_of(ConcatDataset([rest, part])) == ids_of(rest) + ids_of(part)
    assert ids_of(TensorDataset(x)) == []
    assert ids_of(Subset(TensorDataset(x), [1, 2])) == []


@pytest.mark.parametrize(
    "ids",
    [
        list(range(12)), range(12), np.arange(12, dtype=np.uint8), torch.arange(12), [torch.tensor(i) for i in range(12)],
        [np.int64(i) for i in range(12)], tuple(str(i) for i in range(12)), np.array([str(i) for i in range(12)]),
    ],
    ids=repr,
)  # fmt: skip
def test_whole_numbers_of_any_kind_are_the_same_text(ids: Any) -> None:
    assert ids_of(People(ids)) == [str(i) for i in range(12)]
    assert by_ids(["3", 7], ids).tolist() == [3, 7]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (list(range(5)), "there are 5 ids for 12 examples"),
        (lambda: list(range(12)), "got a method. Make it a list"),
        ("abcdefghijkl", "must be a list .* got a str"),
        (7, "must be a list .* got a int"),
        ([float(i) for i in range(12)], "0.0, at position 0, is a fraction.*give 0 as a whole number"),
        ([None] * 12, "'None', at position 0, is a NoneType"),
        ([True] * 12, "'True', at position 0, is a bool"),
        ([b"a"] * 12, r"is a bytes; an id is text or a whole number\. Give value\.decode\(\)"),
        (["a", "a", *range(10)], "1 ids belong to several examples: a"),
        (["7", 7, *range(20, 30)], "1 ids belong to several examples: 7"),
    ],
)
def test_what_is_no_id_is_refused(ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ids_of(People(ids))
    one_line(caught.value)


class Wrapper(Dataset[Any]):
    def __init__(self, inner: Dataset[Any]) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getitem__(self, at: int) -> Any:
        return self.inner[at]


def test_ids_that_cannot_be_followed_are_never_replaced_by_positions() -> None:
    with pytest.raises(
        InputError, match="a Wrapper has no ids of its own, and the data set in its 'inner' has"
    ):
        ids_of(Wrapper(Subset(People(NAMES), [3, 4])))
    assert ids_of(Wrapper(TensorDataset(x))) == []
    wrapper = Wrapper(People(NAMES))
    wrapper.ids = NAMES  # type: ignore[attr-defined]
    assert ids_of(wrapper) == NAMES
    with pytest.raises(
        InputError, match="of the 2 data sets in a ConcatDataset 1 have no ids .the first is number 1"
    ):
        ids_of(ConcatDataset([People(NAMES), TensorDataset(x, y)]))
    with pytest.raises(InputError, match="12 ids belong to several examples"):
        ids_of(ConcatDataset([People(NAMES), People(NAMES)]))


def _subject(ids: Any = ()) -> Subject:
    part, _ = random_split(People(NAMES), [8, 4], generator=torch.Generator().manual_seed(1))
    recipe = Supervised(network=lambda: nn.Linear(4, 3), epochs=1, lr=0.1)
    return Subject(
        train=Data(part, Classify(3)), heldout=Data(TensorDataset(x, y), Classify(3)), recipe=recipe, ids=ids
    )


def test_a_subject_takes_the_ids_of_its_data() -> None:
    subject = _subject()
    assert list(subject.ids) == ids_of(subject.train.examples)
    assert Deletion(subject=subject, ids=[subject.ids[5]]).selected[0].tolist() == [5]
    with pytest.raises(InputError, match="Subject.ids: there are 3 ids for 8 examples"):
        _subject(ids=[1, 2, 3])


def test_a_project_takes_the_ids_of_its_data(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.utils.data import TensorDataset, random_split\n"
        "from unweave import Supervised\nx = torch.randn(90, 4); y = torch.arange(90) % 3\n"
        "class People(TensorDataset):\n    ids = [(i * 37) % 90 for i in range(90)]\n"
        "train, heldout = random_split(People(x, y), [70, 20], generator=torch.Generator().manual_seed(1))\n"
        "recipe = Supervised(network=lambda: nn.Linear(4, 3), epochs=1, lr=0.05)\n"
    )
    subject = open_subject(str(tmp_path / "project.py"))
    split: Any = subject.train.examples
    assert list(subject.ids) == [str(split.dataset.ids[i]) for i in split.indices]


@pytest.mark.parametrize("title", ["ID", "Id", "id", " iD "])
def test_a_heading_in_any_case_is_no_id(tmp_path: Path, title: str) -> None:
    (tmp_path / "a.csv").write_text(f"{title}\n3\n7\n")
    assert read_ids(tmp_path / "a.csv") == ["3", "7"]
    (tmp_path / "b.csv").write_text(f"name,{title}\nx,3\ny,7\n")
    assert read_ids(tmp_path / "b.csv") == ["3", "7"]


def test_two_columns_of_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ID,Id\n3,4\n")
    with pytest.raises(InputError, match="has 2 columns named id"):
        read_ids(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("ID,id\n3,4\n")
    assert read_ids(tmp_path / "a.csv") == ["4"]


def test_a_heading_of_another_name_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name\np3\np7\n")
    with pytest.raises(InputError, match="If 'name' is the heading of a column, call it id"):
        by_ids(read_ids(tmp_path / "a.csv"), NAMES)


@pytest.mark.parametrize(("asked", "there"), [("7.0", "7"), ("7", "007"), ("P3", "p3"), (" p3", "p3")])
def test_what_looks_alike_is_shown(asked: str, there: str) -> None:
    with pytest.raises(InputError, match=f"looks like '{there}'"):
        by_ids([asked], [there, "other"])


@pytest.mark.parametrize("bad", [7.0, float("nan"), None, True, b"7"])
def test_ids_asked_for_are_text_or_whole_numbers(bad: Any) -> None:
    with pytest.raises(InputError, match="the ids to delete: .*, at position 0, is a"):
        by_ids([bad], [7, 8])


def test_checked_ids_takes_any_sequence() -> None:
    assert checked_ids(np.array([3, 1]), 2, "ids") == ["3", "1"]
