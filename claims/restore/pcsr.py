"""PCSR: who gets the dear network, a classifier, a rule of thumb or chance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from claims.effects import Effect
from claims.framework import Claim
from claims.restore import _world as world
from unweave import seeded
from unweave.restore import PCSR, by_knob, knob_for, refined

SCALE, CROPS, EPOCHS, ROUTER, SHARE = 4, 480, 20, 10, 0.5
KNOBS = (-25.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)

claim = Claim(
    statement="A classifier that chooses pixel by pixel keeps the picture of the heavy network at half of its pixels.",
    reported="the paper reports FSRCNN's PSNR within 0.1 dB at 18 to 19 % of its operations",
    data=f"{world.DATA} x4, RGB, {CROPS} crops of 64 pixels, {EPOCHS * CROPS // 8} + {ROUTER * CROPS // 8} steps",
    figures={
        "heavy": "dB, heavy everywhere, higher is better",
        "light": "dB, light everywhere",
        "half": "dB, half of the pixels heavy by the classifier, higher is better",
        "random": "dB, half of the pixels at random",
        "patches": "dB, half of the tiles of 16 pixels by their mean chance",
        "edges": "dB, half of the pixels by the bilinear picture's gradient",
        "refined": "dB, by the classifier, refined",
        "bicubic": "dB",
        "rises": "1 where dB never falls by more than 0.01 as the knob falls, else 0",
        "cost": "share of all-heavy's multiplications at half of the pixels",
    },
    baseline="the same share of heavy pixels chosen at random, by tiles and by gradient; all heavy",
    criterion="within 0.05 dB of all heavy, 0.1 dB over random, and not below tiles",
    effects=(
        Effect("beside all heavy", better="half", worse="heavy", unit="dB", margin=-0.05),
        Effect("over random", better="half", worse="random", unit="dB", margin=0.1),
        Effect("beside tiles", better="half", worse="patches", unit="dB", margin=-0.005),
        Effect("over the gradient", better="half", worse="edges", unit="dB", headline=False),
    ),
    settings={
        "backbone": "3 convolutions of 16",
        "heavy": "32 x4",
        "light": "8 x2",
        "queries": 1024,
        "lr": 2e-3,
    },
)


def measure(seed: int) -> dict[str, float]:
    clean = world.crops(world.TRAIN, 64, CROPS, seed)
    data = world.pairs(world.small(clean, SCALE), clean, 8)
    test = world.crops(world.TEST, 96, 40, 99)
    small = world.small(test, SCALE)
    net = PCSR(
        backbone="convs", width=16, depth=2, heavy=(32,) * 4, light=(8, 8), queries=1024, lr=2e-3, epochs=EPOCHS,
        router_epochs=ROUTER,
    ).build(data, rng=seeded(seed))  # fmt: skip
    with torch.no_grad():
        chance, costs = net.chances(small), net.costs()

        def shown(heavy: Tensor) -> float:
            return world.psnr(net.render(small, heavy).clamp(0, 1), test)

        half = by_knob(chance, knob_for(chance, SHARE, costs), costs)
        tiles = F.avg_pool2d(chance[:, None], 16).repeat_interleave(16, 2).repeat_interleave(16, 3)[:, 0]
        curve = [shown(by_knob(chance, k, costs)) for k in KNOBS]
        light, heavy = costs
        return {
            "heavy": shown(torch.ones_like(half)),
            "light": shown(torch.zeros_like(half)),
            "half": shown(half),
            "random": shown(_most(torch.rand(half.shape, generator=seeded(seed)))),
            "patches": shown(_most(tiles)),
            "edges": shown(_most(_gradient(small))),
            "refined": world.psnr(refined(net.render(small, half), half).clamp(0, 1), test),
            "bicubic": world.psnr(world.large(small, SCALE), test),
            "rises": float(all(a >= b - 0.01 for a, b in zip(curve, curve[1:], strict=False))),
            "cost": (SHARE * heavy + (1 - SHARE) * light) / heavy,
        }


def _most(score: Tensor) -> Tensor:
    """The upper half."""
    return score > score.flatten().median()


def _gradient(small: Tensor) -> Tensor:
    grey = F.interpolate(small, scale_factor=SCALE, mode="bilinear").mean(1)
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across, down = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return across.square() + down.square()
