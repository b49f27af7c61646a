"""Classifier-free guidance: two predictions made one, or built into weights that are told the scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from ...errors import InputError
from ...settings import Range
from .text import Text

Guidance = Annotated[
    float, Range(above=0, why="It is the scale of classifier-free guidance; 1 draws without it.")
]


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


def require_negative(distilled: bool, negative: str, who: str) -> None:
    """Raise if a negative prompt is given where guidance is built into the weights: nothing would read it.

    Raises:
        InputError: naming who asks.
    """
    if negative and distilled:
        raise InputError(
            f"{who}: guidance is built into this pipeline's weights, so it leads away from no negative prompt; got "
            f"{negative!r}. Leave it out."
        )
