"""SuperInpaint: what its parts add in the holes, and what two networks after one another do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from claims.effects import Effect
from claims.framework import Claim
from claims.restore import _world as world
from unweave import fit_, seeded
from unweave.random import global_seed
from unweave.restore import SESR, SuperInpaint, holes

SIDE, CROPS, EPOCHS = 32, 480, 20
ARMS = {
    "whole": {},
    "no attention": {"attend": False},
    "no parts": {"attend": False, "detail": False, "weigh": False},
}

claim = Claim(
    statement="One network that completes and enlarges beats a network that completes and another that enlarges after it.",
    reported="the paper claims better figures than 18 stacked baselines; no number could be read",
    data=f"{world.DATA} x2, RGB, {CROPS} crops of {2 * SIDE} pixels, irregular holes over 10 to 40 %, {EPOCHS * CROPS // 8} steps",
    figures={
        **{f"{arm}, holes": f"dB in holes, {arm}, higher is better" for arm in ARMS},
        **{arm: f"dB everywhere, {arm}, higher is better" for arm in ARMS},
        "stacked, holes": "dB in holes, inpainting then SESR, higher is better",
        "stacked": "dB everywhere, higher is better",
        "diffused, holes": "dB in holes, diffused from their borders, then bicubic",
        "x3": "dB everywhere at x3, which was not trained",
        "x3 from x2": "dB everywhere at x3 of bicubic enlargement of the answer at x2",
    },
    baseline="an inpainting network and SESR after it, each trained as long; the same network without attention, and without parts 2 "
    "to 4; holes diffused from their borders",
    criterion="in holes 0.3 dB over the stacked networks and 0.2 dB over no attention; at x3 not below bicubic of x2",
    effects=(
        Effect("holes, over stacked", better="whole, holes", worse="stacked, holes", unit="dB", margin=0.3),
        Effect(
            "holes, over no attention",
            better="whole, holes",
            worse="no attention, holes",
            unit="dB",
            margin=0.2,
        ),
        Effect("at x3", better="x3", worse="x3 from x2", unit="dB", margin=-0.02),
        Effect(
            "holes, over no parts", better="whole, holes", worse="no parts, holes", unit="dB", headline=False
        ),
    ),
    settings={"features": 24, "blocks": 4, "hidden": 64, "layers": 2, "queries": 512, "lr": 1e-3},
    note="A reconstruction from the abstract is measured.",
)


def measure(seed: int) -> dict[str, float]:
    clean = world.crops(world.TRAIN, 2 * SIDE, CROPS, seed)
    mask = holes(CROPS, SIDE, SIDE, rng=seeded(seed), least=0.1, most=0.4)
    small = world.small(clean, 2)
    test = world.crops(world.TEST, 6 * SIDE, 32, 99)
    large, tiny, hidden = (
        world.small(test, 3),
        world.small(test, 6),
        holes(32, SIDE, SIDE, rng=seeded(99), least=0.1, most=0.4),
    )
    data = world.pairs(torch.cat([small * (1 - mask), mask], 1), clean, 8)
    found: dict[str, float] = {}

    def told(name: str, made: Tensor) -> None:
        found[f"{name}, holes"] = _in_holes(made, large, hidden)
        found[name] = world.psnr(made, large)

    for arm, how in ARMS.items():
        net = SuperInpaint(
            features=24, blocks=4, hidden=64, layers=2, queries=512, lr=1e-3, epochs=EPOCHS, **how
        ).build(data, rng=seeded(seed))  # fmt: skip
        told(arm, net.restore(tiny, mask=hidden))
        if arm == "whole":
            wide = world.small(test, 2)
            found["x3"] = world.psnr(net.restore(tiny, mask=hidden, scale=3.0), wide)
            once = net.restore(tiny, mask=hidden)
            found["x3 from x2"] = world.psnr(
                F.interpolate(once, wide.shape[2:], mode="bicubic").clamp(0, 1), wide
            )
    with global_seed(seed):
        first = nn.Sequential(
            nn.Conv2d(4, 24, 3, padding=1), *(_Residual(24) for _ in range(4)), nn.Conv2d(24, 3, 3, padding=1)
        )
    fit_(
        first, world.pairs(torch.cat([small * (1 - mask), mask], 1), small, 8), lambda m, b: (m(b[0]) - b[1]).abs().mean(),
        Adam(first.parameters(), 1e-3), epochs=EPOCHS, rng=seeded(seed),
    )  # fmt: skip
    second = SESR(channels=3, blocks=4, features=24, width=0, lr=1e-3, epochs=EPOCHS).build(
        world.pairs(small, clean, 8), rng=seeded(seed)
    )
    with torch.no_grad():
        filled = first(torch.cat([tiny * (1 - hidden), hidden], 1)).clamp(0, 1)
    told("stacked", second.restore(torch.where(hidden > 0, filled, tiny)))
    told("diffused", world.large(_diffused(tiny, hidden), 2))
    found.pop("diffused")
    return found


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _in_holes(made: Tensor, clean: Tensor, mask: Tensor) -> float:
    hole = mask.repeat_interleave(2, 2).repeat_interleave(2, 3)
    errors = ((made - clean).square() * hole).flatten(1).sum(1) / (3 * hole.flatten(1).sum(1))
    return float((-10 * errors.log10()).mean())


def _diffused(x: Tensor, mask: Tensor) -> Tensor:
    """Holes filled by the mean of their neighbours, again and again."""
    y = torch.where(
        mask > 0, (x * (1 - mask)).sum((2, 3), keepdim=True) / (1 - mask).sum((2, 3), keepdim=True), x
    )
    for _ in range(300):
        near = F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), 3, 1)
        y = torch.where(mask > 0, near, x)
    return y
