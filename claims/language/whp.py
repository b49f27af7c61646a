"""WHP (Who's Harry Potter): generic labels come nearer to a retrained model than ascent."""

from __future__ import annotations

from claims.framework import Claim
from claims.language._table import BASELINE, DATA, RATES, effects, meanings, measured
from unweave.language import WHP


def make(lr: float) -> WHP:
    return WHP(lr=lr, reinforce_lr=1e-3)


claim = Claim(
    statement="Generic labels come nearer to a retrained model than ascent.",
    data=DATA,
    figures=meanings("whp"),
    baseline=BASELINE,
    criterion="at the best rate the distance from retrained models is at least 1 point below that of ascent at its best",
    effects=effects("whp"),
    settings={"whp": [repr(make(lr)) for lr in RATES]},
    note="A small world: sentences that stand for themselves, and nothing else that a language model is for.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, {"whp": make})
