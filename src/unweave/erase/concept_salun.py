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

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import Adam

from ..errors import InputError
from ..masks.budgets import Global
from ..masks.mask import Mask
from ..masks.select import select
from ..models.text_to_image import Text, TextToImage, training_only
from ..paper import Paper
from ..random import draw_seed, global_seed
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

    density: float = 0.5
    wrong: Literal["next", "guide"] = "next"
    teacher: Literal["current", "original"] = "current"
    beta: float = 0.5
    train: Weights = "all"
    mask_guidance: float = 7.5
    steps: int = 500
    batch_size: int = 8
    lr: float = 1e-5
    images: int = 800
    sampler_steps: int = 50
    guidance: float = 7.5

    paper: ClassVar[Paper] = Paper(
        "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image "
        "Classification and Generation",
        "Fan, Liu, Zhang, Wong, Wei, Liu", "ICLR", 2024, "2310.12508",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ("preserve",)

    def __post_init__(self) -> None:
        require_settings(self, least={"sampler_steps": 1, "images": 1}, positive=("lr", "beta"))
        if not 0 < self.density <= 1:
            raise InputError(
                f"ConceptSalUn.density must be in (0, 1]; got {self.density}. It is the share of weights that may move."
            )
        if self.mask_guidance < 0:
            raise InputError(f"ConceptSalUn.mask_guidance must not be negative; got {self.mask_guidance}.")

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline that equals it, bit for bit, off the saliency mask.

        Raises:
            InputError: if the tokenizer cannot see a concept, `wrong="next"` has no preserved concept to go to, or no
                weight is salient.
            NonFiniteError: if training diverges.
        """
        data.require_seen(model, "ConceptSalUn")
        given, model = model, widened(model)
        olds = [p for c in data.erase for p in data.prompts(c)]
        news = self._wrong_prompts(data)
        kept = [p for c in data.preserve for p in data.prompts(c)] or news
        with torch.no_grad():
            asked, other, keep, null = (model.encode(p) for p in (olds, news, kept, [""]))
        gone, stay = (
            draw_latents(
                model, cycled(prompts, self.images), steps=self.sampler_steps, guidance=self.guidance, rng=rng,
                label=label,
            )
            for prompts, label in ((olds, "draw what is erased"), (kept, "draw what is kept"))
        )  # fmt: skip
        mask = self.mask(model, gone, asked, null, rng=rng)
        edited = model.editable()
        teacher = edited if self.teacher == "current" else model

        def loss() -> Tensor:
            at, t = pick(self.batch_size, len(gone)), pick(self.batch_size, model.timesteps)
            x, rows = model.add_noise(gone[at], noise_like(gone[at]), t), at % len(asked)
            with torch.no_grad():
                goal = teacher(x, t, other[rows])
            forget = F.mse_loss(edited(x, t, asked[rows]), goal)
            at, t = pick(self.batch_size, len(stay)), pick(self.batch_size, model.timesteps)
            noise = noise_like(stay[at])
            answer = edited(model.add_noise(stay[at], noise, t), t, keep[at % len(keep)])
            return forget + self.beta * F.mse_loss(answer, model.truth(stay[at], noise, t))

        weights = list(weights_of(edited, self.train).values())
        train_(
            edited, loss, weights, Adam(weights, lr=self.lr),
            steps=self.steps, rng=rng, label="SalUn", only=mask,
        )  # fmt: skip
        return narrowed(edited, given)

    def mask(self, model: TextToImage, images: Tensor, asked: Text, null: Text, *, rng: Generator) -> Mask:
        """Which weights may move, over every parameter of the denoiser; False where they are no candidates.

        Args:
            model: left unchanged.
            images: latents of the concepts [n, c, h, w]; image i belongs to prompt i modulo the prompts.
            asked: encoded prompts of the concepts.
            null: the encoded empty prompt.
            rng: draws noise and time steps, one of each an image.

        Raises:
            InputError: if every gradient is zero.
        """
        still = model.editable()
        weights = weights_of(still, self.train)
        sums = {
            n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for n, p in weights.items()
        }
        with global_seed(draw_seed(rng)), training_only(still, list(weights.values())):
            for low in range(0, len(images), self.batch_size):
                at = torch.arange(low, min(low + self.batch_size, len(images)))
                clean, rows = images[at], at % len(asked)
                t, noise = pick(len(at), model.timesteps), noise_like(clean)
                x = still.add_noise(clean, noise, t)
                # (1 + w) with the prompt - w without is guidance at scale 1 + w
                answer = still.guided(x, t, asked[rows], null, 1 + self.mask_guidance)
                error = (still.truth(clean, noise, t) - answer).square().flatten(1).mean(1).sum()
                found = torch.autograd.grad(error, list(weights.values()), allow_unused=True)
                for total, gradient in zip(sums.values(), found, strict=True):
                    if gradient is not None:
                        total += gradient
        if not any(bool(total.any()) for total in sums.values()):
            raise InputError("ConceptSalUn found no salient weight: the concepts' images have no gradient.")
        flat = torch.cat([s.abs().flatten() for s in sums.values()])
        chosen = select({"all": flat}, budget=Global(1 - self.density)).keep["all"]
        parts = torch.split(chosen, [p.numel() for p in weights.values()])
        moves = {n: part.view_as(p) for (n, p), part in zip(weights.items(), parts, strict=True)}
        return Mask(moves)

    def _wrong_prompts(self, data: Concepts) -> list[str]:
        if self.wrong == "guide":
            return [g for c in data.erase for g in data.guide_prompts(c)]
        if not data.preserve:
            raise InputError(
                "ConceptSalUn.wrong='next' turns concepts into preserved ones, and none is preserved. Name some, "
                "or set wrong='guide'."
            )
        order = list(data.preserve)
        return [p for i, _ in enumerate(data.erase) for p in data.prompts(order[i % len(order)])]
