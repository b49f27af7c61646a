"""CrAM: train so that pruning at once costs little.

Peste, Vladu, Kurtic, Lampert, Alistarh, "CrAM: A Compression-Aware Minimizer", ICLR 2023, arXiv 2207.14200, eq. 4 and
CrAM+: the gradient at C_k(w + rho g), where C_k zeroes the smallest share k of the weights; CrAM+ adds g.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..masks.threshold import kth_largest
from ..paper import Paper
from ..random import seeded
from ..settings import Part, Whole, checked
from .two_pass import Rho, climb_, come_back_, two_passes
from .vectors import copies
from .wrapper import Closure, Wrapper


@final
class CrAM(Wrapper):
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
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Attributes:
        drawn: steps that have drawn a sparsity.

    Raises:
        InputError: if a setting is out of its range, there is no sparsity, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "CrAM: A Compression-Aware Minimizer",
        "Peste, Vladu, Kurtic, Lampert, Alistarh",
        "ICLR",
        2023,
        "2207.14200",
    )
    entries: ClassVar[tuple[str, ...]] = ("drawn",)

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05,
        sparsities: tuple[Part, ...] = (0.5, 0.7, 0.9), plus: bool = True, seed: Whole = 0, foreach: bool = True,
        **keywords: Any,
    ) -> None:  # fmt: skip
        if not sparsities:
            raise InputError("CrAM.sparsities must be one or more shares; got none.")
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)
        self.sparsities, self.plus, self.seed = sparsities, plus, seed
        self.drawn = 0
        self._left: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Ascend, prune, look again, step.

        Returns:
            The loss at the weights before the step.
        """
        return two_passes(self, closure, self.first_step, self.second_step)

    @torch.no_grad()
    def first_step(self) -> None:
        """Move to the weights after the ascent, compressed to a sparsity drawn for this step."""
        weights = self.trained()
        clean = copies(self.gradients(weights))
        at = int(torch.randint(len(self.sparsities), (), generator=seeded(self.seed + self.drawn)))
        self.drawn += 1
        climb_(self, weights, clean, None)
        self._left = list(zip(weights, clean, _compress_(weights, self.sparsities[at]), strict=True))

    @torch.no_grad()
    def second_step(self) -> None:
        """Go back and step by the gradients there are now, masked as the weights were; CrAM+ adds the plain ones."""
        come_back_(self)
        left, self._left = self._left, []
        for g, (_, clean, alive) in zip(self.gradients([p for p, _, _ in left]), left, strict=True):
            if alive is not None:
                g.masked_fill_(~alive, 0)
            if self.plus:
                g.add_(clean)
        self.base.step()


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
