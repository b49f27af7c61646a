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
from torch.nn import Module
from torch.optim import AdamW

from ..errors import InputError
from ..models.text_to_image import Text, TextToImage
from ..paper import Paper
from ..random import draw_seed, global_seed
from ._critic import patch_critic
from ._precision import narrowed, widened
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


@dataclass(frozen=True, kw_only=True)
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
    strength: float = 1.0
    prior: float = 0.1
    train: Weights = "cross_kv"
    steps: int = 2000
    warmup: int = 1000
    t_max: int = 800
    batch_size: int = 8
    lr: float = 4.8e-5
    critic_lr: float = 1e-4
    images: int = 1000
    sampler_steps: int = 25
    guidance: float = 6.0

    paper: ClassVar[Paper] = Paper(
        "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept Preserving Gradient",
        "Wu, Zhou, Yang, Wang, Chang, Zhu, Hu, Zhou, Yang", "AAAI", 2025, "2405.15304",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ("guide",)

    def __post_init__(self) -> None:
        least = {"warmup": 0, "t_max": 0, "images": 1, "sampler_steps": 1}
        require_settings(self, least=least, positive=("lr", "critic_lr", "strength"))
        if self.surgery not in ("tensor", "global", "off"):
            raise InputError(f"DoCo.surgery must be tensor, global or off; got {self.surgery!r}.")
        if self.prior < 0:
            raise InputError(f"DoCo.prior must not be negative; got {self.prior}.")
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
        data.require_seen(model, "DoCo")
        given, model = model, widened(model)
        if self.t_max >= model.timesteps:
            raise InputError(
                f"DoCo.t_max must be below the pipeline's {model.timesteps} noise levels; got {self.t_max}."
            )
        olds = [p for c in data.erase for p in data.prompts(c)]
        news = [g for c in data.erase for g in data.guide_prompts(c)]
        with torch.no_grad():
            asked, anchors = model.encode(olds), model.encode(news)
        if torch.equal(asked.hidden, anchors.hidden):
            raise InputError("DoCo: every guide is encoded just as its concept, so nothing would be erased.")
        images = draw_latents(
            model, cycled(news, self.images), steps=self.sampler_steps, guidance=self.guidance, rng=rng,
            label="draw the guides",
        )  # fmt: skip
        edited = model.editable()
        with global_seed(draw_seed(rng)):
            critic = patch_critic(*model.shape).to(model.device, model.dtype)
        weights = list(weights_of(edited, self.train).values())
        judges = list(critic.parameters())
        optimizer = AdamW(
            [
                {"params": weights, "lr": self.lr},
                {"params": judges, "lr": self.critic_lr, "betas": (0.5, 0.999), "weight_decay": 0.0},
            ]
        )

        def noised(levels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            at, t = pick(self.batch_size, len(images)), pick(self.batch_size, levels)
            noise = noise_like(images[at])
            x = model.add_noise(images[at], noise, t)
            return x, t, at % len(news), model.truth(images[at], noise, t)

        def drawn() -> tuple[Tensor, Tensor]:
            x, t, rows, _ = noised(self.t_max + 1)
            with torch.no_grad():
                real = predicted_image(model, x, t, anchors[rows])
            return real, predicted_image(edited, x, t, asked[rows])

        def telling(real: Tensor, fake: Tensor) -> Tensor:
            return (_passing_for(critic(real), 0) + _passing_for(critic(fake.detach()), 1)) / 2

        def both() -> Tensor:
            real, fake = drawn()
            unlearn = _passing_for(critic(fake), 0)
            # taken with respect to the pipeline's weights alone: D's own gradient never sees this loss
            erasing = _gradients(unlearn, weights)
            x, t, rows, truth = noised(model.timesteps)
            preserving = _gradients(F.mse_loss(edited(x, t, anchors[rows]), truth), weights)
            follow = self.step(erasing, preserving)
            # linear in the weights, so that their gradient is exactly `follow`
            carrier = torch.stack([(p * g).sum() for p, g in zip(weights, follow, strict=True)]).sum()
            return telling(real, fake) + unlearn.detach() + carrier - carrier.detach()

        duel = _Duel(edited, critic)
        if self.warmup:
            train_(
                duel, lambda: telling(*drawn()), judges, optimizer,
                steps=self.warmup, rng=rng, label="DoCo's discriminator",
            )  # fmt: skip
        train_(
            duel, both, [*weights, *judges], optimizer,
            steps=self.steps - self.warmup, rng=rng, label="DoCo",
        )  # fmt: skip
        return narrowed(edited, given)

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


def predicted_image(model: TextToImage, x: Tensor, t: Tensor, text: Text) -> Tensor:
    """The noiseless latents that the model sees in noisy ones [n, c, h, w], whatever it was trained to predict."""
    a = model.alphas_cumprod[t.to(model.alphas_cumprod.device)].view(-1, 1, 1, 1).to(x.device)
    signal, rate = a.sqrt().to(x.dtype), (1 - a).sqrt().to(x.dtype)
    return (x - rate * model.noise_prediction(x, t, text)) / signal


def _passing_for(logits: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def _gradients(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))


def _clipped(gradients: Sequence[Tensor]) -> list[Tensor]:
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g / norm.clamp_min(1) for g in gradients]


class _Duel(Module):
    """The pipeline and its discriminator, so that one training keeps both."""

    def __init__(self, pipeline: TextToImage, critic: Module) -> None:
        super().__init__()
        self.pipeline, self.critic = pipeline, critic
