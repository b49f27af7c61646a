"""ESAM's random part of the weights against SAM."""

from __future__ import annotations

from claims.framework import Claim
from claims.optim._world import BASELINE, DATA, SEEDS, figures, keeps, make, measured, over_sgd
from unweave.optim import ESAM, SAM

MAKERS = {
    "ESAM": make(ESAM, rho=0.1, beta=0.6),
    "SAM": make(SAM, rho=0.1),
}

claim = Claim(
    statement="Perturbing a random part of the weights keeps SAM's gain.",
    reported="CIFAR-10, ResNet-18: 96.56 % (SAM 96.52 %, SGD 95.41 %), with both halves of the method",
    data=DATA,
    figures=figures(*MAKERS),
    baseline=BASELINE,
    criterion="on both sets ESAM's gain over the best SGD is positive and at least three quarters of SAM's",
    effects=over_sgd("ESAM", paper=1.15) + keeps("ESAM", 0.75, "three quarters", paper=0.32),
    seeds=SEEDS,
    settings={"rho": "0.1, beta 0.6"},
    note="Only stochastic weight perturbation; no time is saved.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)
