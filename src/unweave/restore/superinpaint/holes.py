"""Irregular holes: what SuperInpaint is trained on."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ...errors import InputError


def holes(n: int, high: int, wide: int, *, rng: Generator, least: float = 0.1, most: float = 0.6) -> Tensor:
    """Masks of blocks and strokes, 1 in a hole, [n, 1, high, wide].

    Each covers a share drawn between `least` and `most`; blocks and strokes are added until it is reached, and what is
    over it by the last one stays, at most an eighth of the picture.

    Raises:
        InputError: unless 0 < least <= most < 1.
    """
    if not 0 < least <= most < 1:
        raise InputError(f"holes cover shares between 0 and 1, least first; got {least} and {most}.")
    masks = torch.zeros(n, 1, high, wide)
    for mask in masks[:, 0]:
        wanted = least + (most - least) * float(torch.rand((), generator=rng))
        while float(mask.mean()) < wanted:
            if torch.rand((), generator=rng) < 0.5:
                _block_(mask, rng)
            else:
                _stroke_(mask, rng)
    return masks


def _block_(mask: Tensor, rng: Generator) -> None:
    sides = [max(1, int(side / 8 * (1 + float(torch.rand((), generator=rng))))) for side in mask.shape]
    top, left = (
        int(torch.randint(side - part + 1, (), generator=rng))
        for side, part in zip(mask.shape, sides, strict=True)
    )
    mask[top : top + sides[0], left : left + sides[1]] = 1


def _stroke_(mask: Tensor, rng: Generator) -> None:
    """A walk whose direction turns a little at every pixel."""
    high, wide = mask.shape
    y, x, turn = (float(torch.rand((), generator=rng)) for _ in range(3))
    y, x, turn = y * high, x * wide, turn * 6.283
    for _ in range((high + wide) // 4):
        mask[min(max(int(y), 0), high - 1), min(max(int(x), 0), wide - 1)] = 1
        turn += float(torch.rand((), generator=rng)) - 0.5
        step = torch.tensor(turn)
        y, x = y + float(step.sin()), x + float(step.cos())
