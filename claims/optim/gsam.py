"""GSAM against SAM."""

from __future__ import annotations

from claims.framework import Claim
from claims.optim._world import BASELINE, DATA, SEEDS, figures, make, measured, over, over_sgd
from unweave.optim import GSAM, SAM

MAKERS = {
    "GSAM": make(GSAM, rho=0.1, alpha=0.4),
    "SAM": make(SAM, rho=0.1),
}

claim = Claim(
    statement="Ascending along the part of the gradient orthogonal to SAM's improves on SAM.",
    reported="ViT-B/32, ImageNet: 76.8 % (SAM 73.6 %, AdamW 71.4 %)",
    data=DATA,
    figures=figures(*MAKERS),
    baseline=BASELINE,
    criterion="on both sets the mean accuracy of GSAM is above that of the best SGD and of SAM",
    effects=over_sgd("GSAM") + over("GSAM", "SAM", paper=3.2),
    seeds=SEEDS,
    settings={"rho": "0.1, alpha 0.4"},
    note="The radius is constant.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)
