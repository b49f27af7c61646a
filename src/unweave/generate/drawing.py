"""Draw from a pipeline of ours with any guidance and any start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..models.text_to_image import Text, TextToImage, require_negative
from ..models.text_to_image.one_step import require_added_noise, require_steps
from .guidance import CFG, Guidance, Step

Start = Callable[[Text, Tensor, float], Tensor]
"""(prompts, noise [n, c, h, w], share of the signal's variance at the first step) -> where the sampler begins."""


@torch.no_grad()
def draw(
    model: TextToImage,
    prompts: Sequence[str],
    *,
    guidance: Guidance | None = None,
    start: Start | None = None,
    steps: int = 20,
    rng: Generator | None = None,
    noise: Tensor | None = None,
    negative: str = "",
    batch_size: int = 64,
    decode: bool = True,
) -> Tensor:
    """One image a prompt by deterministic DDIM, as `TextToImage.sample` draws it, with any guidance.

    Args:
        model: left unchanged.
        prompts: n prompts.
        guidance: classifier-free guidance at 7.5 unless given; a scale of 1 draws with the prompt alone.
        start: turns pure noise into what the first step reads (OMS); None begins at the noise.
        steps: of the sampler.
        rng: draws the starting noise, if `noise` is not given.
        noise: [n, c, h, w].
        negative: prompt that guidance leads away from.
        batch_size: prompts at once; each batch has a rule of its own.
        decode: return images from the VAE, where there is one; else latents.

    Raises:
        InputError: if neither `rng` nor `noise` is given, their number is not that of the prompts, a generator of one
            step is to draw in more or with guidance, or see `require_two_passes`.
    """
    if noise is None:
        noise = model.noise(len(prompts), rng)  # type: ignore[arg-type]  # refuses None
    if len(noise) != len(prompts):
        raise InputError(
            f"draw got {len(prompts)} prompts and {len(noise)} noises; it draws one image a prompt."
        )
    asked = CFG() if guidance is None else guidance
    require_steps(model, steps, asked.scale, "draw")
    require_two_passes(model, asked, negative, "draw")
    if start is not None:
        require_added_noise(model, "draw: a start (OMS)")
    text, null, out = model.encode(prompts), model.encode([negative]), []
    for low in range(0, len(text), batch_size):
        part, x = text[low : low + batch_size], noise[low : low + batch_size].to(model.device, model.dtype)
        rule, sampler = asked.guide(), model.sampler(steps, x)
        times = sampler.timesteps.tolist()
        if start is not None:
            x = start(part, x, float(model.alphas_cumprod[times[0]]))
        for i, t in enumerate(times):
            if model.passes(asked.scale) == 1:
                guided = model.guided(x, t, part, null, asked.scale)
            else:
                both = Text.cat([null.expand(len(x)), part])
                without, told = model(torch.cat([x, x]), t, both).chunk(2)
                guided = rule(told, without, step_of(model, x, t, i, len(times)))
            x = sampler.step(guided, t, x).prev_sample
        out.append(model.decode(x) if decode else x)
    return torch.cat(out)


def require_two_passes(model: TextToImage, guidance: Guidance, negative: str, who: str) -> None:
    """Raise if a rule other than plain guidance, or a negative prompt, is to steer a model that makes one prediction.

    Raises:
        InputError: naming who asks.
    """
    if model.distilled and guidance.scale != 1 and type(guidance) is not CFG:
        raise InputError(
            f"{who}: the scale of guidance is built into this pipeline's weights (distilled, as in FLUX.1-dev): it has "
            "no prediction without the prompt to lead away from. Draw with classifier-free guidance, which tells it "
            "the scale, or use the model that it was distilled from."
        )
    require_negative(model.distilled, negative, who)


def step_of(model: TextToImage, x: Tensor, t: float, index: int = 0, count: int = 1) -> Step:
    """The step at a time of a pipeline's own schedule."""
    if model.flows:
        return Step(x, 1 - t / model.timesteps, t / model.timesteps, "flow", index, count)
    share = float(model.alphas_cumprod[int(t)])
    kind = model.scheduler.config.get("prediction_type", "epsilon")
    return Step(x, share**0.5, (1 - share) ** 0.5, kind, index, count)
