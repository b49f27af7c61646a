"""What the erasers that train share: the copy that is edited, latents drawn to train on, losses, the loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Parameter

from ..errors import InputError
from ..fit.precision import is_narrow, narrow_, widen_
from ..models.text_to_image import Component, Text, TextToImage, Weights, noise_like, pick, training_only
from ..progress import progress
from ..random import draw_seed, global_seed, require_generator
from .concepts import Concepts, earlier, remember_

_EARLIER = 4
"""Images of a guide drawn for each prompt of what was erased earlier."""
_TRAINED: tuple[Component, ...] = ("denoiser", "text_encoder", "text_encoder_2", "text_encoder_3")


@contextmanager
def editing(
    model: TextToImage,
    data: Concepts,
    *parts: Component,
    only: Weights = "all",
    copies: int = 1,
    who: str,
    rng: Generator,
) -> Iterator[tuple[TextToImage, ...]]:
    """The pipeline to learn from, in float32, and copies of it to train, which end in the dtypes it has.

    Args:
        model: left unchanged.
        data: what is to be erased.
        parts: that the copies own; the denoiser unless told otherwise.
        only: of the denoiser's weights, those that the copies own: what will be trained. The others are shared.
        copies: how many.
        who: edits; begins the errors' messages.
        rng: of the edit.

    Raises:
        InputError: if a tokenizer cannot see a concept, or `rng` is no generator.
    """
    require_generator(rng)
    data.require_seen(model, who)
    wide = widened(model)
    names = None if only == "all" else wide.weights(only)
    edited = [wide.editable(*parts, only=names) for _ in range(copies)]
    yield (wide, *edited)
    for copy in edited:
        narrow_(copy, model)
        remember_(copy, data, who)


def widened(model: TextToImage) -> TextToImage:
    """The pipeline in float32: itself if nothing in it is narrower, else a copy of its denoiser and text encoders.

    `fit_` would widen what it trains; here the teacher and the encoders follow, so that all read one dtype.
    """
    parts = [p for p in _TRAINED if (own := getattr(model, p)) is not None and is_narrow(own)]
    if not parts:
        return model
    wide = model.editable(*parts)
    for part in parts:
        widen_(getattr(wide, part))
    return wide


@dataclass(frozen=True)
class Noised:
    """Noised latents to train on.

    Attributes:
        x: noisy latents [n, c, h, w].
        t: their time steps, int64 [n].
        rows: the prompts that they were drawn for, int64 [n].
        truth: what the denoiser was trained to predict of them.
    """

    x: Tensor
    t: Tensor
    rows: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Drawn:
    """Latents that a pipeline drew itself: what erasers train on instead of photographs.

    Attributes:
        model: that drew them.
        latents: [n, c, h, w]; the i-th was drawn for prompt i modulo the prompts.
        text: the prompts, encoded.
    """

    model: TextToImage
    latents: Tensor
    text: Text

    @classmethod
    def of(
        cls,
        model: TextToImage,
        prompts: Sequence[str],
        n: int,
        *,
        steps: int,
        guidance: float,
        rng: Generator,
        negative: str = "",
        label: str,
    ) -> Drawn:
        """Draw n latents, of each prompt in its turn; see `draw_latents`."""
        cycled = [prompts[i % len(prompts)] for i in range(n)]
        latents = draw_latents(
            model, cycled, steps=steps, guidance=guidance, rng=rng, negative=negative, label=label
        )
        with torch.no_grad():
            return cls(model, latents, model.encode(prompts))

    def __len__(self) -> int:
        return len(self.latents)

    def noised(self, at: Tensor, t: Tensor, noise: Tensor | None = None) -> Noised:
        """The latents at these positions, int64 [n], at time steps t [n]; noise is drawn unless given."""
        clean = self.latents[at]
        noise = noise_like(clean) if noise is None else noise
        model = self.model
        return Noised(model.add_noise(clean, noise, t), t, at % len(self.text), model.truth(clean, noise, t))


def distilled(student: TextToImage, teacher: TextToImage, seen: Noised, asked: Text, goal: Text) -> Tensor:
    """The student answers its prompts as the teacher answers others: mean (student(x, asked) - sg teacher(x, goal))^2.

    Args:
        student: trained.
        teacher: not trained here, be it the student itself.
        seen: noised latents.
        asked: prompts, by the rows of `seen`.
        goal: the prompts beside them.
    """
    with torch.no_grad():
        answer = teacher(seen.x, seen.t, goal[seen.rows])
    return F.mse_loss(student(seen.x, seen.t, asked[seen.rows]), answer)


def denoised(model: TextToImage, seen: Noised, text: Text) -> Tensor:
    """Ordinary training: mean (model(x, text) - truth)^2, with the prompts `text` by the rows of `seen`."""
    return F.mse_loss(model(seen.x, seen.t, text[seen.rows]), seen.truth)


@dataclass(frozen=True)
class Earlier:
    """What was erased from a pipeline before, to be answered as its guide on: a term of every loss that trains.

    Images of the guides are drawn by the pipeline as it came in, and their prompts are the earlier requests' own.

    Attributes:
        original: the pipeline that came in.
        prompts: of the earlier concepts; none if there are none, and the term is then 0 and draws nothing.
        drawn: images of their guides, beside the prompts; None without any.
    """

    original: TextToImage
    prompts: tuple[str, ...] = ()
    drawn: Drawn | None = None

    @classmethod
    def of(
        cls, original: TextToImage, data: Concepts, *, steps: int, guidance: float, rng: Generator
    ) -> Earlier:
        """Draw images of the guides of what was erased before `data`, `_EARLIER` a prompt."""
        past = earlier(original, data)
        if not past:
            return cls(original)
        prompts = [p for asked in past for p in asked.prompts(*asked.erase)]
        guides = [p for asked in past for p in asked.guide_prompts(*asked.erase)]
        drawn = Drawn.of(
            original, guides, _EARLIER * len(guides),
            steps=steps, guidance=guidance, rng=rng, label="draw the guides of what was erased earlier",
        )  # fmt: skip
        return cls(original, tuple(prompts), drawn)

    def loss(self, edited: TextToImage, batch_size: int) -> Tensor:
        """Mean (edited(x, earlier concept) - sg original(x, its guide))^2 over a batch of noised images; 0 without."""
        if self.drawn is None:
            return torch.zeros((), device=self.original.device, dtype=self.original.dtype)
        seen = self.drawn.noised(pick(batch_size, len(self.drawn)), pick(batch_size, self.original.timesteps))
        with torch.no_grad():
            goal = self.original(seen.x, seen.t, self.drawn.text[seen.rows])
        asked = edited.encode([self.prompts[row] for row in seen.rows.tolist()])
        return F.mse_loss(edited(seen.x, seen.t, asked), goal)


def gradient_sums(
    model: TextToImage,
    weights: Mapping[str, Parameter],
    losses: Iterable[Tensor],
    *,
    who: str,
    rng: Generator,
) -> dict[str, Tensor]:
    """The gradients of several losses, summed with their signs, in float32 or wider, by parameter name.

    Args:
        model: whose flags are put back.
        weights: by which is differentiated.
        losses: computed one by one, drawing from torch's global generator.
        who: asks; begins the error's message.
        rng: seeds what the losses draw.

    Raises:
        InputError: if every gradient is zero.
    """
    wanted = list(weights.values())
    sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in wanted]
    with global_seed(draw_seed(rng)), training_only(model, wanted), torch.enable_grad():
        for loss in losses:
            for total, gradient in zip(
                sums, torch.autograd.grad(loss, wanted, materialize_grads=True), strict=True
            ):
                total += gradient
    if not any(bool(total.any()) for total in sums):
        raise InputError(f"{who} found no salient weight: the concepts' images have no gradient.")
    return dict(zip(weights, sums, strict=True))


def draw_latents(
    model: TextToImage,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    rng: Generator,
    negative: str = "",
    batch_size: int = 16,
    label: str = "",
) -> Tensor:
    """One latent a prompt [n, c, h, w], drawn by the pipeline itself: what erasers train on instead of photographs."""
    noise = model.noise(len(prompts), rng)
    drawn = []
    with progress(label, len(prompts)) as bar:
        for low in range(0, len(prompts), batch_size):
            part = slice(low, low + batch_size)
            drawn.append(
                model.sample(
                    prompts[part],
                    steps=steps,
                    guidance=guidance,
                    noise=noise[part],
                    negative=negative,
                    decode=False,
                )
            )
            bar.advance(len(drawn[-1]))
    return torch.cat(drawn)
