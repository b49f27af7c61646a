"""Data in batches, and requests that split them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from unweave import Data, Request, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError
from unweave.tasks import Classify


def numbers(n: int, batch_size: int = 4) -> Data[Any]:
    return of_tensors(torch.arange(float(n)), torch.arange(n) % 2, classes=2, batch_size=batch_size)


def read(data: Data[Any], *args: Any, **how: Any) -> list[list[int]]:
    return [x.int().tolist() for x, _ in data.batches(*args, **how)]


def test_batches_in_order_from_any_on() -> None:
    assert read(numbers(10)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert read(numbers(10), start=1) == [[4, 5, 6, 7], [8, 9]]
    assert read(numbers(8)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [numbers(n).steps for n in (8, 9, 1)] == [2, 3, 1]


def test_a_shuffle_is_of_the_whole_and_the_same_for_a_seed() -> None:
    rng = seeded(3)
    first, second = (sum(read(numbers(10), rng), []) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert sum(read(numbers(10), seeded(3), start=2), []) == first[8:]


def test_a_last_batch_of_one_joins_where_asked() -> None:
    assert read(numbers(9), join=True) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert read(numbers(9)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert read(numbers(10), join=True) == read(numbers(10))
    assert read(numbers(1), join=True) == [[0]]
    assert read(numbers(3, batch_size=1), join=True) == [[0], [1], [2]]


def test_every_process_gets_a_slice_and_at_least_one_example() -> None:
    parts = [read(numbers(9), part=(i, 3)) for i in range(3)]
    assert parts == [[[0, 1], [4, 5], [8]], [[2], [6], [8]], [[3], [7], [8]]]


class Listed(Dataset[Any]):
    """A data set that reads one example at a time, or many at once if it is told to."""

    def __init__(self, many: bool) -> None:
        self.asked: list[Any] = []
        if many:
            self.__getitems__ = lambda at: [self[i] for i in self.asked.append(at) or at]

    def __len__(self) -> int:
        return 5

    def __getitem__(self, at: int) -> Any:
        return torch.tensor(float(at)), at % 2


@pytest.mark.parametrize("many", [False, True])
def test_any_data_set_is_read_and_subsets_of_subsets_too(many: bool) -> None:
    examples = Listed(many)
    data: Data[Any] = Data(examples, Classify(2), 2).subset([4, 3, 0, 1]).subset(torch.tensor([3, 0, 1]))
    assert read(data) == [[1, 4], [3]]
    assert examples.asked == ([[1, 4], [3]] if many else [])


def test_a_request_splits_and_keeps_order() -> None:
    request = Request.of(numbers(6), numbers(2), [4, 1])
    assert [read(part) for part in (request.forget, request.retain)] == [[[4, 1]], [[0, 2, 3, 5]]]
    assert len(request.heldout) == 2


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([], "the forget set is empty"),
        ([1, 6], "1 of the positions to forget lie outside the 6 training examples: 6"),
        ([-1], "lie outside"),
        ([2, 1, 2, 2], "2 positions to forget are duplicates"),
        (range(6), "all of the training data"),
    ],
)
def test_a_request_that_cannot_be_is_refused(positions: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Request.of(numbers(6), numbers(2), positions)


def test_empty_parts_are_refused() -> None:
    with pytest.raises(EmptyDataError, match="a request's held-out set needs at least one example"):
        Request.of(numbers(6), numbers(2).subset([]), [1])
    with pytest.raises(InputError, match="batch_size must be at least 1; got 0"):
        numbers(3, batch_size=0)
