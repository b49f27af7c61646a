"""SIMS: draw away from a copy of the model that was trained on the model's own pictures.

Alemohammad, Humayun, Agarwal, Collomosse, Baraniuk, "Self-Improving Diffusion Models with Synthetic Data", 2024,
arXiv 2408.16333. With r the model and s the copy, fine-tuned on samples of r alone:

    eps = (1 + w) eps_r - w eps_s

The copy shows where one more round of self-consumption leads; the model is moved the other way. Every parametrisation
is affine in the noise at a fixed x_t, so the same line holds for velocities and flows.

The source leaves open how long the copy is trained: here 5 to 20 % of what the model saw is a good beginning, and w
is chosen on held-out images, of which others must judge.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import AdamW

from ..errors import InputError
from ..models.text_to_image import Guidance, TextToImage, noise_like, pick, train_steps_
from ..models.text_to_image.running_mean import RunningMean
from ..paper import Paper
from ..random import require_generator
from ..settings import Count, Part, Positive, settings
from .pictures import Pictures
from .steering import answer_of, with_answer


@settings
class SIMS:
    """Fine-tune a copy on the model's own pictures; `extrapolated` then draws away from it.

    Attributes:
        samples: pictures that the model draws of the prompts, in their turn; about as many as it was trained on.
        sampler_steps: of the sampler that draws them.
        guidance: scale of classifier-free guidance while drawing them; 1 draws from the model's own distribution.
        steps: of the copy's training.
        batch_size: pictures a step.
        lr: of AdamW, which begins anew.
        null: share of the pictures trained without their prompt, as the model was for guidance.
        average: share of a running mean of the weights that is kept at each step; 0 takes the last weights. Do as the
            model's own training did: a mean against raw weights is no fair pair.
    """

    samples: Count = 1600
    sampler_steps: Count = 20
    guidance: Guidance = 1.0
    steps: Count = 120
    batch_size: Count = 96
    lr: Positive = 3e-4
    null: Part = 0.1
    average: Part = 0.0

    paper: ClassVar[Paper] = Paper(
        "Self-Improving Diffusion Models with Synthetic Data",
        "Alemohammad, Humayun, Agarwal, Collomosse, Baraniuk", "arXiv", 2024, "2408.16333",
    )  # fmt: skip

    def apply(self, model: TextToImage, data: Sequence[str], *, rng: Generator) -> TextToImage:
        """The copy to draw away from; on its own it is worse than the model.

        Args:
            model: left unchanged.
            data: prompts, in the shares that the model was trained on.
            rng: governs the run.

        Raises:
            InputError: if there is no prompt, or the denoiser holds adapters or quantised weights.
            NonFiniteError: if training diverges.
        """
        require_generator(rng)
        own = Pictures.drawn(
            model, list(data), self.samples, rng=rng, steps=self.sampler_steps, guidance=self.guidance
        )
        copy = model.editable()
        latents, text, rows = own.encoded(model)

        def loss(_: int) -> Tensor:
            at, t = pick(self.batch_size, len(latents)), pick(self.batch_size, model.timesteps)
            noise = noise_like(latents[at])
            asked = rows[at].masked_fill(torch.rand(len(at)) < self.null, len(text) - 1)
            x = model.add_noise(latents[at], noise, t)
            return F.mse_loss(copy(x, t, text[asked]), model.truth(latents[at], noise, t))

        weights = list(copy.denoiser.parameters())
        mean = RunningMean(weights, self.average)
        train_steps_(
            copy, loss, weights, AdamW(weights, lr=self.lr), steps=self.steps, rng=rng, label="SIMS",
            after_step=(lambda _: mean.follow()) if self.average else None,
        )  # fmt: skip
        if self.average:
            mean.write_()
        return copy


@contextmanager
def extrapolated(denoiser: Module, auxiliary: Module, weight: float) -> Iterator[None]:
    """Let a denoiser predict (1 + w) of its own less w of the auxiliary's inside the block: any pipeline draws with it.

    Both read the same noisy tensor, time and prompt, so it goes with every guidance: guiding each and extrapolating
    is the same as extrapolating each half first, as long as guidance is linear.

        with extrapolated(pipe.unet, copy.denoiser, 0.6):
            pipe("a photo of a cat")

    Args:
        denoiser: of a pipeline of diffusers, or of ours.
        auxiliary: fine-tuned on pictures of the first.
        weight: w; below 0 it moves towards the auxiliary, which is told.

    Raises:
        InputError: if the weight is 0, both predict the same, or the auxiliary answers in another shape.
    """
    if weight == 0 or not isinstance(weight, int | float) or weight != weight:
        raise InputError(
            f"extrapolated: weight must be a number other than 0; got {weight!r}. 0 is the model alone."
        )
    if auxiliary is denoiser or _alike(denoiser, auxiliary):
        raise InputError(
            "extrapolated: the auxiliary has the weights of the denoiser itself, so nothing would change. Train it "
            "(SIMS.apply) for more steps."
        )
    if weight < 0:
        warnings.warn(
            "extrapolated: a weight below 0 moves towards the auxiliary, away from the real data.",
            stacklevel=3,
        )
    auxiliary.eval()

    def answer(module: Module, args: Any, kwargs: Any, out: Any) -> Any:
        first, second = answer_of(out), answer_of(auxiliary(*args, **kwargs))
        if first.shape != second.shape:
            raise InputError(
                f"extrapolated: the auxiliary answers {tuple(second.shape)}, the denoiser {tuple(first.shape)}."
            )
        return with_answer(out, first + weight * (first - second))

    handle = denoiser.register_forward_hook(answer, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _alike(a: Module, b: Module) -> bool:
    """Whether two modules hold the same numbers under the same names."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        first[n].shape == second[n].shape and bool((first[n].cpu() == second[n].cpu()).all()) for n in first
    )
