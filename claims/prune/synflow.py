"""SynFlow at extreme sparsity, where one-shot scores break the network apart."""

from __future__ import annotations

from torch.nn import Module

from claims.framework import Claim
from claims.prune._world import DATA, NETWORK, SEEDS, accuracy, data, mean, train_under
from unweave import Data, Mask, seeded
from unweave.errors import InputError
from unweave.prune import SNIP, Global, Magnitude, Prune, SynFlowPrune

SPARSITY = 0.995

claim = Claim(
    statement="At extreme sparsity SynFlow leaves a network that still learns, where one-shot scores empty "
    "a layer or learn less.",
    reported="SynFlow alone avoids layer collapse up to the largest possible compression (VGG-16, CIFAR-10 "
    "and others)",
    data=f"{DATA}; {NETWORK}",
    figures={
        "synflow": "per cent of held-out digits, higher is better",
        "snip": "the same; chance (10) where a layer is emptied",
        "magnitude": "the same; chance (10) where a layer is emptied",
    },
    baseline="one-shot SNIP and magnitude at initialisation with the same global budget",
    criterion="mean accuracy of `synflow` is above those of `snip` and of `magnitude`, and no seed of it "
    "collapses to chance (below 15)",
    seeds=SEEDS,
    settings={"sparsity": SPARSITY, "iterations": 100},
)


def measure(seed: int) -> dict[str, float]:
    _, heldout = data()
    row = {}
    for name, choose in {
        "synflow": lambda m, d: SynFlowPrune(sparsity=SPARSITY).mask(m, d),
        "snip": lambda m, d: one_shot(SNIP(), m, d, seed),
        "magnitude": lambda m, d: one_shot(Magnitude(), m, d, seed),
    }.items():
        try:
            row[name] = accuracy(train_under(choose, seed), heldout)
        except InputError:  # a layer would be fully pruned
            row[name] = 10.0
    return row


def one_shot(score: SNIP | Magnitude, model: Module, train: Data, seed: int) -> Mask:
    return Prune(score=score, budget=Global(SPARSITY)).mask(model, train, rng=seeded(seed))


def holds(rows: list[dict[str, float]]) -> bool:
    return (
        mean(rows, "synflow") > max(mean(rows, "snip"), mean(rows, "magnitude"))
        and min(row["synflow"] for row in rows) > 15
    )
