"""LookSAM against SAM."""

from __future__ import annotations

from functools import lru_cache

from claims.framework import Claim
from claims.optim._world import (
    DATA,
    RATES,
    SEEDS,
    SETS,
    accuracy,
    data,
    figures,
    keeps,
    make,
    over_sgd,
    trained,
)
from unweave.optim import SAM, LookSAM

ALPHAS = (0.1, 0.3, 0.7)
TUNING_SEEDS = (20, 21)
CONTROL = "SAM at every fifth step alone"

claim = Claim(
    statement="SAM at every fifth step, with its direction used again in between, keeps SAM's gain.",
    reported="ViT-B/16, ImageNet, 300 epochs: 79.8 % (SAM 79.9 %, AdamW 74.7 %) at 1.2 times the cost of AdamW",
    data=DATA,
    figures={
        **figures("LookSAM", "SAM", *(f"LookSAM alpha {a}" for a in ALPHAS), CONTROL),
        **{f"{s}, alpha chosen": "alpha of LookSAM, chosen on the tuning seeds" for s in SETS},
    },
    baseline="SGD with momentum 0.9, weight decay 5e-4 and a cosine, at the best of the learning rates 0.03, 0.06 and 0.1 by the "
    "figures shown, and with twice the epochs at 0.1; SAM at the best of these rates, LookSAM at the best pair of rate and alpha, "
    "both chosen on seeds 20 and 21 alone; as a control SAM at every fifth step and SGD in between (alpha 0), its rate chosen "
    "likewise; same initial weights, batches and mask",
    criterion="on both sets LookSAM's gain over the best SGD is positive and at least three quarters of SAM's",
    effects=over_sgd("LookSAM") + keeps("LookSAM", 0.75, "three quarters"),
    seeds=SEEDS,
    settings={"rho": 0.1, "k": 5, "alphas": list(ALPHAS), "learning rates": list(RATES)},
    note="The third run. In the first, at alpha 0.7 and the learning rate 0.1 alone, LookSAM fell to chance on the digits "
    "(9.9 %) and to 61.7 % on Fashion-MNIST; in the second it had SGD's three learning rates and stayed at chance on the digits "
    "(at best 10.0 %, and 75.4 % on Fashion-MNIST). This one tunes alpha as well; it was run once without the control and once, to the same figures, with it. The criterion is "
    "that of the first.",
)  # fmt: skip


def _looked(name: str, seed: int, alpha: float, lr: float) -> float:
    optimizer = make(LookSAM, rho=0.1, k=5, alpha=alpha)
    return accuracy(trained(name, seed, optimizer, lr=lr), data(name)[1])


def _sam(name: str, seed: int, lr: float) -> float:
    return accuracy(trained(name, seed, make(SAM, rho=0.1), lr=lr), data(name)[1])


@lru_cache
def _tuned(name: str) -> tuple[float, dict[float, float], float]:
    """LookSAM's alpha, its learning rate at each alpha (0 for the control), and SAM's learning rate."""
    alphas = (0.0, *ALPHAS)
    looked = {(a, lr): sum(_looked(name, s, a, lr) for s in TUNING_SEEDS) for a in alphas for lr in RATES}
    rates = {a: max(RATES, key=lambda lr: looked[a, lr]) for a in alphas}
    alpha = max(ALPHAS, key=lambda a: looked[a, rates[a]])
    return alpha, rates, max(RATES, key=lambda lr: sum(_sam(name, s, lr) for s in TUNING_SEEDS))


def measure(seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in SETS:
        heldout = data(name)[1]
        alpha, rates, rate = _tuned(name)
        for lr in RATES:
            found[f"{name}, SGD {lr}"] = accuracy(trained(name, seed, None, lr=lr), heldout)
        found[f"{name}, SGD twice as long"] = accuracy(trained(name, seed, None, longer=2), heldout)
        for a in ALPHAS:
            found[f"{name}, LookSAM alpha {a}"] = _looked(name, seed, a, rates[a])
        found[f"{name}, LookSAM"] = found[f"{name}, LookSAM alpha {alpha}"]
        found[f"{name}, alpha chosen"] = alpha
        found[f"{name}, {CONTROL}"] = _looked(name, seed, 0.0, rates[0.0])
        found[f"{name}, SAM"] = _sam(name, seed, rate)
    return found
