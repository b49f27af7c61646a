"""ConceptPrune on the small world's transformer, against the largest weights at the same forgetting."""

from __future__ import annotations

import torch

from claims.effects import Effect
from claims.erase._world import (
    DATA,
    FIVE,
    GUIDANCE,
    JUDGED,
    SEEDS,
    alike,
    each_alone,
    original,
    preserved_at,
    request,
    tuned,
    zeroed,
)
from claims.framework import Claim
from unweave import seeded
from unweave.erase import ConceptPrune, TextToImage

DENSITIES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)

claim = Claim(
    statement="Zeroing the feed-forward weights that a concept's prompts excite most erases it and spares the others.",
    reported="the paper reports objects erased by zeroing 0.12 % of the weights; SD 1.5",
    data=f"{DATA}; PixArt transformer. {JUDGED}",
    figures={
        "F": "per cent, mean over five digits each erased alone, lower is better",
        "P": "per cent of images of the other digits, higher is better",
        "P magnitude": "P of zeroing the largest weights, at the same F, higher is better",
        "P random": "P of zeroing as many weights at random, higher is better",
        "F random": "its F, lower is better",
        "zeroed": "per cent of the feed-forward output weights",
        "five: F": "five of ten digits at once, lower is better",
        "five: P": "the other five, higher is better",
        "five: overall": "at the density tuned on other noise, higher is better",
    },
    baseline=f"the largest weights of each layer at {len(DENSITIES)} densities, read off at the same F",
    criterion="mean P is at least 8 points above that of magnitude at the same F, and mean F at least 20 points below "
    "that of as many random weights",
    effects=(
        Effect("P over magnitude's at the same F", better="P", worse="P magnitude", margin=8),
        Effect("F below random weights'", better="F", worse="F random", higher=False, margin=20),
    ),
    seeds=SEEDS,
    settings={"density": 0.1, "record": 10, "steps": 20, "guidance": GUIDANCE, "digits": list(FIVE)},
    note="Tiny layers need far larger densities than Stable Diffusion's 1 to 2 %.",
)


def measure(seed: int) -> dict[str, float]:
    model = original("dit", seed)

    def pruned(density: float, *digits: str) -> TextToImage:
        method = ConceptPrune(density=density, record=10, steps=20, guidance=GUIDANCE)
        return method.apply(model, request(*digits), rng=seeded(seed))

    own = each_alone(lambda digit: pruned(0.1, digit), seed, FIVE)
    weights = [layer.weight for d in FIVE for layer in pruned(0.1, d).linears("ff_out").values()]
    share = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    curve = [alike(zeroed(model, d, torch.abs), seed, FIVE) for d in DENSITIES]
    rng = seeded(seed)
    random = alike(zeroed(model, share, lambda w: torch.rand(w.shape, generator=rng)), seed, FIVE)
    _, five = tuned(lambda d: pruned(d, *FIVE), (0.01, 0.02, 0.03, 0.05, 0.075, 0.1), FIVE, seed)
    return {
        "F": own.forgotten,
        "P": own.preserved,
        "P magnitude": preserved_at(curve, own.forgotten),
        "P random": random.preserved,
        "F random": random.forgotten,
        "zeroed": 100 * share,
        "five: F": five.forgotten,
        "five: P": five.preserved,
        "five: overall": five.overall,
    }
