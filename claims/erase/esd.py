"""ESD on the small world: one digit alone, through the cross-attention (x) and through all the rest (u)."""

from __future__ import annotations

from functools import partial

from claims.effects import Effect
from claims.erase._world import (
    DATA,
    FIVE,
    JUDGED,
    SEEDS,
    oracle,
    original,
    request,
    scores,
    shaken,
    tuned,
)
from claims.framework import Claim
from unweave import seeded
from unweave.erase import ESD

RATES = (1e-4, 3e-4, 5e-4)
HERE = partial(ESD, steps=100, batch_size=16, sampler_steps=10)

claim = Claim(
    statement="Training the cross-attention to steer away from a concept erases it when it is named and harms other "
    "concepts less than training all the other weights.",
    reported="the paper reports objects' top-1 accuracy falling from 78 to 1 % on average over ten Imagenette classes; "
    "SD 1.4, ESD-u, one at a time",
    data=f"{DATA}; UNet. {JUDGED}",
    figures={
        "F": "per cent of images of `three` still named so, ESD-x, lower is better",
        "F numeral": "the same where the prompt says 3, which the request did not name, lower is better",
        "P": "per cent of images of the other digits, ESD-x, higher is better",
        "F u": "ESD-u's, lower is better",
        "P u": "ESD-u's, higher is better",
        "F random": "after a random change of ESD-x's size in every tensor that it moved, lower is better",
        "P random": "after it, higher is better",
        "F oracle": "of a model retrained without `three`, lower is better",
        "five: F": "five of ten digits at once, ESD-x, lower is better",
        "five: P": "the other five, higher is better",
        "five: overall": "2 P (1 - F) / (P + 1 - F), higher is better",
    },
    baseline=f"ESD-u, and a random change of ESD-x's size; the learning rate of each is that of {RATES} with the best "
    "overall score on other noise",
    criterion="mean F of ESD-x is at most 20 and its mean P at least 85; its F is at least 50 points below the random "
    "change's; its P is at least ESD-u's",
    effects=(
        Effect("F at most 20 %", better="F", worse=20.0, higher=False, paper=19.0),
        Effect("P at least 85 %", better="P", worse=85.0),
        Effect("F below a random change's", better="F", worse="F random", higher=False, margin=50),
        Effect("P over ESD-u's", better="P", worse="P u"),
    ),
    seeds=SEEDS,
    settings={"erase": "three", "five": list(FIVE), "steps": 100, "batch": 16, "sampler steps": 10, "eta": 1},
)


def measure(seed: int) -> dict[str, float]:
    model, asked = original("unet", seed), request("three")
    rate, x = tuned(
        lambda lr: HERE(lr=lr).apply(model, asked, rng=seeded(seed)), RATES, ("three",), seed, each=6
    )
    _, u = tuned(
        lambda lr: HERE(lr=lr, train="not_cross").apply(model, asked, rng=seeded(seed)),
        RATES, ("three",), seed, each=6,
    )  # fmt: skip
    control = shaken(model, HERE(lr=rate).apply(model, asked, rng=seeded(seed)), seed)
    random = scores(control, ("three",), seed, each=6)
    _, five = tuned(
        lambda lr: HERE(lr=lr, steps=200).apply(model, request(*FIVE), rng=seeded(seed)),
        RATES[1:],
        FIVE,
        seed,
    )
    return {
        "F": x.forgotten,
        "F numeral": x.numeral,
        "P": x.preserved,
        "F u": u.forgotten,
        "P u": u.preserved,
        "F random": random.forgotten,
        "P random": random.preserved,
        "F oracle": scores(oracle("unet", seed, ("three",)), ("three",), seed, each=6).forgotten,
        "five: F": five.forgotten,
        "five: P": five.preserved,
        "five: overall": five.overall,
    }
