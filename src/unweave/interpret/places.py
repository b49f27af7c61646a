"""Where in a picture a vector of a layer lies: a patch of a grid, or the whole of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SPECIAL = 8
"""Tokens, at most, that stand before a transformer's patches and for none of them (class, distillation, registers)."""


@dataclass(frozen=True)
class Places:
    """The places of a layer's answer to one picture.

    Attributes:
        rows: of the grid; 0 where the layer says one thing of the whole picture.
        columns: of the grid.
        special: tokens before the grid's.
    """

    rows: int
    columns: int
    special: int = 0

    @classmethod
    def of(cls, answer: Tensor, picture: Tensor) -> Places:
        """Read them off the shapes.

        Args:
            answer: of one picture, vectors last: [1, h, w, d], [1, tokens, d] or [1, d].
            picture: [c, h, w], as the model reads it.
        """
        if answer.ndim == 4:
            return cls(*answer.shape[1:3])
        height, width = picture.shape[-2:]
        tokens = answer.shape[1] if answer.ndim == 3 else 1
        for special in range(min(_SPECIAL, tokens - 1) + 1):
            rows = round(((tokens - special) * height / width) ** 0.5)
            columns = (tokens - special) // max(1, rows)
            # patches are as wide as high
            if rows > 1 and rows * columns == tokens - special and rows * width == columns * height:
                return cls(rows, columns, special)
        return cls(0, 0, tokens)

    def told(self, place: int) -> str:
        """A place in words."""
        at = place - self.special
        if at < 0 or not self.rows:
            return "the whole picture"
        row, column = divmod(at, self.columns)
        return f"row {row + 1} of {self.rows}, column {column + 1} of {self.columns}"

    def framed(self, picture: Tensor, place: int) -> Tensor:
        """A picture [c, h, w] from 0 to 1 in colour, [3, h, w], with a red frame around the place."""
        out = picture.float().cpu().expand(3, *picture.shape[1:]).clone()
        at = place - self.special
        if at < 0 or not self.rows:
            return out
        row, column = divmod(at, self.columns)
        height, width = out.shape[1:]
        top, bottom = row * height // self.rows, max(1, (row + 1) * height // self.rows) - 1
        left, right = column * width // self.columns, max(1, (column + 1) * width // self.columns) - 1
        red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1)
        for line in (out[:, top, left : right + 1], out[:, bottom, left : right + 1], out[:, top : bottom + 1, left],
                     out[:, top : bottom + 1, right]):  # fmt: skip
            line.copy_(red.expand_as(line))
        return out
