"""ASAM against SGD and SAM."""

from __future__ import annotations

from claims.framework import Claim
from claims.optim._world import BASELINE, DATA, SEEDS, figures, make, measured, over, over_sgd
from unweave.optim import ASAM, SAM

MAKERS = {
    "ASAM": make(ASAM, rho=0.5),
    "SAM": make(SAM, rho=0.1),
}

claim = Claim(
    statement="A neighbourhood that follows the scale of the weights generalises better than SGD, and than SAM's.",
    reported="CIFAR-10, WRN-28-10: 97.28 % (SAM 97.13 %, SGD 96.1 %); CIFAR-100 83.68 % (SAM 83.3 %)",
    data=DATA,
    figures=figures(*MAKERS),
    baseline=BASELINE,
    criterion="on both sets the mean accuracy of ASAM is above that of the best SGD and of SAM",
    effects=over_sgd("ASAM", paper=1.18) + over("ASAM", "SAM", paper=0.15),
    seeds=SEEDS,
    settings={"rho": "0.5 (ASAM), 0.1 (SAM)"},
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)
