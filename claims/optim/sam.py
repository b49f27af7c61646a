"""SAM against SGD on noisy labels."""

from __future__ import annotations

from claims.framework import Claim
from claims.optim._world import (
    BASELINE,
    DATA,
    SEEDS,
    RandomDirection,
    figures,
    make,
    measured,
    over,
    over_sgd,
)
from unweave.optim import SAM

MAKERS = {
    "SAM": make(SAM, rho=0.1),
    "random direction": make(RandomDirection, rho=0.1),
}

claim = Claim(
    statement="Stepping by the gradient at the worst point nearby generalises better than SGD, above all with noisy labels.",
    reported="CIFAR-10 with 40 % noisy labels, ResNet-32: 93.3 % against 80 % of SGD's best",
    data=DATA,
    figures=figures(*MAKERS),
    baseline=BASELINE,
    criterion="on both sets the mean accuracy of SAM is above that of the best SGD and of SAM with a random direction",
    effects=over_sgd("SAM", paper=13.3) + over("SAM", "random direction"),
    seeds=SEEDS,
    settings={"rho": "0.1"},
    note="SGD twice as long has SAM's number of passes.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)
