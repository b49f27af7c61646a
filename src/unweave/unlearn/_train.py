"""What the unlearners share: what they ask of a request, and the copy of a model that they train."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Generator
from torch.nn import Module, Parameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InputError
from ..fit import Batches, Loop, Objective, Step, fit_
from ..masks.layers import free
from ..masks.mask import Mask
from ..random import require_generator
from ..tasks import accuracy, read_labels
from ..types import Request

_PARTS = {"forget": "forget set", "retain": "retain set", "heldout": "held-out set"}


class Maskable(Protocol):
    """An unlearner that can be told to move only some positions and to leave all others bit for bit."""

    def apply(self, model: Module, data: Request[Any], *, rng: Generator, only: Mask | None = None) -> Module:
        """Return the edited copy of `model`."""
        ...


class Trained(Protocol):
    """The settings that every unlearner with an SGD loop has."""

    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def momentum(self) -> float: ...  # noqa: D102


def check_request(
    who: str,
    data: Request[Any],
    rng: Generator,
    parts: Iterable[Literal["forget", "retain", "heldout"]] = ("forget", "retain"),
) -> None:
    """What every unlearner asks first: a generator, and examples in the parts of the request that it reads.

    Raises:
        InputError: if `rng` is no generator.
        EmptyDataError: if a part is empty.
    """
    require_generator(rng)
    for part in parts:
        getattr(data, part).require_examples(f"{who} ({_PARTS[part]})")


@dataclass(frozen=True, eq=False)
class Trainee:
    """A model in training: one optimiser over what is not frozen, zeros held, no move outside `only`.

    Attributes:
        model: trained in place.
        optimizer: of all its passes.
        rng: governs batch order.
        hold: positions kept at zero.
        only: positions that may move; None lets all.
    """

    model: Module
    optimizer: Optimizer
    rng: Generator
    hold: Mask
    only: Mask | None = None

    @classmethod
    def of(
        cls,
        who: str,
        model: Module,
        make: Callable[[list[Parameter]], Optimizer],
        rng: Generator,
        *,
        only: Mask | None = None,
        hold: Mask | None = None,
    ) -> Trainee:
        """To train `model` in place; its own zeros are held unless `hold` says which.

        Raises:
            InputError: naming `who`, if every parameter is frozen: training would change nothing.
        """
        return cls(model, make(free(who, model)), rng, Mask.of(model) if hold is None else hold, only)

    def train_(
        self,
        data: Batches,
        objective: Objective,
        *,
        label: str,
        epochs: int = 1,
        norms: Literal["train", "frozen"] = "train",
        clip: float | None = None,
        schedule: LRScheduler | None = None,
        after_step: Callable[[Step], None] | None = None,
    ) -> None:
        """Some passes over `data`; see `fit_`."""
        fit_(
            self.model, data, objective, self.optimizer, epochs=epochs, rng=self.rng, hold=self.hold,
            only=self.only, loop=Loop(norms=norms, clip=clip, schedule=schedule, label=label), after_step=after_step,
        )  # fmt: skip


def sgd(method: Trained) -> Callable[[list[Parameter]], SGD]:
    """The method's optimiser, but for the parameters."""
    decay = getattr(method, "weight_decay", 0.0)
    return partial(SGD, lr=method.lr, momentum=method.momentum, weight_decay=decay)


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


@torch.no_grad()
def reinitialise_(named: Iterable[tuple[str, Module]], who: str, cure: str) -> None:
    """Initialise every module that has parameters of its own as when it was made; frozen ones stay.

    Args:
        named: name -> module, as `Module.named_modules` gives them.
        who: needs it; begins the message.
        cure: what to do where it cannot be done; ends the message.

    Raises:
        InputError: if such a module has no `reset_parameters`.
    """
    for name, module in named:
        own = list(module.parameters(recurse=False))
        if not any(p.requires_grad for p in own):
            continue
        initialise = getattr(module, "reset_parameters", None)
        if initialise is None:
            raise InputError(
                f"{who} cannot initialise {name or 'the model'} ({type(module).__name__}) afresh: "
                f"it has parameters of its own and no reset_parameters. {cure}"
            )
        frozen = [(p, p.clone()) for p in own if not p.requires_grad]
        initialise()
        for parameter, value in frozen:
            parameter.copy_(value)


def expected_accuracy(model: Module, data: Request[Any]) -> float:
    """The accuracy on the forget set, in %, to expect of a model that never saw it.

    Held-out accuracy of `model`, times the share of the forget set whose class the retain set still has: a
    class that is wholly deleted would not be known at all.
    """
    known = torch.unique(read_labels(data.retain))
    heldout = torch.isin(read_labels(data.heldout), known).nonzero().flatten()
    share = float(torch.isin(read_labels(data.forget), known).double().mean())
    return share * accuracy(model, data.heldout.subset(heldout)) if share and len(heldout) else 0.0
