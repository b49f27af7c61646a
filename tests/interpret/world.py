"""A small classifier of digits whose hidden layer is looked into, trained once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.nn import Module

from unweave import Data, Supervised, seeded
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp

LAYER = "4"
"""Output of the second ReLU, width 24."""


def network() -> Module:
    return mlp(64, 32, 24, 10)


@lru_cache
def trained() -> tuple[Module, Data[Any], Data[Any]]:
    """(model, 900 examples, 897 held out)."""
    train, heldout = digits()
    return Supervised(network=network, epochs=4, lr=0.1).build(train, rng=seeded(0)), train, heldout


@lru_cache
def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    """Activations of the layer and the gradients of the model's own answers there."""
    from unweave.interpret import Activations

    model, train, _ = trained()
    x, g = Activations(model=model, data=train, layer=LAYER, label="argmax").gathered()
    return x, g
