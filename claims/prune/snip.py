"""SNIP at initialisation against random masks."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, NETWORK, SEEDS, accuracy, data, train_under
from unweave import seeded
from unweave.prune import ERK, SNIP, Global, Prune, RandomScores

SPARSITY = 0.9

claim = Claim(
    statement="A network pruned by SNIP before training learns better than one pruned at random to the same "
    "sparsity.",
    reported="LeNet-300-100 on MNIST at 95 %: error 1.6 % against 1.7 % dense (quoted from memory)",
    from_memory=True,
    data=f"{DATA}; {NETWORK}",
    figures={
        "snip": "per cent of held-out digits, higher is better",
        "random": "per cent of held-out digits, higher is better",
        "random, ERK": "per cent of held-out digits, higher is better",
    },
    baseline="random scores with the same global budget, which spares no layer, and with ERK, the better "
    "random budget",
    criterion="mean accuracy of `snip` is above that of `random` by more than 1 point",
    effects=(
        Effect("SNIP over random", better="snip", worse="random", margin=1),
        Effect("SNIP over random, ERK", better="snip", worse="random, ERK", headline=False),
    ),
    seeds=SEEDS,
    settings={"sparsity": SPARSITY},
    note="First tried at 97 %: there random masks do not train at all in this small network (9 to 13 %), so "
    "that beating them says nothing. Measured at 90 % instead.",
)


def measure(seed: int) -> dict[str, float]:
    _, heldout = data()
    prunes = {
        "snip": Prune(score=SNIP(), budget=Global(SPARSITY)),
        "random": Prune(score=RandomScores(), budget=Global(SPARSITY)),
        "random, ERK": Prune(score=RandomScores(), budget=ERK(SPARSITY)),
    }
    return {
        name: accuracy(train_under(lambda m, d, p=p: p.mask(m, d, rng=seeded(seed)), seed), heldout)
        for name, p in prunes.items()
    }
