"""MC-SMoE's merging against dropping all but the same dominant experts, and aligned against not."""

from __future__ import annotations

import torch

from claims.effects import Effect
from claims.experts._world import DATA, NETWORK, RAISED, SEEDS, calibration, loss, model, rise
from claims.framework import Claim
from unweave import seeded
from unweave.experts import ExpertPruning, MCSMoE
from unweave.experts.mc_smoe import dominants
from unweave.masks.layers import copied
from unweave.models.moe import keep_experts_, moe_layers

KEEP = 6
RISE = "rise of held-out loss, nats a character, lower is better"

claim = Claim(
    statement="Merging the other experts into the dominant ones hurts less than dropping them.",
    reported="fine-tuned Switch-base-32: up to 80 % of memory saved at little loss, with distillation",
    data=f"{DATA}; {NETWORK}; {KEEP} of 12 experts left in each layer on average, no training after",
    figures={"mc-smoe": RISE, "mc-smoe not aligned": RISE, "dominants alone": RISE},
    baseline="the same dominant experts, the others dropped (at least 3 a layer, as each token uses so many)",
    criterion="`mc-smoe` rises by less than `dominants alone`",
    effects=(
        Effect("merged over dropped", better="mc-smoe", worse="dominants alone", unit="nats", higher=False),
        Effect(
            "aligned over not",
            better="mc-smoe",
            worse="mc-smoe not aligned",
            unit="nats",
            higher=False,
            headline=False,
        ),
    ),
    seeds=SEEDS,
    note=RAISED,
    settings={"experts": KEEP, "calibration windows": 10},
)


def measure(seed: int) -> dict[str, float]:
    usage = ExpertPruning(score="frequency").scores(model(seed), calibration(), rng=seeded(seed))
    edited = copied(model(seed))
    moes = moe_layers(edited)
    kept = {}
    for name, chosen in dominants(usage, KEEP * len(moes)).items():
        kept[name] = sorted({*chosen, *torch.topk(usage[name], 3).indices.tolist()})
    keep_experts_(edited, kept, moes, "claim")
    return {
        "mc-smoe": rise(MCSMoE(experts=KEEP), seed),
        "mc-smoe not aligned": rise(MCSMoE(experts=KEEP, align=False), seed),
        "dominants alone": loss(edited) - loss(model(seed)),
    }
