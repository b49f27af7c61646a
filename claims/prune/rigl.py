"""RigL against SET and static masks."""

from __future__ import annotations

from claims.framework import Claim
from claims.prune._sparse_training import DATA, SEEDS, SETTINGS, above, figures, measured
from unweave.prune import ERK, SET, RigL, StaticMask, Uniform

EVERY = 30
MAKERS = {
    "RigL": lambda s: RigL(budget=ERK(s), every=EVERY),
    "SET": lambda s: SET(budget=ERK(s), every=EVERY),
    "static ERK": lambda s: StaticMask(budget=ERK(s)),
    "static uniform": lambda s: StaticMask(budget=Uniform(s)),
}

claim = Claim(
    statement="Growing the weights with the largest gradients trains sparse networks better than growing at random or not at all.",
    reported="ResNet-50, ImageNet, ERK: 75.1 % at 80 % and 73.1 % at 90 % sparse (SET 72.9 and 70.4, static 72.1 and 67.7)",
    data=DATA,
    figures=figures(*MAKERS),
    baseline="the same training with SET's exchanges, and under fixed random masks (ERK, uniform); none was tuned beyond the common learning rate",
    criterion="at 2 % density, on both sets, RigL is at least 1 point above the static uniform mask and not below SET and static ERK",
    effects=(
        above("RigL", "static uniform", margin=1)
        + above("RigL", "SET", paper=2.7)
        + above("RigL", "static ERK", paper=5.4)
    ),
    seeds=SEEDS,
    settings=SETTINGS,
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)
