"""Tasks: the only code that opens a batch. Extra abilities are small protocols here; methods ask for what they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..settings import members
from ..types import Batch, Data, Task
from .classify import Classify
from .language import CausalLM

__all__ = [
    "CausalLM",
    "Classify",
    "Labelled",
    "Padded",
    "Perturbing",
    "Representing",
    "able",
    "accuracy",
    "evaluating",
    "predict",
    "read_labels",
    "requires",
]


class Labelled(Task, Protocol):
    """A task whose examples carry one class label each."""

    @property
    def classes(self) -> int:
        """How many classes there are."""
        ...

    def labels(self, batch: Batch) -> Tensor:
        """Class of each example, int64 [n]."""
        ...

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        """The same batch with other labels; the input batch is left unchanged."""
        ...


class Representing(Task, Protocol):
    """A task that can show the representation under the last layer."""

    def features(self, model: Module, batch: Batch) -> Tensor:
        """Representation of each example, [n, width]."""
        ...


class Perturbing(Labelled, Protocol):
    """A labelled task whose inputs are tensors that can be moved a little."""

    def inputs(self, batch: Batch) -> Tensor:
        """What the model reads, floating point, [n, ...]."""
        ...

    def replace_inputs(self, batch: Batch, inputs: Tensor) -> Batch:
        """The same batch with other inputs."""
        ...


@runtime_checkable
class Padded(Task, Protocol):
    """A task whose examples are filled up to one length."""

    def present(self, batch: Batch) -> Tensor:
        """Which positions are of the example itself, not padding, bool [n, t]."""
        ...


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Eval mode and no gradients inside the block; each module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def predict(model: Module, data: Data[Any], read: Callable[[Module, Batch], Tensor] | None = None) -> Tensor:
    """Read something off every example, in order, in eval mode and without gradients.

    Args:
        model: left unchanged.
        data: n examples.
        read: (model, batch) -> [batch, ...]; the task's `outputs` unless told otherwise.

    Returns:
        [n, ...], on the CPU.
    """
    data.require_examples("predict")
    read = read or data.task.outputs
    with evaluating(model):
        return torch.cat([read(model, batch).cpu() for batch in data.batches()])


def read_labels(data: Data[Any]) -> Tensor:
    """Class of every example in order, int64 [n]."""
    return torch.cat([data.task.labels(batch).cpu() for batch in data.batches()])


def able(task: Any, ability: type[Any]) -> bool:
    """Whether a task has all that a protocol of this module asks for."""
    return all(hasattr(task, name) for name in members(ability))


def requires(task: Any, ability: type[Any], who: str) -> None:
    """Refuse a task without an ability: the one place that does.

    Args:
        task: of the data that were given.
        ability: a protocol of this module.
        who: needs it; begins the message.

    Raises:
        InputError: naming what the task lacks.
    """
    if not able(task, ability):
        lacking = [name for name in members(ability) if not hasattr(task, name)]
        raise InputError(
            f"{who} needs a task that is {ability.__name__} ({', '.join(members(ability))}); {type(task).__name__} has "
            f"no {', '.join(lacking)}. Give data of another task, or add that to yours."
        )


def accuracy(model: Module, data: Data[Any]) -> float:
    """Examples that a classifier gets right, in % (0 to 100).

    Raises:
        InputError: if the data's task has no labels.
    """
    requires(data.task, Labelled, "accuracy")
    right = predict(model, data).argmax(1) == read_labels(data)
    return 100 * float(right.double().mean())
