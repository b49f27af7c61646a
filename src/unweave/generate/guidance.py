"""What guidance is: at each step of the sampler, two predictions become one.

A `Guidance` holds the settings; its verb `guide` makes a `Rule`, which may remember earlier steps and so serves one
generation. A rule reads the `Step` that it is at: the noisy tensor and the share of signal and noise in it, by
which a prediction is turned into the clean image it stands for, and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..settings import Range, settings

Predicts = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What a denoiser was trained to predict of x = a x_0 + b e: e; a e - b x_0; x_0; or e - x_0, where a = 1 - b."""
Scale = Annotated[
    float,
    Range(at_least=1, why="It is the scale of guidance: 1 draws without it, below 1 it would lead away."),
]
Rule = Callable[[Tensor, Tensor, "Step"], Tensor]
"""(prediction with the prompt, prediction without, where) -> the guided prediction, all [n, ...]."""


class Guidance(Protocol):
    """Settings of one way to guide."""

    @property
    def scale(self) -> float:
        """How strongly; 1 needs no second prediction."""
        ...

    def guide(self) -> Rule:
        """A rule for one generation."""
        ...


@dataclass(frozen=True)
class Step:
    """Where a sampler is.

    Attributes:
        x: what the denoiser read, [n, ...]: signal x_0 + noise e.
        signal: a, the share of the clean image.
        noise: b, the share of noise.
        predicts: what the denoiser predicts of it.
        index: of this step, from 0.
        count: steps of the sampler in all.
    """

    x: Tensor
    signal: float
    noise: float
    predicts: Predicts
    index: int = 0
    count: int = 1

    def clean(self, prediction: Tensor) -> Tensor:
        """The clean image that a prediction stands for.

        Raises:
            InputError: if noise is predicted where there is no signal: any image would fit.
        """
        if self.predicts == "epsilon":
            self._require(self.signal, "signal")
            return (self.x - self.noise * prediction) / self.signal
        if self.predicts == "v_prediction":
            return self.signal * self.x - self.noise * prediction
        return prediction if self.predicts == "sample" else self.x - self.noise * prediction

    def prediction(self, clean: Tensor) -> Tensor:
        """The prediction that stands for a clean image: `clean` undone.

        Raises:
            InputError: if there is no noise, or no signal, to predict.
        """
        if self.predicts == "sample":
            return clean
        self._require(self.noise, "noise")
        if self.predicts == "v_prediction":
            return (self.signal * self.x - clean) / self.noise
        left = self.x - (self.signal if self.predicts == "epsilon" else 1.0) * clean
        return left / self.noise

    def _require(self, share: float, what: str) -> None:
        if share <= 0:
            raise InputError(
                f"step {self.index} of {self.count} has no {what}, and the denoiser predicts {self.predicts}: its "
                "clean "
                "image is undefined there. Use a schedule whose first and last level hold both, or "
                'space="prediction".'
            )


@settings
class CFG:
    """Classifier-free guidance: the baseline of the others (Ho, Salimans, 2022, arXiv 2207.12598).

    Attributes:
        scale: w, in null + w (told - null).
    """

    scale: Scale = 7.5

    def guide(self) -> Rule:
        """A rule that remembers nothing."""
        return lambda told, null, _: null + self.scale * (told - null)


def wide(x: Tensor) -> Tensor:
    """In float64, where the device knows it: norms of many half-precision numbers overflow."""
    return x.double() if x.device.type != "mps" else x.float()


def inner(a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Inner product over these dimensions, which are kept."""
    return torch.sum(a * b, dim=dims, keepdim=True)
