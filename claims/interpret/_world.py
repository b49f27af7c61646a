"""Activations of a small Llama that has read Shakespeare: those of its second block, with gradients of its own answers."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import TensorDataset

from claims.language_world import DATA, texts, trained
from unweave import Data
from unweave.interpret import Activations

LAYER = "model.layers.1"
VECTORS, BATCH, STEPS, LATENTS = 80_000, 512, 600, 256
WORLD = f"{DATA}; 80,000 activations after its second block; 256 latents, 600 steps of 512"


@lru_cache(maxsize=1)
def activations(seed: int) -> tuple[Module, Tensor, Tensor]:
    """(model, activations [n, 96], gradients of its own likeliest answers there)."""
    torch.set_num_threads(1)
    model = trained(seed)
    x, g = Activations(model=model, data=texts()[0], layer=LAYER, label="argmax").gathered(VECTORS)
    return model, x, g


@lru_cache(maxsize=1)
def heldout(seed: int) -> Tensor:
    """The same of held-out text, [8192, 96]."""
    return Activations(model=activations(seed)[0], data=texts()[1], layer=LAYER).gathered(8192)[0]


def held(*tensors: Tensor) -> Data:
    return Data(TensorDataset(*tensors), None, BATCH)


EPOCHS = -(-STEPS * BATCH // VECTORS)
FIT = {"latents": LATENTS, "lr": 2e-3, "batch_size": BATCH, "buffer": 2 * BATCH, "epochs": EPOCHS}
