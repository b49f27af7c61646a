"""REAP's score against frequency, random and its own inverse, without further training."""

from __future__ import annotations

import torch

from claims.effects import Effect
from claims.experts._world import DATA, NETWORK, RAISED, SEEDS, calibration, loss, model, rise
from claims.framework import Claim
from unweave import seeded
from unweave.experts import ExpertPruning
from unweave.masks.layers import copied
from unweave.models.moe import keep_experts_, moe_layers

KEEP = 6
RISE = "rise of held-out loss, nats a character, lower is better"
SCORES = ("reap", "weighted ean", "ean mean", "frequency", "weighted frequency", "max activation")

claim = Claim(
    statement="Dropping the experts of lowest mean weighted activation hurts less than dropping rare or random ones.",
    reported="near-lossless code generation with half of the experts of Qwen3-Coder-480B and Kimi-K2",
    data=f"{DATA}; {NETWORK}; {KEEP} of 12 experts kept in each layer",
    figures={score: RISE for score in SCORES}
    | {"random": f"{RISE}; mean of three draws", "inverse reap": RISE},
    baseline="random experts, three draws a seed; and REAP's own score upside down, as a control of the hooks",
    criterion="`reap` rises by less than `random`, and the inverse by more",
    effects=(
        Effect("REAP over random", better="reap", worse="random", unit="nats", higher=False),
        Effect("random over inverse", better="random", worse="inverse reap", unit="nats", higher=False),
        Effect(
            "REAP over frequency", better="reap", worse="frequency", unit="nats", higher=False, headline=False
        ),
        Effect(
            "weighted EAN over frequency",
            better="weighted ean",
            worse="frequency",
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
    row = {s: rise(ExpertPruning(score=s, experts=KEEP), seed) for s in SCORES}  # type: ignore[arg-type]
    row["random"] = sum(_random(seed, draw) for draw in range(3)) / 3
    row["inverse reap"] = _kept(seed, {n: -s for n, s in _scores(seed).items()})
    return row


def _scores(seed: int) -> dict[str, torch.Tensor]:
    return ExpertPruning().scores(model(seed), calibration(), rng=seeded(seed))


def _random(seed: int, draw: int) -> float:
    how = ExpertPruning(score="random")
    return _kept(seed, how.scores(model(seed), calibration(), rng=seeded(100 * seed + draw)))


def _kept(seed: int, scores: dict[str, torch.Tensor]) -> float:
    edited = copied(model(seed))
    moes = moe_layers(edited)
    keep_experts_(
        edited, {n: sorted(s.topk(KEEP).indices.tolist()) for n, s in scores.items()}, moes, "claim"
    )
    return loss(edited) - loss(model(seed))
