"""How much more weights are excited by one group of prompts than by another, from running moments."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

_CHUNK = 1 << 20


def excitation(x: Tensor, y: Tensor, saliency: Literal["eq1", "wanda", "release"]) -> Tensor:
    """Eq. 1 of FIA without its factor |W|, for each prompt.

    The column norms of X cancel: ||X_j|| |cos(X_j, Y_i)| = |<X_j, Y_i>| / ||Y_i||.

    Args:
        x: inputs [prompts, tokens, in].
        y: outputs without bias [prompts, tokens, out].
        saliency: "eq1"; "wanda" is ||X_j||; "release" is ||X_j|| after each row of X was scaled to length 1.

    Returns:
        [prompts, out, in], or [prompts, 1, in] for the last two.
    """
    if saliency == "eq1":
        unit: Tensor = y / (y.norm(dim=1, keepdim=True) + 1e-8)
        products: Tensor = torch.bmm(unit.transpose(1, 2), x)
        return products.abs_()
    if saliency == "release":
        x = x / (x.norm(dim=2, keepdim=True) + 1e-8)
    norms: Tensor = x.norm(dim=1)
    return norms[:, None]


class Contrast:
    """Means of the excitation over concept and base prompts and the spread over base prompts, batch by batch."""

    def __init__(self, saliency: Literal["eq1", "wanda", "release"]) -> None:
        self._saliency = saliency
        self._with = self._without = 0
        self._sum: Tensor | None = None
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, x: Tensor, y: Tensor, concept: Tensor) -> None:
        """Take in prompts.

        Args:
            x: inputs [prompts, tokens, in].
            y: outputs without bias [prompts, tokens, out].
            concept: whether each prompt holds the concept, bool [prompts].
        """
        rows = y.shape[2] if self._saliency == "eq1" else 1
        if self._sum is None:
            shape = (rows, x.shape[2])
            self._sum, self._mean, self._squares = (x.new_zeros(shape) for _ in range(3))
        n, new = int(concept.sum()), int((~concept).sum())
        at, rest = concept.nonzero().flatten().to(x.device), (~concept).nonzero().flatten().to(x.device)
        height = max(1, _CHUNK // max(1, len(x) * x.shape[2])) if rows > 1 else y.shape[2]
        for low in range(0, y.shape[2], height):
            part = slice(low, low + height) if rows > 1 else slice(None)
            u = excitation(x, y[:, :, low : low + height], self._saliency)
            if n:
                self._sum[part] += u[at].sum(0)
            if new:
                self._merge_(u[rest], part, new)
        self._with, self._without = self._with + n, self._without + new

    def _merge_(self, u: Tensor, part: slice, new: int) -> None:
        assert self._mean is not None
        assert self._squares is not None
        mean = u.mean(0)
        spread = u.sub_(mean).square_().mean(0)  # torch.var_mean over the first dimension is ten times slower
        step = mean - self._mean[part]
        total = self._without + new
        self._squares[part] += new * spread + step.square() * (self._without * new / total)
        self._mean[part] += step * (new / total)

    def excess(self, sigma: float) -> Tensor:
        """max(0, mean over concept prompts - mean over base prompts - sigma standard deviations) (eq. 2)."""
        assert self._sum is not None
        assert self._mean is not None
        assert self._squares is not None
        spread = self._squares.div_(self._without).sqrt_()
        return self._sum.div_(self._with).sub_(self._mean).sub_(spread, alpha=sigma).clamp_(min=0)
