"""SatImp: weights by saturation and importance come nearer to a retrained model than plain ascent."""

from __future__ import annotations

from claims.framework import Claim
from claims.language._table import BASELINE, DATA, RATES, effects, meanings, measured
from unweave.language import SatImp


def make(lr: float) -> SatImp:
    return SatImp(lr=lr)


claim = Claim(
    statement="Weights by saturation and importance come nearer to a retrained model than plain ascent.",
    data=DATA,
    figures=meanings("sat-imp"),
    baseline=BASELINE,
    criterion="at the best rate the distance from retrained models is at least 1 point below that of ascent at its best",
    effects=effects("sat-imp"),
    settings={"sat-imp": [repr(make(lr)) for lr in RATES]},
    note="A small world: sentences that stand for themselves, and nothing else that a language model is for.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, {"sat-imp": make})
