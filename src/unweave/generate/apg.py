"""APG: guidance at high scales without the oversaturated colours.

Sadat, Hilliges, Weber, "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
ICLR 2025, arXiv 2410.02416. With D_c and D_u the clean images predicted with and without the prompt:

    d = D_c - D_u;   m <- d + beta m;   d <- m min(1, r / ||m||)
    d_par = (<d, D_c> / <D_c, D_c>) D_c;   D = D_c + (w - 1) (d - d_par + eta d_par)

The part along D_c makes the image brighter and more saturated; the rest makes it better. diffusers' guider of that
name does this to what the network predicts (`space="prediction"` here), where the part along it is mostly noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from ..paper import Paper
from ..settings import NonNegative, Part, Range, Share, SomeShare, settings
from .guidance import Rule, Scale, Step, inner, wide


@settings
class APG:
    """Adaptive projected guidance: momentum, then a cap on its length, then less of what lies along the image.

    With eta=1, momentum=0 and threshold=0 it is classifier-free guidance. Where D_c is zero nothing lies along it;
    where the difference is zero there is nothing to cap.

    Attributes:
        scale: w; 1 draws without guidance.
        eta: share kept of the part along D_c.
        momentum: beta, in (-1, 0]: a negative one pushes away from where earlier steps led.
        threshold: r, the largest length of the difference, in the latents' own unit; it grows with the square root of
            their number. The paper uses about 15 for SDXL, 7.5 for Stable Diffusion 2.1; 0 is no cap. Where it is far
            below the typical length, guidance is lost: see `Projected.capped`.
        space: "clean" is the paper's; "prediction" is diffusers', for comparison.
        per_channel: measure length and direction in each channel alone.
        start: share of the steps before which nothing is guided.
        stop: share of the steps after which nothing is guided.
    """

    scale: Scale = 7.5
    eta: Share = 0.0
    momentum: Annotated[
        float, Range(above=-1, at_most=0, why="It is beta: above 0 it would add up what it should damp.")
    ] = -0.5
    threshold: NonNegative = 15.0
    space: Literal["clean", "prediction"] = "clean"
    per_channel: bool = False
    start: Part = 0.0
    stop: SomeShare = 1.0

    paper: ClassVar[Paper] = Paper(
        "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
        "Sadat, Hilliges, Weber", "ICLR", 2025, "2410.02416",
    )  # fmt: skip

    def guide(self) -> Rule:
        """A rule with a momentum of its own."""
        return Projected(self)


@dataclass
class Projected:
    """APG's rule for one generation.

    Attributes:
        settings: of it.
        lengths: mean length of the difference before the cap, one a guided step: what to set the threshold by.
        capped: share of the images that the cap shortened, one a guided step.
    """

    settings: APG
    lengths: list[float] = field(default_factory=list)
    capped: list[float] = field(default_factory=list)
    _moved: Tensor | None = None

    def __call__(self, told: Tensor, null: Tensor, step: Step) -> Tensor:
        """The guided prediction, in the dtype of `told`."""
        asked = self.settings
        if not asked.start <= step.index / step.count < asked.stop or asked.scale == 1:
            return told
        if asked.space == "prediction":
            return self.combined(wide(told), wide(null)).to(told.dtype)
        at = Step(wide(step.x), step.signal, step.noise, step.predicts, step.index, step.count)
        guided = self.combined(at.clean(wide(told)), at.clean(wide(null)))
        return at.prediction(guided).to(told.dtype)

    def combined(self, told: Tensor, null: Tensor) -> Tensor:
        """The guided image of the two clean ones, [n, channels, ...]."""
        asked = self.settings
        dims = tuple(range(2 if asked.per_channel else 1, told.ndim))
        d = told - null
        if asked.momentum:
            d = d if self._moved is None else d + asked.momentum * self._moved
            self._moved = d
        length = inner(d, d, dims).sqrt()
        self.lengths.append(float(length.mean()))
        if asked.threshold:
            share = (asked.threshold / length.clamp_min(torch.finfo(d.dtype).tiny)).clamp_max(1.0)
            self.capped.append(float((share < 1).double().mean()))
            d = d * share
        size = inner(told, told, dims)
        along = torch.where(size > 0, inner(d, told, dims) / torch.where(size > 0, size, 1.0), 0.0) * told
        return told + (asked.scale - 1) * (d - along + asked.eta * along)
