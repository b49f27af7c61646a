"""Large pictures piece by piece: overlapping tiles, averaged where they meet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError


def tiled(read: Callable[[Tensor], Tensor], x: Tensor, side: int, overlap: int, scale: int = 1) -> Tensor:
    """What `read` makes of every tile of `x`, put together.

    Args:
        read: tiles [n, c, side, side] (less where the picture is smaller) -> [n, c', scale side, scale side].
        x: [n, c, h, w].
        side: of a tile.
        overlap: pixels that neighbours share at least.
        scale: of the sides.

    Returns:
        [n, c', scale h, scale w]; a mean where tiles overlap.

    Raises:
        InputError: if the overlap is not less than the side.
    """
    if not 0 <= overlap < side:
        raise InputError(f"tiles of {side} pixels need an overlap from 0 to {side - 1}; got {overlap}.")
    high, wide = x.shape[2:]
    total: Tensor | None = None
    seen = torch.zeros(scale * high, scale * wide, dtype=x.dtype, device=x.device)
    for top in _starts(high, side, overlap):
        for left in _starts(wide, side, overlap):
            made = read(x[:, :, top : top + side, left : left + side])
            if total is None:
                total = made.new_zeros(*made.shape[:2], *seen.shape)
            rows = slice(scale * top, scale * top + made.shape[2])
            columns = slice(scale * left, scale * left + made.shape[3])
            total[:, :, rows, columns] += made
            seen[rows, columns] += 1
    assert total is not None
    return total / seen


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """First pixels of tiles that cover a length; the last tile ends at its end."""
    return [*range(0, max(length - side, 0), side - overlap), max(length - side, 0)]
