"""CODE: repair a picture with a diffusion model that knows what pictures look like, not what went wrong with this one.

van Delft, Martorella, Alahi, "CODE: Confident Ordinary Differential Editing", 2024, arXiv 2408.12418. The picture is
taken along the probability-flow ODE into the noise (deterministic DDIM, backwards), moved there to where pictures are
likely, and brought back the same way. With a^2 = abar_k, b^2 = 1 - abar_k at step k of the grid and e the prediction:

    clip      x to +-(a B + eta b) before each step: 95 % of the values of a true picture's code lie inside at eta = 2
    see       x_0 = (x - b e) / a, cut at its 98 % quantile where that is above B, and divided by it; e anew from it
    encode    x_k+1 = a_k+1 x_0 + b_k+1 e,   k from 0 to depth
    update    x + h s + sqrt(2 h) n, with s = -e / b, many times; once more without n
    decode    the same line as encode, k from depth to 0

B is the largest size of a clean value. Decisions of ours where sources differ: the bounds are those of the step's own
noise level (the authors' code reads them at the grid's index); the size h of an update is a share of b^2, which is what
its stability depends on, and needs no scaling by depth; the updates are shared out over all stages with none dropped;
where more than one depth is corrected, each is corrected on the way back. Jitter is added once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..paper import Paper
from ..random import require_generator
from ..settings import Count, NonNegative, Positive, Range, SomeShare, refuse_idle, settings
from .priors import Prior

_STABLE = 0.5
"""Size of an update, as a share of the noise's variance, above which it is warned about; at 2 it diverges."""
_STRAYED = 1.5
"""Deviation of the predicted noise above which the way into the noise has left what the model knows."""


