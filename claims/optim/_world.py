"""What the optimisers' claims share: noisy labels, a sparse network on digits and a small one on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD, Optimizer

from claims.data import fashion_mnist
from claims.effects import Effect, Row
from unweave import Data, Mask, Supervised, seeded
from unweave.embedded.digits import digits, of_tensors
from unweave.embedded.nets import mlp
from unweave.masks import select
from unweave.optim.two_pass import climb_, come_back_, two_passes
from unweave.optim.vectors import norm
from unweave.optim.wrapper import Closure, Wrapper
from unweave.prune import SNIP, Global, Unstructured
from unweave.tasks import predict, read_labels

SEEDS = (0, 1, 2, 3, 4)
NOISE = 0.3
DATA = (
    "digits (900 to train on, 897 held out; MLP 64-256-256-10, 90 % pruned by SNIP, 40 epochs) and Fashion-MNIST (2,000 to "
    "train on, 2,000 held out; MLP 784-128-128-10, dense, 15 epochs), 30 % of the training labels drawn at random"
)
BASELINE = (
    "SGD with momentum 0.9, weight decay 5e-4 and a cosine, at the best of the learning rates 0.03, 0.06 and 0.1, and with "
    "twice the epochs at 0.1; the methods at 0.1, which was not tuned for them; same initial weights, batches and mask"
)
DECAY = {"momentum": 0.9, "weight_decay": 5e-4}
SETS = ("digits", "fashion")
RATES = (0.03, 0.06, 0.1)
UNIT = "per cent of held-out examples, higher is better"

Maker = Callable[..., Optimizer]


@lru_cache
def data(name: str, noise: float = NOISE) -> tuple[Data, Data]:
    train, heldout = digits(noise=0.0) if name == "digits" else fashion_mnist(2000, 2000, flat=True)
    inputs, labels = train.examples.tensors  # type: ignore[attr-defined]
    rng = seeded(11)
    wrong = torch.rand(len(labels), generator=rng) < noise
    drawn = torch.randint(10, labels.shape, generator=rng)
    return of_tensors(inputs, torch.where(wrong, drawn, labels), classes=10, batch_size=64), heldout


def recipe(name: str) -> Supervised:
    sizes = (64, 256, 256, 10) if name == "digits" else (784, 128, 128, 10)
    return Supervised(network=partial(mlp, *sizes), epochs=40 if name == "digits" else 15, lr=0.1)


def accuracy(model: Module, heldout: Data) -> float:
    return 100 * float((predict(model, heldout).argmax(1) == read_labels(heldout)).float().mean())


def trained(name: str, seed: int, optimizer: Maker | None, *, lr: float = 0.1, longer: int = 1) -> Module:
    """Train on one of the sets: the same beginning, mask and batches for every optimiser at a seed."""
    train, _ = data(name)
    how = replace(recipe(name), optimizer=optimizer)
    model = how.initial(seeded(seed))
    mask = None
    if name == "digits":
        mask = select(SNIP().score(model, train), Unstructured(), Global(0.9))
        mask.apply_(model)
    how.train_(model, train, epochs=longer * how.epochs, lr=lr, rng=seeded(100 + seed), hold=mask)
    assert mask is None or Mask.of(model).density() <= mask.density() + 1e-9
    return model


def measured(seed: int, makers: Mapping[str, Maker]) -> dict[str, float]:
    """Held-out accuracy of SGD and of each maker's optimiser on both sets."""
    found: dict[str, float] = {}
    for name in SETS:
        heldout = data(name)[1]
        for lr in RATES:
            found[f"{name}, SGD {lr}"] = accuracy(trained(name, seed, None, lr=lr), heldout)
        found[f"{name}, SGD twice as long"] = accuracy(trained(name, seed, None, longer=2), heldout)
        for label, maker in makers.items():
            found[f"{name}, {label}"] = accuracy(trained(name, seed, maker), heldout)
    return found


def figures(*labels: str) -> dict[str, str]:
    sgd = (*(f"SGD {lr}" for lr in RATES), "SGD twice as long")
    return {f"{name}, {label}": UNIT for name in SETS for label in (*sgd, *labels)}


def over_sgd(label: str, *, paper: float | None = None) -> tuple[Effect, ...]:
    """Effects: above SGD on each set, at its best learning rate: chosen on the held-out examples, in SGD's favour."""
    return tuple(
        Effect(
            f"{name}: {label} over the best SGD",
            better=f"{name}, {label}", worse=tuple(f"{name}, SGD {lr}" for lr in RATES), paper=paper,
        )
        for name in SETS
    )  # fmt: skip


def over(label: str, other: str, *, paper: float | None = None) -> tuple[Effect, ...]:
    """Effects: one optimiser above another on each set."""
    return tuple(
        Effect(
            f"{name}: {label} over {other}", better=f"{name}, {label}", worse=f"{name}, {other}", paper=paper
        )
        for name in SETS
    )


def keeps(
    label: str, share: float, words: str, *, paper: float | None = None, headline: bool = True
) -> tuple[Effect, ...]:
    """Effects: on each set the gain over the best SGD is at least this share of SAM's."""

    def bar(name: str, lr: float) -> Callable[[Row], float]:
        return lambda row: share * row[f"{name}, SAM"] + (1 - share) * row[f"{name}, SGD {lr}"]

    return tuple(
        Effect(
            f"{name}: {label} keeps {words} of SAM's gain",
            better=f"{name}, {label}", worse=tuple(bar(name, lr) for lr in RATES), paper=paper, headline=headline,
        )
        for name in SETS
    )  # fmt: skip


class RandomDirection(Wrapper):
    """The control: SAM with a random direction in place of the gradient, of the same length."""

    def __init__(self, params: Any, *, rho: float, **keywords: Any) -> None:
        super().__init__(params, SGD, keywords, rho=rho)

    def step(self, closure: Closure | None = None) -> Tensor:
        return two_passes(self, closure, self._climb, self._descend)

    def _climb(self) -> None:
        weights, rng = self.trained(), seeded(self.backwards)
        drawn = [
            torch.randn(w.shape, generator=rng).masked_fill(w == 0, 0)
            if w.ndim > 1
            else torch.randn(w.shape, generator=rng)
            for w in weights
        ]
        climb_(self, weights, drawn, norm(drawn))

    def _descend(self) -> None:
        come_back_(self)
        self.base.step()


def make(cls: Any, **settings: Any) -> Maker:
    return partial(cls, **DECAY, **settings)
