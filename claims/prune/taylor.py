"""Taylor scores of whole filters against their norms, without further training."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, MORE_SEEDS, NETWORK, RAISED, accuracy, data, dense, prune_and_recover
from unweave.prune import Channel, Global, Magnitude, Prune, RandomScores, Scope, Taylor

SPARSITY = 0.4
SCOPE = Scope(last=False)

claim = Claim(
    statement="Units removed by their Taylor score cost less accuracy than units removed by the norm of "
    "their weights.",
    reported="ResNet-101 on ImageNet: 40 % fewer FLOPs for 0.02 % accuracy; correlation with the true "
    "importance above 93 %, more than for weight magnitude",
    data=f"{DATA}; {NETWORK}",
    figures={
        "dense": "per cent of held-out digits, higher is better",
        "taylor": "per cent of held-out digits, higher is better",
        "magnitude": "per cent of held-out digits, higher is better",
        "random": "per cent of held-out digits, higher is better",
    },
    baseline="the l2 norm of a unit's weights, and random scores, with the same number of units over both "
    "hidden layers",
    criterion="mean accuracy of `taylor` is above that of `magnitude`",
    effects=(Effect("Taylor over magnitude", better="taylor", worse="magnitude"),),
    seeds=MORE_SEEDS,
    settings={"share of units": SPARSITY, "recover_epochs": 0},
    note=RAISED.format(5),
)


def measure(seed: int) -> dict[str, float]:
    model, (_, heldout) = dense(seed), data()
    row = {"dense": accuracy(model, heldout)}
    choices = {
        "taylor": (Taylor(scope=SCOPE), Channel("sum")),
        "magnitude": (Magnitude(scope=SCOPE), Channel()),
        "random": (RandomScores(scope=SCOPE), Channel("mean")),
    }
    for name, (score, pattern) in choices.items():
        edit = Prune(score=score, pattern=pattern, budget=Global(SPARSITY))
        row[name] = accuracy(prune_and_recover(edit, model, seed, epochs=0), heldout)
    return row
