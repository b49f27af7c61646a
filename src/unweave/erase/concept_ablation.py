"""Concept Ablation: teach the denoiser to answer a concept's prompt as it answers an anchor's.

Kumari, Zhang, Wang, Shechtman, Zhang, Zhu, "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023, arXiv
2303.13516. With x_t a noised image of the anchor, c the concept's prompt and a the anchor's:

    model-based (eq. 5):  loss = mean (eps(x_t, c) - sg eps(x_t, a))^2
    noise-based (eq. 6):  loss = mean (eps(x_t, c) - noise)^2

and the prior term mean (eps(x_t, a) - noise)^2 with its own weight. The anchor is the request's guide; its images are
drawn by the original pipeline.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.optim import AdamW

from ..models.text_to_image import Guidance, TextToImage, Weights, noise_like, pick, train_steps_
from ..paper import Paper
from ..settings import Count, NonNegative, Positive, refuse_idle, settings
from ._train import Drawn, Earlier, denoised, distilled, editing
from .concepts import Concepts


@settings
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
    prior: NonNegative = 0.0
    train: Weights = "cross_kv"
    steps: Count = 200
    batch_size: Count = 8
    lr: Positive = 1.6e-5
    images: Count = 200
    sampler_steps: Count = 50
    guidance: Guidance = 6.0

    paper: ClassVar[Paper] = Paper(
        "Ablating Concepts in Text-to-Image Diffusion Models",
        "Kumari, Zhang, Wang, Shechtman, Zhang, Zhu", "ICCV", 2023, "2303.13516",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.target == "noise":
            refuse_idle(self, "teacher", when="with target='noise', which has no teacher")

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline that draws each guide where its concept is asked for.

        Raises:
            InputError: if the tokenizer cannot see a concept.
            NonFiniteError: if training diverges.
        """
        with editing(model, data, only=self.train, who="ConceptAblation", rng=rng) as (original, edited):
            with torch.no_grad():
                asked = original.encode(data.prompts(*data.erase))
            anchors = Drawn.of(
                original, data.guide_prompts(*data.erase), self.images,
                steps=self.sampler_steps, guidance=self.guidance, rng=rng, label="draw the guides",
            )  # fmt: skip
            held = Earlier.of(original, data, steps=self.sampler_steps, guidance=self.guidance, rng=rng)
            teacher = edited if self.teacher == "current" else original

            def loss(_: int) -> Tensor:
                at = pick(self.batch_size, len(anchors))
                noise = noise_like(anchors.latents[at])
                seen = anchors.noised(at, pick(self.batch_size, original.timesteps), noise)
                if self.target == "model":
                    total = distilled(edited, teacher, seen, asked, anchors.text)
                else:
                    total = denoised(edited, seen, asked)
                if self.prior:
                    total = total + self.prior * denoised(edited, seen, anchors.text)
                return total + held.loss(edited, self.batch_size)

            weights = list(edited.weights(self.train).values())
            train_steps_(
                edited, loss, weights, AdamW(weights, lr=self.lr),
                steps=self.steps, rng=rng, label="Concept Ablation",
            )  # fmt: skip
        return edited
