"""What the three layouts of pipelines differ in: how they are told apart, encode prompts and condition the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from ...errors import InputError, require
from .layers import LAYERS
from .text import Text, embedded

Kind = Literal["unet", "transformer"]
"""Of a denoiser; also the name of its folder in a pipeline of diffusers."""
Layout = Literal["unet", "xl", "transformer"]

_GIVEN = {"timestep", "encoder_hidden_states", "added_cond_kwargs", "encoder_attention_mask"}


def kind_of(denoiser: Module) -> Kind:
    """What a denoiser is, by what it takes and is made of: a UNet has blocks down and up, a transformer one stack.

    Raises:
        InputError: if it is neither: it does not read prompts by cross-attention, or asks for more than noisy latents,
            time and prompts.
    """
    _, *arguments = signature(denoiser.forward).parameters.values()
    asked = {a.name for a in arguments if a.default is Parameter.empty}
    taken = {a.name for a in arguments} >= _GIVEN >= asked
    stacks = sum(isinstance(child, ModuleList) for child in denoiser.children())
    crossed = any(name.endswith(LAYERS["cross_kv"]) for name, _ in denoiser.named_modules())
    sized = all(hasattr(getattr(denoiser, "config", None), name) for name in ("in_channels", "sample_size"))
    if not (taken and stacks and crossed and sized):
        raise InputError(
            f"the denoiser is a {type(denoiser).__name__}; read are UNets and transformers that take noisy latents, "
            f"time and prompts, and read these by cross-attention ({' and '.join(LAYERS['cross_kv'])}). Stable "
            "Diffusion 3, Flux and other flow models are not supported yet."
        )
    return "unet" if stacks > 1 else "transformer"


def encoded(
    layout: Layout,
    encoders: Sequence[Any],
    tokens: Sequence[tuple[Tensor, Tensor]],
    embeddings: Tensor | None = None,
) -> Text:
    """Prompts as this layout's denoiser reads them.

    Args:
        layout: of the pipeline.
        encoders: one or two text encoders.
        tokens: (ids, mask) for each.
        embeddings: in place of the first one's token embeddings.
    """
    ids, mask = tokens[0]
    with embedded(encoders[0], embeddings):
        if layout == "unet":
            used = mask if getattr(encoders[0].config, "use_attention_mask", False) else None
            return Text(encoders[0](ids, attention_mask=used)[0])
        if layout == "transformer":
            return Text(encoders[0](ids, attention_mask=mask)[0], mask=mask)
        first = encoders[0](ids, output_hidden_states=True)
    second = encoders[1](tokens[1][0], output_hidden_states=True)
    return Text(torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), pooled=second[0])


def conditions(layout: Layout, x: Tensor, text: Text, size: Sequence[int], config: Any) -> dict[str, Any]:
    """What this layout's denoiser is told beside time and hidden states.

    Args:
        layout: of the pipeline.
        x: noisy latents [n, c, h, w].
        text: n prompts.
        size: height and width of the image in pixels.
        config: of the denoiser.
    """
    n, (height, width) = len(x), size
    if layout == "xl":
        ids = x.new_tensor([height, width, 0, 0, height, width]).expand(n, 6)
        return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": ids}}
    if layout == "unet":
        return {}
    told: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if config.sample_size == 128 and config.use_additional_conditions is not False:
        told["resolution"] = x.new_tensor([[height, width]]).expand(n, 2)
        told["aspect_ratio"] = x.new_tensor([[height / width]]).expand(n, 1)
    return {"added_cond_kwargs": told, "encoder_attention_mask": text.mask}


def ddim(config: Mapping[str, Any]) -> Any:
    """Diffusers' DDIM in the noise schedule of another scheduler; x_0 is not clipped."""
    names = (
        "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type steps_offset "
        "timestep_spacing rescale_betas_zero_snr set_alpha_to_one"
    ).split()
    known = {k: v for k, v in config.items() if k in names and v is not None}
    made: Any = require("diffusers", extra="diffusion", purpose="sampling images").DDIMScheduler
    return made(**known, clip_sample=False)


def guided(
    predict: Callable[[Tensor, Tensor | int, Text], Tensor],
    x: Tensor,
    t: Tensor | int,
    text: Text,
    null: Text,
    guidance: float,
) -> Tensor:
    """Classifier-free guidance: the prediction without the prompt, moved on to that with it by the scale `guidance`."""
    if guidance == 1:
        return predict(x, t, text)
    n = len(x)
    steps = torch.as_tensor(t, device=x.device).long().expand(n)
    both = Text.cat([null.expand(n), text.expand(n)])
    without, told = predict(torch.cat([x, x]), torch.cat([steps, steps]), both).chunk(2)
    return without + guidance * (told - without)
