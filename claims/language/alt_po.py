"""AltPO: preferring made-up answers comes nearer to a retrained model than ascent."""

from __future__ import annotations

from claims.framework import Claim
from claims.language._table import BASELINE, DATA, RATES, effects, meanings, measured
from unweave.language import AltPO


def make(lr: float) -> AltPO:
    return AltPO(lr=lr)


claim = Claim(
    statement="Preferring made-up answers comes nearer to a retrained model than ascent.",
    data=DATA,
    figures=meanings("alt-po"),
    baseline=BASELINE,
    criterion="at the best rate the distance from retrained models is at least 1 point below that of ascent at its best",
    effects=effects("alt-po"),
    settings={"alt-po": [repr(make(lr)) for lr in RATES]},
    note="A small world: sentences that stand for themselves, and nothing else that a language model is for.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, {"alt-po": make})
