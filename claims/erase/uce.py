"""UCE on the small world: one digit alone, and five at once."""

from __future__ import annotations

import torch

from claims.effects import Effect
from claims.erase._world import DATA, FIVE, JUDGED, SEEDS, oracle, original, request, scores
from claims.framework import Claim
from unweave import seeded
from unweave.erase import UCE, Concepts, TextToImage

claim = Claim(
    statement="A closed-form edit of the cross-attention's keys and values erases a concept and leaves the others.",
    reported="the paper reports that erasing an object keeps the accuracy of the others; Imagenette, SD 1.4, one at a time",
    data=f"{DATA}; UNet. {JUDGED}",
    figures={
        "F": "per cent of images of `three` still named so, lower is better",
        "F numeral": "the same where the prompt says 3, which the request did not name, lower is better",
        "P": "per cent of images of the other digits, higher is better",
        "F bare word": "F if the bare word's last token alone is edited, lower is better",
        "F random": "F after a random change of the same size, lower is better",
        "P random": "P after it, higher is better",
        "F oracle": "F of a model retrained without `three`, lower is better",
        "five: F": "five of ten digits at once, lower is better",
        "five: P": "the other five, higher is better",
        "five: overall": "2 P (1 - F) / (P + 1 - F), higher is better",
    },
    baseline="a random change W D' of every key and value layer, |D'| = |D| of the edit",
    criterion="mean F is at most 10, mean P at least 97, and F is below that of the random change",
    effects=(
        Effect("F at most 10 %", better="F", worse=10.0, higher=False),
        Effect("P at least 97 %", better="P", worse=97.0),
        Effect("F below a random change's", better="F", worse="F random", higher=False),
    ),
    seeds=SEEDS,
    settings={"guide": "digit", "erase": "three", "five": list(FIVE), "lambda": 0.5},
    note="Which prompts are edited matters: see `F bare word`.",
)


def measure(seed: int) -> dict[str, float]:
    model, asked = original("unet", seed), request("three")
    one = scores(UCE().apply(model, asked, rng=seeded(seed)), ("three",), seed, each=6)
    bare = Concepts(erase=("three",), guide="digit", templates=("{}",))
    word = scores(UCE(tokens="last").apply(model, bare, rng=seeded(seed)), ("three",), seed, each=6)
    random = scores(_random(model, UCE().change(model, asked), seed), ("three",), seed, each=6)
    five = scores(UCE().apply(model, request(*FIVE), rng=seeded(seed)), FIVE, seed, each=3)
    return {
        "F": one.forgotten,
        "F numeral": one.numeral,
        "P": one.preserved,
        "F bare word": word.forgotten,
        "F random": random.forgotten,
        "P random": random.preserved,
        "F oracle": scores(oracle("unet", seed, ("three",)), ("three",), seed, each=6).forgotten,
        "five: F": five.forgotten,
        "five: P": five.preserved,
        "five: overall": five.overall,
    }


def _random(model: TextToImage, change: torch.Tensor, seed: int) -> TextToImage:
    drawn = torch.randn(change.shape, dtype=change.dtype, generator=seeded(seed))
    edited = model.editable()
    with torch.no_grad():
        for layer in edited.linears("cross_kv").values():
            layer.weight += (layer.weight.double() @ (drawn * (change.norm() / drawn.norm()))).float()
    return edited
