"""Run the sampler over prompts and look at what linear layers read and write, step by step; nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Linear

from ...errors import InputError
from .pipeline import TextToImage
from .text import Text

Look = Callable[[str, int, int, Tensor, Tensor], None]
"""(layer, step, batch, inputs [prompts, tokens, in], outputs without bias [prompts, tokens, out]), float32 or wider."""


@torch.no_grad()
def watch_sampling(
    model: TextToImage,
    batches: Sequence[Sequence[str]],
    layers: Mapping[str, Linear],
    look: Look,
    *,
    noise: Tensor,
    steps: int,
    stop: int,
    guidance: float,
    both_halves: bool = False,
) -> None:
    """Sample all batches side by side, every step of one time before any of the next, for the first `stop` steps.

    Args:
        model: left unchanged.
        batches: prompts of each batch.
        layers: watched, by name.
        look: called after each of them, with the half of the batch that saw the prompt.
        noise: one starting noise [1, c, h, w] for all prompts.
        steps: of the whole sampler.
        stop: steps to run.
        guidance: scale of classifier-free guidance.
        both_halves: show the tokens of the pass without prompt too, after those with it.

    Raises:
        InputError: if both halves are asked for where guidance is built into the weights and takes one pass.
    """
    if both_halves and guidance != 1:
        _require_two_passes(model)
    texts = [model.encode(list(batch)) for batch in batches]
    null = model.encode([""])
    samplers = [model.sampler(steps, noise) for _ in texts]  # some count their own steps
    now = [0, 0]

    def show(name: str) -> Callable[..., None]:
        def hook(layer: Linear, args: tuple[Tensor, ...], out: Tensor) -> None:
            y = out if layer.bias is None else out - layer.bias
            x, y = (v.reshape(len(v), -1, v.shape[-1]) for v in (args[0], y))
            if model.passes(guidance) == 2:
                (unprompted_x, x), (unprompted_y, y) = x.chunk(2), y.chunk(2)
                if both_halves:
                    x, y = torch.cat([x, unprompted_x], 1), torch.cat([y, unprompted_y], 1)
            wide = torch.promote_types(x.dtype, torch.float32)
            look(name, now[0], now[1], x.to(wide), y.to(wide))

        return hook

    hooks = [layer.register_forward_hook(show(name)) for name, layer in layers.items()]
    latents = [noise.expand(len(text), *noise.shape[1:]) for text in texts]
    try:
        for i, t in enumerate(samplers[0].timesteps[:stop].tolist()):
            for b, text in enumerate(texts):
                now[:] = [i, b]
                latents[b] = _step(model, samplers[b], latents[b], t, text, null, guidance)
    finally:
        for hook in hooks:
            hook.remove()


def _require_two_passes(model: TextToImage) -> None:
    if model.distilled:
        raise InputError(
            "both_halves: guidance is built into this pipeline's weights, so no pass is without the prompt. Leave it "
            "out."
        )


def _step(
    model: TextToImage, sampler: object, x: Tensor, t: float, text: Text, null: Text, guidance: float
) -> Tensor:
    out: Tensor = sampler.step(model.guided(x, t, text, null, guidance), t, x).prev_sample  # type: ignore[attr-defined]
    return out
