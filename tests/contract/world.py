"""The contract's tiny world: 90 points in 8 dimensions, 3 classes, a two-layer network."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from unweave import Data, Request, Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.io.checkpoint import save_model

network = partial(mlp, 8, 24, 3)
RECIPE = Supervised(network=network, epochs=6, lr=0.1, init_seed=0)
FRESH = Supervised(network=network, epochs=6, lr=0.1)
"""The same, beginning at other weights each time."""
NORMED = Supervised(network=partial(network, batch_norm=True), epochs=6, lr=0.1, init_seed=0)


def points() -> tuple[Data, Data]:
    rng = seeded(0)
    centres = 1.5 * torch.randn(3, 8, generator=rng)
    labels = torch.arange(120) % 3
    inputs = centres[labels] + torch.randn(120, 8, generator=rng)
    make = lambda low, high: of_tensors(inputs[low:high], labels[low:high], classes=3, batch_size=16)  # noqa: E731
    return make(0, 90), make(90, 120)


def request() -> Request:
    train, heldout = points()
    return Request.of(train, heldout, list(range(5, 65, 5)))


def model(*, batch_norm: bool = False, sparse: bool = False, dtype: torch.dtype = torch.float32) -> Module:
    train, _ = points()
    recipe = Supervised(network=partial(network, batch_norm=batch_norm), epochs=6, lr=0.1, init_seed=0)
    built = recipe.build(train, rng=seeded(1))
    if sparse:
        for p in built.parameters():
            if p.ndim > 1:
                with torch.no_grad():
                    cut = p.abs().flatten().kthvalue(p.numel() // 2).values
                    p.masked_fill_(p.abs() <= cut, 0)
    return built.to(dtype)


@lru_cache
def early(*, batch_norm: bool = False) -> str:
    """A file of weights from the middle of the training of `model`, there until the process ends."""
    train, _ = points()
    recipe = Supervised(network=partial(network, batch_norm=batch_norm), epochs=3, lr=0.1, init_seed=0)
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(save_model(recipe.build(train, rng=seeded(1)), Path(folder) / "early.safetensors"))


def state(model: Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
