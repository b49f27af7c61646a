"""DSR against SET and static masks."""

from __future__ import annotations

from claims.framework import Claim
from claims.prune._sparse_training import DATA, SEEDS, SETTINGS, above, figures, measured
from unweave.prune import DSR, ERK, SET, StaticMask

EVERY = 30
MAKERS = {
    "DSR": lambda s: DSR(budget=ERK(s), every=EVERY),
    "SET": lambda s: SET(budget=ERK(s), every=EVERY),
    "static ERK": lambda s: StaticMask(budget=ERK(s)),
}

claim = Claim(
    statement="Moving weights between layers as well as within them trains sparse networks better than exchanging them within layers.",
    reported="ResNet-50, ImageNet, 90 % sparse: 71.6 % (SET 70.4 %, static 67.2 %)",
    data=DATA,
    figures=figures(*MAKERS),
    baseline="the same training with SET's exchanges, and under a fixed random mask (ERK)",
    criterion="at 2 % density, on both sets, DSR is above static ERK and not below SET",
    effects=above("DSR", "static ERK", paper=4.4) + above("DSR", "SET", paper=1.2),
    seeds=SEEDS,
    settings=SETTINGS,
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)
