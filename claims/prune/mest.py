"""MEST against static masks and SET."""

from __future__ import annotations

from claims.framework import Claim
from claims.prune._sparse_training import DATA, SEEDS, SETTINGS, figures, margin, measured
from unweave.prune import MEST, SET, Uniform

EVERY, NEVER = 30, 10**9
MAKERS = {
    "MEST": lambda s: MEST(budget=Uniform(s), every=EVERY, ratio=(1 - s) / 4),
    "MEST EM&S": lambda s: MEST(budget=Uniform(s), every=EVERY, ratio=(1 - s) / 2, mode="em&s"),
    "SET": lambda s: SET(budget=Uniform(s), every=EVERY),
    "static uniform": lambda s: SET(budget=Uniform(s), every=NEVER),
}

claim = Claim(
    statement="Mutations that die down, with a soft bound on memory, train sparse networks better than a fixed mask, and EM&S better than EM.",
    reported="ResNet-32, CIFAR-10, 90 %: EM 92.56 %, EM&S 93.27 % (SET 92.3 %, dense 94.9 %)",
    data=DATA,
    figures=figures(*MAKERS),
    baseline="the same training with SET's exchanges, and under a fixed random mask, all with a uniform budget",
    criterion="at 2 % density, on both sets, EM is above the static mask and EM&S above EM",
    seeds=SEEDS,
    settings=SETTINGS,
    note="The ratios are shares of the density (a quarter, a half): the paper's 2 % of all weights would be everything that lives here.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, MAKERS)


def holds(rows: list[dict[str, float]]) -> bool:
    return all(v > 0 for v in margin(rows, "MEST", "static uniform").values()) and all(
        v > 0 for v in margin(rows, "MEST EM&S", "MEST").values()
    )
