"""What the claims of dynamic sparse training share: two sets, one network each, equal steps."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from claims.data import fashion_mnist
from claims.effects import Effect
from unweave import Data, Supervised, seeded
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.tasks import predict, read_labels

SEEDS = (0, 1, 2)
SETS = ("digits", "fashion")
DENSITIES = {"5 %": 0.95, "2 %": 0.98}
DATA = (
    "digits without noise (900 to train on, 897 held out; MLP 64-256-256-10, 60 epochs) and Fashion-MNIST (3,000 to train "
    "on, 2,000 held out; MLP 784-256-256-10, 20 epochs), 5 % and 2 % of the weights alive"
)
UNIT = "per cent of held-out examples, higher is better"
SETTINGS = {"lr": 0.1, "momentum": 0.9, "steps between exchanges": 30}


@lru_cache
def data(name: str) -> tuple[Data, Data]:
    return digits(noise=0.0) if name == "digits" else fashion_mnist(3000, 2000, flat=True)


def accuracy(name: str, sparse: Any, seed: int) -> float:
    train, heldout = data(name)
    sizes, epochs = ((64, 256, 256, 10), 60) if name == "digits" else ((784, 256, 256, 10), 20)
    model = Supervised(network=partial(mlp, *sizes), epochs=epochs, lr=0.1, sparse=sparse).build(
        train, rng=seeded(seed)
    )
    return 100 * float((predict(model, heldout).argmax(1) == read_labels(heldout)).float().mean())


def measured(seed: int, makers: dict[str, Any]) -> dict[str, float]:
    """Accuracy of each maker(sparsity)'s training, on both sets at both densities; same seed, same initial weights."""
    return {
        f"{s}, {label}, {density}": accuracy(s, maker(sparsity), seed)
        for s in SETS for density, sparsity in DENSITIES.items() for label, maker in makers.items()
    }  # fmt: skip


def figures(*labels: str) -> dict[str, str]:
    return {f"{s}, {label}, {density}": UNIT for s in SETS for density in DENSITIES for label in labels}


def above(
    label: str, other: str, *, density: str = "2 %", margin: float = 0.0, paper: float | None = None
) -> tuple[Effect, ...]:
    """Effects: one is above the other on each set."""
    return tuple(
        Effect(
            f"{s}: {label} over {other}",
            better=f"{s}, {label}, {density}", worse=f"{s}, {other}, {density}", margin=margin, paper=paper,
        )
        for s in SETS
    )  # fmt: skip
