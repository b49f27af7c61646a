"""Winning tickets: the found mask with its own initial weights against fresh ones."""

from __future__ import annotations

from dataclasses import replace

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, NETWORK, SEEDS, accuracy, data, recipe
from unweave import seeded
from unweave.prune import IMP

SPARSITY, RATE, EPOCHS = 0.97, 0.4, 8

claim = Claim(
    statement="A mask found by iterative magnitude pruning learns better from the weights it was found with "
    "than from fresh ones.",
    reported="LeNet-300-100 on MNIST: winning tickets at 3.6 % of the weights learn as well as the dense "
    "network, reinitialised ones slower and worse",
    data=f"{DATA}; {NETWORK}",
    figures={
        "dense": "per cent of held-out digits, higher is better",
        "rewind": "per cent of held-out digits, higher is better",
        "reinit": "per cent of held-out digits, higher is better",
    },
    baseline="the same masks, weights drawn anew (the paper's control)",
    criterion="mean accuracy of `rewind` is above that of `reinit`",
    effects=(Effect("its own initial weights over fresh ones", better="rewind", worse="reinit"),),
    seeds=SEEDS,
    settings={"sparsity": SPARSITY, "rate": RATE, "epochs": EPOCHS},
)


def measure(seed: int) -> dict[str, float]:
    (train, heldout), short = data(), replace(recipe, epochs=EPOCHS)
    row = {"dense": accuracy(short.build(train, rng=seeded(seed)), heldout)}
    for restart in ("rewind", "reinit"):
        imp = IMP(recipe=short, sparsity=SPARSITY, rate=RATE, restart=restart)
        row[restart] = accuracy(imp.build(train, rng=seeded(seed)), heldout)
    return row
