"""peft's low-rank adapters on layers whose weights may be pruned: what is trained is what is merged in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def masked_forward(layer: Any, mask: Tensor) -> Callable[[Tensor], Tensor]:
    """The forward of an adapted layer with weight W + M * (alpha / rank) B A, M being the mask of W.

    Args:
        layer: of peft, with one adapter and without dropout.
        mask: which of its weights live, bool.
    """
    base = layer.get_base_layer()

    def forward(x: Tensor) -> Tensor:
        weight = base.weight + _delta(layer).to(base.weight.dtype) * mask
        found: Tensor = torch.func.functional_call(base, {"weight": weight}, (x,))
        return found

    return forward


@torch.no_grad()
def merged_weight(layer: Any, mask: Tensor | None = None) -> Tensor:
    """The weight of an adapted layer with its adapter in it, float32 or wider, so that it is rounded once.

    Args:
        layer: of peft, with one adapter; its adapter is widened in place.
        mask: which of its weights live, bool; all unless given.
    """
    weight = layer.get_base_layer().weight
    wide = torch.promote_types(weight.dtype, torch.float32)
    layer.lora_A.to(wide), layer.lora_B.to(wide)
    delta = _delta(layer)
    made: Tensor = weight.to(wide) + (delta if mask is None else delta * mask.to(delta.device))
    return made


def _delta(layer: Any) -> Tensor:
    (adapter,) = layer.active_adapters
    delta: Tensor = layer.get_delta_weight(adapter)
    return delta
