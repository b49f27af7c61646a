"""The small world of exact deletion: a transformer over the rows of digits, pretrained on clean public ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn import Module
from torch.optim import AdamW

from unweave import Data, Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import RowTransformer
from unweave.tasks import accuracy

CHANCE = 10.0
"""Accuracy of a service that is dead, %: it answers nothing, and the best that is left is to guess."""

NOISE = 0.25
"""Standard deviation of the noise on pixels between 0 and 1."""


@dataclass(frozen=True)
class World:
    """What one seed needs.

    Attributes:
        base: pretrained on 597 clean digits, none of which is in the other parts.
        train: 600 digits with pixel noise, each of which may be asked back.
        heldout: 600 more of these.
    """

    base: Module
    train: Data[Any]
    heldout: Data[Any]

    def recipe(self, epochs: int, lr: float) -> Supervised:
        """Full fine-tuning of the base with AdamW."""
        return Supervised(network=lambda: deepcopy(self.base), epochs=epochs, lr=lr, optimizer=AdamW)


@lru_cache(maxsize=8)
def world(seed: int, layers: int = 4) -> World:
    """Make (once a process) the world of this seed."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32) / 16
    labels = torch.tensor(bunch.target, dtype=torch.long)
    order = torch.randperm(len(images), generator=seeded(seed))
    public, private, held = order[:597], order[597:1197], order[1197:]

    noisy = images + NOISE * torch.randn(images.shape, generator=seeded(2000 + seed))

    def data(at: torch.Tensor, pixels: torch.Tensor = noisy) -> Data[Any]:
        return of_tensors(pixels[at].flatten(1), labels[at], classes=10, batch_size=64)

    pretraining = Supervised(
        network=lambda: RowTransformer(layers=layers), epochs=40, lr=3e-3, optimizer=AdamW
    )
    base = pretraining.build(data(public, images), rng=seeded(1000 + seed)).eval()
    return World(base, data(private), data(held))


def accuracies_after_one(model: Any, data: Data[Any]) -> dict[int, float]:
    """Slice -> held-out accuracy, %, once one example of it was deleted and nothing retrained; dead is chance."""
    places, found = model.service.slices.places, {}
    for slice_ in range(model.service.slices.slices):
        victim = next(i for i, (_, s) in places.items() if s == slice_)
        left, _ = model.service.without([victim])
        served = left.served(0)
        found[slice_] = accuracy(left.model(0, served), data) if served else CHANCE
    return found
