"""Two retrained models are alike in every figure; the untouched one is not."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.unlearn._gap import gap
from claims.unlearn._tuned import KINDS, WORDS
from claims.unlearn._world import world
from unweave import seeded
from unweave.unlearn import Retrain

claim = Claim(
    statement="Retraining without the forget set gives the same figures whatever the seed: the noise floor "
    "of every "
    "comparison.",
    reported="0 by definition: it is the oracle",
    data="digits with noise 0.45, MLP 64-256-256-10; random 20 %, and class 3",
    figures={
        f"{kind}: {name}": "points, mean gap of UA, RA, TA, MIA to one retrained model; 0 is best"
        for kind in KINDS
        for name in ("no-op", "retrain, mean of 3", "retrain, worst of 3")
    },
    baseline="the untouched model",
    criterion="on every seed the worst of three further retrained models is within 3 points of the first, "
    "and the "
    "untouched one is not",
    effects=tuple(
        effect
        for kind in KINDS
        for effect in (
            Effect(
                f"{WORDS[kind]}: retrained models within 3 points of each other",
                better=f"{kind}: retrain, worst of 3",
                worse=3.0,
                higher=False,
                every=True,
            ),
            Effect(
                f"{WORDS[kind]}: the untouched one farther than 3",
                better=f"{kind}: no-op",
                worse=3.0,
                every=True,
            ),
        )
    ),
    settings={"recipe": "60 epochs of SGD at lr 0.05, momentum 0.9, weight decay 5e-4"},
)


def measure(seed: int) -> dict[str, float]:
    row = {}
    for kind in KINDS:
        w = world(seed, kind)
        again = Retrain(recipe=w.recipe)
        gaps = [
            gap(again.apply(w.original, w.request, rng=seeded(100 + i)), w.oracle, w.request)
            for i in range(3)
        ]
        row[f"{kind}: no-op"] = gap(w.original, w.oracle, w.request)
        row[f"{kind}: retrain, mean of 3"] = sum(gaps) / 3
        row[f"{kind}: retrain, worst of 3"] = max(gaps)
    return row
