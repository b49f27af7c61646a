"""One-shot pruning in patterns: 2 of every 4, against unstructured and channels of the same size."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, MORE_SEEDS, NETWORK, RAISED, accuracy, data, dense, prune_and_recover
from unweave.prune import NM, Channel, Global, Magnitude, Prune, Scope, Uniform

SCOPE = Scope(last=False)

claim = Claim(
    statement="Two of every four weights, cut once and trained on, keep the dense network's accuracy.",
    reported="within 0.2 points of dense over many networks (Mishra et al., 2021, arXiv 2104.08378)",
    data=f"{DATA}; {NETWORK}",
    figures={
        "dense, trained on": "per cent of held-out digits, higher is better",
        "2:4": "per cent of held-out digits, higher is better",
        "unstructured": "per cent of held-out digits, higher is better",
        "channels": "per cent of held-out digits, higher is better",
    },
    baseline="the dense network trained on alike; unstructured and channel pruning at the same sparsity",
    criterion="mean accuracy of `2:4` is within 1 point of `dense, trained on`",
    effects=(Effect("2:4 near dense", better="2:4", worse="dense, trained on", margin=-1),),
    seeds=MORE_SEEDS,
    settings={"sparsity": 0.5, "recover_epochs": 5},
    note=RAISED.format(3),
)


def measure(seed: int) -> dict[str, float]:
    model, (_, heldout) = dense(seed), data()
    score = Magnitude(scope=SCOPE)
    prunes = {
        "dense, trained on": Prune(score=score, budget=Global(0.0)),
        "2:4": Prune(score=score, pattern=NM(2, 4)),
        "unstructured": Prune(score=score, budget=Global(0.5)),
        "channels": Prune(score=score, pattern=Channel(), budget=Uniform(0.5)),
    }
    return {name: accuracy(prune_and_recover(p, model, seed), heldout) for name, p in prunes.items()}
