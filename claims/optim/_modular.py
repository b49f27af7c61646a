"""Addition modulo a prime, learnt from part of the table: the world in which networks grok."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Linear, Module, ReLU, Sequential
from torch.optim import Optimizer

from unweave import fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.random import global_seed

PRIME, SHARE = 53, 0.5
DATA = f"addition modulo {PRIME}, one-hot pairs, half of the table to train on; MLP {2 * PRIME}-200-200-{PRIME} without biases, whole batches"


def table(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    a, b = (t.flatten() for t in torch.meshgrid(torch.arange(PRIME), torch.arange(PRIME), indexing="ij"))
    inputs = torch.cat(
        [torch.nn.functional.one_hot(a, PRIME), torch.nn.functional.one_hot(b, PRIME)], 1
    ).float()
    labels = (a + b) % PRIME
    order = torch.randperm(len(labels), generator=seeded(seed))
    cut = round(SHARE * len(order))
    return (inputs[order[:cut]], labels[order[:cut]]), (inputs[order[cut:]], labels[order[cut:]])


def trained(
    make: Callable[..., Optimizer],
    seed: int,
    epochs: int,
    loss: Callable[..., Tensor] = torch.nn.functional.cross_entropy,
) -> tuple[Module, float, float]:
    """The network after so many epochs, with its accuracy on the training and on the test part, in per cent."""
    (x, y), (tx, ty) = table(seed)
    with global_seed(seed):
        net = Sequential(
            Linear(2 * PRIME, 200, bias=False),
            ReLU(),
            Linear(200, 200, bias=False),
            ReLU(),
            Linear(200, PRIME, bias=False),
        )
    data = of_tensors(x, y, classes=PRIME, batch_size=len(x))
    fit_(net, data, lambda m, b: loss(m(b[0]), b[1]), make(net.parameters()), epochs=epochs, rng=seeded(seed))
    with torch.no_grad():
        return net, *(100 * float((net(i).argmax(1) == t).float().mean()) for i, t in ((x, y), (tx, ty)))
