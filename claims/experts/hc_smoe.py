"""HC-SMoE's merging by answers against merging by router logits and against dropping experts."""

from __future__ import annotations

from claims.effects import Effect
from claims.experts._world import DATA, NETWORK, RAISED, SEEDS, rise
from claims.framework import Claim
from unweave.experts import ExpertPruning, HCSMoE, MCSMoE

KEEP = 6
RISE = "rise of held-out loss, nats a character, lower is better"

claim = Claim(
    statement="Merging experts that answer alike hurts less than merging by the router's logits, and less than dropping "
    "the least frequent.",
    reported="Qwen1.5-MoE and Mixtral with 25 to 50 % fewer experts: above MC-SMoE and pruning (quoted from memory)",
    from_memory=True,
    data=f"{DATA}; {NETWORK}; {KEEP} of 12 experts left in each layer (MC-SMoE: on average)",
    figures={"hc-smoe": RISE, "mc-smoe": RISE, "frequency": RISE, "reap": RISE},
    baseline="MC-SMoE, and dropping by frequency, with as many experts left",
    criterion="`hc-smoe` rises by less than `mc-smoe` and than `frequency`",
    effects=(
        Effect("HC-SMoE over MC-SMoE", better="hc-smoe", worse="mc-smoe", unit="nats", higher=False),
        Effect("HC-SMoE over frequency", better="hc-smoe", worse="frequency", unit="nats", higher=False),
        Effect(
            "HC-SMoE over REAP", better="hc-smoe", worse="reap", unit="nats", higher=False, headline=False
        ),
    ),
    seeds=SEEDS,
    note=RAISED,
    settings={"experts": KEEP, "calibration windows": 10},
)


def measure(seed: int) -> dict[str, float]:
    return {
        "hc-smoe": rise(HCSMoE(experts=KEEP), seed),
        "mc-smoe": rise(MCSMoE(experts=KEEP), seed),
        "frequency": rise(ExpertPruning(score="frequency", experts=KEEP), seed),
        "reap": rise(ExpertPruning(experts=KEEP), seed),
    }
