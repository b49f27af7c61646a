"""Training with momentum across layers, and what rare symbols in the text cost afterwards."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.nn import Module
from torch.optim import AdamW

from claims.effects import Effect
from claims.experts._world import DATA, heldout
from claims.framework import Claim
from unweave import Data, fit_, seeded
from unweave.embedded.char_moe import SYMBOLS, CharMoE, char_texts
from unweave.experts import MomentumSMoE
from unweave.random import child
from unweave.tasks import predict
from unweave.tasks.language import windows

STEPS, LR, SWAPPED = 150, 3e-3, 0.1
LOSS = "held-out loss, nats a character, lower is better"
HOW = {
    "plain": MomentumSMoE(kind="none"),
    "heavy ball": MomentumSMoE(mu=0.7),
    "adam first": MomentumSMoE(kind="adam", mu=0.7),
}

claim = Claim(
    statement="Momentum across the mixtures of experts of a model lowers its loss, more so on corrupted text.",
    reported="WikiText-103, SMoE-medium: perplexity 35.55 -> 33.46 (Adam 33.25), attacked 44.19 -> 42.33 (Adam 41.11); from memory",
    from_memory=True,
    data=f"{DATA}; a mixture of experts in DeepSeek-V2's layout (5 layers, width 64, 12 experts), trained for {STEPS} "
    "steps without a balance loss; attacked: 10 % of the characters read as one symbol",
    figures={
        name + attacked: LOSS + (" on attacked text" if attacked else "")
        for name in HOW
        for attacked in ("", ", attacked")
    },
    baseline="the same model from the same start, trained as long on the same batches without momentum",
    criterion="`heavy ball` is at most 0.01 above `plain` on clean text, and the rise under attack is smaller for `adam first`",
    effects=(
        Effect(
            "heavy ball no worse than plain",
            better="heavy ball",
            worse="plain",
            unit="nats",
            higher=False,
            margin=-0.01,
        ),
        Effect(
            "rise under attack, Adam over plain",
            better=lambda row: row["adam first, attacked"] - row["adam first"],
            worse=lambda row: row["plain, attacked"] - row["plain"],
            unit="nats",
            higher=False,
        ),
        Effect(
            "attacked, heavy ball over plain",
            better="heavy ball, attacked",
            worse="plain, attacked",
            unit="nats",
            higher=False,
            headline=False,
        ),
    ),
    seeds=(0, 1, 2),
    settings={"steps": STEPS, "lr": LR, "mu": 0.7, "gamma": 1.0, "adam_gamma": 0.8},
)


def measure(seed: int) -> dict[str, float]:
    row = {}
    for name, how in HOW.items():
        net = trained(how, seed)
        for attacked, data in (("", heldout()), (", attacked", corrupted())):
            row[name + attacked] = float(predict(net, data, data.task.losses).mean())
    return row


def trained(how: MomentumSMoE, seed: int) -> Module:
    train, _ = char_texts()
    rng = seeded(seed)
    net = how.adapt(CharMoE().initial(child(rng)))
    some = train.subset(range(0, len(train), len(train) // (12 * STEPS))[: 12 * STEPS])
    fit_(
        net, some, lambda m, b: some.task.losses(m, b).mean(), AdamW(net.parameters(), lr=LR), epochs=1, rng=rng
    )  # fmt: skip
    return net.eval()


@lru_cache
def corrupted() -> Data[Any]:
    """The held-out windows with characters swapped; each is still asked for what follows in the swapped text."""
    data = heldout()
    ids = torch.cat([data.task.ids(batch) for batch in data.batches()])
    swapped = torch.rand(ids.shape, generator=seeded(0)) < SWAPPED
    flat = ids.masked_fill(swapped, SYMBOLS - 1).flatten()
    return windows(flat, ids.shape[1], batch_size=12)
