"""Concept Ablation: teach the denoiser to answer a concept's prompt as it answers an anchor's.

Kumari, Zhang, Wang, Shechtman, Zhang, Zhu, "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023, arXiv
2303.13516. With x_t a noised image of the anchor, c the concept's prompt and a the anchor's:

    model-based (eq. 5):  loss = mean (eps(x_t, c) - sg eps(x_t, a))^2
    noise-based (eq. 6):  loss = mean (eps(x_t, c) - noise)^2

and the prior term mean (eps(x_t, a) - noise)^2 with its own weight. The anchor is the request's guide; its images are
drawn by the original pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import AdamW

from ..errors import InputError
from ..models.text_to_image import TextToImage
from ..paper import Paper
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
class ConceptAblation:
    """Map each concept onto its guide by distillation from the guide's own prompts.

    Images are not augmented. The prediction matched is the denoiser's own, noise or velocity.

    Attributes:
        target: "model" matches the prediction under the guide's prompt; "noise" the noise itself.
        teacher: whose prediction under the guide's prompt that is: the "current" weights (the paper, one model in
            memory) or the "original" ones, which cannot drift.
        prior: weight of ordinary training on the guide's images and prompts.
        train: which weights move.
        steps: of AdamW.
        batch_size: latents a step.
        lr: of AdamW; the paper's 2e-6 for each image of the batch.
        images: of the guides, drawn before training.
        sampler_steps: of the sampler that draws them.
        guidance: scale of classifier-free guidance while drawing them.
    """

    target: Literal["model", "noise"] = "model"
    teacher: Literal["current", "original"] = "current"
    prior: float = 0.0
    train: Weights = "cross_kv"
    steps: int = 200
    batch_size: int = 8
    lr: float = 1.6e-5
    images: int = 200
    sampler_steps: int = 50
    guidance: float = 6.0

    paper: ClassVar[Paper] = Paper(
        "Ablating Concepts in Text-to-Image Diffusion Models",
        "Kumari, Zhang, Wang, Shechtman, Zhang, Zhu", "ICCV", 2023, "2303.13516",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ("guide",)

    def __post_init__(self) -> None:
        require_settings(self, least={"sampler_steps": 1, "images": 1})
        if self.prior < 0:
            raise InputError(f"ConceptAblation.prior must not be negative; got {self.prior}.")

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline that draws each guide where its concept is asked for.

        Raises:
            InputError: if the tokenizer cannot see a concept.
            NonFiniteError: if training diverges.
        """
        data.require_seen(model, "ConceptAblation")
        given, model = model, widened(model)
        olds = [p for c in data.erase for p in data.prompts(c)]
        news = [g for c in data.erase for g in data.guide_prompts(c)]
        with torch.no_grad():
            asked, anchors = model.encode(olds), model.encode(news)
        images = draw_latents(
            model, cycled(news, self.images), steps=self.sampler_steps, guidance=self.guidance, rng=rng,
            label="draw the guides",
        )  # fmt: skip
        edited = model.editable()
        teacher = edited if self.teacher == "current" else model

        def loss() -> Tensor:
            at = pick(self.batch_size, len(images))
            rows, clean = at % len(news), images[at]
            noise, t = noise_like(clean), pick(self.batch_size, model.timesteps)
            x = model.add_noise(clean, noise, t)
            truth = model.truth(clean, noise, t)
            goal = truth
            if self.target == "model":
                with torch.no_grad():
                    goal = teacher(x, t, anchors[rows])
            total = F.mse_loss(edited(x, t, asked[rows]), goal)
            if self.prior:
                total = total + self.prior * F.mse_loss(edited(x, t, anchors[rows]), truth)
            return total

        weights = list(weights_of(edited, self.train).values())
        train_(
            edited, loss, weights, AdamW(weights, lr=self.lr),
            steps=self.steps, rng=rng, label="Concept Ablation",
        )  # fmt: skip
        return narrowed(edited, given)
