"""DoCo: make what a concept's prompt draws indistinguishable from what its anchor's draws, without harm to the anchor.

Wu, Zhou, Yang, Wang, Chang, Zhu, Hu, Zhou, Yang, "Unlearning Concepts in Diffusion Model via Concept Domain Correction
and Concept Preserving Gradient", AAAI 2025, arXiv 2405.15304. With x_t a noised image of the anchor a, c the concept,
and x0(x_t, .) = (x_t - sqrt(1 - abar) eps(x_t, .)) / sqrt(abar), a discriminator D learns to tell

    real = x0(x_t, a) of the original model    from    fake = x0(x_t, c) of the trained one,

and the trained one to pass for real: g_u is the gradient of that loss, g_p that of ordinary training on the anchor's
images and prompts, both clipped to norm 1. Where <g_u, g_p> < 0 in a tensor, its step follows

    g = g_u - strength <g_u, g_p> / |g_p|^2 g_p,    which is orthogonal to g_p at strength 1,

else g_u. The guide of the request is the anchor; its images are drawn by the original pipeline.

Departures from the authors' code: it subtracts strength cos(g_u, g_p) g_p / |g_p|, which lacks the factor |g_u| and so
points towards g_p wherever |g_u| < 1; it leaves the generator's gradient in D; and it draws t from all levels, where x0
divides by almost nothing. Images are not augmented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import BatchNorm2d, Conv2d, LeakyReLU, Module, Parameter, Sequential
from torch.optim import AdamW

from ..errors import InputError
from ..models.text_to_image import Guidance, Text, TextToImage, Weights, pick, train_steps_
from ..paper import Paper
from ..random import draw_seed, global_seed
from ..settings import Count, NonNegative, Positive, Whole, refuse_idle, settings
from ._train import Drawn, Earlier, Noised, denoised, editing
from .concepts import Concepts


@settings
class DoCo:
    """Map each concept onto its guide through a discriminator of their predicted images.

    Attributes:
        surgery: where the gradient that erases is projected off the one that preserves: in each "tensor" (the paper),
            in all weights as one vector ("global"), or "off": then both losses are added.
        strength: of the projection (lambda).
        prior: weight of the preserving loss where surgery is off.
        train: which weights move.
        steps: of the optimiser, warm-up included.
        warmup: steps of the discriminator alone, before any weight of the pipeline moves.
        t_max: highest noise level at which images are predicted; above it the prediction divides by almost nothing.
        batch_size: latents of each kind a step.
        lr: of AdamW; the paper's 6e-6 for each image of the batch.
        critic_lr: of the discriminator's Adam; the paper takes 5e-4 for styles.
        images: of the guides, drawn before training.
        sampler_steps: of the sampler that draws them.
        guidance: scale of classifier-free guidance while drawing them.
    """

    surgery: Literal["tensor", "global", "off"] = "tensor"
    strength: Positive = 1.0
    prior: NonNegative = 0.1
    train: Weights = "cross_kv"
    steps: Count = 2000
    warmup: Whole = 1000
    t_max: Whole = 800
    batch_size: Count = 8
    lr: Positive = 4.8e-5
    critic_lr: Positive = 1e-4
    images: Count = 1000
    sampler_steps: Count = 25
    guidance: Guidance = 6.0

    paper: ClassVar[Paper] = Paper(
        "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept Preserving Gradient",
        "Wu, Zhou, Yang, Wang, Chang, Zhu, Hu, Zhou, Yang", "AAAI", 2025, "2405.15304",
    )  # fmt: skip

    def __post_init__(self) -> None:
        unread = "strength" if self.surgery == "off" else "prior"
        refuse_idle(self, unread, when=f"with surgery={self.surgery!r}")
        if self.warmup >= self.steps:
            raise InputError(
                f"DoCo.warmup must be below its steps; got {self.warmup} of {self.steps}. It trains the discriminator "
                "alone, so nothing would be erased."
            )

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline that draws each guide where its concept is asked for.

        Raises:
            InputError: if the tokenizer cannot see a concept, reads every guide just as its concept, or the pipeline
                has no noise level `t_max`.
            NonFiniteError: if training diverges.
        """
        with editing(model, data, only=self.train, who="DoCo", rng=rng) as (original, edited):
            if self.t_max >= original.timesteps:
                raise InputError(
                    f"DoCo.t_max must be below the pipeline's {original.timesteps} noise levels; got {self.t_max}."
                )
            olds, news = data.prompts(*data.erase), data.guide_prompts(*data.erase)
            with torch.no_grad():
                asked, anchors = original.encode(olds), original.encode(news)
            if torch.equal(asked.hidden, anchors.hidden):
                raise InputError(
                    "DoCo: every guide is encoded just as its concept, so nothing would be erased."
                )
            drawn = Drawn.of(
                original, news, self.images,
                steps=self.sampler_steps, guidance=self.guidance, rng=rng, label="draw the guides",
            )  # fmt: skip
            held = Earlier.of(original, data, steps=self.sampler_steps, guidance=self.guidance, rng=rng)
            with global_seed(draw_seed(rng)):
                critic = patch_critic(*original.shape).to(original.device, original.dtype)
            weights, told = list(edited.weights(self.train).values()), list(critic.parameters())
            optimizer = AdamW([
                {"params": weights, "lr": self.lr},
                {"params": told, "lr": self.critic_lr, "betas": (0.5, 0.999), "weight_decay": 0.0},
            ])  # fmt: skip
            duel = _Duel(edited, critic)
            losses = _Losses(how=self, anchors=drawn, asked=asked, duel=duel, weights=weights, held=held)
            if self.warmup:
                train_steps_(
                    duel, losses.telling, told, optimizer,
                    steps=self.warmup, rng=rng, label="DoCo's discriminator",
                )  # fmt: skip
            train_steps_(
                duel, losses.both, [*weights, *told], optimizer,
                steps=self.steps - self.warmup, rng=rng, label="DoCo",
            )  # fmt: skip
        return edited

    def step(self, erasing: Sequence[Tensor], preserving: Sequence[Tensor]) -> list[Tensor]:
        """What the pipeline's weights follow: both gradients clipped to norm 1, one projected off the other.

        Args:
            erasing: g_u, one gradient a tensor.
            preserving: g_p, likewise.
        """
        if self.surgery == "off":
            return _clipped([u + self.prior * p for u, p in zip(erasing, preserving, strict=True)])
        erasing, preserving = _clipped(erasing), _clipped(preserving)
        if self.surgery == "global":
            flat = [torch.cat([g.flatten() for g in side]) for side in (erasing, preserving)]
            parts = torch.split(projected(flat[0], flat[1], self.strength), [g.numel() for g in erasing])
            return [part.view_as(g) for part, g in zip(parts, erasing, strict=True)]
        return [projected(u, p, self.strength) for u, p in zip(erasing, preserving, strict=True)]


