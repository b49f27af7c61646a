"""UNCURL's merging for one of two tasks that a model was trained on, against keeping experts and against training small."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch.nn import Module
from torch.optim import AdamW

from claims.effects import Effect
from claims.framework import Claim
from unweave import Data, fit_, seeded
from unweave.embedded.char_moe import SYMBOLS, CharMoE, sources
from unweave.experts import UNCURL, ExpertPruning
from unweave.masks.layers import copied
from unweave.parallel import build_models, default_cache
from unweave.tasks import predict
from unweave.tasks.language import windows

KEEP, TUNING, LR = 4, 100, 1e-3
LOSS = "held-out loss on prose, nats a character, lower is better"

claim = Claim(
    statement="A model trained with many experts and merged to few for one task is, once tuned on it, at least as good as one "
    "trained with few experts; before tuning, merging hurts less than keeping random experts.",
    reported="354M backbone, SuperGLUE-style tasks: merged by 2, sometimes 4, it matches or beats the same size trained from "
    "scratch; dropping the least used experts hurts clearly (no figures at hand)",
    data="Python's standard library and the prose of its manual, 150,000 characters each, mixed, in windows of 64, every tenth "
    "held out; a mixture of experts in DeepSeek-V2's layout (2 layers, width 64, 16 experts of 64 units, 1 a token, a shared "
    f"one of 128), 400 steps; the task is the prose; {KEEP} experts are left in each layer",
    figures={
        name + after: LOSS + (f", after {TUNING} steps of all weights on prose" if after else "")
        for after in ("", ", tuned")
        for name in ("uncurl", "uncurl not aligned", "uncurl folded", "frequent", "random", "scratch")
    },
    baseline="the 4 most frequent experts, 4 random ones, and a model with 4 experts trained for the same 400 steps; all tuned alike",
    criterion="before tuning `uncurl` is below `random`; tuned it is at most 0.02 above `scratch` and 0.01 above `frequent`",
    effects=(
        Effect("merged over random, before", better="uncurl", worse="random", unit="nats", higher=False),
        Effect(
            "merged over scratch, tuned",
            better="uncurl, tuned",
            worse="scratch, tuned",
            unit="nats",
            higher=False,
            margin=-0.02,
        ),
        Effect(
            "merged over frequent, tuned",
            better="uncurl, tuned",
            worse="frequent, tuned",
            unit="nats",
            higher=False,
            margin=-0.01,
        ),
        Effect(
            "aligned over not, before",
            better="uncurl",
            worse="uncurl not aligned",
            unit="nats",
            higher=False,
            headline=False,
        ),
    ),
    settings={"experts": KEEP, "tuning steps": TUNING, "tuning lr": LR, "comparing windows": 64},
)


@lru_cache
def texts() -> tuple[Data[Any], Data[Any], Data[Any]]:
    """Both sources to train on; prose to tune on; held-out prose."""
    from pydoc_data.topics import topics

    prose = "".join(topics[name] for name in sorted(topics))[:150_000]
    ids = torch.tensor([min(ord(c), SYMBOLS - 1) for c in prose])
    both = [windows(part, 64, batch_size=12) for part in (sources(150_000), ids)]
    kept = [(torch.arange(len(part)) % 10 != 9).nonzero().flatten() for part in both]
    rows = [torch.stack([part.examples[int(i)][0] for i in k]) for part, k in zip(both, kept, strict=True)]
    mixed = windows(torch.cat(rows).flatten(), 64, batch_size=12)
    held = both[1].subset((torch.arange(len(both[1])) % 10 == 9).nonzero().flatten()[:96])
    return mixed, both[1].subset(kept[1]), held


@lru_cache
def model(experts: int, seed: int) -> Module:
    recipe = CharMoE(layers=2, experts=experts, top_k=1, inner=64, steps=400)
    return build_models(recipe, texts()[0], [seed], jobs=1, cache=default_cache())[0]


def loss(model: Module) -> float:
    held = texts()[2]
    return float(predict(model, held, held.task.losses).mean())


def measure(seed: int) -> Mapping[str, float]:
    large, (_, prose, _) = model(16, seed), texts()
    variants = {
        "uncurl": UNCURL(experts=KEEP, examples=64),
        "uncurl not aligned": UNCURL(experts=KEEP, examples=64, align="none"),
        "uncurl folded": UNCURL(experts=KEEP, examples=64, router="fold"),
        "frequent": ExpertPruning(score="frequency", experts=KEEP, examples=64),
        "random": ExpertPruning(score="random", experts=KEEP, examples=64),
    }
    made = {name: how.apply(large, prose, rng=seeded(seed)) for name, how in variants.items()}  # type: ignore[attr-defined]
    made["scratch"] = copied(model(KEEP, seed))
    row = {name: loss(net) for name, net in made.items()}
    some = prose.subset(range(0, len(prose), max(1, len(prose) // (12 * TUNING)))[: 12 * TUNING])
    for name, net in made.items():
        fit_(
            net, some, lambda m, b: some.task.losses(m, b).mean(), AdamW(net.parameters(), lr=LR), epochs=1, rng=seeded(seed)
        )  # fmt: skip
        row[f"{name}, tuned"] = loss(net)
    return row
