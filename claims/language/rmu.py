"""RMU: misdirected representations come nearer to a retrained model than ascent."""

from __future__ import annotations

from claims.framework import Claim
from claims.language._table import BASELINE, DATA, RATES, effects, meanings, measured
from unweave.language import RMU


def make(lr: float) -> RMU:
    return RMU(lr=lr, layer=0)


claim = Claim(
    statement="Misdirected representations come nearer to a retrained model than ascent.",
    data=DATA,
    figures=meanings("rmu"),
    baseline=BASELINE,
    criterion="at the best rate the distance from retrained models is at least 1 point below that of ascent at its best",
    effects=effects("rmu"),
    settings={"rmu": [repr(make(lr)) for lr in RATES]},
    note="A small world: sentences that stand for themselves, and nothing else that a language model is for.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, {"rmu": make})
