"""Sculpting Memory: forget concepts one after another through a changing half of the cross-attention.

Li, Xiao, Ji, Deng, Hui, Guo, Ma, "Sculpting Memory: Multi-Concept Forgetting in Diffusion Models via Dynamic Mask and
Concept-Aware Optimization", ICCV 2025, arXiv 2504.09039. The guide of a concept c is its superclass s. In the round of
c, with x_t a noised image of c, x'_t one of s, and T the weights as the round began, which forgot the concepts before:

    loss = mean (eps(x_t, c) - sg eps(x_t, s))^2
           + align * mean (eps(x'_t, s) - noise)^2 + kd * mean (eps(x'_t, s) - T(x'_t, s))^2

It moves the weights with the largest |sum of gradients|, chosen in each matrix: first of the training loss on images of
c over the warm-up, then of the loss itself, where a share of the mask that falls as a cosine is exchanged.

The paper's text was not available here: masks and schedule follow the authors' code. That code computes the third term
and then overwrites it by the second; kd=0 is what it trains. Departures: moments of weights that leave the mask are
zeroed, so that off the mask every weight keeps its bits; the cycle of the learning rate ends with the round; the mean
that chooses a round's weights leaves the warm-up out; Adam's betas do not cycle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Parameter
from torch.optim.lr_scheduler import OneCycleLR

from ..errors import InputError
from ..fit import Step
from ..masks.budgets import Uniform
from ..masks.select import select
from ..models.text_to_image import Text, TextToImage, training_only
from ..paper import Paper
from ..random import draw_seed, global_seed
from ._precision import narrowed, widened
from ._sculptor import Sculptor
from ._train import (
    Weights,
    cycled,
    draw_latents,
    noise_like,
    pick,
    require_settings,
    train_,
    weights_of,
)
from .concepts import Concepts

_UNTIL = 0.8
"""Share of a round after which its mask stays."""


@dataclass(frozen=True, kw_only=True)
class SculptingMemory:
    """Turn each concept into its guide, in the order of the request, and distil from the model before each round.

    All images are drawn by the original pipeline: those of a guide with the concept as negative prompt. A round needs
    nothing of those after it: erasing the first concepts alone gives the same weights as stopping there.

    Attributes:
        density: share of every weight matrix that may move at a time (rho); biases move whole.
        exchange: share of the mask exchanged at first (zeta_0); 0 keeps the mask of the warm-up.
        update_every: steps between two exchanges, of which there are none in the last fifth of a round.
        align: weight of ordinary training on the guide's images.
        kd: weight of the distillation from the round's beginning; 0 is the authors' code as it runs.
        target: whose prediction under the guide's prompt the concept is to take: the "current" weights (the authors'
            code), the round's "teacher", or the "original" ones.
        train: which weights are candidates.
        steps: of a round, warm-up included.
        warmup: steps of a round that only sum up gradients for its first mask.
        epoch: steps over which the first term is averaged; a round ends with the weights of the lowest mean.
        batch_size: latents of each kind a step.
        lr: highest learning rate of Adam, reached after 30 % of a round's training.
        images: drawn of each concept, and as many of its guide.
        sampler_steps: of the sampler that draws them.
        guidance: scale of classifier-free guidance while drawing them.
    """

    density: float = 0.5
    exchange: float = 0.2
    update_every: int = 100
    align: float = 0.25
    kd: float = 0.25
    target: Literal["current", "teacher", "original"] = "current"
    train: Weights = "cross"
    steps: int = 500
    warmup: int = 50
    epoch: int = 50
    batch_size: int = 2
    lr: float = 3e-6
    images: int = 100
    sampler_steps: int = 50
    guidance: float = 7.5

    paper: ClassVar[Paper] = Paper(
        "Sculpting Memory: Multi-Concept Forgetting in Diffusion Models via Dynamic Mask and "
        "Concept-Aware Optimization",
        "Li, Xiao, Ji, Deng, Hui, Guo, Ma", "ICCV", 2025, "2504.09039",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ("guide",)

    def __post_init__(self) -> None:
        least = {"warmup": 1, "epoch": 1, "update_every": 1, "images": 1, "sampler_steps": 1}
        require_settings(self, least=least)
        if not 0 < self.density <= 1:
            raise InputError(
                f"SculptingMemory.density must be in (0, 1]; got {self.density}. It is the share of every weight "
                "matrix that may move."
            )
        if not 0 <= self.exchange <= 1:
            raise InputError(f"SculptingMemory.exchange must be in [0, 1]; got {self.exchange}.")
        for name in ("align", "kd"):
            if getattr(self, name) < 0:
                raise InputError(f"SculptingMemory.{name} must not be negative; got {getattr(self, name)}.")
        if self.warmup >= self.steps:
            raise InputError(
                f"SculptingMemory.warmup must be below its steps; got {self.warmup} of {self.steps}. The warm-up moves "
                "nothing."
            )

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline that draws each guide where its concept is asked for.

        Raises:
            InputError: if the tokenizer cannot see a concept, a guide is empty or names its own concept, or no weight
                is salient.
            NonFiniteError: if training diverges.
        """
        data.require_seen(model, "SculptingMemory")
        given, model = model, widened(model)
        for concept in data.erase:
            guide = data.guide_of(concept)
            if not guide.strip() or _words(concept) in _words(guide):
                raise InputError(
                    f"SculptingMemory needs a superclass as the guide of {concept!r}, such as fish for tench; got "
                    f"{guide!r}. It must not be empty, nor name the concept itself."
                )
        edited = model.editable()
        for concept in data.erase:
            self._round_(edited, model, data.only(concept), rng)
        return narrowed(edited, given)

    def _round_(self, edited: TextToImage, model: TextToImage, data: Concepts, rng: Generator) -> None:
        (concept,) = data.erase
        olds, news = data.prompts(concept), data.guide_prompts(concept)
        with torch.no_grad():
            asked, broad = model.encode(olds), model.encode(news)
        gone, wide = (
            draw_latents(
                model, cycled(prompts, self.images), steps=self.sampler_steps, guidance=self.guidance,
                negative=negative, rng=rng, label=label,
            )
            for prompts, negative, label in ((olds, "", f"draw {concept}"), (news, concept, "draw its guide"))
        )  # fmt: skip
        weights = weights_of(edited, self.train)
        keep = self._first_mask(edited, weights, gone, asked, rng)
        optimizer = Sculptor(weights, keep, lr=self.lr)
        teacher = edited.editable()
        goals = {"current": edited, "teacher": teacher, "original": model}[self.target]
        forgetting: list[float] = []

        def loss() -> Tensor:
            t, at = pick(self.batch_size, model.timesteps), pick(self.batch_size, len(gone))
            x, rows = model.add_noise(gone[at], noise_like(gone[at]), t), at % len(olds)
            at = pick(self.batch_size, len(wide))
            noise, others = noise_like(wide[at]), at % len(news)
            y = model.add_noise(wide[at], noise, t)
            with torch.no_grad():
                goal = goals(x, t, broad[rows])
                known = teacher(y, t, broad[others]) if self.kd else None
            texts = Text.cat([asked[rows], broad[others]])
            taken, answer = edited(torch.cat([x, y]), torch.cat([t, t]), texts).chunk(2)
            forget = F.mse_loss(taken, goal)
            forgetting[:] = [float(forget.detach())]
            total = forget + self.align * F.mse_loss(answer, model.truth(wide[at], noise, t))
            return total if known is None else total + self.kd * F.mse_loss(answer, known)

        def after_step(step: Step) -> None:
            done = self.warmup + step.index
            optimizer.note_(forgetting[0], close=done % self.epoch == 0 or done == self.steps)
            if self.exchange and done % self.update_every == 0 and done < _UNTIL * self.steps:
                optimizer.change_(self.exchanged(done))

        left = self.steps - self.warmup
        train_(
            edited, loss, list(weights.values()), optimizer, steps=left, rng=rng, label=f"forget {concept}",
            schedule=OneCycleLR(optimizer, self.lr, total_steps=left, cycle_momentum=False), after_step=after_step,
        )  # fmt: skip
        optimizer.put_back_()

    def exchanged(self, step: int) -> float:
        """The share of the mask that is exchanged at a step of a round."""
        return self.exchange * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def _first_mask(
        self,
        edited: TextToImage,
        weights: Mapping[str, Parameter],
        images: Tensor,
        asked: Text,
        rng: Generator,
    ) -> Mapping[str, Tensor]:
        sums = {n: torch.zeros_like(p) for n, p in weights.items()}
        with global_seed(draw_seed(rng)), training_only(edited, list(weights.values())):
            for _ in range(self.warmup):
                at, t = pick(self.batch_size, len(images)), pick(self.batch_size, edited.timesteps)
                noise = noise_like(images[at])
                answer = edited(edited.add_noise(images[at], noise, t), t, asked[at % len(asked)])
                error = F.mse_loss(answer, edited.truth(images[at], noise, t))
                found = torch.autograd.grad(error, list(weights.values()), allow_unused=True)
                for total, gradient in zip(sums.values(), found, strict=True):
                    if gradient is not None:
                        total += gradient
        if not any(bool(total.any()) for total in sums.values()):
            raise InputError(
                "SculptingMemory found no salient weight: the concept's images have no gradient."
            )
        size = {n: total.abs() * (weights[n] != 0) for n, total in sums.items() if total.ndim > 1}
        return select(size, budget=Uniform(1 - self.density)).keep


def _words(phrase: str) -> str:
    return f" {' '.join(phrase.lower().split())} "
