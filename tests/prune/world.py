"""A tiny trained network and its data, for the pruning tests."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from unweave import Data, Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp, small_cnn

network = partial(mlp, 6, 16, 3)
RECIPE = Supervised(network=network, epochs=5, lr=0.1, init_seed=0)


def points(n: int = 48, batch_size: int = 16) -> Data:
    rng = seeded(0)
    labels = torch.arange(n) % 3
    inputs = 2 * torch.eye(3).repeat_interleave(2, 1)[labels] + torch.randn(n, 6, generator=rng)
    return of_tensors(inputs, labels, classes=3, batch_size=batch_size)


def images(n: int = 12, size: int = 8) -> Data:
    return of_tensors(torch.randn(n, 3, size, size, generator=seeded(0)), torch.arange(n) % 10, classes=10)


def trained(**kinds: bool) -> nn.Module:
    return Supervised(network=partial(network, **kinds), epochs=5, lr=0.1, init_seed=0).build(
        points(), rng=seeded(1)
    )


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    model = small_cnn(width=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return model.eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
