"""The whole vocabulary. Read this page and you can read any method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from .errors import EmptyDataError, InputError
from .masks.mask import Mask

__all__ = ["Batch", "Data", "Edit", "Mask", "Measure", "Measurement", "Recipe", "Request", "Score", "Task"]

Batch = Any
"""Opaque: only a `Task` opens it."""


class Task(Protocol):
    """How to read a batch. Implementations live in `unweave.tasks`."""

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """Training losses of a batch of n examples, shape [n], unreduced."""
        ...

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """What an auditor sees of a batch of n examples, shape [n, ...]."""
        ...


T = TypeVar("T", bound=Task, covariant=True)
D = TypeVar("D", contravariant=True)


@dataclass(frozen=True)
class Data(Generic[T]):
    """Examples with the task that reads them.

    Attributes:
        examples: map-style data set. Its ids are positions, unless it has an attribute `ids`.
        task: how to read a batch of them.
        batch_size: examples a batch; the last batch may be smaller.
        collate: makes a batch of a list of examples.
    """

    examples: Dataset[Any]
    task: T
    batch_size: int = 128
    collate: Callable[[list[Any]], Batch] = default_collate

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"Data.batch_size must be at least 1; got {self.batch_size}.")

    def __len__(self) -> int:
        try:
            return len(self.examples)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"Data.examples, a {type(self.examples).__name__}, must have a length: a whole number ({error})."
            ) from error

    @property
    def steps(self) -> int:
        """Batches a pass."""
        return -(-len(self) // self.batch_size)

    def batches(
        self,
        rng: Generator | None = None,
        *,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        join: bool = False,
    ) -> Iterator[Batch]:
        """Yield batches: in order, or shuffled when `rng` is given.

        Args:
            rng: drawn from once, at the first batch.
            start: batches to skip without reading them; the order stays that of the full pass.
            part: (i, n): of every batch yield only the i-th of n near-equal slices, for n processes.
            join: a last batch of one example joins the batch before it.
        """
        n = len(self)
        ends = list(range(self.batch_size, n, self.batch_size))
        if join and ends and n - ends[-1] == 1 < self.batch_size:
            ends.pop()
        order = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
        for low, high in list(zip([0, *ends], [*ends, n], strict=True))[start:]:
            positions = order[low:high]
            if part[1] > 1:
                # a batch smaller than the number of processes still gives each of them one example
                mine = positions.tensor_split(part[1])[part[0]]
                positions = mine if len(mine) else positions[:1]
            yield _fetch(self.examples, positions, self.collate)

    def subset(self, positions: Sequence[int] | Tensor) -> Data[T]:
        """The examples at these positions, in the order given."""
        chosen = torch.as_tensor(positions, dtype=torch.long)
        return replace(self, examples=Subset(self.examples, chosen))  # type: ignore[arg-type]

    def require_examples(self, who: str) -> None:
        """Raise EmptyDataError, naming `who` needs them, if there are no examples."""
        if len(self) == 0:
            raise EmptyDataError(f"{who} needs at least one example; the data set is empty.")


@dataclass(frozen=True)
class Request(Generic[T]):
    """A validated deletion request: three disjoint parts, read by one task.

    Attributes:
        forget: what must go.
        retain: the rest of the training data, in its original order.
        heldout: examples of the same distribution that were never trained on.
    """

    forget: Data[T]
    retain: Data[T]
    heldout: Data[T]

    @classmethod
    def of(cls, train: Data[T], heldout: Data[T], positions: Sequence[int] | Tensor) -> Request[T]:
        """Split `train` at the positions to forget.

        Raises:
            InputError: if positions are empty, repeat, lie outside `train`, or are all of it; or heldout is empty.
        """
        chosen = torch.as_tensor(positions, dtype=torch.long).flatten()
        n = len(train)
        if len(chosen) == 0:
            raise EmptyDataError(
                "the forget set is empty. Name at least one example, class or value to delete."
            )
        outside = chosen[(chosen < 0) | (chosen >= n)]
        if len(outside):
            raise InputError(
                f"{len(outside)} of the positions to forget lie outside the {n} training examples: "
                f"{', '.join(map(str, outside[:10].tolist()))}{' ...' if len(outside) > 10 else ''}."
            )
        forgotten = torch.zeros(n, dtype=torch.bool)
        forgotten[chosen] = True
        distinct = int(forgotten.sum())
        if distinct < len(chosen):
            raise InputError(f"{len(chosen) - distinct} positions to forget are duplicates. Name each once.")
        if distinct == n:
            raise InputError(
                "the forget set is all of the training data: nothing would be left to keep. Delete the model instead."
            )
        heldout.require_examples("a request's held-out set")
        return cls(train.subset(chosen), train.subset((~forgotten).nonzero().flatten()), heldout)


class Edit(Protocol[D]):
    """Something that takes a model and data and returns a new model; the input model is never changed."""

    def apply(self, model: Module, data: D, *, rng: Generator) -> Module:
        """Return the edited copy of `model`."""
        ...


class Score(Protocol):
    """Something that says how much each weight matters.

    A class attribute `reduce` ("l2", "sum", "mean") names how its scores of one filter are put together, where the
    pattern `Channel` is not told; "l2" without it.
    """

    def score(self, model: Module, data: Data[Task]) -> dict[str, Tensor]:
        """Parameter name -> scores of that parameter's shape; higher is worth keeping."""
        ...


class Recipe(Protocol):
    """How the user's model was made, so that the same can be done without the forgotten data."""

    def build(self, data: Data[Any], *, rng: Generator) -> Module:
        """Train a model on `data` from scratch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured figure, with all that is needed to read it.

    Attributes:
        name: short, unique within a report.
        value: the edited model's figure; None if it could not be measured.
        unit: "%", "s", "share", "nats", ... or "" for a pure number.
        direction: in words, what is better and what the ideal is ("near the oracle", "higher is better").
        n: examples (or models) it was computed from.
        interval: 95 % interval of `value`.
        original: the same figure on the model before the edit.
        oracle_mean: mean over models retrained without the forgotten data.
        oracle_spread: their standard deviation.
        note: what limits it, or why it is missing.
    """

    name: str
    value: float | None
    unit: str
    direction: str
    n: int
    interval: tuple[float, float] | None = None
    original: float | None = None
    oracle_mean: float | None = None
    oracle_spread: float | None = None
    note: str = ""


class Measure(Protocol):
    """Something that measures one figure of a model against a request."""

    def measure(self, model: Module, request: Request[Any]) -> Measurement:
        """Measure `model`; leaves it unchanged."""
        ...


def _fetch(examples: Dataset[Any], positions: Tensor, collate: Callable[[list[Any]], Batch]) -> Batch:
    # Tensors are indexed at once: reading them one by one would cost more than a small model's training step.
    if isinstance(examples, Subset):
        return _fetch(examples.dataset, torch.as_tensor(examples.indices)[positions], collate)
    if isinstance(examples, TensorDataset):
        return examples[positions]
    chosen = positions.tolist()
    fetch = getattr(examples, "__getitems__", None)  # torch's convention for reading many at once
    return collate(fetch(chosen) if fetch is not None else [examples[i] for i in chosen])
