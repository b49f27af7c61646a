"""CUE on darkened pictures: what each prior adds, and what a plain network does."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam

from claims.effects import Effect
from claims.framework import Claim
from claims.restore import _world as world
from unweave import fit_, seeded
from unweave.random import global_seed
from unweave.restore import CUE, ssim
from unweave.restore.cue.enhancer import Interact

SIDE, CROPS, PRIOR, EPOCHS = 48, 320, 8, 15
SMALL = {
    "width": 4,
    "patch": 8,
    "tokens": 64,
    "depth": 2,
    "window": 8,
    "lr": 2e-3,
    "prior_epochs": PRIOR,
    "epochs": EPOCHS,
}
ARMS = {
    "whole": {},
    "no illumination prior": {"illumination": False},
    "no gradient prior": {"gradients": 0.0},
}

claim = Claim(
    statement="A learnt illumination prior makes the unfolded network brighten better.",
    reported="the paper reports better figures than unfolding and end-to-end enhancers; its tables were not at hand",
    data=f"{world.DATA}, RGB, {CROPS} crops of {SIDE} pixels darkened to 0.15 x^2.2 with noise of 0.01; {PRIOR * CROPS // 8} steps a prior, "
    f"{EPOCHS * CROPS // 8} for the network",
    figures={
        **{arm: f"dB, {arm}, higher is better" for arm in ARMS},
        "similarity": "SSIM, whole, higher is better",
        "plain": "dB, a plain network of two levels, higher is better",
        "gamma": "dB, the inverse of the darkening without its noise",
        "dark": "dB, as given",
    },
    baseline="the same network without the illumination prior, without the gradient prior; a plain U of about its size, trained as long",
    criterion="0.2 dB over no illumination prior, at most 0.05 dB below no gradient prior, at most 0.5 dB below the plain network",
    effects=(
        Effect(
            "over no illumination prior", better="whole", worse="no illumination prior", unit="dB", margin=0.2
        ),
        Effect(
            "beside no gradient prior", better="whole", worse="no gradient prior", unit="dB", margin=-0.05
        ),
        Effect("beside a plain network", better="whole", worse="plain", unit="dB", margin=-0.5),
    ),
    settings=SMALL,
    note="Pictures are darkened by one formula, not by a camera; no scaling by the true mean.",
)


def dark(x: Tensor, seed: int) -> Tensor:
    return (0.15 * x**2.2 + 0.01 * torch.randn(x.shape, generator=seeded(seed))).clamp(0, 1)


def measure(seed: int) -> dict[str, float]:
    clean = world.crops(world.TRAIN, SIDE, CROPS, seed)
    data = world.pairs(dark(clean, seed), clean, 8)
    test = world.crops(world.TEST, 96, 40, 99)
    given = dark(test, 99)
    found = {
        "dark": world.psnr(given, test),
        "gamma": world.psnr((given / 0.15).clamp(0, 1) ** (1 / 2.2), test),
    }
    for arm, how in ARMS.items():
        net = CUE(**{**SMALL, **how}).build(data, rng=seeded(seed))
        made = net.restore(given)
        found[arm] = world.psnr(made, test)
        if arm == "whole":
            found["similarity"] = float(ssim(made, test).mean())
    with global_seed(seed):
        plain: nn.Module = Interact(3, 3, 8)
    fit_(
        plain, data, lambda m, b: (m(b[0]) - b[1]).abs().mean(), Adam(plain.parameters(), 2e-3), epochs=EPOCHS, rng=seeded(seed)
    )  # fmt: skip
    with torch.no_grad():
        found["plain"] = world.psnr(plain(given).clamp(0, 1), test)
    return found