@settings
class CODE:
    """Edit pictures towards what a diffusion model finds likely; no weights change and no corruption is named.

    What comes back is the likeliest picture nearby, not what was there before: it is no evidence of it.

    Attributes:
        steps: K, of the sampler's grid.
        depth: share of the grid that the picture is taken into the noise: 0.1 to 0.2 for blur and speckle, most of it
            for fog, contrast and masks. Deeper is more likely and less like the input.
        updates: at each corrected depth.
        step_size: h of an update, as a share of the noise's variance there; 0 gives the plain way there and back.
        stages: of equal numbers of updates.
        decay: what h is multiplied by from stage to stage.
        depths: corrected, evenly spaced from `shallowest` to `depth`.
        shallowest: the first of them, as a share of the grid.
        clip: when values are clipped to what a true picture's code may hold.
        eta: how many deviations of the noise are allowed beyond the picture's range.
        threshold: whether clean predictions are cut at a quantile.
        quantile: of their sizes, for each picture.
        most: largest such cut, in units of B.
        bound: B; None takes 1, which is right for pixels. A pipeline with a VAE needs that of its latents.
        jitter: deviation of noise added to the picture first.
    """

    steps: Annotated[int, Range(at_least=2)] = 200
    depth: SomeShare = 0.2
    updates: Count = 250
    step_size: NonNegative = 0.05
    stages: Count = 4
    decay: SomeShare = 0.8
    depths: Count = 1
    shallowest: SomeShare = 0.1
    clip: tuple[Literal["encode", "update", "decode"], ...] = ("encode",)
    eta: Positive = 2.0
    threshold: bool = True
    quantile: SomeShare = 0.98
    most: Annotated[float, Range(at_least=1)] = 1.3
    bound: Positive | None = None
    jitter: NonNegative = 0.0

    paper: ClassVar[Paper] = Paper(
        "CODE: Confident Ordinary Differential Editing",
        "van Delft, Martorella, Alahi",
        "arXiv",
        2024,
        "2408.12418",
    )

    def __post_init__(self) -> None:
        if not self.step_size:
            refuse_idle(self, "updates", "stages", "decay", "depths", "shallowest", when="with step_size=0")
        if self.depths == 1:
            refuse_idle(self, "shallowest", when="with depths=1")
        elif self.shallowest >= self.depth:
            raise InputError(
                f"CODE.shallowest must be below depth; got {self.shallowest:g} and {self.depth:g}."
            )
        if not self.clip:
            refuse_idle(self, "eta", when="with clip=()")
        if not self.threshold:
            refuse_idle(self, "quantile", "most", when="with threshold=False")
            if not self.clip:
                refuse_idle(self, "bound", when="with threshold=False and clip=()")
        if self.step_size > _STABLE:
            warnings.warn(
                f"CODE.step_size={self.step_size:g} of the noise's variance is large: updates diverge at 2.",
                stacklevel=3,
            )

    @torch.no_grad()
    def edit(self, model: Any, images: Tensor, *, rng: Generator) -> Tensor:
        """The edited pictures; repeat one to see several of its edits.

        Args:
            model: a pipeline of ours (asked with its null prompt), one of diffusers with a `unet` that reads no prompts
                and a `scheduler`, or a `Prior`.
            images: [n, channels, height, width] between -1 and 1; left unchanged.
            rng: governs the run.

        Returns:
            Of the same shape, about -1 to 1.

        Raises:
            InputError: if the pictures' range or shape is another, the model reads a prompt or class that is not given,
                or the grid is longer than its schedule.
        """
        require_generator(rng)
        prior = Prior.of(model)
        prior.require_fit(images, self.bound, bounded=bool(self.clip) or self.threshold)
        x = prior.into(images)
        if self.jitter:
            x = x + self.jitter * torch.randn(x.shape, generator=rng).to(x)
        times = prior.times(self.steps)
        last = self._index(self.depth, times)
        x = self.encoded(prior, x, times[: last + 1])
        first = last if self.depths == 1 else self._index(self.shallowest, times)
        corrected = (
            {round(float(k)) for k in torch.linspace(first, last, self.depths)} if self.step_size else set()
        )
        for k in range(last, -1, -1):
            if k in corrected:
                x = self.updated(prior, x, times[k], rng)
            if k:
                x = self._moved(prior, x, times[k], times[k - 1], "decode")
        return prior.out_of(x)

    def encoded(self, prior: Prior, x: Tensor, times: Sequence[int]) -> Tensor:
        """The code of pictures at the last of these times, rising, taken as pictures at the first."""
        for now, then in zip(times, times[1:], strict=False):
            x = self._moved(prior, x, now, then, "encode")
        deviation = float(self.seen(prior, x, times[-1])[1].double().flatten(1).std(1).mean())
        if deviation > _STRAYED:
            warnings.warn(
                f"CODE: the noise predicted at the code has deviation {deviation:.2g}, not 1: the picture has left "
                'what the model knows. Clip on the way in (clip=("encode",), a smaller eta) or leave threshold on.',
                stacklevel=3,
            )
        return x

    def updated(self, prior: Prior, x: Tensor, t: int, rng: Generator) -> Tensor:
        """Langevin's walk at one time, ending with a step without noise."""
        noise = 1 - float(prior.shares[t])
        size = 0.0
        for stage in range(self.stages):
            size = self.step_size * noise * self.decay**stage
            for _ in range(_part(self.updates, self.stages, stage)):
                fresh = torch.randn(x.shape, generator=rng).to(x)
                x = x + size * self._slope(prior, x, t) + (2 * size) ** 0.5 * fresh
        return x + size * self._slope(prior, x, t)

    def seen(self, prior: Prior, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The clean picture and the noise in x at a time, cut as the settings say."""
        signal, rate = prior.rates(t)
        noise = prior.predict(x, t)
        clean = (x - rate * noise) / signal
        if not self.threshold:
            return clean, noise
        b = self.bound or 1.0
        cut = torch.quantile(clean.abs().flatten(1).float(), self.quantile, 1).to(clean) / b
        cut = cut.clamp(1.0, self.most).view(-1, *[1] * (x.ndim - 1))
        clean = torch.minimum(torch.maximum(clean, -cut * b), cut * b) / cut
        return clean, (x - signal * clean) / rate

    def _moved(
        self, prior: Prior, x: Tensor, now: int, then: int, way: Literal["encode", "decode"]
    ) -> Tensor:
        x = self._clipped(prior, x, now, way)
        clean, noise = self.seen(prior, x, now)
        signal, rate = prior.rates(then)
        return signal * clean + rate * noise

    def _slope(self, prior: Prior, x: Tensor, t: int) -> Tensor:
        x = self._clipped(prior, x, t, "update")
        return -self.seen(prior, x, t)[1] / prior.rates(t)[1]

    def _clipped(self, prior: Prior, x: Tensor, t: int, way: Literal["encode", "update", "decode"]) -> Tensor:
        if way not in self.clip:
            return x
        limit = confident(float(prior.shares[t]), self.eta, self.bound or 1.0)
        return x.clamp(-limit, limit)

    def _index(self, share: float, times: Sequence[int]) -> int:
        return min(len(times) - 1, max(1, round(share * len(times))))


def confident(share: float, eta: float, bound: float = 1.0) -> float:
    """Largest size that a value of a true picture's code has in most cases: a B + eta b.

    Args:
        share: abar, of the signal's variance.
        eta: 2 leaves at most 5 % of the values outside.
        bound: B, largest size of a clean value.
    """
    return float(share**0.5 * bound + eta * (1 - share) ** 0.5)


@torch.no_grad()
def sdedit(model: Any, images: Tensor, *, rng: Generator, depth: float, steps: int = 200) -> Tensor:
    """The baseline (Meng et al., SDEdit, ICLR 2022): noise pictures to this depth of the grid and draw from there.

    Args:
        model: see `CODE.edit`.
        images: [n, channels, height, width] between -1 and 1.
        rng: draws the noise.
        depth: share of the grid.
        steps: of the grid.

    Raises:
        InputError: as `CODE.edit` does.
    """
    require_generator(rng)
    prior, plain = Prior.of(model), CODE(steps=steps, depth=depth, step_size=0.0, clip=(), threshold=False)
    prior.require_fit(images, None, bounded=False)
    times = prior.times(steps)
    x, last = prior.into(images), plain._index(depth, times)
    signal, rate = prior.rates(times[last])
    x = signal * x + rate * torch.randn(x.shape, generator=rng).to(x)
    for k in range(last, 0, -1):
        x = plain._moved(prior, x, times[k], times[k - 1], "decode")
    return prior.out_of(x)


def _part(whole: int, parts: int, index: int) -> int:
    """Size of one of `parts` shares of a whole number, the larger ones first."""
    return whole // parts + (index < whole % parts)
