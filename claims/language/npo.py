"""NPO: negative preference comes nearer to a retrained model than ascent."""

from __future__ import annotations

from claims.framework import Claim
from claims.language._table import BASELINE, DATA, RATES, effects, meanings, measured
from unweave.language import NPO


def make(lr: float) -> NPO:
    return NPO(lr=lr)


claim = Claim(
    statement="Negative preference comes nearer to a retrained model than ascent.",
    data=DATA,
    figures=meanings("npo"),
    baseline=BASELINE,
    criterion="at the best rate the distance from retrained models is at least 1 point below that of ascent at its best",
    effects=effects("npo"),
    settings={"npo": [repr(make(lr)) for lr in RATES]},
    note="A small world: sentences that stand for themselves, and nothing else that a language model is for.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, {"npo": make})
