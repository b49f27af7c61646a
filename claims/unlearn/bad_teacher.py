"""An incompetent teacher makes a network forget, and a competent one keeps the rest."""

from __future__ import annotations

from claims.framework import Claim
from claims.unlearn._tuned import BASELINE, DATA, SEEDS, below, compare, meanings
from unweave.unlearn import BadTeacher

GRID = tuple(BadTeacher(lr=lr, epochs=epochs) for lr in (1e-4, 1e-3, 3e-3, 1e-2) for epochs in (5, 10))
CHOSEN = {
    "random": BadTeacher(lr=3e-3, epochs=5),
    "class": BadTeacher(lr=3e-3, epochs=10),
}
METHODS = {
    "BadTeacher defaults": {"random": BadTeacher(), "class": BadTeacher()},
    "BadTeacher": CHOSEN,
}

claim = Claim(
    statement=(
        "Distilling an untrained teacher on the forget set and the original on the rest comes nearer to "
        "a retrained model than fine-tuning and than doing nothing, for random examples and for a class."
    ),
    reported=(
        "the paper reports accuracy on the forgotten class near the retrained model's; no figure is "
        "quoted here"
    ),
    data=DATA,
    figures=meanings(METHODS),
    baseline=BASELINE,
    criterion=(
        "the gap with chosen settings is smaller than that of the no-op and of tuned fine-tuning, on "
        "every seed, for both requests"
    ),
    seeds=SEEDS,
    settings={
        "chosen": {kind: repr(method) for kind, method in CHOSEN.items()},
        "grid": [repr(method) for method in GRID],
    },
    note=(
        "Settings and the baseline's learning rate were chosen on seed 0 with a retrained model at hand. "
        "No labels are read."
    ),
)


def measure(seed: int) -> dict[str, float]:
    return compare(seed, METHODS)


def holds(rows: list[dict[str, float]]) -> bool:
    return all(below(rows, kind, "BadTeacher", "no-op", "fine-tune") for kind in ("random", "class"))
