"""The small world of unlearning claims: noisy digits, an MLP, and a model retrained without the forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import Module

from unweave import Request, Supervised, seeded
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.tasks import read_labels


@dataclass(frozen=True)
class World:
    """What one claim run needs.

    Attributes:
        request: forget, retain and held-out digits.
        original: trained on forget and retain; never change it (methods do not).
        oracle: trained on retain alone, from another seed.
        recipe: that trains both.
    """

    request: Request[Any]
    original: Module
    oracle: Module
    recipe: Supervised

    def another_oracle(self, seed: int) -> Module:
        """One more model trained on retain alone; two oracles' distance is the noise floor of every gap."""
        return self.recipe.build(self.request.retain, rng=seeded(10_000 + seed))


def network() -> nn.Sequential:
    """64-256-256-10."""
    return mlp(64, 256, 256, 10)


@lru_cache(maxsize=32)
def world(
    seed: int, forget: Literal["random", "class"] = "random", noise: float = 0.45, share: float = 0.2
) -> World:
    """Make (once a process) the world of this seed: 900 digits to train on, 897 held out.

    Args:
        seed: of the data split, the pixel noise, the forget set and both trainings.
        forget: "random" forgets `share` of the training examples, "class" all of class 3.
        noise: standard deviation of the pixel noise; without it a retrained model knows what it never saw.
        share: of the training examples, for "random".
    """
    train, heldout = digits(noise=noise, seed=seed)
    if forget == "class":
        positions = (read_labels(train) == 3).nonzero().flatten()
    else:
        positions = torch.randperm(len(train), generator=seeded(1000 + seed))[: round(share * len(train))]
    request = Request.of(train, heldout, positions)
    recipe = Supervised(network=network, epochs=60, lr=0.05, schedule="constant")
    original = recipe.build(train, rng=seeded(seed))
    oracle = recipe.build(request.retain, rng=seeded(5000 + seed))
    return World(request, original, oracle, recipe)
