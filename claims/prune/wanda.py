"""Wanda against magnitude, both within each output, without further training."""

from __future__ import annotations

from claims.effects import Effect
from claims.framework import Claim
from claims.prune._world import DATA, MORE_SEEDS, NETWORK, RAISED, accuracy, data, dense, prune_and_recover
from unweave.prune import NM, Magnitude, PerOutput, Prune, Wanda

SPARSITY = 0.7

claim = Claim(
    statement="Without any update of weights, size times input norm prunes better than size alone.",
    reported="LLaMA-7B at 50 %: perplexity 7.26 against 17.29 of magnitude (dense 5.68)",
    data=f"{DATA}; {NETWORK}",
    figures={
        "dense": "per cent of held-out digits, higher is better",
        "wanda": "per cent of held-out digits, higher is better",
        "magnitude": "per cent of held-out digits, higher is better",
        "wanda 2:4": "per cent of held-out digits, higher is better",
        "magnitude 2:4": "per cent of held-out digits, higher is better",
    },
    baseline="magnitude with the same budget and comparison group",
    criterion="mean accuracy of `wanda` is above that of `magnitude`",
    effects=(
        Effect("Wanda over magnitude", better="wanda", worse="magnitude"),
        Effect("Wanda over magnitude, 2:4", better="wanda 2:4", worse="magnitude 2:4", headline=False),
    ),
    seeds=MORE_SEEDS,
    settings={"sparsity": SPARSITY, "recover_epochs": 0},
    note=RAISED.format(5),
)


def measure(seed: int) -> dict[str, float]:
    model, (_, heldout) = dense(seed), data()
    row = {"dense": accuracy(model, heldout)}
    for name, score in {"wanda": Wanda(), "magnitude": Magnitude()}.items():
        for edit, suffix in (
            (Prune(score=score, budget=PerOutput(SPARSITY)), ""),
            (Prune(score=score, pattern=NM(2, 4)), " 2:4"),
        ):
            row[name + suffix] = accuracy(prune_and_recover(edit, model, seed, epochs=0), heldout)
    return row
