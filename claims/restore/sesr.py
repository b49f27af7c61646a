"""SESR: wide in training, narrow in use, against the same narrow network trained as it is."""

from __future__ import annotations

from time import process_time

import torch
from torch.nn import Conv2d, Sequential

from claims.effects import Effect
from claims.framework import Claim
from claims.restore import _world as world
from unweave import seeded
from unweave.random import global_seed
from unweave.restore import SESR, Factors, expand_

CROPS, EPOCHS = 640, 9
ARMS = {"plain": {"width": 0}, "collapsible": {"width": 64}, "without skip": {"width": 64, "skip": False}}
EARLY = ("plain", "collapsible")

claim = Claim(
    statement="Training each convolution as a wide linear stack gives the narrow network a better picture, for the cost of the "
    "narrow one's steps.",
    reported="the paper reports 33.03 dB on Set14 for M11, VDSR's figure at about 1/100 of its multiplications",
    data=f"{world.DATA} x2, luma, {CROPS} crops of 48 pixels, {EPOCHS * CROPS // 8} steps",
    figures={
        **{f"{arm} early": f"dB, {arm}, after a third of the steps, higher is better" for arm in EARLY},
        **{arm: f"dB, {arm}, higher is better" for arm in ARMS},
        "bicubic": "dB, higher is better",
        "step, of plain's": "ratio of step times, lower is better",
        "expanded step, of plain's": "ratio of step times where the wide stacks are run as they are",
    },
    baseline="the same deployed network with plain convolutions, the same steps, learning rate and data",
    criterion="0.1 dB over plain after a third of the steps, 0.05 dB at the end, and a step of at most 1.3 of plain's",
    effects=(
        Effect("early, over plain", better="collapsible early", worse="plain early", unit="dB", margin=0.1),
        Effect("at the end, over plain", better="collapsible", worse="plain", unit="dB", margin=0.05),
        Effect("step, of plain's", better="step, of plain's", worse=1.3, unit="ratio", higher=False),
        Effect("skip over none", better="collapsible", worse="without skip", unit="dB", headline=False),
    ),
    settings={"blocks": 3, "features": 8, "width": 64, "lr": 5e-4, "batch": 8},
)


def measure(seed: int) -> dict[str, float]:
    clean = world.luma(world.crops(world.TRAIN, 48, CROPS, seed))
    test = world.luma(world.crops(world.TEST, 96, 64, 99))
    small = world.small(test, 2)
    data = world.pairs(world.small(clean, 2), clean, 8)
    found = {"bicubic": world.psnr(world.large(small, 2), test)}
    for arm, how in ARMS.items():
        for name, epochs in ((f"{arm} early", EPOCHS // 3), (arm, EPOCHS)):
            if epochs < EPOCHS and arm not in EARLY:
                continue
            method = SESR(blocks=3, features=8, lr=5e-4, epochs=epochs, **how)
            found[name] = world.psnr(method.build(data, rng=seeded(seed)).restore(small), test)
    return found | _times()


def _times() -> dict[str, float]:
    """Step times of plain, collapsible and expanded blocks of 3x3 on [16, 8, 32, 32]."""
    with global_seed(0):
        plain, narrow = (Sequential(*(Conv2d(8, 8, 3, padding=1) for _ in range(5))) for _ in range(2))
        expand_(narrow, 64, skip=True)
    wide = Sequential(*(_factors(conv).expanded(conv) for conv in narrow))
    x = torch.randn(16, 8, 32, 32, generator=seeded(0))

    def seconds(net: torch.nn.Module) -> float:
        best = float("inf")
        for _ in range(15):
            began = process_time()
            net(x).square().mean().backward()
            best = min(best, process_time() - began)
        return best

    base = seconds(plain)
    return {"step, of plain's": seconds(narrow) / base, "expanded step, of plain's": seconds(wide) / base}


def _factors(conv: Conv2d) -> Factors:
    return conv.parametrizations.weight[0]  # type: ignore[no-any-return]
