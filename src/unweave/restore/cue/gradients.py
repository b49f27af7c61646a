"""The noise prior of CUE: a masked autoencoder that draws the oriented gradients of what it sees in part."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module

from ...errors import InputError


def drawn_gradients(pictures: Tensor, cell: int = 16, bins: int = 9) -> Tensor:
    """Histograms of oriented gradients, drawn: in each cell a line a direction, as bright as its gradients.

    Of colours the channel with the strongest gradient counts. Scaled to [0, 1] a picture; a flat one is 0.

    Args:
        pictures: [n, c, h, w], sides multiples of the cell.
        cell: pixels a side.
        bins: directions over half a turn.

    Returns:
        [n, 1, h, w].

    Raises:
        InputError: if a side is no multiple of the cell.
    """
    high, wide = pictures.shape[2:]
    if high % cell or wide % cell:
        raise InputError(
            f"gradients are drawn in cells of {cell} pixels; {high} x {wide} is no multiple of that."
        )
    down, across = torch.zeros_like(pictures), torch.zeros_like(pictures)
    down[:, :, 1:-1] = pictures[:, :, 2:] - pictures[:, :, :-2]
    across[..., 1:-1] = pictures[..., 2:] - pictures[..., :-2]
    size, which = (down.square() + across.square()).sqrt().max(1, keepdim=True)
    angle = torch.atan2(down.gather(1, which), across.gather(1, which)) % math.pi
    bin_of = (angle / math.pi * bins).floor().clamp_max(bins - 1)
    each = torch.cat([size * (bin_of == b) for b in range(bins)], 1)
    strength = F.avg_pool2d(each, cell)
    drawn = torch.einsum("nbyx,bij->nyixj", strength, _lines(cell, bins).to(pictures)).reshape(
        -1, 1, high, wide
    )
    low, top = drawn.amin((1, 2, 3), keepdim=True), drawn.amax((1, 2, 3), keepdim=True)
    return (drawn - low) / torch.where(top > low, top - low, 1.0)


def _lines(cell: int, bins: int) -> Tensor:
    """Lines through a cell's middle, across each direction of change, [bins, cell, cell]."""
    at = torch.arange(cell, dtype=torch.float32) - (cell - 1) / 2
    turn = (torch.arange(bins, dtype=torch.float32) + 0.5) / bins * math.pi
    off = at[:, None] * turn.sin()[:, None, None] + at[None, :] * turn.cos()[:, None, None]
    inside = (at[:, None].square() + at[None, :].square()).sqrt() <= cell / 2
    return ((off.abs() <= 0.5) & inside).float()


class GradientPrior(Module):
    """A masked autoencoder of patches: pictures [n, 3, h, w] -> their drawn gradients, patch by patch.

    Args:
        patch: pixels a side; also the cell of the gradients.
        width: of the tokens.
        depth: of encoder and of decoder.
        heads: of the encoder; half of them in the decoder.
    """

    def __init__(self, patch: int = 16, width: int = 256, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patch, self.width = patch, width
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.encoder = nn.ModuleList(_layer(width, heads) for _ in range(depth))
        self.decoder = nn.ModuleList(_layer(width, max(1, heads // 2)) for _ in range(depth))
        self.norm, self.draw = nn.LayerNorm(width), nn.Linear(width, patch * patch)
        self.missing = nn.Parameter(torch.zeros(1, 1, width))

    def tokens(self, pictures: Tensor, kept: Tensor | None = None) -> Tensor:
        """What the encoder makes of the patches, [n, patches, width]; of those `kept` ([n, k]) alone, if given."""
        high, wide = (side // self.patch for side in pictures.shape[2:])
        if high * self.patch != pictures.shape[2] or wide * self.patch != pictures.shape[3]:
            raise InputError(
                f"CUE's gradient prior reads sides that are multiples of {self.patch}; got {tuple(pictures.shape[2:])}."
            )
        y = self.embed(pictures).flatten(2).transpose(1, 2) + places(high, wide, self.width).to(pictures)
        if kept is not None:
            y = y.gather(1, kept[..., None].expand(-1, -1, self.width))
        for layer in self.encoder:
            y = layer(y)
        out: Tensor = self.norm(y)
        return out

    def loss(self, pictures: Tensor, share: float) -> Tensor:
        """Mean squared error of the drawn gradients on hidden patches; which are hidden is drawn globally."""
        n, _, high, wide = pictures.shape
        count = (high // self.patch) * (wide // self.patch)
        order = torch.rand(n, count).argsort(1).to(pictures.device)
        keep = min(max(1, round(count * (1 - share))), count - 1)
        kept, hidden = order[:, :keep], order[:, keep:]
        seen = self.tokens(pictures, kept)
        whole = self.missing.expand(n, count, -1).clone()
        whole = whole.scatter(1, kept[..., None].expand(-1, -1, self.width), seen)
        whole = whole + places(high // self.patch, wide // self.patch, self.width).to(whole)
        for layer in self.decoder:
            whole = layer(whole)
        target = F.unfold(drawn_gradients(pictures, self.patch), self.patch, stride=self.patch).transpose(
            1, 2
        )
        apart: Tensor = (self.draw(whole) - target).square().mean(2)
        return apart.gather(1, hidden).mean()


def places(high: int, wide: int, width: int) -> Tensor:
    """Sines and cosines of rows and columns, [1, high wide, width]."""
    quarter = width // 4
    rates = 10000 ** (-torch.arange(quarter) / quarter)
    rows, columns = (torch.arange(n)[:, None] * rates for n in (high, wide))
    down = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, wide, -1)
    across = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(high, -1, -1)
    return torch.cat([down, across], 2).reshape(1, high * wide, 4 * quarter)


def _layer(width: int, heads: int) -> Module:
    return nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
