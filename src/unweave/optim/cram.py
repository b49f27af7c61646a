"""CrAM: train so that pruning at once costs little.

Peste, Vladu, Kurtic, Lampert, Alistarh, "CrAM: A Compression-Aware Minimizer", ICLR 2023, arXiv 2207.14200, eq. 4 and
CrAM+: the gradient at C_k(w + rho g), where C_k zeroes the smallest share k of the weights; CrAM+ adds g.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..masks.threshold import kth_largest
from ..paper import Paper
from ..random import seeded
from ._sharpness import copies
from .sam import SAM


class CrAM(SAM):
    """Step by the gradient at the weights as pruning would leave them after an ascent.

    The ascent is w + rho g, without dividing by ||g||, as in the paper. Tensors of two and more dimensions are
    compressed, by one threshold for all; each step draws its sparsity.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: length of the ascent, in units of the gradient.
        sparsities: shares of the weights to remove; one is drawn a step.
        plus: add the plain gradient (CrAM+), which keeps the dense model good; the sum is about twice as long as
            either, so that CrAM+ wants a smaller learning rate.
        seed: of the draws; step t draws from seed and t alone.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if rho is negative or a sparsity outside [0, 1), or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "CrAM: A Compression-Aware Minimizer",
        "Peste, Vladu, Kurtic, Lampert, Alistarh",
        "ICLR",
        2023,
        "2207.14200",
    )

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: float = 0.05,
        sparsities: tuple[float, ...] = (0.5, 0.7, 0.9), plus: bool = True, seed: int = 0, **keywords: Any,
    ) -> None:  # fmt: skip
        if not sparsities or not all(0 <= s < 1 for s in sparsities):
            raise InputError(f"CrAM: sparsities must be one or more shares in [0, 1); got {sparsities}.")
        super().__init__(params, base, rho=rho, **keywords)
        self.sparsities, self.plus, self.seed = sparsities, plus, seed
        self._steps = 0
        self._left: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @torch.no_grad()
    def first_step(self) -> None:
        """Move to the weights after the ascent, compressed to a sparsity drawn for this step."""
        weights = self.trained()
        self.keep(weights)
        clean = copies(p.grad for p in weights if p.grad is not None)
        drawn = int(torch.randint(len(self.sparsities), (), generator=seeded(self.seed + self._steps)))
        self._steps += 1
        self.move(weights, clean, self.rhos())
        self._left = list(zip(weights, clean, _compress_(weights, self.sparsities[drawn]), strict=True))

    def combine(self) -> None:
        """Mask the gradient as the weights were; CrAM+ adds the plain one."""
        for p, clean, alive in self._left:
            assert p.grad is not None
            if alive is not None:
                p.grad.masked_fill_(~alive, 0)
            if self.plus:
                p.grad.add_(clean)
        self._left = []

    def state_dict(self) -> dict[str, Any]:
        """Of the base optimiser and our own."""
        return {**super().state_dict(), "drawn": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read back what `state_dict` gave."""
        rest = dict(state_dict)
        self._steps = rest.pop("drawn")
        super().load_state_dict(rest)


def _compress_(weights: list[Tensor], sparsity: float) -> list[Tensor | None]:
    layers = [w for w in weights if w.ndim > 1]
    total = sum(w.numel() for w in layers)
    keep = max(1, round((1 - sparsity) * total))
    if not layers or keep == total:
        return [None] * len(weights)
    threshold = kth_largest([w.abs() for w in layers], keep)
    kept: list[Tensor | None] = []
    for w in weights:
        alive = w.abs() >= threshold if w.ndim > 1 else None
        if alive is not None:
            w.masked_fill_(~alive, 0)
        kept.append(alive)
    return kept
