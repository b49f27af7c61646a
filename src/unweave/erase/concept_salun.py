"""SalUn for diffusion: turn a concept into another by moving only the denoiser's most salient weights.

Fan, Liu, Zhang, Wong, Wei, Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image
Classification and Generation", ICLR 2024, arXiv 2310.12508. With F images of the concept c, R images to keep and c'
another concept, over the weights with the largest |sum of the gradients of F's loss| (equations 3 and 7):

    loss = mean (eps(x_t, c) - sg eps(x_t, c'))^2 + beta * (training loss on R),   x_t of F

The mask's loss is that of the guided prediction, mean (truth - (1 + w) eps(x_t, c) + w eps(x_t, 0))^2. All images are
drawn by the original pipeline: F from the concepts' prompts, R from those of the preserved concepts, or of the guides
where none is preserved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.optim import Adam

from ..errors import InputError
from ..masks.budgets import Global
from ..masks.mask import Mask
from ..masks.select import select
from ..models.text_to_image import Guidance, Text, TextToImage, Weights, pick, train_steps_
from ..paper import Paper
from ..settings import Count, NonNegative, Positive, Range, settings
from ._train import Drawn, Earlier, Noised, denoised, distilled, editing, gradient_sums
from .concepts import Concepts


@settings
class ConceptSalUn:
    """Answer each concept's prompts as another concept's, through the weights that its images depend on most.

    Gradients are summed with their signs. Off the mask every weight keeps its bits.

    Attributes:
        density: share of the denoiser's weights that may move.
        wrong: what a concept is turned into: the "next" preserved concept in their order (the paper's next class), or
            its "guide".
        teacher: whose prediction is matched: the "current" weights (the paper) or the "original" ones, which cannot
            drift.
        beta: weight of ordinary training on what is to be kept.
        train: which weights are candidates.
        mask_guidance: w of the mask's loss.
        steps: of Adam.
        batch_size: latents of each kind a step.
        lr: of Adam.
        images: drawn of what is erased, and as many of what is kept.
        sampler_steps: of the sampler that draws them.
        guidance: scale of classifier-free guidance while drawing them.
    """

    density: Annotated[
        float, Range(above=0, at_most=1, why="It is the share of the candidate weights that may move.")
    ] = 0.5
    wrong: Literal["next", "guide"] = "next"
    teacher: Literal["current", "original"] = "current"
    beta: Positive = 0.5
    train: Weights = "all"
    mask_guidance: NonNegative = 7.5
    steps: Count = 500
    batch_size: Count = 8
    lr: Positive = 1e-5
    images: Count = 800
    sampler_steps: Count = 50
    guidance: Guidance = 7.5

    paper: ClassVar[Paper] = Paper(
        "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image "
        "Classification and Generation",
        "Fan, Liu, Zhang, Wong, Wei, Liu", "ICLR", 2024, "2310.12508",
    )  # fmt: skip

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline that equals it, bit for bit, off the saliency mask.

        Raises:
            InputError: if the tokenizer cannot see a concept, `wrong="next"` has no preserved concept to go to, or no
                weight is salient.
            NonFiniteError: if training diverges.
        """
        with editing(model, data, only=self.train, who="ConceptSalUn", rng=rng) as (original, edited):
            olds, news = data.prompts(*data.erase), self._wrong_prompts(data)
            with torch.no_grad():
                other, null = original.encode(news), original.encode([""])
            gone, stay = (
                Drawn.of(
                    original, prompts, self.images,
                    steps=self.sampler_steps, guidance=self.guidance, rng=rng, label=label,
                )
                for prompts, label in (
                    (olds, "draw what is erased"), (data.prompts(*data.preserve) or news, "draw what is kept"),
                )
            )  # fmt: skip
            mask = self.mask(original, gone.latents, gone.text, null, rng=rng)
            held = Earlier.of(original, data, steps=self.sampler_steps, guidance=self.guidance, rng=rng)
            teacher = edited if self.teacher == "current" else original

            def noised(drawn: Drawn) -> Noised:
                return drawn.noised(
                    pick(self.batch_size, len(drawn)), pick(self.batch_size, original.timesteps)
                )

            def loss(_: int) -> Tensor:
                forget = distilled(edited, teacher, noised(gone), gone.text, other)
                kept = self.beta * denoised(edited, noised(stay), stay.text)
                return forget + kept + held.loss(edited, self.batch_size)

            weights = list(edited.weights(self.train).values())
            train_steps_(
                edited, loss, weights, Adam(weights, lr=self.lr),
                steps=self.steps, rng=rng, label="SalUn", only=mask,
            )  # fmt: skip
        return edited

    def mask(self, model: TextToImage, images: Tensor, asked: Text, null: Text, *, rng: Generator) -> Mask:
        """Which of the candidate weights may move.

        Args:
            model: left unchanged.
            images: latents of the concepts [n, c, h, w]; image i belongs to prompt i modulo the prompts.
            asked: encoded prompts of the concepts.
            null: the encoded empty prompt.
            rng: draws noise and time steps, one of each an image.

        Raises:
            InputError: if every gradient is zero.
        """
        still, drawn = model.editable(only=()), Drawn(model, images, asked)
        weights = still.weights(self.train)

        def errors() -> Iterator[Tensor]:
            for at in torch.split(torch.arange(len(images)), self.batch_size):
                seen = drawn.noised(at, pick(len(at), model.timesteps))
                # (1 + w) with the prompt - w without is guidance at scale 1 + w
                answer = still.guided(seen.x, seen.t, asked[seen.rows], null, 1 + self.mask_guidance)
                yield (seen.truth - answer).square().flatten(1).mean(1).sum()

        sums = gradient_sums(still, weights, errors(), who="ConceptSalUn", rng=rng)
        flat = torch.cat([s.abs_().flatten() for s in sums.values()])
        chosen = select({"all": flat}, budget=Global(1 - self.density)).keep["all"]
        parts = torch.split(chosen, [p.numel() for p in weights.values()])
        moves = {n: part.view_as(p) for (n, p), part in zip(weights.items(), parts, strict=True)}
        return Mask(moves)

    def _wrong_prompts(self, data: Concepts) -> list[str]:
        if self.wrong == "guide":
            return data.guide_prompts(*data.erase)
        if not data.preserve:
            raise InputError(
                "ConceptSalUn.wrong='next' turns concepts into preserved ones, and none is preserved. Name some, "
                "or set wrong='guide'."
            )
        return data.prompts(*(data.preserve[i % len(data.preserve)] for i in range(len(data.erase))))
