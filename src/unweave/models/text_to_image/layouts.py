"""What the layouts of pipelines differ in: how they are told apart, encode prompts and condition the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module, ModuleList

from ...errors import InputError
from .layers import LAYERS, is_joint
from .packing import places
from .text import Text, embedded

Kind = Literal["unet", "transformer"]
"""Of a denoiser; also the name of its folder in a pipeline of diffusers."""
Layout = Literal["unet", "xl", "transformer", "joint", "packed"]
"""UNets with one text encoder and with two (SDXL), PixArt's transformers, those of Stable Diffusion 3, where text and
picture attend to each other, and Flux's, which read pictures as packed tokens besides."""

_GIVEN = {"timestep", "encoder_hidden_states", "added_cond_kwargs", "encoder_attention_mask"}
_JOINT = {"timestep", "encoder_hidden_states", "pooled_projections"}
_PACKED = _JOINT | {"img_ids", "txt_ids", "guidance"}
"""Flux asks besides where each token of a packed picture lies, and for the scale of guidance."""


def kind_of(denoiser: Module) -> Kind:
    """What a denoiser is, by what it takes and is made of: a UNet has blocks down and up, a transformer one stack.

    Raises:
        InputError: if it is neither: it does not read prompts by cross-attention, or asks for more than noisy latents,
            time and prompts.
    """
    _, *arguments = signature(denoiser.forward).parameters.values()
    asked = {a.name for a in arguments if a.default is Parameter.empty}
    known = {a.name for a in arguments}
    joint, placed = is_joint(denoiser), "img_ids" in known
    given = _PACKED if joint and placed else _JOINT if joint else _GIVEN
    taken = known >= given >= asked and (joint or not placed)
    stacks = sum(isinstance(child, ModuleList) for child in denoiser.children())
    crossed = joint or any(name.endswith(LAYERS["cross_kv"]) for name, _ in denoiser.named_modules())
    told = ("in_channels",) if placed else ("in_channels", "sample_size")
    sized = all(hasattr(getattr(denoiser, "config", None), name) for name in told)
    if not (taken and stacks and crossed and sized):
        raise InputError(
            f"the denoiser is a {type(denoiser).__name__}; read are UNets and transformers that take noisy latents, "
            f"time and prompts, and read these by cross-attention ({' and '.join(LAYERS['cross_kv'])}) or, as Stable "
            "Diffusion 3 and Flux, by joint attention."
        )
    return "unet" if stacks > 1 and not joint else "transformer"


def is_packed(denoiser: Module) -> bool:
    """Whether a denoiser reads pictures as packed tokens, as Flux does."""
    return is_joint(denoiser) and "img_ids" in signature(denoiser.forward).parameters


def layout_of(denoiser: Module, encoders: int) -> Layout:
    """The layout of a pipeline.

    Args:
        denoiser: of a kind that `kind_of` knows.
        encoders: how many text encoders it has.

    Raises:
        InputError: if the layout has another number of them.
    """
    layout: Layout = "joint" if is_joint(denoiser) else kind_of(denoiser)
    layout = "packed" if is_packed(denoiser) else "xl" if layout == "unet" and encoders == 2 else layout
    wanted = {"unet": 1, "transformer": 1, "xl": 2, "joint": 3, "packed": 2}[layout]
    if encoders != wanted:
        raise InputError(
            f"a {type(denoiser).__name__} is read with {wanted} text encoder{'s' * (wanted > 1)}; there are {encoders}."
        )
    return layout


def encoded(
    layout: Layout,
    encoders: Sequence[Any],
    tokens: Sequence[tuple[Tensor, Tensor]],
    embeddings: Sequence[Tensor | None] = (),
) -> Text:
    """Prompts as this layout's denoiser reads them.

    Args:
        layout: of the pipeline.
        encoders: one to three text encoders.
        tokens: (ids, mask) for each.
        embeddings: in place of the token embeddings of each, from the first on; None for its own.
    """
    own = [*embeddings, *[None] * (len(encoders) - len(embeddings))]

    def read(i: int, **how: Any) -> Any:
        with embedded(encoders[i], own[i]):
            return encoders[i](tokens[i][0], **how)

    if layout == "unet":
        masked = getattr(encoders[0].config, "use_attention_mask", False)
        return Text(read(0, attention_mask=tokens[0][1] if masked else None)[0])
    if layout == "transformer":
        return Text(read(0, attention_mask=tokens[0][1])[0], mask=tokens[0][1])
    if layout == "packed":
        return Text(read(1)[0], pooled=read(0).pooler_output)
    first, second = (read(i, output_hidden_states=True) for i in (0, 1))
    short = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    if layout == "xl":
        return Text(short, pooled=second[0])
    long = read(2)[0]
    both = [F.pad(short, (0, long.shape[-1] - short.shape[-1])), long]
    return Text(torch.cat(both, -2), pooled=torch.cat([first[0], second[0]], -1))


def conditions(
    layout: Layout, x: Tensor, text: Text, size: Sequence[int], config: Any, guidance: float = 1.0
) -> dict[str, Any]:
    """What this layout's denoiser is told beside time and hidden states.

    Args:
        layout: of the pipeline.
        x: noisy latents [n, c, h, w].
        text: n prompts.
        size: height and width of the image in pixels.
        config: of the denoiser.
        guidance: scale that a denoiser distilled from a guided one is told.
    """
    n, (height, width) = len(x), size
    if layout == "joint":
        return {"pooled_projections": text.pooled}
    if layout == "packed":
        told = torch.full((n,), guidance, device=x.device) if config.guidance_embeds else None
        without = x.new_zeros(text.hidden.shape[1], 3)  # Flux tells its words apart by what they are alone
        return {"pooled_projections": text.pooled, "img_ids": places(x), "txt_ids": without, "guidance": told}
    if layout == "xl":
        ids = x.new_tensor([height, width, 0, 0, height, width]).expand(n, 6)
        return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": ids}}
    if layout == "unet":
        return {}
    added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if config.sample_size == 128 and config.use_additional_conditions is not False:
        added["resolution"] = x.new_tensor([[height, width]]).expand(n, 2)
        added["aspect_ratio"] = x.new_tensor([[height / width]]).expand(n, 1)
    return {"added_cond_kwargs": added, "encoder_attention_mask": text.mask}
