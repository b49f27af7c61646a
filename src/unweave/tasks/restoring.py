"""Restoring: what was degraded beside what it was, both dense."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..types import Batch, Data
from .batches import Reads, answers, places_of_inputs, target

_FLOOR = 1e-10
"""Smallest squared error, as a share of the peak's square: 100 dB."""


@dataclass(frozen=True)
class Restore:
    """Pairs of a degraded signal and the clean one: pictures, cubes, stacks or sounds, each [n, ...].

    Attributes:
        loss: "l1" is the mean absolute error of an example, "l2" the mean squared one.
        peak: largest value a clean signal can have, in its own unit; PSNR is measured against it.
        reads: of several inputs, how many lead a tuple, or their names; see `tasks.batches.Reads`.
    """

    loss: Literal["l1", "l2"] = "l1"
    peak: float = 1.0
    reads: Reads = None

    def __post_init__(self) -> None:
        if self.loss not in ("l1", "l2"):
            raise InputError(f"Restore.loss must be l1 or l2; got {self.loss!r}.")
        if not (isfinite(self.peak) and self.peak > 0):
            raise InputError(f"Restore.peak must be above 0 and finite; got {self.peak}.")

    def losses(self, model: Module, batch: Batch) -> Tensor:
        """Mean error over an example's values, [n].

        Raises:
            InputError: if the model's answers and the clean signals have different shapes.
        """
        apart = self._apart(model, batch)
        return (apart.abs() if self.loss == "l1" else apart.square()).flatten(1).mean(1)

    def outputs(self, model: Module, batch: Batch) -> Tensor:
        """The restored signals, float32 or wider, [n, ...]."""
        return answers(model, batch, self.reads)

    def degraded(self, batch: Batch) -> Tensor:
        """What the model reads, [n, ...]; the first, where there are several inputs."""
        return batch[places_of_inputs(batch, self.reads)[0]]  # type: ignore[no-any-return]

    def clean(self, batch: Batch) -> Tensor:
        """What should come out, [n, ...]."""
        return target(batch, self.reads)

    @property
    def ability(self) -> tuple[str, str]:
        """Name and unit of `measure`."""
        return "PSNR", "dB"

    def measure(self, model: Module, data: Data[Restore]) -> float:
        """Mean over the examples of 10 log10(peak^2 / mean squared error), in dB; at most 100 each."""
        from . import predict

        errors = predict(model, data, lambda m, b: self._apart(m, b).double().square().flatten(1).mean(1))
        return float(decibels(errors, self.peak).mean())

    def _apart(self, model: Module, batch: Batch) -> Tensor:
        given = self.outputs(model, batch)
        wanted = self.clean(batch).to(given)
        if given.shape != wanted.shape:
            raise InputError(
                f"the model made {tuple(given.shape)} where the clean signals are {tuple(wanted.shape)}: the scale "
                "or the number of channels differs. Train or load a model for these."
            )
        return given - wanted


def decibels(errors: Tensor, peak: float = 1.0) -> Tensor:
    """10 log10(peak^2 / errors) of mean squared errors, at most 100.

    Example:
        >>> decibels(torch.tensor([0.01, 0.0]))
        tensor([ 20., 100.])
    """
    return -10 * torch.log10((errors / peak**2).clamp_min(_FLOOR))
