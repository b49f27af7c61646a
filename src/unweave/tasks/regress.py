"""Regression: one or several measured values an example."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..types import Batch, Data
from .batches import Reads, answers, target, under_last_linear


@dataclass(frozen=True)
class Regress:
    """Squared error of real-valued targets, [n] or [n, m], in units of their variance.

    It is not `Labelled`: methods and figures that need classes refuse it by name. An audit reads the loss of each
    example as -log of a likelihood up to a constant, and exp(-loss) as how near an answer is (1 at the target).

    Attributes:
        scale: standard deviation of the targets. Losses are (error / scale)^2, so that an audit can tell small errors
            from large ones whatever the unit; 1 leaves errors as they are.
        reads: of several inputs, how many lead a tuple, or their names; see `tasks.batches.Reads`.
    """

    scale: float = 1.0
    reads: Reads = None

    def __post_init__(self) -> None:
        if not (isfinite(self.scale) and self.scale > 0):
            raise InputError(f"Regress.scale must be above 0 and finite; got {self.scale}.")

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """Mean over the m values of (error / scale)^2, float32 or wider, [n].

        Raises:
            InputError: if the model's answers and the targets have different shapes.
        """
        given = self.outputs(model, batch)
        wanted = self.targets(batch).to(given)
        if given.shape != wanted.shape:  # torch would broadcast [n, 1] against [n, m]
            raise InputError(
                f"the model returned {tuple(given.shape)} for targets {tuple(wanted.shape)}: one answer a target is "
                "needed."
            )
        return ((given - wanted) / self.scale).square().mean(1)

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """The model's answers, float32 or wider, [n, m].

        Raises:
            InputError: if they are not [n] or [n, m].
        """
        found = answers(model, batch, self.reads)
        if found.ndim not in (1, 2):
            raise InputError(
                f"the model's output has shape {tuple(found.shape)}; Regress reads [n] or [n, m]."
            )
        return found[:, None] if found.ndim == 1 else found

    def features(self, model: Module, batch: Batch) -> Tensor:
        """Input of the model's last linear layer, flattened to [n, width]."""
        return under_last_linear(model, lambda: self.outputs(model, batch))

    def targets(self, batch: Batch) -> Tensor:
        """What is to be told of each example, [n, m].

        Raises:
            InputError: if they have another shape.
        """
        found = target(batch, self.reads)
        if found.ndim not in (1, 2):
            raise InputError(f"Regress takes targets [n] or [n, m]; got shape {tuple(found.shape)}.")
        return found[:, None] if found.ndim == 1 else found

    @property
    def ability(self) -> tuple[str, str]:
        """Name and unit of `measure`."""
        return "variance explained", "%"

    def measure(self, model: Module, data: Data[Regress]) -> float:
        """R^2: 100 (1 - squared error / variance of the targets), in %; below 0 where the mean would be nearer."""
        from . import predict

        given = predict(model, data).double()
        wanted = torch.cat([self.targets(batch).double().cpu() for batch in data.batches()])
        spread = (wanted - wanted.mean(0)).square().sum()
        return 100 * float(1 - (given - wanted).square().sum() / spread) if spread > 0 else float("nan")
