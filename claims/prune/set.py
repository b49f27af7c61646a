"""SET against static masks."""

from __future__ import annotations

from claims.framework import Claim
from claims.prune._sparse_training import DATA, SEEDS, SETTINGS, above, figures, measured
from unweave.prune import ERK, SET, StaticMask, Uniform

EVERY = 30
MAKERS = {
    "SET": lambda s: SET(budget=ERK(s), every=EVERY),
    "static ERK": lambda s: StaticMask(budget=ERK(s)),
    "static uniform": lambda s: StaticMask(budget=Uniform(s)),
}

claim = Claim(
    statement="Exchanging the smallest weights for random ones trains sparse networks better than a fixed random mask.",
    reported="MNIST, MLP with 89,797 of 2,807,110 weights: 98.74 % (fixed 97.5 %, dense 98.55 %)",
    data=DATA,
    figures=figures(*MAKERS),
    baseline="the same training under fixed random masks (ERK, uniform)",
    criterion="at 2 % density, on both sets, SET is above the static ERK mask",
    effects=above("SET", "static ERK", paper=1.24),
    seeds=SEEDS,
    settings=SETTINGS,
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)
