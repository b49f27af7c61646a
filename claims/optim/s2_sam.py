"""S2-SAM against SGD and SAM."""

from __future__ import annotations

from claims.framework import Claim
from claims.optim._world import BASELINE, DATA, SEEDS, figures, keeps, make, measured, over_sgd
from unweave.optim import S2SAM, SAM

MAKERS = {
    "S2SAM": make(S2SAM, rho=0.1),
    "SAM": make(SAM, rho=0.1),
}

claim = Claim(
    statement="Perturbing by the last step's gradient improves sparse training at no extra cost.",
    reported="the paper reports gains for sparse training at SGD's speed; its figures were not read",
    data=DATA,
    figures=figures(*MAKERS),
    baseline=BASELINE,
    criterion="on both sets S2-SAM's gain over the best SGD is positive and at least half of SAM's",
    effects=over_sgd("S2SAM") + keeps("S2SAM", 0.5, "half"),
    seeds=SEEDS,
    settings={"rho": "0.1"},
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)
