"""What the unlearners that train share: checks of their settings, their optimiser, and who may be masked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Generator
from torch.nn import Module, Parameter
from torch.optim import SGD

from ..errors import InputError
from ..masks.mask import Mask
from ..tasks import predict, read_labels
from ..types import Data, Request


class Maskable(Protocol):
    """An unlearner that can be told to move only some positions and to leave all others bit for bit."""

    def apply(self, model: Module, data: Request[Any], *, rng: Generator, only: Mask | None = None) -> Module:
        """Return the edited copy of `model`."""
        ...


class Trained(Protocol):
    """The settings that every unlearner with an SGD loop has."""

    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def momentum(self) -> float: ...  # noqa: D102


def check_training(method: Trained) -> None:
    """Raise InputError, naming the field, if a setting of the loop cannot be used."""
    who = type(method).__name__
    weight_decay = getattr(method, "weight_decay", 0.0)
    if method.epochs < 1:
        raise InputError(f"{who}.epochs must be at least 1; got {method.epochs}.")
    if not method.lr > 0:
        raise InputError(f"{who}.lr must be positive; got {method.lr}.")
    if not 0 <= method.momentum < 1:
        raise InputError(f"{who}.momentum must be in [0, 1); got {method.momentum}.")
    if not weight_decay >= 0:
        raise InputError(f"{who}.weight_decay must not be negative; got {weight_decay}.")


def check_request(who: str, data: Request[Any], *, heldout: bool = False) -> None:
    """Raise EmptyDataError if the forget or the retain set (or, if asked, the held-out one) is empty."""
    data.forget.require_examples(f"{who} (forget set)")
    data.retain.require_examples(f"{who} (retain set)")
    if heldout:
        data.heldout.require_examples(f"{who} (held-out set)")


def sgd(method: Trained, parameters: Iterable[Parameter]) -> SGD:
    """The method's optimiser over those parameters that are not frozen.

    Raises:
        InputError: if all are frozen: training would change nothing.
    """
    decay = getattr(method, "weight_decay", 0.0)
    return SGD(
        free(type(method).__name__, parameters), method.lr, momentum=method.momentum, weight_decay=decay
    )


def free(who: str, parameters: Iterable[Parameter]) -> list[Parameter]:
    """Those parameters that are not frozen.

    Raises:
        InputError: naming `who`, if all are frozen: training would change nothing.
    """
    found = [p for p in parameters if p.requires_grad]
    if not found:
        raise InputError(f"{who} can train nothing: every parameter is frozen.")
    return found


@contextmanager
def learning(model: Module, chosen: Iterable[Parameter]) -> Iterator[None]:
    """Inside the block only the chosen parameters ask for gradients; every flag is put back after."""
    wanted = {id(p) for p in chosen}
    flags = [(p, p.requires_grad) for p in model.parameters()]
    for parameter, flag in flags:
        parameter.requires_grad_(flag and id(parameter) in wanted)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def accuracy(model: Module, data: Data[Any]) -> float:
    """Share of examples whose class has the largest output."""
    return float((predict(model, data).argmax(1) == read_labels(data)).double().mean())


def expected_accuracy(model: Module, data: Request[Any]) -> float:
    """The accuracy on the forget set to expect of a model that never saw it, as a share.

    Held-out accuracy of `model`, times the share of the forget set whose class the retain set still has: a
    class that is wholly deleted would not be known at all.
    """
    known = torch.unique(read_labels(data.retain))
    heldout = torch.isin(read_labels(data.heldout), known).nonzero().flatten()
    share = float(torch.isin(read_labels(data.forget), known).double().mean())
    return share * accuracy(model, data.heldout.subset(heldout)) if share and len(heldout) else 0.0
