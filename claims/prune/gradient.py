"""Gradient size as a pruning score, against random scores and magnitude, without further training."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, NETWORK, SEEDS, accuracy, data, dense, prune_and_recover
from unweave.prune import Global, Gradient, Magnitude, Prune, RandomScores

SPARSITY = 0.5

claim = Claim(
    statement="The weights with the smallest gradients are less needed than weights chosen at random.",
    reported="",
    data=f"{DATA}; {NETWORK}",
    figures={
        "dense": "per cent of held-out digits, higher is better",
        "gradient": "per cent of held-out digits, higher is better",
        "magnitude": "per cent of held-out digits, higher is better",
        "random": "per cent of held-out digits, higher is better",
    },
    baseline="random scores with the same budget; magnitude is shown beside them",
    criterion="mean accuracy of `gradient` is above that of `random` by more than 2 points",
    effects=(Effect("gradient over random", better="gradient", worse="random", margin=2),),
    seeds=SEEDS,
    settings={"sparsity": SPARSITY, "recover_epochs": 0},
)


def measure(seed: int) -> dict[str, float]:
    model, (_, heldout) = dense(seed), data()
    row = {"dense": accuracy(model, heldout)}
    scores = {"gradient": Gradient(), "magnitude": Magnitude(), "random": RandomScores()}
    for name, score in scores.items():
        edit = Prune(score=score, budget=Global(SPARSITY))
        row[name] = accuracy(prune_and_recover(edit, model, seed, epochs=0), heldout)
    return row
