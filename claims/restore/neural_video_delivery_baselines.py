"""CaFM and EMT against NAS, by quality and by what is sent; STDO beside them."""

from __future__ import annotations

import torch

from claims.effects import Effect
from claims.framework import Claim
from claims.restore import _delivery as world
from unweave import seeded
from unweave.restore import EMT, NAS, STDO, AwDNN, CaFM
from unweave.restore.delivery import Encoding, Overfitted
from unweave.restore.delivery.delivery import coded_nets

STEPS, SECONDS = 800, 0.8
WHOLE = {
    "cell": 16,
    "steps": STEPS,
    "lr": 3e-3,
    "batch_size": 8,
    "backbone": world.SMALL,
}
HOW = {"chunk_seconds": SECONDS, **WHOLE}
ARMS = {
    "awDNN": AwDNN(**WHOLE), "NAS": NAS(**HOW), "CaFM": CaFM(**HOW), "EMT": EMT(**HOW, first=0.2, later=0.05),
    "STDO": STDO(k=4, cell=16, steps=STEPS, lr=3e-3, batch_size=8, backbone=world.SMALL),
}  # fmt: skip

claim = Claim(
    statement="One network with a few numbers a stretch is as good as a network a stretch at about a quarter of the bytes, and so is "
    "sending what moves most.",
    reported="CaFM, game 15 s x2: 43.13 dB with less than 1 % of the parameters a stretch, separate networks 42.82 dB",
    data=f"{world.DATA}; the first clip in four stretches",
    figures={
        **{f"{arm}, dB": "mean over whole frames in RGB, higher is better" for arm in ARMS},
        **{f"{arm}, bytes": "of all networks at fp16, entropy-coded, lower is better" for arm in ARMS},
    },
    baseline=f"one network a stretch (NAS), {STEPS} steps in all for every arm",
    criterion="CaFM at most 0.1 dB under NAS at 0.4 of its bytes; EMT at most 0.2 dB under at 0.5",
    effects=(
        Effect("CaFM's quality", better="CaFM, dB", worse="NAS, dB", unit="dB", margin=-0.1),
        Effect("EMT's quality", better="EMT, dB", worse="NAS, dB", unit="dB", margin=-0.2),
        Effect("STDO over NAS", better="STDO, dB", worse="NAS, dB", unit="dB", headline=False),
    ),
    settings={"steps": STEPS, "stretches": 4, "later": 0.05},
)  # fmt: skip


def _bytes(made: Overfitted) -> float:
    return float(sum(map(len, coded_nets(made, Encoding(precision="fp16"), None)[0])))


def measure(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    source = world.source_of(world.clips()[0])
    found = {}
    for arm, how in ARMS.items():
        made = how.overfit(source, rng=seeded(seed))
        found[f"{arm}, dB"] = world.quality(made, source)["psnr rgb"]
        found[f"{arm}, bytes"] = _bytes(made)
    return found
