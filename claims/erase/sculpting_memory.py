"""Sculpting Memory on the small world: three digits one after another, beside no mask, a fixed mask and no distillation."""

from __future__ import annotations

from functools import partial

from claims.effects import Effect
from claims.erase._world import (
    DATA,
    JUDGED,
    SEEDS,
    Scores,
    drawn,
    original,
    preserved_at,
    request,
    scores,
    the_judge,
)
from claims.framework import Claim
from unweave import seeded
from unweave.embedded.drawn_digits import DIGITS, prompt
from unweave.erase import SculptingMemory, TextToImage

THREE = ("one", "four", "seven")
RATES = (5e-4, 1.5e-3)
SETTINGS = {
    **{"steps": 80, "warmup": 15, "update_every": 15, "epoch": 20, "batch_size": 8, "images": 32},
    **{"sampler_steps": 10, "guidance": 3.0},
}
HERE = partial(SculptingMemory, **SETTINGS)

claim = Claim(
    statement="Fine-tuning a changing half of the cross-attention, one concept after another, erases them all, keeps other "
    "concepts better than fine-tuning all of it, and distillation from the round before keeps what was erased erased.",
    reported="the paper reports a mean accuracy of 8.4 % on ten erased Imagenette classes at a CLIP score of 26.43 (ESD-x "
    "29.7 and 25.04, MACE 73.2 and 29.62); SD 1.4, ResNet-50. Its code trains without the distillation",
    data=f"{DATA}; UNet. {JUDGED}",
    figures={
        "F": "per cent of images of `one`, `four` and `seven` still named so after all rounds, lower is better",
        "P": "per cent of images of the other seven digits, higher is better",
        "overall": "2 P (1 - F) / (P + 1 - F), higher is better",
        "overall before": "of the original, higher is better",
        "P no mask": "all weights may move, at the same F (linear between learning rates), higher is better",
        "overall no mask": "at its own best learning rate, higher is better",
        "overall fixed mask": "the mask of the warm-up is never exchanged, higher is better",
        "overall no distillation": "kd = 0, higher is better",
        "first: F": "per cent of images of `one` still named so after its own round, lower is better",
        "first: F later": "the same after the two other rounds, lower is better",
        "first: F no distillation": "after its own round, kd = 0, lower is better",
        "first: F later no distillation": "after the two other rounds, kd = 0, lower is better",
    },
    baseline=f"the same without the mask (density 1) at equal steps; of both the learning rate of {RATES} with the best "
    "overall score on other noise; the fixed mask and kd = 0 at the full method's rate",
    criterion="mean F is at most 25 with an overall score at least 10 points above the original's; mean P is at least 2 "
    "points above that without the mask at the same F; F of the first digit rises by at most 5 points over the later "
    "rounds, and by more without distillation",
    effects=(
        Effect("F at most 25 %", better="F", worse=25.0, higher=False, paper=16.6),
        Effect("overall over the original's", better="overall", worse="overall before", margin=10),
        Effect("P over no mask at the same F", better="P", worse="P no mask", margin=2),
        Effect(
            "the first digit stays erased", better="first: F later", worse="first: F", higher=False, margin=-5
        ),
        Effect(
            "its rise is smaller than without distillation",
            better=lambda row: row["first: F later"] - row["first: F"],
            worse=lambda row: row["first: F later no distillation"] - row["first: F no distillation"],
            higher=False,
        ),
    ),
    seeds=SEEDS,
    settings={"erase": list(THREE), "guide": "digit", "density": 0.5, **SETTINGS},
    note="Before the criterion was written one round was timed at seed 0 with a learning rate of 2e-4, which erased too "
    "little.",
)


def first(model: TextToImage, seed: int) -> float:
    """F of the first digit, 96 images."""
    images = drawn(model, [prompt(1, s, t) for s in (0, 1) for t in range(4) for _ in range(12)], seed)
    return 100 * float((the_judge().digits(images) == DIGITS.index("one")).float().mean())


def measure(seed: int) -> dict[str, float]:
    model = original("unet", seed)

    def made(lr: float, *, digits: tuple[str, ...] = THREE, **more: float) -> TextToImage:
        return HERE(lr=lr, **more).apply(model, request(*digits), rng=seeded(seed))

    def swept(**more: float) -> tuple[dict[float, TextToImage], float, dict[float, Scores]]:
        models = {lr: made(lr, **more) for lr in RATES}
        rate = max(RATES, key=lambda lr: scores(models[lr], THREE, 500 + seed).overall)
        return models, rate, {lr: scores(edited, THREE, seed, each=3) for lr, edited in models.items()}

    models, rate, own = swept()
    _, whole_rate, whole = swept(density=1.0)
    before, undistilled = scores(model, THREE, seed, each=3), made(rate, kd=0.0)
    line = [before, *(whole[lr] for lr in RATES)]
    return {
        "F": own[rate].forgotten,
        "P": own[rate].preserved,
        "overall": own[rate].overall,
        "overall before": before.overall,
        "P no mask": preserved_at(line, own[rate].forgotten),
        "overall no mask": whole[whole_rate].overall,
        "overall fixed mask": scores(made(rate, exchange=0.0), THREE, seed, each=3).overall,
        "overall no distillation": scores(undistilled, THREE, seed, each=3).overall,
        "first: F": first(made(rate, digits=THREE[:1]), seed),
        "first: F later": first(models[rate], seed),
        "first: F no distillation": first(made(rate, digits=THREE[:1], kd=0.0), seed),
        "first: F later no distillation": first(undistilled, seed),
    }
