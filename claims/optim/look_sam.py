"""LookSAM against SAM."""

from __future__ import annotations

from claims.framework import Claim
from claims.optim._world import BASELINE, DATA, SEEDS, figures, gain, make, measured
from unweave.optim import SAM, LookSAM

MAKERS = {
    "LookSAM": make(LookSAM, rho=0.1, k=5),
    "SAM": make(SAM, rho=0.1),
}

claim = Claim(
    statement="SAM at every fifth step, with its direction used again in between, keeps SAM's gain.",
    reported="ViT-B/16, ImageNet, 300 epochs: 79.8 % (SAM 79.9 %, AdamW 74.7 %) at 1.2 times the cost of AdamW",
    data=DATA,
    figures=figures(*MAKERS),
    baseline=BASELINE,
    criterion="on both sets LookSAM's gain over the best SGD is positive and at least three quarters of SAM's",
    seeds=SEEDS,
    settings={"rho": "0.1, k 5"},
    note="",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)


def holds(rows: list[dict[str, float]]) -> bool:
    return all(
        gain(rows, s, "LookSAM") > max(0.0, 0.75 * gain(rows, s, "SAM")) for s in ("digits", "fashion")
    )
