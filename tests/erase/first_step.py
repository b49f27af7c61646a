"""Adam's first step is -lr g / (|g| + eps): what moved says the gradient's sign, to be set beside one computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unweave.models.text_to_image import TextToImage
from unweave.random import draw_seed, global_seed


def follows(
    model: TextToImage,
    edited: TextToImage,
    rng: torch.Generator,
    loss: Callable[[TextToImage], Tensor],
    names: set[str],
) -> float:
    """Share of the weights named that moved against the naive gradient; nothing else may have moved.

    Args:
        model: before.
        edited: after one step of Adam.
        rng: in the state in which the training took its seed.
        loss: naive, drawing from torch's global generator, of a float64 copy.
        names: of the parameters that may move.
    """
    wide = model.editable("denoiser", "text_encoder").double().requires_grad_(True)
    with global_seed(draw_seed(rng)), torch.enable_grad():
        loss(wide).backward()
    agree = count = 0
    for name, before in model.named_parameters():
        moved = edited.get_parameter(name).detach() - before.detach()
        if name not in names:
            assert not moved.any(), name
            continue
        gradient = wide.get_parameter(name).grad
        if gradient is None:
            assert not moved.any(), name
            continue
        clear = gradient.abs() > 1e-6
        agree += int((moved.sign() == -gradient.sign())[clear].sum())
        count += int(clear.sum())
    assert count > 100
    return agree / count
