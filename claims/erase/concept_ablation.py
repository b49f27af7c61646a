"""Concept Ablation on the small world: one digit turned into no digit in particular, and into another digit."""

from __future__ import annotations

from functools import partial

import torch

from claims.effects import Effect
from claims.erase._world import (
    DATA,
    FIVE,
    JUDGED,
    SEEDS,
    drawn,
    oracle,
    original,
    request,
    scores,
    shaken,
    the_judge,
    tuned,
)
from claims.framework import Claim
from unweave import seeded
from unweave.embedded.drawn_digits import DIGITS, prompt
from unweave.erase import ConceptAblation, TextToImage

RATES = (1e-4, 3e-4, 1e-3)
HERE = partial(ConceptAblation, steps=200, batch_size=32, sampler_steps=10, guidance=3.0, prior=1.0)

claim = Claim(
    statement="Distilling a concept's prompts onto an anchor's erases the concept, draws the anchor in its place and keeps "
    "the other concepts.",
    reported="the paper reports instances, styles and memorised images ablated in minutes with close concepts kept; SD 1.4",
    data=f"{DATA}; UNet. {JUDGED}",
    figures={
        "F": "per cent of images of `three` still named so, anchor `digit`, lower is better",
        "F numeral": "the same where the prompt says 3, which the request did not name, lower is better",
        "P": "per cent of images of the other digits, higher is better",
        "eight": "per cent of images of `three` named eight, anchor `eight`, higher is better",
        "P eight": "per cent of images of the other digits then, higher is better",
        "P no prior": "anchor `digit`, without the prior term, same learning rate, higher is better",
        "P frozen": "the same with the original as teacher, higher is better",
        "F random": "after a random change of the same size in every tensor that it moved, lower is better",
        "F oracle": "of a model retrained without `three`, lower is better",
        "five: F": "five of ten digits at once, lower is better",
        "five: P": "the other five, higher is better",
        "five: overall": "2 P (1 - F) / (P + 1 - F), higher is better",
    },
    baseline=f"a random change of the same size; learning rate of {RATES} with the best overall score on other noise",
    criterion="mean F is at most 20 and mean P at least 95; F is at least 50 points below the random change's; with the "
    "anchor `eight` at least 60 % of its images are eights",
    effects=(
        Effect("F at most 20 %", better="F", worse=20.0, higher=False),
        Effect("P at least 95 %", better="P", worse=95.0),
        Effect("F below a random change's", better="F", worse="F random", higher=False, margin=50),
        Effect("with the anchor eight, at least 60 % eights", better="eight", worse=60.0),
    ),
    seeds=SEEDS,
    settings={"erase": "three", "five": list(FIVE), "steps": 200, "batch": 32, "prior": 1.0},
    note="Before the criterion was written, seed 0 was looked at with and without the prior term: without it, the current "
    "weights as teacher drift and P falls.",
)


def measure(seed: int) -> dict[str, float]:
    model = original("unet", seed)

    def made(lr: float, guide: str = "digit", **more) -> TextToImage:
        return HERE(lr=lr, **more).apply(model, request("three", guide=guide), rng=seeded(seed))

    rate, own = tuned(made, RATES, ("three",), seed, each=6)
    eight = made(rate, "eight")
    asked = [(3, s, t) for s in (0, 1) for t in range(4) for _ in range(6)]
    named = the_judge().digits(drawn(eight, [prompt(*a) for a in asked], seed))
    random = scores(shaken(model, made(rate), seed), ("three",), seed, each=6)
    _, five = tuned(
        lambda lr: HERE(lr=lr, steps=400).apply(model, request(*FIVE), rng=seeded(seed)), RATES, FIVE, seed
    )
    return {
        "F": own.forgotten,
        "F numeral": own.numeral,
        "P": own.preserved,
        "eight": 100 * float((named == torch.tensor(DIGITS.index("eight"))).float().mean()),
        "P eight": scores(eight, ("three",), seed, each=2).preserved,
        "P no prior": scores(made(rate, prior=0.0), ("three",), seed, each=2).preserved,
        "P frozen": scores(made(rate, prior=0.0, teacher="original"), ("three",), seed, each=2).preserved,
        "F random": random.forgotten,
        "F oracle": scores(oracle("unet", seed, ("three",)), ("three",), seed, each=6).forgotten,
        "five: F": five.forgotten,
        "five: P": five.preserved,
        "five: overall": five.overall,
    }
