"""LookSAM: SAM every k-th step; in between, the direction it found is used again.

Liu, Mai, Chen, Hsieh, You, "Towards Efficient and Scalable Sharpness-Aware Minimization", CVPR 2022, arXiv 2203.02714,
algorithm 1: g_v is the part of SAM's gradient orthogonal to g; other steps use g + alpha (||g|| / ||g_v||) g_v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..paper import Paper
from ..settings import NonNegative, Range, checked
from .two_pass import Rho, climb_, come_back_, two_passes
from .vectors import copies, dot, norm, shift_
from .wrapper import Closure, Wrapper


@final
class LookSAM(Wrapper):
    """SAM at 1 + 1/k of the base optimiser's price.

    The projection is over all parameters as one vector, as in the paper; `pytorch_optimizer.LookSAM` (4.1) projects
    each tensor by itself.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: radius of the perturbation.
        k: SAM is done at every k-th step, the first included; the paper uses 5 and 10.
        alpha: weight of the direction in between; the paper uses 0.7, which held a small pruned network at chance where
            0.1 served it well.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if a setting is out of its range, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "Towards Efficient and Scalable Sharpness-Aware Minimization", "Liu, Mai, Chen, Hsieh, You", "CVPR", 2022,
        "2203.02714",
    )  # fmt: skip

    @checked
    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: Rho = 0.05,
        k: Annotated[int, Range(at_least=1, why="SAM is done at every k-th step.")] = 5, alpha: NonNegative = 0.7,
        foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, base, keywords, rho=rho, foreach=foreach)
        self.k, self.alpha = k, alpha
        self._clean: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """SAM's step, or one along the remembered direction.

        Returns:
            The loss at the weights before the step.
        """
        if self._done() % self.k == 0:
            return two_passes(self, closure, self._climb, self._descend)
        loss = self.gradient(self.needed(closure))
        self._reuse(self.trained())
        self._step()
        return loss

    def _done(self) -> int:
        return max((int(state["step"]) for state in self.state.values() if "step" in state), default=0)

    def _climb(self) -> None:
        weights = self.trained()
        gradients = self.gradients(weights)
        self._clean = list(zip(weights, copies(gradients), strict=True))
        climb_(self, weights, gradients, norm(gradients, foreach=self.foreach))

    def _descend(self) -> None:
        come_back_(self)
        weights, clean = [p for p, _ in self._clean], [g for _, g in self._clean]
        self._clean = []
        perturbed = self.gradients(weights)
        square = dot(clean, clean)
        along = dot(perturbed, clean) / square if square else 0.0
        for p, here, there in zip(weights, clean, perturbed, strict=True):
            self.state[p]["apart"] = there - along * here
        self._step()

    def _reuse(self, weights: list[Tensor]) -> None:
        known = [p for p in weights if "apart" in self.state[p]]
        gradients = self.gradients(known)
        # a mask may have changed since
        apart = [
            self.state[p]["apart"].masked_fill((g == 0) & (p == 0), 0)
            for p, g in zip(known, gradients, strict=True)
        ]
        length = norm(apart, foreach=self.foreach)
        if length > 0:
            scale = self.alpha * norm(self.gradients(weights), foreach=self.foreach) / length
            shift_(gradients, apart, [scale] * len(known), foreach=self.foreach)

    def _step(self) -> None:
        done = torch.tensor(self._done() + 1.0)
        for p in self.trained():
            self.state[p]["step"] = done.clone()
        self.base.step()
