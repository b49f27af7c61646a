"""Data read otherwise than batch by batch: two sets paired or mixed into one pass, examples with their positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import ConcatDataset, Subset

from ..errors import InputError
from ..random import child
from ..types import Batch, Data
from .training import Batches


@dataclass(frozen=True)
class Paired:
    """Batches (a, b): one pass over `main`, with `other` cycled (reshuffled each cycle) beside it.

    Attributes:
        main: its length and batch size set the number of steps.
        other: repeated or cut to as many batches.
    """

    main: Data[Any]
    other: Data[Any]

    @property
    def batch_size(self) -> int:
        """Of `main`."""
        return self.main.batch_size

    def __len__(self) -> int:
        return len(self.main)

    def batches(
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[tuple[Batch, Batch]]:
        """Yield pairs of batches; see `Data.batches`."""
        beside = cycled(self.other, None if rng is None else child(rng), start, part, join)
        for first in self.main.batches(rng, start=start, part=part, join=join):
            yield first, next(beside)


def cycled(
    data: Data[Any], rng: Generator | None, start: int, part: tuple[int, int] = (0, 1), join: bool = False
) -> Iterator[Batch]:
    """Batches of `data` without end, in a new order each cycle, from the `start`-th on; see `Data.batches`."""
    data.require_examples("cycled")
    n, size = len(data), data.batch_size
    length = data.steps - (join and n > size > 1 and n % size == 1)
    for _ in range(start // length):
        list(data.batches(rng, start=length))  # draws that cycle's order, reads nothing
    yield from data.batches(rng, start=start % length, part=part, join=join)
    while True:
        yield from data.batches(rng, part=part, join=join)


@dataclass(frozen=True)
class Numbered:
    """Batches (batch, positions) of a data set: int64 [n], where each example stands in it.

    Attributes:
        data: its length and batch size are those of this.
    """

    data: Data[Any]

    @property
    def batch_size(self) -> int:
        """Of `data`."""
        return self.data.batch_size

    def __len__(self) -> int:
        return len(self.data)

    def batches(
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield batches with their positions; see `Data.batches`."""
        n = len(self)
        order = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
        ordered = self.data.subset(order)
        position_sets = replace(ordered, examples=torch.utils.data.TensorDataset(order))
        yield from (
            (batch, positions)
            for batch, (positions,) in zip(
                ordered.batches(start=start, part=part, join=join),
                position_sets.batches(start=start, part=part, join=join),
                strict=True,
            )
        )


@dataclass(frozen=True)
class Grouped:
    """Lists of `count` batches of `data`: what one optimiser step reads piece by piece, to take less memory.

    Attributes:
        data: read in the order in which it would be alone.
        count: batches a list; the last list may be shorter.
    """

    data: Batches
    count: int

    @property
    def batch_size(self) -> int:
        """Examples a list."""
        return self.data.batch_size * self.count

    def __len__(self) -> int:
        return len(self.data)

    def batches(
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[list[Batch]]:
        """Yield lists of batches; see `Data.batches`."""
        read = self.data.batches(rng, start=start * self.count, part=part, join=join)
        while group := list(islice(read, self.count)):
            yield group


@dataclass(frozen=True)
class Mixed:
    """Batches (batch, positions) of two data sets shuffled into one.

    Positions int64 [n] count through `first`, then `second`: `positions < len(mixed.first)` marks the first's.
    """

    first: Data[Any]
    second: Data[Any]

    @property
    def batch_size(self) -> int:
        """Of `second`."""
        return self.second.batch_size

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batches(
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield batches with their positions; see `Data.batches`."""
        both = replace(self.second, examples=_concatenated(self.first, self.second))
        yield from Numbered(both).batches(rng, start=start, part=part, join=join)


def _concatenated(first: Data[Any], second: Data[Any]) -> Any:
    a, b = first.examples, second.examples
    if isinstance(a, Subset) and isinstance(b, Subset) and a.dataset is b.dataset:
        return Subset(a.dataset, torch.cat([torch.as_tensor(a.indices), torch.as_tensor(b.indices)]))  # type: ignore[arg-type]
    return ConcatDataset([a, b])


def joined(first: Data[Any], second: Data[Any]) -> Data[Any]:
    """The examples of `first`, then those of `second`, with `first`'s task and batch size."""
    return replace(first, examples=_concatenated(first, second))


def set_aside(data: Data[Any], share: float, *, who: str, rng: Generator) -> tuple[Data[Any], Data[Any]]:
    """Keep a share of the examples, at least one, from training: (what is trained on, in its order, what is kept).

    One more is kept where training would end on a batch of one, on which batch normalisation cannot train.

    Args:
        data: to split.
        share: to keep, in (0, 1).
        who: named in the error.
        rng: draws which.

    Raises:
        InputError: if nothing would be left to train on.
    """
    order = torch.randperm(len(data), generator=child(rng))
    kept = max(1, round(share * len(data)))
    kept += (len(data) - kept) % data.batch_size == 1
    if kept >= len(data):
        raise InputError(
            f"{who} needs examples beside the {kept} for validation; got {len(data)}. Give more, or keep fewer."
        )
    return data.subset(order[kept:].sort().values), data.subset(order[:kept])
