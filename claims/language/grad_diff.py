"""GradDiff, GA and KL minimisation: holding the retain set makes ascent on texts come nearer to a retrained model."""

from __future__ import annotations

from claims.framework import Claim
from claims.language._table import BASELINE, DATA, RATES, effects, meanings, measured
from unweave.language import GradDiff


def make(lr: float) -> GradDiff:
    return GradDiff(lr=lr)


claim = Claim(
    statement="Holding the retain set makes ascent on texts come nearer to a retrained model.",
    data=DATA,
    figures=meanings("grad-diff"),
    baseline=BASELINE,
    criterion="at the best rate the distance from retrained models is at least 1 point below that of ascent at its best",
    effects=effects("grad-diff"),
    settings={"grad-diff": [repr(make(lr)) for lr in RATES]},
    note="A small world: sentences that stand for themselves, and nothing else that a language model is for.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, {"grad-diff": make})
