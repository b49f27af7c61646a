"""Task vector: negated task vectors come nearer to a retrained model than ascent."""

from __future__ import annotations

from claims.framework import Claim
from claims.language._table import BASELINE, DATA, RATES, effects, meanings, measured
from unweave.language import TaskVector


def make(lr: float) -> TaskVector:
    return TaskVector(lr=lr)


claim = Claim(
    statement="Negated task vectors come nearer to a retrained model than ascent.",
    data=DATA,
    figures=meanings("task-vector"),
    baseline=BASELINE,
    criterion="at the best rate the distance from retrained models is at least 1 point below that of ascent at its best",
    effects=effects("task-vector"),
    settings={"task-vector": [repr(make(lr)) for lr in RATES]},
    note="A small world: sentences that stand for themselves, and nothing else that a language model is for.",
)


def measure(seed: int) -> dict[str, float]:
    return measured(seed, {"task-vector": make})
