"""Newton: one damped Newton step on the retain set, then noise; certified where its constants are known.

B. Zhang, Y. Dong, T. Wang, J. Li, Towards Certified Unlearning for Deep Neural Networks, ICML 2024,
https://arxiv.org/abs/2408.00920, section 3. With L_R the mean retain loss and H_R its Hessian,
    w <- w - (H_R + (weight_decay + damping) I)^-1 (grad L_R + weight_decay w) + N(0, std^2).

Departures: the regulariser is weight_decay / 2 |w|^2, so that the Hessian really is shifted by weight_decay I
(the public code adds unsquared norms, which shift it otherwise); the system is solved by conjugate gradients
unless the paper's stochastic recursion (LiSSA) is asked for. A constant `std` proves nothing and is called
noisy Newton here; `Newton.certificate` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..derivatives import Curvature, Point, conjugate_gradients
from ..errors import InputError, NonFiniteError
from ..paper import Paper
from ..random import child
from ..types import Data, Request
from ._certificate import Certificate, certificate

_CONSTANTS = ("norm_bound", "hessian_lipschitz", "smallest_eigenvalue", "epsilon", "delta")


@dataclass(frozen=True, kw_only=True)
class Newton:
    """One damped Newton step towards the retain set's optimum, plus noise.

    Attributes:
        damping: added to the Hessian beyond weight decay (gamma); larger is safer, and a shorter step.
        weight_decay: of the model's recipe (lambda); the objective has weight_decay / 2 |w|^2.
        std: standard deviation of the noise, in weight units; not used when certified.
        curvature: "ggn", the softmax Gauss-Newton matrix, never negative; or "hessian", which a certificate
            needs.
        solver: "cg", conjugate gradients over the whole retain set; or "lissa", the paper's stochastic
            recursion.
        steps: curvature products at most ("cg"), or a repeat ("lissa").
        tolerance: relative residual at which "cg" is done.
        repeats: of the LiSSA recursion, averaged.
        samples: examples a LiSSA step reads.
        lissa_scale: LiSSA divides the curvature by this; above its largest eigenvalue on any batch.
            Directions whose eigenvalue plus damping is below lissa_scale / steps are left partly unsolved.
        norm_bound: C, a bound on the norm of the given and of the retrained weights.
        hessian_lipschitz: M, a Lipschitz constant of the retain loss's Hessian.
        smallest_eigenvalue: a lower bound on the eigenvalues of the retain loss's Hessian, negative if need
            be.
        gradient_bound: G, a bound on the gradient norm that retraining ends with; 0 if it converges.
        epsilon: privacy loss to certify, in (0, 1].
        delta: its probability of failure, in (0, 1).
    """

    damping: float = 3e-4
    weight_decay: float = 5e-4
    std: float = 1e-3
    curvature: Curvature = "ggn"
    solver: Literal["cg", "lissa"] = "cg"
    steps: int = 2000
    tolerance: float = 1e-3
    repeats: int = 10
    samples: int = 10
    lissa_scale: float = 1000.0
    norm_bound: float | None = None
    hessian_lipschitz: float | None = None
    smallest_eigenvalue: float | None = None
    gradient_bound: float = 0.0
    epsilon: float | None = None
    delta: float | None = None

    paper: ClassVar[Paper] = Paper(
        "Towards Certified Unlearning for Deep Neural Networks",
        "Zhang, Dong, Wang and Li", "ICML", 2024, "2408.00920",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ("forget", "retain")

    def __post_init__(self) -> None:
        for name in ("damping", "tolerance", "lissa_scale"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"Newton.{name} must be positive; got {getattr(self, name)}.")
        for name in ("weight_decay", "std", "gradient_bound"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"Newton.{name} must be zero or more; got {getattr(self, name)}.")
        for name in ("steps", "repeats", "samples"):
            if getattr(self, name) < 1:
                raise InputError(f"Newton.{name} must be at least 1; got {getattr(self, name)}.")
        if self.curvature not in ("ggn", "hessian"):
            raise InputError(f"Newton.curvature must be 'ggn' or 'hessian'; got {self.curvature!r}.")
        if self.solver not in ("cg", "lissa"):
            raise InputError(f"Newton.solver must be 'cg' or 'lissa'; got {self.solver!r}.")
        missing = [name for name in _CONSTANTS if getattr(self, name) is None]
        if missing and len(missing) < len(_CONSTANTS):
            raise InputError(
                f"Newton lacks {', '.join(missing)} for a certificate. "
                f"Give all of {', '.join(_CONSTANTS)}, or none of them."
            )
        if not missing and (self.solver != "cg" or self.curvature != "hessian"):
            raise InputError(
                "Newton can be certified only with solver='cg' and curvature='hessian'; its proof needs both."
            )
        self.certificate()

    def certificate(self) -> Certificate:
        """Say what this setting guarantees, and the noise it adds."""
        if self.norm_bound is None or self.hessian_lipschitz is None or self.smallest_eigenvalue is None:
            text = (
                f"noisy Newton, not certified: no bound on the model stands behind its noise ({self.std:g})."
            )
            return Certificate(
                certified=False, sigma=self.std, bound=None, epsilon=None, delta=None, statement=text
            )
        assert self.epsilon is not None
        assert self.delta is not None
        floor = self.smallest_eigenvalue + self.weight_decay + self.damping
        bound = self._excess() * (1 + self.tolerance) / floor if floor > 0 else inf
        return certificate(bound=bound, epsilon=self.epsilon, delta=self.delta)

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` after one step; pruned zeros and frozen parameters stay.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if no weight may move, the curvature is not positive definite, the solver does not
                reach its tolerance, or the weights exceed `norm_bound`.
            NonFiniteError: if the step is not finite.
        """
        data.forget.require_examples("Newton")
        data.retain.require_examples("Newton")
        point = Point.of(model, data.retain.task, "Newton")
        certificate = self.certificate()
        here, shift = point.here, self.weight_decay + self.damping
        gradient = point.gradient(data.retain) + self.weight_decay * here
        if self.solver == "lissa":
            step = lissa(
                self._sampled(point, data.retain, rng),
                gradient,
                shift,
                self.lissa_scale,
                self.steps,
                self.repeats,
            )
        else:
            limit = self._limit(float(here.norm())) if certificate.certified else None
            product = point.product(data.retain, self.curvature)
            step = conjugate_gradients(
                product, gradient, damping=shift, steps=self.steps, tolerance=self.tolerance, limit=limit
            )
        noise = certificate.sigma * torch.randn(len(here), generator=rng).to(here)
        return point.write(model, noise - step, "Newton")

    def _excess(self) -> float:
        assert self.norm_bound is not None
        assert self.hessian_lipschitz is not None
        c = self.norm_bound
        return 2 * c * (self.hessian_lipschitz * c + self.damping) + self.gradient_bound

    def _limit(self, norm: float) -> float:
        assert self.norm_bound is not None
        if norm > self.norm_bound:
            raise InputError(
                f"Newton.norm_bound is {self.norm_bound:g}, but the model's weights have norm {norm:.4g}: "
                "the certificate would be void. Train under that bound, or raise it."
            )
        return self.tolerance * self._excess()

    def _sampled(self, point: Point, retain: Data[Any], rng: Generator) -> Callable[[Tensor], Tensor]:
        order = child(rng)

        def product(v: Tensor) -> Tensor:
            drawn = torch.randint(len(retain), (self.samples,), generator=order)
            return point.product(replace(retain.subset(drawn), batch_size=self.samples), self.curvature)(v)

        return product


def lissa(
    product: Callable[[Tensor], Tensor],
    vector: Tensor,
    damping: float,
    scale: float,
    steps: int,
    repeats: int,
) -> Tensor:
    """Estimate (A + damping I)^-1 vector by h <- h + vector - (A + damping I) h / scale, from h = vector.

    Args:
        product: v -> an unbiased sample of A v.
        vector: [d].
        damping: added to A's diagonal.
        scale: above half the largest eigenvalue of A + damping I, or the recursion diverges.
        steps: of one recursion.
        repeats: averaged.

    Raises:
        NonFiniteError: if the recursion diverges.
    """
    total = torch.zeros_like(vector)
    for _ in range(repeats):
        h = vector.clone()
        for _ in range(steps):
            h = h + vector - (product(h) + damping * h) / scale
        total += h
    if (
        not bool(total.isfinite().all())
        or float(total.norm()) / (scale * repeats) > float(vector.norm()) / damping * 1.01
    ):
        raise NonFiniteError(
            "Newton's LiSSA recursion diverged; the model was kept. Raise lissa_scale or damping."
        )
    return total / (scale * repeats)
