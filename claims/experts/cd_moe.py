"""CD-MoE against trimming layers and blocks, and what light tuning brings back."""

from __future__ import annotations

from torch.optim import AdamW

from claims.effects import Effect
from claims.experts._world import DATA, NETWORK, RAISED, SEEDS, calibration, loss, model, rise
from claims.framework import Claim
from unweave import fit_, seeded
from unweave.embedded.char_moe import char_texts
from unweave.experts import CDMoE
from unweave.masks.layers import copied
from unweave.models.moe import moe_layers
from unweave.models.moe.dense import swap_

LAYERS, STEPS, LR = 3, 80, 1e-3
RISE = "rise of held-out loss, nats a character, lower is better"

claim = Claim(
    statement="Condensing mixture-of-experts layers hurts less than taking them out, which hurts less than taking whole "
    "decoder layers out; light tuning of the condensed experts brings much of the rest back.",
    reported="DeepSeekMoE-16B, 9 of 27 layers, memory -27.5 %: about 90 % of the average accuracy, against 80 % of layer "
    "trimming; 98 % after light fine-tuning (partly read off figures)",
    data=f"{DATA}; {NETWORK}; {LAYERS} of 5 layers replaced, each variant in its own greedy order",
    figures={
        "SR": RISE,
        "S": RISE,
        "SR, random experts": RISE,
        "SR, most frequent experts": RISE,
        "SR, least squares alpha": RISE,
        "layer trim": RISE,
        "block trim": RISE,
        "SR tuned": f"{RISE}; {STEPS} steps on the condensed experts",
        "original tuned": f"{RISE}; the same steps on the uncondensed model's experts of the same layers, a control",
    },
    baseline="layer and block trimming with the same greedy choice; for tuning, the uncondensed model tuned as long",
    criterion="`SR` rises by at most half of `layer trim`, which rises by less than `block trim`; `SR` by at most 0.002 more than "
    "`S`; and tuning lowers it",
    effects=(
        Effect(
            "SR at most half of layer trim",
            better=lambda row: 2 * row["SR"],
            worse="layer trim",
            unit="nats",
            higher=False,
        ),
        Effect(
            "layer trim over block trim", better="layer trim", worse="block trim", unit="nats", higher=False
        ),
        Effect("tuned over SR", better="SR tuned", worse="SR", unit="nats", higher=False),
        Effect("SR no worse than S", better="SR", worse="S", unit="nats", higher=False, margin=-0.002),
        Effect(
            "greedy over random experts",
            better="SR",
            worse="SR, random experts",
            unit="nats",
            higher=False,
            headline=False,
        ),
        Effect(
            "least squares over mean alpha",
            better="SR, least squares alpha",
            worse="SR",
            unit="nats",
            higher=False,
            headline=False,
        ),
    ),
    seeds=SEEDS,
    note=RAISED,
    settings={"layers": LAYERS, "k": 3, "tuning steps": STEPS, "tuning lr": LR, "calibration windows": 10},
)


def measure(seed: int) -> dict[str, float]:
    variants = {
        "SR": CDMoE(layers=LAYERS),
        "S": CDMoE(layers=LAYERS, mode="S"),
        "SR, random experts": CDMoE(layers=LAYERS, selector="random"),
        "SR, most frequent experts": CDMoE(layers=LAYERS, selector="frequency"),
        "SR, least squares alpha": CDMoE(layers=LAYERS, alpha="least squares"),
        "layer trim": CDMoE(layers=LAYERS, mode="layer trim"),
        "block trim": CDMoE(layers=LAYERS, mode="block trim"),
    }
    row = {name: rise(how, seed) for name, how in variants.items()}
    return row | tuned(seed)


def tuned(seed: int) -> dict[str, float]:
    original, (train, _) = model(seed), char_texts()
    some = train.subset(range(0, len(train), len(train) // (12 * STEPS))[: 12 * STEPS])
    choice = CDMoE(layers=LAYERS).choose(original, calibration(), rng=seeded(seed))
    condensed = copied(original)
    for name in choice.order:
        swap_(condensed, name, choice.ready[name])
    parts = {
        "SR tuned": (condensed, [p for n in choice.order for p in condensed.get_submodule(n).parameters()]),
        "original tuned": (copied(original), []),
    }
    control = parts["original tuned"][0]
    for moe in moe_layers(control):
        if moe.name in choice.order:
            parts["original tuned"][1].extend(
                p for part in (moe.experts, moe.shared) if part for p in part.parameters()
            )
    found = {}
    for name, (net, weights) in parts.items():
        fit_(
            net, some, lambda m, b: some.task.losses(m, b).mean(), AdamW(weights, lr=LR), epochs=1, rng=seeded(seed)
        )  # fmt: skip
        found[name] = loss(net) - loss(original)
    return found