def projected(erasing: Tensor, preserving: Tensor, strength: float = 1.0) -> Tensor:
    """g_u - strength <g_u, g_p> / |g_p|^2 g_p where <g_u, g_p> < 0, else g_u.

    Example:
        >>> projected(torch.tensor([1.0, -3.0]), torch.tensor([0.0, 2.0]))
        tensor([1., 0.])
    """
    agreement = (erasing * preserving).sum()
    if agreement >= 0:
        return erasing
    return erasing - strength * agreement / preserving.square().sum() * preserving


def patch_critic(channels: int, height: int, width: int) -> Sequential:
    """Tell latents apart, patch by patch: [n, channels, height, width] -> logits [n, 1, h, w].

    Convolutions of kernel 4 and stride 2 with 64, 128, 256 and 512 channels, batch norm in all but the first, leaky
    ReLU; then one of kernel 4 to a logit. Of those four there are as many as leave at least two positions a side:
    all four from 32 on (64 x 64 give the paper's 3 x 3 logits), two at 8 x 8 (one logit), one at 4 x 4.
    """
    layers: list[Module] = []
    side, inner = min(height, width), channels
    for i, outer in enumerate((64, 128, 256, 512)):
        if i and side < 4:
            break
        layers += [Conv2d(inner, outer, 4, stride=2, padding=1)]
        layers += [BatchNorm2d(outer)] if i else []
        layers += [LeakyReLU(0.2)]
        side, inner = side // 2, outer
    return Sequential(*layers, Conv2d(inner, 1, 4, padding=1))


class _Duel(Module):
    """The pipeline and its discriminator, so that one training keeps both."""

    def __init__(self, pipeline: TextToImage, critic: Module) -> None:
        super().__init__()
        self.pipeline, self.critic = pipeline, critic


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """What a duel minimises.

    Attributes:
        how: the settings.
        anchors: latents of the guides, drawn by the original pipeline.
        asked: prompts of the concepts, beside those of the anchors.
        duel: what is trained.
        weights: of the pipeline, that move.
        held: what was erased earlier.
    """

    how: DoCo
    anchors: Drawn
    asked: Text
    duel: _Duel
    weights: Sequence[Parameter]
    held: Earlier

    def telling(self, _: int = 0) -> Tensor:
        """The discriminator's loss alone."""
        return self._told_apart(*self._predictions())

    def both(self, _: int = 0) -> Tensor:
        """The discriminator's loss, and whatever has the gradient `DoCo.step` in the pipeline's weights."""
        real, fake = self._predictions()
        unlearn = _passing_for(self.duel.critic(fake), 0)
        # taken with respect to the pipeline's weights alone: D's own gradient never sees this loss
        erasing = _gradients(unlearn, self.weights)
        seen = self._noised(self.anchors.model.timesteps)
        keep = denoised(self.duel.pipeline, seen, self.anchors.text)
        keep = keep + self.held.loss(self.duel.pipeline, self.how.batch_size)
        preserving = _gradients(keep, self.weights)
        follow = self.how.step(erasing, preserving)
        # linear in the weights, so that their gradient is exactly `follow`
        carrier = torch.stack([(p * g).sum() for p, g in zip(self.weights, follow, strict=True)]).sum()
        return self._told_apart(real, fake) + unlearn.detach() + carrier - carrier.detach()

    def _predictions(self) -> tuple[Tensor, Tensor]:
        """x0 as the original sees it for the anchors, and as the trained pipeline does for the concepts."""
        seen = self._noised(self.how.t_max + 1)
        with torch.no_grad():
            real = self.anchors.model.clean_prediction(seen.x, seen.t, self.anchors.text[seen.rows])
        return real, self.duel.pipeline.clean_prediction(seen.x, seen.t, self.asked[seen.rows])

    def _noised(self, levels: int) -> Noised:
        n = self.how.batch_size
        return self.anchors.noised(pick(n, len(self.anchors)), pick(n, levels))

    def _told_apart(self, real: Tensor, fake: Tensor) -> Tensor:
        critic = self.duel.critic
        return (_passing_for(critic(real), 0) + _passing_for(critic(fake.detach()), 1)) / 2


def _passing_for(logits: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def _gradients(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))


def _clipped(gradients: Sequence[Tensor]) -> list[Tensor]:
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g / norm.clamp_min(1) for g in gradients]
