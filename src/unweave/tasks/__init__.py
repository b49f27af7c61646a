"""Tasks: the only code that opens a batch. Extra abilities are small protocols here; methods ask for what they need."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError, UnweaveError
from ..fit.context import current_estimate
from ..settings import members
from ..types import Batch, Data, Task
from .binary import Binary
from .classify import Classify
from .language import CausalLM
from .multi_label import MultiLabel
from .regress import Regress
from .restoring import Restore

__all__ = [
    "Autoregressive",
    "Binary",
    "CausalLM",
    "Classify",
    "Labelled",
    "Measured",
    "MultiLabel",
    "Padded",
    "Perturbing",
    "Regress",
    "Representing",
    "Restore",
    "Restoring",
    "ability",
    "able",
    "accuracy",
    "evaluating",
    "perplexity",
    "predict",
    "read_labels",
    "refuse_measured",
    "require_readable",
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


class Restoring(Task, Protocol):
    """A task whose examples are pairs of a degraded and a clean signal; see `Restore`."""

    def degraded(self, batch: Batch) -> Tensor:
        """What the model reads, [n, ...]."""
        ...

    def clean(self, batch: Batch) -> Tensor:
        """What should come out, [n, ...]."""
        ...


class Perturbing(Labelled, Protocol):
    """A labelled task whose inputs are tensors that can be moved a little."""

    def inputs(self, batch: Batch) -> Tensor:
        """What the model reads, floating point, [n, ...]."""
        ...

    def replace_inputs(self, batch: Batch, inputs: Tensor) -> Batch:
        """The same batch with other inputs."""
        ...


class Autoregressive(Task, Protocol):
    """A task whose examples are texts, each token predicted from those before it; see `CausalLM`."""

    def token_losses(self, model: Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of every token after the first, [n, t - 1], and which of them count (bool)."""
        ...

    def log_probabilities(self, model: Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed log-probability of each text's counted tokens, [n], and how many they are, [n]."""
        ...

    def counted(self, batch: Batch) -> Tensor:
        """Which tokens after the first count, bool [n, t - 1]."""
        ...


@runtime_checkable
class Padded(Task, Protocol):
    """A task whose examples are filled up to one length."""

    def present(self, batch: Batch) -> Tensor:
        """Which positions are of the example itself, not padding, bool [n, t]."""
        ...


class Measured(Task, Protocol):
    """A task with a figure of its own for how well a model does it; higher is better."""

    @property
    def ability(self) -> tuple[str, str]:
        """Name and unit of that figure."""
        ...

    def measure(self, model: Module, data: Data[Any]) -> float:
        """That figure of a model on data."""
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
    estimate = current_estimate.get()
    batches = data.batches() if estimate is None else estimate.few(data.batches(), data.steps)
    with evaluating(model):
        found = torch.cat([read(model, batch).cpu() for batch in batches])
    # where only time is asked for, the first few examples stand for the others
    return found if estimate is None else found[torch.arange(len(data)) % len(found)]


def read_labels(data: Data[Any]) -> Tensor:
    """Class of every example in order, int64 [n].

    Raises:
        InputError: if the data's task has no classes.
    """
    if not hasattr(data.task, "labels"):
        requires(data.task, Labelled, "reading the class of each example")
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


def refuse_measured(task: Any, who: str) -> None:
    """Refuse a task whose outputs are no logits of classes that exclude each other: a softmax of them means nothing.

    Raises:
        InputError: naming `who` and the task.
    """
    if able(task, Measured) and not able(task, Labelled):
        raise InputError(
            f"{who} reads outputs as logits of classes, one of which is right; those of {type(task).__name__} are none"
            ". Choose a method that reads losses alone, such as fine-tune or retrain."
        )


def accuracy(model: Module, data: Data[Any]) -> float:
    """Examples that a classifier gets right, in % (0 to 100).

    Raises:
        InputError: if the data's task has no labels.
    """
    requires(data.task, Labelled, "accuracy")
    right = predict(model, data).argmax(1) == read_labels(data)
    return 100 * float(right.double().mean())


def ability(model: Module, data: Data[Any]) -> tuple[str, float, str]:
    """How well a model does the task of the data: (name, value, unit).

    The accuracy in % where examples have classes; the task's own figure where it is `Measured`; the perplexity of a
    language model, or otherwise the mean loss, of both of which less is better.
    """
    task = data.task
    if isinstance(task, CausalLM):
        return "perplexity", perplexity(model, data), ""
    if able(task, Labelled):
        return "accuracy", accuracy(model, data), "%"
    if able(task, Measured):
        name, unit = task.ability
        return name, task.measure(model, data), unit
    return "mean loss", float(predict(model, data, task.losses).double().mean()), ""


def perplexity(model: Module, data: Data[Any]) -> float:
    """Exp of the mean cross-entropy over all counted tokens of texts, each of the same weight; inf if it overflows.

    Padding, prompts and whatever else is labelled -100 are not counted.

    Raises:
        InputError: if no token of the data counts.
    """
    total, tokens = 0.0, 0
    with evaluating(model):
        for batch in data.batches():
            each, counted = data.task.token_losses(model, batch)
            total += float((each.double() * counted).sum())
            tokens += int(counted.sum())
    if not tokens:
        raise InputError("perplexity needs a token to predict; the data have none.")
    return math.exp(total / tokens) if total / tokens < 700 else math.inf


def require_readable(model: Any, data: Data[Any], who: str = "the model") -> None:
    """Refuse a model that cannot answer the first batch of the data, before anything is trained or judged by it.

    Raises:
        InputError: if it is no module, has no forward, fails at the batch, or the task reads shapes off it that no
            method can use; the message names which.
    """
    if not isinstance(model, Module):
        raise InputError(f"{who} must be a torch.nn.Module; got a {type(model).__name__}.")
    kind = type(model).__name__
    if type(model).forward is Module.forward and "forward" not in vars(model):
        raise InputError(
            f"{who}, a {kind}, has no forward(inputs), so it answers nothing. Give it one that returns its outputs, or "
            "give the network inside it."
        )
    data.require_examples("reading a batch")
    batch = next(data.batches())
    n = min(len(data), data.batch_size)
    try:
        with evaluating(model):
            outputs, losses = data.task.outputs(model, batch), data.task.losses(model, batch)
    except UnweaveError:
        raise
    except Exception as error:  # the model, the task and the data may all be the user's own
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{who}, a {kind}, cannot read the data: given {shown_batch(batch)} it failed with "
            f"{type(error).__name__}: {reason}.{_hint(batch)}"
        ) from error
    named = type(data.task).__name__
    for name, found, wanted in (("losses", losses, f"[{n}]"), ("outputs", outputs, f"[{n}, ...]")):
        shape = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        if not isinstance(found, Tensor) or found.shape[:1] != (n,) or (name == "losses" and found.ndim != 1):
            raise InputError(
                f"{named}.{name} must return {wanted} for a batch of {n} examples; got {shape}. One an example, "
                "unreduced, is needed."
            )


def shown_batch(batch: Batch) -> str:
    """What a batch holds, in words."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{k}: {shown_batch(v)}" for k, v in batch.items()) + "}"
    if isinstance(batch, (tuple, list)) and any(isinstance(part, Tensor) for part in batch):
        return "(" + ", ".join(map(shown_batch, batch)) + ")"
    return f"a {type(batch).__name__}"


def _hint(batch: Batch) -> str:
    parts = (
        batch.values()
        if isinstance(batch, Mapping)
        else batch
        if isinstance(batch, (tuple, list))
        else [batch]
    )
    if any(isinstance(part, Tensor) and part.dtype is torch.uint8 and part.ndim > 1 for part in parts):
        return " The inputs are bytes (uint8): give them as numbers prepared as in training, such as x.float() / 255."
    return " Give data as the model reads it, or the model that reads these."
