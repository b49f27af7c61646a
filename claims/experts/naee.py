"""NAEE's reconstruction against frequency, without further training."""

from __future__ import annotations

from claims.effects import Effect
from claims.experts._world import DATA, NETWORK, RAISED, SEEDS, rise
from claims.framework import Claim
from unweave.experts import NAEE, ExpertPruning

KEEP = 9
RISE = "rise of held-out loss, nats a character, lower is better"

claim = Claim(
    statement="Keeping the set of experts that best reconstructs each layer's answers hurts less than keeping the most "
    "frequent ones.",
    reported="Mixtral 8x7B with 6 of 8 experts: small loss (quoted from memory)",
    from_memory=True,
    data=f"{DATA}; {NETWORK}; {KEEP} of 12 experts kept in each layer, all 220 sets tried",
    figures={"naee": RISE, "naee progressive": RISE, "frequency": RISE, "random": RISE},
    baseline="the most frequent experts, and random ones",
    criterion="`naee` rises by less than `frequency`",
    effects=(
        Effect("NAEE over frequency", better="naee", worse="frequency", unit="nats", higher=False),
        Effect("NAEE over random", better="naee", worse="random", unit="nats", higher=False, headline=False),
        Effect(
            "progressive over layerwise",
            better="naee progressive",
            worse="naee",
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
    return {
        "naee": rise(NAEE(experts=KEEP), seed),
        "naee progressive": rise(NAEE(experts=KEEP, inputs="progressive"), seed),
        "frequency": rise(ExpertPruning(score="frequency", experts=KEEP), seed),
        "random": rise(ExpertPruning(score="random", experts=KEEP), seed),
    }
