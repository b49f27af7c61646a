"""STDO against the same number of networks by time and at random, and JSTDO against one network for all."""

from __future__ import annotations

from functools import cache

import torch

from claims.effects import Effect
from claims.framework import Claim
from claims.restore import _delivery as world
from unweave import seeded
from unweave.restore import STDO
from unweave.restore.delivery import Source

STEPS = 600
ARMS = {
    "psnr": STDO(k=4, split="psnr", cell=16, steps=STEPS, lr=3e-3, batch_size=8, backbone=world.SMALL),
    "time": STDO(k=4, split="time", cell=16, steps=STEPS, lr=3e-3, batch_size=8, backbone=world.SMALL),
    "random": STDO(k=4, split="random", cell=16, steps=STEPS, lr=3e-3, batch_size=8, backbone=world.SMALL),
    "one for all": STDO(split="none", cell=16, steps=STEPS, lr=3e-3, batch_size=8, backbone=world.SMALL),
    "JSTDO": STDO.jstdo(k=4, cell=16, steps=STEPS, lr=3e-3, batch_size=8, backbone=world.SMALL),
}

claim = Claim(
    statement="Networks for groups of equally hard patches restore a clip better than as many networks for stretches of time, and one network "
    "trained on hard patches above all is near them.",
    reported="vlog 15 s x2: 50.58 dB against 50.12 dB of the best way to divide time (WDSR, patches without their borders)",
    data=world.DATA,
    figures={
        **{f"{arm}, whole frames": "dB, mean over frames in RGB, higher is better" for arm in ARMS},
        **{f"{arm}, pooled": "dB of the pooled error over whole frames, higher is better" for arm in ARMS},
        **{f"{arm}, seams": "8-bit steps of luma beyond the original's, nearer 0 is better" for arm in ARMS},
    },
    baseline=f"the same number of networks and {STEPS} steps in all, patches grouped by time or at random; one network for all",
    criterion="over time and over random by more than 0 dB of the pooled error; JSTDO at most 0.1 dB under the groups",
    effects=(
        Effect("psnr over time", better="psnr, pooled", worse="time, pooled", unit="dB"),
        Effect("psnr over random", better="psnr, pooled", worse="random, pooled", unit="dB"),
        Effect("JSTDO near the groups", better="JSTDO, pooled", worse="psnr, pooled", unit="dB", margin=-0.1),
        Effect("time not under random", better="time, pooled", worse="random, pooled", unit="dB", margin=-0.05, headline=False),
        Effect("JSTDO over one for all", better="JSTDO, pooled", worse="one for all, pooled", unit="dB", headline=False),
    ),
    settings={"k": 4, "steps": STEPS, "lr": 3e-3, "batch": 8, "cell": 16},
    note="Figures are means over the two clips. Frames are whole, seams included.",
)  # fmt: skip


@cache
def _sources() -> tuple[Source, ...]:
    return tuple(map(world.source_of, world.clips()))


def measure(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for source in _sources():
        for arm, how in ARMS.items():
            made = how.overfit(source, rng=seeded(seed))
            told = world.quality(made, source)
            found.setdefault(f"{arm}, whole frames", []).append(told["psnr rgb"])
            found.setdefault(f"{arm}, seams", []).append(told["seams"])
            found.setdefault(f"{arm}, pooled", []).append(world.pooled(made, source))
    return {name: sum(values) / len(values) for name, values in found.items()}
