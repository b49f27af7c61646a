"""AAER against plain single-step adversarial training, judged by a multi-step attack."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import Conv2d, Flatten, Linear, Module, ReLU, Sequential
from torch.optim import SGD

from claims.data import fashion_mnist
from claims.effects import Effect
from claims.framework import Claim
from unweave import Data, fit_, seeded
from unweave.embedded.digits import digits, of_tensors
from unweave.fit import Loop, Step
from unweave.optim import AAER
from unweave.optim.aaer import Watch, pgd
from unweave.random import global_seed

SETTINGS = {"digits": {"eps": 0.3, "alpha": 0.6}, "fashion": {"eps": 0.15, "alpha": 0.3}}
METHODS = {"single step": {"weight": 0.0}, "AAER": {}, "AAER, gradient cut": {"ce_grad": False}}

claim = Claim(
    statement="Penalising abnormal adversarial examples keeps single-step adversarial training robust to multi-step attacks.",
    reported="CIFAR-10, -100, SVHN, Tiny-ImageNet at budgets of 8 to 32: no collapse under PGD-50 at single-step training's cost",
    data="digits (900 to train on, eps 0.3, 40 epochs) and Fashion-MNIST (2,000 to train on, 14 x 14 pixels, eps 0.15, 15 epochs), two convolutions; "
    "steps of twice the budget, to provoke the collapse",
    figures={
        **{f"{s}, {m}, PGD-10": "per cent of held-out examples under attack, higher is better" for s in SETTINGS for m in METHODS},
        **{f"{s}, {m}, best PGD-10": "per cent, the best of all epochs looked at" for s in SETTINGS for m in METHODS},
        **{f"{s}, {m}, abnormal": "per cent of the last epoch's examples" for s in SETTINGS for m in METHODS},
    },
    baseline="the same training without the penalty (RS-FGSM), same batches and initial weights",
    criterion="on both sets AAER has at most half as many abnormal examples in every seed, and the mean accuracy under PGD-10 is not lower",
    effects=tuple(
        effect
        for s in SETTINGS
        for effect in (
            Effect(
                f"{s}: at most half as many abnormal examples",
                better=f"{s}, AAER, abnormal", worse=lambda row, s=s: row[f"{s}, single step, abnormal"] / 2,
                higher=False, every=True,
            ),
            Effect(f"{s}: accuracy under PGD-10", better=f"{s}, AAER, PGD-10", worse=f"{s}, single step, PGD-10"),
        )
    ),
    settings={"lambdas": "1, 2.5, 1.5", "lr": 0.1, **{f"{s}, {k}": v for s, how in SETTINGS.items() for k, v in how.items()}},
)  # fmt: skip


@lru_cache
def _data(name: str) -> tuple[Data, Data]:
    if name == "digits":
        parts, shape = digits(noise=0.0), (-1, 1, 8, 8)
        return tuple(
            of_tensors(
                d.examples.tensors[0].view(shape).clamp(0, 1),
                d.examples.tensors[1],
                classes=10,
                batch_size=64,
            )
            for d in parts
        )  # type: ignore[return-value]
    made = []
    for d in fashion_mnist(2000, 500):
        x, y = d.examples.tensors
        pixels = (x * 0.353 + 0.286).clamp(0, 1)
        made.append(of_tensors(torch.nn.functional.avg_pool2d(pixels, 2), y, classes=10, batch_size=64))
    return tuple(made)  # type: ignore[return-value]


def _net(size: int, seed: int) -> Module:
    with global_seed(seed):
        return Sequential(
            Conv2d(1, 16, 3, padding=1),
            ReLU(),
            Conv2d(16, 32, 3, stride=2, padding=1),
            ReLU(),
            Flatten(),
            Linear(32 * (size // 2) ** 2, 64),
            ReLU(),
            Linear(64, 10),
        )


def measure(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    found = {}
    for name, settings in SETTINGS.items():
        train, heldout = _data(name)
        x, y = (t[:400] for t in heldout.examples.tensors)
        epochs, size = (40, 8) if name == "digits" else (15, 14)
        for label, extra in METHODS.items():
            how, watch, net = AAER(**settings, **extra), Watch(), _net(size, seed)
            seen: list[float] = []

            def look(
                step: Step,
                how: AAER = how,
                net: Module = net,
                seen: list[float] = seen,
                x: torch.Tensor = x,
                y: torch.Tensor = y,
                every: int = max(1, epochs // 8),
            ) -> None:
                if step.last_of_epoch and (step.epoch + 1) % every == 0:
                    with global_seed(7):
                        attacked = pgd(net, x, y, how)
                    with torch.no_grad():
                        seen.append(100 * float((net(attacked).argmax(1) == y).float().mean()))

            optimizer = SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 0.1, total_steps=epochs * -(-len(train) // 64) + 1, cycle_momentum=False
            )
            fit_(
                net,
                train,
                how.objective(train, watch),
                optimizer,
                epochs=epochs,
                rng=seeded(seed),
                loop=Loop(schedule=schedule),
                after_step=look,
            )
            with global_seed(7):
                attacked = pgd(net, x, y, how)
            with torch.no_grad():
                found[f"{name}, {label}, PGD-10"] = 100 * float((net(attacked).argmax(1) == y).float().mean())
            found[f"{name}, {label}, best PGD-10"] = max(seen)
            last = -(-len(train) // 64)
            found[f"{name}, {label}, abnormal"] = 100 * sum(watch.abnormal[-last:]) / last
    return found
