"""SparseGPT against Wanda and magnitude on a small language model and a classifier, without retraining."""

from __future__ import annotations

from functools import lru_cache

import torch

from claims.framework import Claim
from claims.language_world import DATA, loss, texts, trained
from claims.prune._sparse_training import data as pictures
from claims.prune._world import accuracy, mean
from unweave import Supervised, seeded
from unweave.nets import mlp
from unweave.prune import NM, Magnitude, Prune, Scope, SparseGPT, Uniform, Unstructured, WandaPrune

SETTINGS = {"70 %": (0.7, Unstructured()), "2:4": (0.5, NM(2, 4))}
METHODS = ("SparseGPT", "Wanda", "magnitude")
EXAMPLES = 128

claim = Claim(
    statement="Repairing the weights that stay lets a trained language model be pruned at once; choosing them alone (Wanda) loses "
    "more, magnitude most.",
    reported="OPT-175B at 50 %: perplexity 8.21 (dense 8.35); LLaMA-7B at 50 %: 7.22 (Wanda 7.26, magnitude 17.3, dense 5.68), at 2:4 "
    "11.0 (Wanda 11.5, magnitude 42)",
    data=f"{DATA}; Fashion-MNIST (3,000 to train on, 2,000 held out; MLP 784-256-256-10)",
    figures={
        "language, dense": "held-out loss, nats a character, lower is better",
        **{f"language, {m}, {s}": "held-out loss, nats a character, lower is better" for m in METHODS for s in SETTINGS},
        "fashion, dense": "per cent of held-out examples, higher is better",
        **{f"fashion, {m}, {s}": "per cent of held-out examples, higher is better" for m in METHODS for s in SETTINGS},
    },
    baseline="Wanda layer by layer and magnitude in each layer, on the same weights with the same 128 calibration examples",
    criterion="at 70 % and at 2:4 the language model's loss is lower for SparseGPT than for Wanda and lower for Wanda than for "
    "magnitude, and the classifier's accuracy with SparseGPT is the highest",
    settings={"calibration examples": EXAMPLES, "damping": 0.01},
)  # fmt: skip


@lru_cache
def _edits() -> dict[str, object]:
    return {
        f"{m}, {s}": edit
        for s, (sparsity, pattern) in SETTINGS.items()
        for m, edit in (
            (
                "SparseGPT",
                SparseGPT(sparsity=sparsity, pattern=pattern, examples=EXAMPLES, scope=Scope(last=False)),
            ),
            (
                "Wanda",
                WandaPrune(sparsity=sparsity, pattern=pattern, examples=EXAMPLES, scope=Scope(last=False)),
            ),
            (
                "magnitude",
                Prune(score=Magnitude(scope=Scope(last=False)), pattern=pattern, budget=Uniform(sparsity)),
            ),
        )
    }


def measure(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    model, (train, _, _) = trained(seed), texts()
    found = {"language, dense": loss(model)}
    for name, edit in _edits().items():
        found[f"language, {name}"] = loss(edit.apply(model, train, rng=seeded(seed)))
    train, heldout = pictures("fashion")
    net = Supervised(network=lambda: mlp(784, 256, 256, 10), epochs=20, lr=0.1).build(train, rng=seeded(seed))
    found["fashion, dense"] = accuracy(net, heldout)
    for name, edit in _edits().items():
        found[f"fashion, {name}"] = accuracy(edit.apply(net, train, rng=seeded(seed)), heldout)
    return found


def holds(rows: list[dict[str, float]]) -> bool:
    return all(
        mean(rows, f"language, SparseGPT, {s}")
        < mean(rows, f"language, Wanda, {s}")
        < mean(rows, f"language, magnitude, {s}")
        and mean(rows, f"fashion, SparseGPT, {s}")
        > max(mean(rows, f"fashion, {m}, {s}") for m in ("Wanda", "magnitude"))
        for s in SETTINGS
    )
