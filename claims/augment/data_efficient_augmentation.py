"""Augmenting a chosen subset against a random one, the largest losses, and everything."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, Module, ReLU, Sequential
from torch.optim import SGD

from claims.data import fashion_mnist
from claims.effects import Effect
from claims.framework import Claim
from unweave import Data, fit_, seeded
from unweave.augment import DataEfficientAugmentation
from unweave.embedded.digits import digits, of_tensors
from unweave.fit import Loop
from unweave.fit.recipe import warm_cosine
from unweave.random import global_seed
from unweave.tasks import predict, read_labels

BUDGETS = {"5 %": 0.05, "10 %": 0.1}
ARMS = ("facility", "random", "loss")
SETS = ("digits", "fashion")

claim = Claim(
    statement="Augmenting a small subset chosen by gradients is worth more than augmenting a random one or the largest losses, and most "
    "of what augmenting everything is worth.",
    reported="CIFAR-10 and SVHN: up to 10 points above random and largest-loss subsets of the same size; full accuracy up to 6.3 times faster",
    data="Fashion-MNIST at 14 x 14 pixels, 600 images with four weak copies each and 1,200 others; digits, 150 with four copies and 150 others; "
    "clean labels; two convolutions",
    figures={
        **{f"{s}, {a}, {b}": "per cent of held-out examples, higher is better" for s in SETS for a in ARMS for b in BUDGETS},
        **{f"{s}, {a}": "per cent of held-out examples" for s in SETS for a in ("no augmentation", "all augmented")},
    },
    baseline="random subsets and largest losses of the same size, chosen as often, with the same batches; no augmentation; all augmented",
    criterion="on both sets, at 5 %, the chosen subset is at least 0.7 points above the random one and not below largest losses",
    effects=tuple(
        Effect(
            f"{s}, 5 %: the chosen over {words}", better=f"{s}, facility, 5 %", worse=f"{s}, {other}, 5 %", margin=margin
        )
        for s in SETS
        for other, words, margin in (("random", "random ones", 0.7), ("loss", "the largest losses", 0.0))
    ),
    settings={"epochs": 10, "every": 2, "warm": 1, "lr": 0.05, "augmentation": "shift by up to a fifth, cut out a square"},
)  # fmt: skip


def strong(x: Tensor) -> Tensor:
    side = x.shape[-1]
    moved = _shift(x, max(1, side // 5))
    size = max(2, side // 3)
    top, left = (int(torch.randint(side - size + 1, ())) for _ in range(2))
    moved = moved.clone()
    moved[..., top : top + size, left : left + size] = 0
    return moved


def _shift(x: Tensor, pad: int) -> Tensor:
    grown = torch.nn.functional.pad(x, (pad, pad, pad, pad))
    top, left = (int(torch.randint(2 * pad + 1, ())) for _ in range(2))
    return grown[..., top : top + x.shape[-2], left : left + x.shape[-1]]


@lru_cache
def _data(name: str) -> tuple[Data, Data]:
    train, heldout = digits(noise=0.0) if name == "digits" else fashion_mnist(3000, 1500)
    side, few, rest = (8, 150, 150) if name == "digits" else (28, 600, 1200)
    parts = []
    for d in (train, heldout):
        x, y = d.examples.tensors
        x = x.view(-1, 1, side, side)
        parts.append((torch.nn.functional.avg_pool2d(x, 2) if side == 28 else x, y))
    (x, y), (tx, ty) = parts
    rng = seeded(0)
    copies = x[:few].repeat(4, 1, 1, 1) + 0.05 * torch.randn(4 * few, *x.shape[1:], generator=rng)
    whole = torch.cat([x[:few], copies, x[few : few + rest]])
    labels = torch.cat([y[:few].repeat(5), y[few : few + rest]])
    return of_tensors(whole, labels, classes=10, batch_size=64), of_tensors(
        tx, ty, classes=10, batch_size=256
    )


def _net(side: int, seed: int) -> Module:
    with global_seed(seed):
        return Sequential(
            Conv2d(1, 16, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Conv2d(16, 32, 3, padding=1),
            ReLU(),
            Flatten(),
            Linear(32 * (side // 2) ** 2, 64),
            ReLU(),
            Linear(64, 10),
        )


def _accuracy(name: str, arm: str, budget: float, seed: int) -> float:
    torch.set_num_threads(1)
    train, heldout = _data(name)
    net = _net(8 if name == "digits" else 14, seed)
    how = DataEfficientAugmentation(budget=budget, method=arm if arm in ARMS else "random")
    objective, after = how.training(train, strong, rng=seeded(seed))
    if arm == "no augmentation":
        objective, after = (lambda m, b: train.task.losses(m, b).mean()), None
    optimizer = SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = warm_cosine(optimizer, 10 * -(-len(train) // 64))
    fit_(
        net,
        train,
        objective,
        optimizer,
        epochs=10,
        rng=seeded(seed),
        loop=Loop(schedule=schedule),
        after_step=after,
    )
    return 100 * float((predict(net, heldout).argmax(1) == read_labels(heldout)).float().mean())


def measure(seed: int) -> dict[str, float]:
    found = {
        f"{s}, {a}, {b}": _accuracy(s, a, share, seed)
        for s in SETS
        for a in ARMS
        for b, share in BUDGETS.items()
    }
    for s in SETS:
        found[f"{s}, no augmentation"] = _accuracy(s, "no augmentation", 0.1, seed)
        found[f"{s}, all augmented"] = _accuracy(s, "all augmented", 1.0, seed)
    return found
