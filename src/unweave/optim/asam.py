"""ASAM: SAM with a neighbourhood that follows the scale of each weight.

Kwon, Kim, Park, Choi, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
Networks", ICML 2021, arXiv 2102.11600, eq. 8: eps = rho T^2 g / ||T g|| with T = diag(|w| + eta).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import InputError
from ..paper import Paper
from ._sharpness import norm
from .sam import SAM


class ASAM(SAM):
    """SAM whose perturbation of a weight is in proportion to the weight.

    T = |w| + eta for tensors of two and more dimensions (weights of layers), and 1 for all others (biases, norms), as
    the authors' code does by name. Ports with `adaptive=True` use |w| alone on everything: a weight of zero is then
    never perturbed, which eta is there to prevent. Dead weights of a mask have no gradient and stay.

    Args:
        params: parameters or groups; a group may have its own `rho`.
        base: makes the optimiser that steps.
        rho: radius; the paper uses 0.5 (CIFAR-10) and 1.0 (CIFAR-100), ten to twenty times SAM's.
        eta: added to |w|, at least 0.
        foreach: move all tensors at once.
        keywords: for the base, such as lr and momentum.

    Raises:
        InputError: if rho or eta is negative, or `step` gets no closure.
    """

    paper: ClassVar[Paper] = Paper(
        "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks",
        "Kwon, Kim, Park, Choi", "ICML", 2021, "2102.11600",
    )  # fmt: skip

    def __init__(
        self, params: Iterable[Any], base: Callable[..., Optimizer] = SGD, *, rho: float = 0.5, eta: float = 0.01,
        foreach: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        if eta < 0:
            raise InputError(
                f"ASAM: eta must be at least 0; got {eta}. It is added to the size of each weight."
            )
        super().__init__(params, base, rho=rho, foreach=foreach, **keywords)
        self.eta = eta

    def ascent(self, weights: list[Tensor]) -> tuple[list[Tensor], float]:
        """T^2 g and ||T g||."""
        sizes = [w.abs() + self.eta if w.ndim > 1 else None for w in weights]
        gradients = [w.grad for w in weights if w.grad is not None]
        scaled = [g if t is None else t * g for t, g in zip(sizes, gradients, strict=True)]
        length = norm(scaled)
        return [s if t is None else torch.mul(t, s) for t, s in zip(sizes, scaled, strict=True)], length
