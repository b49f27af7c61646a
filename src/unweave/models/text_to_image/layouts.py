"""What the layouts of pipelines differ in: how they are told apart, encode prompts and condition the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module, ModuleList

from ...errors import InputError
from .layers import LAYERS, is_joint
from .text import Text, embedded

Kind = Literal["unet", "transformer"]
"""Of a denoiser; also the name of its folder in a pipeline of diffusers."""
Layout = Literal["unet", "xl", "transformer", "joint"]
"""UNets with one text encoder and with two (SDXL), PixArt's transformers, and those of Stable Diffusion 3, where text
and picture attend to each other."""

_GIVEN = {"timestep", "encoder_hidden_states", "added_cond_kwargs", "encoder_attention_mask"}
_JOINT = {"timestep", "encoder_hidden_states", "pooled_projections"}
_PLACES = "img_ids"
"""What Flux asks for beside: where each token of a packed picture lies."""


def kind_of(denoiser: Module) -> Kind:
    """What a denoiser is, by what it takes and is made of: a UNet has blocks down and up, a transformer one stack.

    Raises:
        InputError: if it is neither: it does not read prompts by cross-attention, or asks for more than noisy latents,
            time and prompts.
    """
    _, *arguments = signature(denoiser.forward).parameters.values()
    asked = {a.name for a in arguments if a.default is Parameter.empty}
    known = {a.name for a in arguments}
    joint = is_joint(denoiser)
    given = _JOINT if joint else _GIVEN
    taken = known >= given >= asked and _PLACES not in known
    stacks = sum(isinstance(child, ModuleList) for child in denoiser.children())
    crossed = joint or any(name.endswith(LAYERS["cross_kv"]) for name, _ in denoiser.named_modules())
    sized = all(hasattr(getattr(denoiser, "config", None), name) for name in ("in_channels", "sample_size"))
    if not (taken and stacks and crossed and sized):
        raise InputError(
            f"the denoiser is a {type(denoiser).__name__}; read are UNets and transformers that take noisy latents, "
            f"time and prompts, and read these by cross-attention ({' and '.join(LAYERS['cross_kv'])}) or, as Stable "
            "Diffusion 3, by joint attention. Flux and other models that pack their pictures are not supported yet."
        )
    return "unet" if stacks > 1 and not joint else "transformer"


def layout_of(denoiser: Module, encoders: int) -> Layout:
    """The layout of a pipeline.

    Args:
        denoiser: of a kind that `kind_of` knows.
        encoders: how many text encoders it has.

    Raises:
        InputError: if the layout has another number of them.
    """
    layout: Layout = "joint" if is_joint(denoiser) else kind_of(denoiser)
    layout = "xl" if layout == "unet" and encoders == 2 else layout
    wanted = {"unet": 1, "transformer": 1, "xl": 2, "joint": 3}[layout]
    if encoders != wanted:
        raise InputError(
            f"a {type(denoiser).__name__} is read with {wanted} text encoder{'s' * (wanted > 1)}; there are {encoders}."
        )
    return layout


def encoded(
    layout: Layout,
    encoders: Sequence[Any],
    tokens: Sequence[tuple[Tensor, Tensor]],
    embeddings: Tensor | None = None,
) -> Text:
    """Prompts as this layout's denoiser reads them.

    Args:
        layout: of the pipeline.
        encoders: one to three text encoders.
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
    if layout == "joint":
        short = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        long = encoders[2](tokens[2][0])[0]
        both = [F.pad(short, (0, long.shape[-1] - short.shape[-1])), long]
        return Text(torch.cat(both, -2), pooled=torch.cat([first[0], second[0]], -1))
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
    if layout == "joint":
        return {"pooled_projections": text.pooled}
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


def guided(
    predict: Callable[[Tensor, Tensor | float, Text], Tensor],
    x: Tensor,
    t: Tensor | float,
    text: Text,
    null: Text,
    guidance: float,
) -> Tensor:
    """Classifier-free guidance: the prediction without the prompt, moved on to that with it by the scale `guidance`."""
    if guidance == 1:
        return predict(x, t, text)
    n = len(x)
    steps = torch.as_tensor(t, device=x.device).expand(n)
    both = Text.cat([null.expand(n), text.expand(n)])
    without, told = predict(torch.cat([x, x]), torch.cat([steps, steps]), both).chunk(2)
    return without + guidance * (told - without)
