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
from ..settings import Count, Inner, NonNegative, Number, Positive, refuse_idle, settings
from ..types import Data, Request
from ._certificate import Delta, Epsilon, certified, check_certifiable, gaussian_noise
from ._train import check_request
from .suits import UNJUDGED, Unsuited

_CONSTANTS = ("norm_bound", "hessian_lipschitz", "smallest_eigenvalue", "epsilon", "delta")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a Newton step guarantees.

    Attributes:
        certified: whether (epsilon, delta) holds, given that the constants do.
        sigma: standard deviation of the noise added to each weight.
        bound: largest distance between the step's end and the retrained model; None if not certified.
        epsilon: privacy loss; None if not certified.
        delta: probability of exceeding it; None if not certified.
        statement: the same in words.
    """

    certified: bool
    sigma: float
    bound: float | None
    epsilon: float | None
    delta: float | None
    statement: str


@settings
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
        epsilon: privacy loss to certify.
        delta: its probability of failure.
    """

    damping: Positive = 3e-4
    weight_decay: NonNegative = 5e-4
    std: NonNegative = 1e-3
    curvature: Curvature = "ggn"
    solver: Literal["cg", "lissa"] = "cg"
    steps: Count = 2000
    tolerance: Inner = 1e-3
    repeats: Count = 10
    samples: Count = 10
    lissa_scale: Positive = 1000.0
    norm_bound: Positive | None = None
    hessian_lipschitz: NonNegative | None = None
    smallest_eigenvalue: Number | None = None
    gradient_bound: NonNegative = 0.0
    epsilon: Epsilon | None = None
    delta: Delta | None = None

    paper: ClassVar[Paper] = Paper(
        "Towards Certified Unlearning for Deep Neural Networks",
        "Zhang, Dong, Wang and Li", "ICML", 2024, "2408.00920",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {
        "class": "stops half way (position 0.61), at the cost of 12 retrainings",
        "random": "stops short (position 0.54 to 0.75), at the cost of 15 to 28 retrainings",
        "small": UNJUDGED,
    }

    def __post_init__(self) -> None:
        if self.solver == "cg":
            refuse_idle(self, "repeats", "samples", "lissa_scale", when="with solver='cg'")
        else:
            refuse_idle(self, "tolerance", when="with solver='lissa'")
        if not certified(self, _CONSTANTS):
            refuse_idle(self, "gradient_bound", when="without a certificate")
            return
        refuse_idle(self, "std", when="with a certificate, which computes its own noise")
        if self.solver != "cg" or self.curvature != "hessian":
            raise InputError(
                "Newton can be certified only with solver='cg' and curvature='hessian'; its proof needs both."
            )
        self.certificate()

    def certificate(self) -> Certificate:
        """Say what this setting guarantees, and the noise it adds.

        The bound on |w_newton - w_retrained| is, with A = H_R + (weight_decay + damping) I,
            (2 C (M C + damping) + G + residual) / (smallest eigenvalue + weight_decay + damping)
        (theorem 3.4 of the paper; G for retraining that stops early, the residual of the solver). It follows
        from
            A (w_newton - w_retrained) = (A d - (grad(w) - grad(w_retrained))) - grad(w_retrained) - residual
        with d = w - w_retrained and |d| <= 2 C.

        Raises:
            InputError: if there is no finite bound, as where the shifted Hessian may have an eigenvalue at or
                below 0.
        """
        if not certified(self, _CONSTANTS):
            text = (
                f"noisy Newton, not certified: no bound on the model stands behind its noise ({self.std:g})."
            )
            return Certificate(
                certified=False, sigma=self.std, bound=None, epsilon=None, delta=None, statement=text
            )
        assert self.smallest_eigenvalue is not None
        assert self.epsilon is not None
        assert self.delta is not None
        floor = self.smallest_eigenvalue + self.weight_decay + self.damping
        bound = self._excess() * (1 + self.tolerance) / floor if floor > 0 else inf
        if not isfinite(bound):
            raise InputError(
                "Newton has no finite bound to certify: smallest_eigenvalue + weight_decay + damping must be "
                f"above 0, and the other constants small; it is {floor:g}. Raise damping."
            )
        sigma = gaussian_noise(bound, self.epsilon, self.delta)
        text = (
            f"certified ({self.epsilon:g}, {self.delta:g}): noise {sigma:.3g} hides a distance of at most "
            f"{bound:.3g}, if the constants hold."
        )
        return Certificate(
            certified=True, sigma=sigma, bound=bound, epsilon=self.epsilon, delta=self.delta, statement=text
        )

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` after one step; pruned zeros and frozen parameters stay.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if a certificate is asked for and the model has running statistics, frozen or pruned weights
                (it says why it would not hold), if no weight may move, the curvature is not positive definite, the
                solver does not reach its tolerance, or the weights exceed `norm_bound`.
            NonFiniteError: if the step is not finite.
        """
        check_request("Newton", data, rng)
        point = Point.of(model, data.retain.task, "Newton")
        certificate = self.certificate()
        if certificate.certified:
            check_certifiable("Newton", model)
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
