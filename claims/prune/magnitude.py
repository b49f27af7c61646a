"""Magnitude against random scores, pruned once and trained on."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, NETWORK, SEEDS, accuracy, data, dense, prune_and_recover
from unweave.prune import Global, Magnitude, Prune, RandomScores

SPARSITY = 0.95

claim = Claim(
    statement="Trained networks pruned by magnitude and trained on keep more accuracy than those pruned at "
    "random.",
    reported="about 9 times fewer weights on AlexNet without loss of accuracy, with retraining (Han et al., "
    "2015)",
    data=f"{DATA}; {NETWORK}",
    figures={
        "dense": "per cent of held-out digits, higher is better",
        "magnitude": "per cent of held-out digits, higher is better",
        "random": "per cent of held-out digits, higher is better",
    },
    baseline="random scores with the same global budget and the same five epochs of further training",
    criterion="mean accuracy of `magnitude` is above that of `random` by more than 2 points",
    effects=(Effect("magnitude over random", better="magnitude", worse="random", margin=2),),
    seeds=SEEDS,
    settings={"sparsity": SPARSITY, "recover_epochs": 5},
)


def measure(seed: int) -> dict[str, float]:
    model, (_, heldout) = dense(seed), data()
    row = {"dense": accuracy(model, heldout)}
    for name, score in {"magnitude": Magnitude(), "random": RandomScores()}.items():
        pruned = prune_and_recover(Prune(score=score, budget=Global(SPARSITY)), model, seed)
        row[name] = accuracy(pruned, heldout)
    return row
