"""S4D on spoken digits: where the poles begin, against other networks, and at half the sampling rate."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.optim import AdamW

from claims.data import shared
from claims.effects import Effect
from claims.framework import Claim
from unweave import fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.fit import Loop
from unweave.language import S4DClassifier, at_rate, s4d_groups
from unweave.random import global_seed
from unweave.tasks import accuracy

SAMPLES, EVERY, WIDTH, STATES, EPOCHS = 2400, 4, 16, 16, 8
INITS = ("lin", "inv", "legs", "real")
ACCURACY = "% accuracy"

claim = Claim(
    statement="A diagonal state space layer learns sound from the raw waveform if its poles begin on oscillations, and a "
    "trained one reads another sampling rate once its steps are scaled.",
    reported="real or random imaginary parts clearly worse on sequential CIFAR-10, Speech Commands and BIDMC; about 85 % "
    "on Long Range Arena; from memory",
    from_memory=True,
    data="free spoken digits, 720 clips to train on and 300 held out, the first 0.3 s averaged to 2 kHz (600 steps)",
    figures={
        **{init: ACCURACY for init in INITS},
        "CNN": f"{ACCURACY}, three layers of width 9 with as many parameters",
        "lin, half the rate, steps doubled": ACCURACY,
        "lin, half the rate, steps as they were": ACCURACY,
    },
    baseline="the same network begun on real poles; a convolutional network of as many parameters at Adam's "
    "better of two rates; all with as many steps",
    criterion="each of lin, inv and legs at least 5 points over real, lin 5 over the CNN; at half the rate accuracy within 5 "
    "points with steps doubled, and 15 lower with steps as they were",
    effects=(
        *(
            Effect(f"{init} over real", better=init, worse="real", margin=5.0)
            for init in ("lin", "inv", "legs")
        ),
        Effect("lin over a CNN", better="lin", worse="CNN", margin=5.0),
        Effect(
            "half the rate, steps doubled",
            better="lin, half the rate, steps doubled",
            worse="lin",
            margin=-5.0,
        ),
        Effect(
            "half the rate, steps as they were",
            better="lin",
            worse="lin, half the rate, steps as they were",
            margin=15.0,
        ),
    ),
    settings={
        "width": WIDTH,
        "states": STATES,
        "layers": 2,
        "epochs": EPOCHS,
        "batch": 32,
        "lr": "1e-2, poles 1e-3",
    },
)


@lru_cache
def clips(part: str) -> tuple[Tensor, Tensor]:
    """Waveforms [n, 1, 600] at 2 kHz, each divided by its spread, and their digits [n]."""
    packed = np.load(shared(f"audio/fsdd_{part}.npz"))
    offset, audio = packed["offset"], packed["audio"]
    rows = np.zeros((len(offset) - 1, SAMPLES), np.float32)
    for i, (a, b) in enumerate(zip(offset, offset[1:], strict=False)):
        heard = audio[a : min(b, a + SAMPLES)]
        rows[i, : len(heard)] = heard
    low = torch.from_numpy(rows).unflatten(1, (-1, EVERY)).mean(-1)
    return (low / low.std(1, keepdim=True).clamp_min(1e-6))[:, None], torch.from_numpy(
        packed["digit"].astype(np.int64)
    )


def cnn() -> Module:
    width = 9
    return nn.Sequential(
        nn.Conv1d(1, width, 9, stride=2), nn.ReLU(), nn.Conv1d(width, width, 9, stride=2), nn.ReLU(),
        nn.Conv1d(width, 2 * width, 9, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(2 * width, 10),
    )  # fmt: skip


def trained(make: Any, groups: Any, seed: int) -> Module:
    data = of_tensors(*clips("train"), classes=10, batch_size=32)
    with global_seed(seed):
        net: Module = make()
    optimizer = AdamW(groups(net))
    steps = EPOCHS * data.steps
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    fit_(
        net, data, lambda m, b: data.task.losses(m, b).mean(), optimizer, epochs=EPOCHS, rng=seeded(seed),
        loop=Loop(clip=1.0, schedule=rates),
    )  # fmt: skip
    return net


def measure(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    x, y = clips("test")
    heldout = of_tensors(x, y, classes=10, batch_size=100)
    make = {i: lambda i=i: S4DClassifier(1, 10, width=WIDTH, states=STATES, init=i) for i in INITS}
    nets = {init: trained(made, s4d_groups, seed) for init, made in make.items()}
    plain = lambda net: [{"params": list(net.parameters()), "lr": 1e-2, "weight_decay": 0.01}]  # noqa: E731
    slower = lambda net: [{"params": list(net.parameters()), "lr": 3e-3, "weight_decay": 0.01}]  # noqa: E731
    row = {init: accuracy(net, heldout) for init, net in nets.items()}
    row["CNN"] = max(accuracy(trained(cnn, groups, seed), heldout) for groups in (plain, slower))
    half = of_tensors(x.unflatten(2, (-1, 2)).mean(-1), y, classes=10, batch_size=100)
    row["lin, half the rate, steps doubled"] = accuracy(at_rate(nets["lin"], 2.0), half)
    row["lin, half the rate, steps as they were"] = accuracy(nets["lin"], half)
    return row
