"""The parts of a pipeline that methods edit: linear layers and weights by kind, in denoisers and text encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch.nn import Embedding, Linear, Module, ModuleList, Parameter

from ...errors import InputError

Layers = Literal["cross", "cross_kv", "ff_in", "ff_out", "self", "all", "context", "pooled"]
Weights = Literal["cross", "cross_kv", "not_cross", "all"]
"""Of the denoiser: its cross-attention, that one's keys and values, all but it, or everything."""

LAYERS: dict[Layers, tuple[str, ...]] = {
    "cross": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
    "cross_kv": ("attn2.to_k", "attn2.to_v"),
    "ff_in": ("ff.net.0.proj",),
    "ff_out": ("ff.net.2",),
    "self": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
    "all": ("",),
    "context": (),
    "pooled": (),
}
"""Words for kinds of linear layers -> how their names end in diffusers' files of weights."""
JOINT: dict[Layers, tuple[str, ...]] = LAYERS | {
    "cross": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    "cross_kv": ("attn.add_k_proj", "attn.add_v_proj"),
    "self": tuple(f"{a}.{p}" for a in ("attn", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0")),
    "context": ("context_embedder",),
    "pooled": ("text_embedder.linear_1",),
}
"""The same where text and picture attend to each other: "cross" is the text's part, "self" the picture's.

What both pass through as one (Flux's single blocks) is the text's, too. Prompts come in by "context" and "pooled".
"""


def is_joint(denoiser: Module) -> bool:
    """Whether a denoiser's text and picture attend to each other, as in Stable Diffusion 3."""
    return any(name.endswith(JOINT["cross_kv"]) for name, _ in denoiser.named_modules())


def _ends(denoiser: Module, kind: Layers) -> tuple[str, ...]:
    """How the names of layers of a kind end; those of attentions that text and picture pass through as one, whole."""
    if not is_joint(denoiser):
        return LAYERS[kind]
    shared = shared_attentions(denoiser) if kind in ("cross", "cross_kv") else []
    parts = ("to_k", "to_v") if kind == "cross_kv" else ("to_q", "to_k", "to_v")
    return (*JOINT[kind], *(f"{name}.{part}" for name in shared for part in parts))


def shared_attentions(denoiser: Module) -> list[str]:
    """Attentions of a joint denoiser without a part of the text's own, by name."""
    names = {name for name, _ in denoiser.named_modules()}
    whole = [name.removesuffix(".to_k") for name in names if name.endswith("attn.to_k")]
    return [name for name in whole if f"{name}.add_k_proj" not in names]


def linears(denoiser: Module, kind: Layers) -> dict[str, Linear]:
    """A denoiser's linear layers of a kind, by module name, in its own order.

    Raises:
        InputError: if there is none, or one is wrapped by LoRA or quantised.
    """
    ends, found = _ends(denoiser, kind), dict[str, Linear]()
    shared = set(shared_attentions(denoiser)) if kind == "self" and is_joint(denoiser) else set()
    for name, module in denoiser.named_modules():
        if kind == "all" and type(module) is not Linear:
            continue
        if not any(name == end or name.endswith(f".{end}" if end else "") for end in ends):
            continue
        if name.rpartition(".")[0] in shared:
            continue
        if type(module) is not Linear:
            raise InputError(
                f"{name} is a {type(module).__name__}, not a plain Linear. Merge LoRA layers (fuse_lora, then "
                "unload_lora_weights) and load unquantised weights first."
            )
        found[name] = module
    if not found:
        raise InputError(
            f"{type(denoiser).__name__} has no linear layer named {' or '.join(ends)}; nothing to edit."
        )
    return found


def weights(denoiser: Module, kind: Weights) -> dict[str, Parameter]:
    """A denoiser's parameters of a kind, by name.

    Raises:
        InputError: if there is none, or layers are wrapped by LoRA or quantised.
    """
    keys_and_values = linears(denoiser, "cross_kv")
    named = dict(denoiser.named_parameters())
    if kind == "cross_kv":
        return {n: p for n, p in named.items() if n.rpartition(".")[0] in keys_and_values}
    if kind == "all":
        return named
    if is_joint(denoiser):
        own = linears(denoiser, "cross")
        return {n: p for n, p in named.items() if (n.rpartition(".")[0] in own) == (kind == "cross")}
    return {n: p for n, p in named.items() if (".attn2." in n) == (kind == "cross")}


def require_plain(part: Module, what: str) -> None:
    """Raise if a part of a pipeline holds parameters that its class does not have: of adapters, or quantised.

    Raises:
        InputError: naming the first of them.
    """
    kind: Any = type(part)
    config: Any = getattr(part, "config", None)
    if config is None:
        return
    with torch.device("meta"):
        made = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    plain = {n for n, _ in made.named_parameters()}
    odd = [n for n, p in part.named_parameters() if n not in plain or not p.is_floating_point()]
    if odd:
        raise InputError(
            f"{what}'s {odd[0]} is not of {kind.__name__}: it is of LoRA or quantised. Merge LoRA layers (fuse_lora, "
            "then unload_lora_weights) and load unquantised weights first."
        )


def encoder_weights(encoder: Module, blocks: int = 0) -> list[Parameter]:
    """What is trained of a text encoder: its first blocks, or (0) all but its tables of embeddings.

    Raises:
        InputError: if it has fewer blocks, or is wrapped by LoRA or quantised.
    """
    require_plain(encoder, "the text encoder")
    tables = {id(p) for m in encoder.modules() if isinstance(m, Embedding) for p in m.parameters()}
    own = encoder
    if blocks:
        stack = next((m for m in encoder.modules() if isinstance(m, ModuleList)), ModuleList())
        if len(stack) < blocks:
            raise InputError(f"blocks is {blocks}; the text encoder has {len(stack)}.")
        own = stack[:blocks]
    return [p for p in own.parameters() if id(p) not in tables]


@contextmanager
def training_only(model: Module, parameters: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Let just these parameters require gradients inside the block; every flag of `model` is put back after."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield list(parameters)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
