"""Selective synaptic dampening (SSD): shrink the weights that matter more to the forget set than to the rest.

Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
AAAI 2024, arXiv 2308.07707, algorithm 1. No training.

With I = mean over batches of the squared gradient of the batch's mean loss, on the forget set F and on all
data D,
    theta_j <- min(lambda I_D,j / I_F,j, 1) theta_j    where I_F,j > alpha I_D,j,    and stays elsewhere.

I depends on the batch size: squaring a batch's mean gradient averages the retained examples' gradients out, and
weights that they need are dampened. Since D contains F, I_F / I_D cannot exceed about |D| / |F|: with alpha above that
ratio nothing is ever selected, and an error says so (the paper forgets 100 of 50,000 examples, or one class of 20 or
more; its alpha of 10 is impossible for one of ten).

Departures: I_D is put together from F's batches and R's, each read once, instead of a third pass over both
mixed. Gradients are squared example by example unless told otherwise, the Fisher information that the paper's
formulas have. Unless given, alpha is such that a weight is selected where it matters 10 times more to F than to the
rest R, alpha = 10 / (1 + 9 |F| / |D|): the paper's 10 for a small F, and possible for any.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..derivatives import probe, summed_gradients
from ..errors import InputError, NonFiniteError
from ..masks.layers import copied, free
from ..paper import Paper
from ..settings import Count, Positive, settings
from ..types import Data, Request
from ._train import check_request
from .suits import UNJUDGED, Unsuited


@settings
class SSD:
    """Dampen, without training, the weights that specialise in the forget set.

    Attributes:
        alpha: how many times more a weight must matter to the forget set than to all data to be dampened;
            lower forgets more. Above |D| / |F| nothing can be selected. None asks for 10 times more than to the rest.
        dampening: lambda, strength: a selected weight is multiplied by min(lambda I_D / I_F, 1); lower
            shrinks more.
        batch_size: examples whose gradients are averaged before they are squared; None takes the data's own, which
            is faster, and at 64 dampens far too much.
    """

    paper: ClassVar[Paper] = Paper(
        "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
        "Foster, Schoepf, Brintrup", "AAAI", 2024, "2308.07707",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "class": "hides a class at the output more than it forgets it (position 0.15 to 0.85)",
        "random": "does not forget single examples (position 0.00 to 0.01)",
        "small": UNJUDGED,
    }

    alpha: Positive | None = None
    dampening: Positive = 1.0
    batch_size: Count | None = 1

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` with the forget set's own weights dampened; draws nothing from `rng`.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if no weight is selected, or all are frozen.
            NonFiniteError: if a gradient is not finite.
        """
        check_request("SSD", data, rng)
        free("SSD", model)
        forget, retain = (
            replace(part, batch_size=self.batch_size or part.batch_size)
            for part in (data.forget, data.retain)
        )
        share = forget.steps / (forget.steps + retain.steps)
        alpha = _beside_the_rest(share) if self.alpha is None else self.alpha
        on_forget, on_retain = importance(model, forget), importance(model, retain)
        edited, selected = copied(model), 0
        with torch.no_grad():
            for name, parameter in edited.named_parameters():
                if name in on_forget:
                    on_all = share * on_forget[name] + (1 - share) * on_retain[name]
                    factor = dampened(on_forget[name], on_all, alpha, self.dampening)
                    parameter.copy_(torch.where(factor < 1, parameter * factor, parameter))
                    selected += int(((factor < 1) & (parameter != 0)).sum())
        if selected == 0:
            raise InputError(
                f"SSD dampened no weight: none matters {alpha:g} times more to the forget set than to "
                f"all data. Lower alpha; with this forget set it must be below {1 / share:.3g}."
            )
        return edited


def _beside_the_rest(share: float, times: float = 10.0) -> float:
    """The alpha at which on_forget > alpha (share on_forget + (1 - share) on_retain) is on_forget > times on_retain."""
    return times / (1 + (times - 1) * share)


def dampened(on_forget: Tensor, on_all: Tensor, alpha: float, strength: float) -> Tensor:
    """Factor of each weight: min(strength on_all / on_forget, 1) where on_forget > alpha on_all, else 1."""
    return torch.where(on_forget > alpha * on_all, (strength * on_all / on_forget).clamp(max=1), 1.0)


def importance(model: Module, data: Data[Any]) -> dict[str, Tensor]:
    """Mean over batches of the squared gradient of the batch's mean loss, in eval mode.

    Args:
        model: left unchanged.
        data: the result depends on its batch size; a last, smaller batch counts as much as any other.

    Returns:
        Name of each parameter that is not frozen -> non-negative tensor of its shape, float32 or wider.

    Raises:
        NonFiniteError: if a loss or a gradient is not finite.
    """
    with probe(model, None, "running") as (copy, weights):
        total = summed_gradients(copy, data, weights, lambda _, gradient: gradient.square())
    for name, square in total.items():
        if not bool(square.isfinite().all()):
            raise NonFiniteError(f"a gradient of {name} is not finite; the model was kept.")
        square /= data.steps
    return total
