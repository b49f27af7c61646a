"""ESD: train the denoiser to steer away from a concept whenever a prompt names it.

Gandikota, Materzynska, Fiotto-Kaufman, Bau, "Erasing Concepts from Diffusion Models", ICCV 2023, arXiv 2303.07345.
With o the original, frozen, and x_t a latent that o drew from noise up to step t under the concept's prompt c (eq. 6):

    target = o(x_t, 0) - eta (o(x_t, c) - o(x_t, 0)),   loss = mean (eps(x_t, c) - target)^2

With a concept g to erase it from (`erase_from`, as the authors' code does), latents are drawn and the denoiser is
trained under g's prompt, so that what is asked for g no longer shows c:

    target = o(x_t, g) - eta (o(x_t, c) - o(x_t, 0)),   loss = mean (eps(x_t, g) - target)^2

ESD-x trains the cross-attention ("cross"), ESD-u all the rest ("not_cross"); "cross_kv" is the later strict variant.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import Adam

from ..errors import InputError
from ..models.text_to_image import Guidance, Text, TextToImage, Weights, noise_like, pick, train_steps_
from ..paper import Paper
from ..settings import Count, Positive, settings
from ._train import Earlier, editing
from .concepts import Concepts


@settings
class ESD:
    """Erase concepts by their own negative guidance; needs neither images nor preserved concepts.

    All images of a batch stop at the same random step of the sampler. Where the denoiser predicts a velocity or a flow,
    so does the target: its coefficients add up to one. Where text and picture attend to each other (Stable Diffusion 3,
    Flux), "cross" is the text's part of it, and the attention of Flux's single blocks, which text and picture pass
    through as one; the authors' code for Flux trains the picture's part, too. Where guidance is built into the weights
    (FLUX.1-dev), the denoiser is told a scale of 1 in training and `guidance` while drawing.

    Attributes:
        train: "cross" is ESD-x, for what a prompt names; "not_cross" is ESD-u, which also erases what is drawn
            unasked, at the price of other concepts; "cross_kv" moves least; "all" is everything.
        eta: strength of the negative guidance.
        erase_from: erase the concept within its guide (glasses, guide scientist): draw and train under the guide's
            prompt, and add the guidance to the prediction for it. What the concept's own prompt draws may stay.
        steps: of Adam.
        batch_size: latents a step; the paper takes one.
        lr: of Adam.
        sampler_steps: of the sampler that draws the latents.
        guidance: scale of classifier-free guidance while drawing them.
    """

    train: Weights = "cross"
    eta: Positive = 1.0
    erase_from: bool = False
    steps: Count = 1000
    batch_size: Count = 1
    lr: Positive = 1e-5
    sampler_steps: Count = 50
    guidance: Guidance = 3.0

    paper: ClassVar[Paper] = Paper(
        "Erasing Concepts from Diffusion Models", "Gandikota, Materzynska, Fiotto-Kaufman, Bau", "ICCV", 2023,
        "2303.07345",
    )  # fmt: skip

    def apply(self, model: TextToImage, data: Concepts, *, rng: Generator) -> TextToImage:
        """A copy of the pipeline whose denoiser steers away from the concepts.

        Raises:
            InputError: if the tokenizer cannot see a concept, or a guide to erase from is empty.
            NonFiniteError: if training diverges.
        """
        with editing(model, data, only=self.train, who="ESD", rng=rng) as (original, edited):
            if self.erase_from and any(not data.guide_of(c).strip() for c in data.erase):
                raise InputError(
                    "ESD.erase_from needs a guide for every concept: what it is erased from (--guide)."
                )
            with torch.no_grad():
                asked = original.encode(data.prompts(*data.erase))
                guides = data.guide_prompts(*data.erase)
                start = original.encode(guides if self.erase_from else [""] * len(guides))
                trained = start if self.erase_from else asked
                null = original.encode([""])
            held = Earlier.of(original, data, steps=self.sampler_steps, guidance=self.guidance, rng=rng)
            times = original.sampler(self.sampler_steps).timesteps.tolist()

            def loss(_: int) -> Tensor:
                at, stop = pick(self.batch_size, len(asked)), int(pick(1, len(times)))
                noise = noise_like(original.alphas_cumprod.new_empty(self.batch_size, *original.shape))
                x = original.sample(
                    trained[at], steps=self.sampler_steps, guidance=self.guidance, noise=noise, stop=stop,
                    batch_size=self.batch_size,
                )  # fmt: skip
                with torch.no_grad():
                    goal = self.target(original, x, times[stop], asked[at], start[at], null)
                own = F.mse_loss(edited(x, times[stop], trained[at]), goal)
                return own + held.loss(edited, self.batch_size)

            weights = list(edited.weights(self.train).values())
            train_steps_(
                edited, loss, weights, Adam(weights, lr=self.lr),
                steps=self.steps, rng=rng, label="ESD",
            )  # fmt: skip
        return edited

    def target(
        self, original: TextToImage, x: Tensor, t: int, asked: Text, start: Text, null: Text
    ) -> Tensor:
        """What the edited denoiser is to predict, [n, c, h, w].

        Args:
            original: before the edit.
            x: noisy latents [n, c, h, w].
            t: time step.
            asked: n encoded prompts with the concept.
            start: n encoded prompts to start from; null prompts unless `erase_from`.
            null: the encoded empty prompt.
        """
        concept, none = original(x, t, asked), original(x, t, null)
        begin = original(x, t, start) if self.erase_from else none
        guided: Tensor = begin - self.eta * (concept - none)
        return guided
