"""Uncertainty in context: labels made noisy, sets of demonstrations from different tasks, errors told by the total."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import AdamW

from claims.effects import Effect
from claims.framework import Claim
from unweave import Data, fit_, seeded
from unweave.fit import Loop
from unweave.language import UQICL, detection
from unweave.random import global_seed
from unweave.tasks.language import IGNORED, CausalLM

BINS, SHOTS, TRAINED_ON, NOISE = 16, 6, 40_000, 0.05
TASKS, QUERIES, FLIPPED = 80, 5, 0.25
BATCH, LR = 64, 2e-3
HOW = UQICL(sets=4, shots=SHOTS, selection="random", batch_size=64)

claim = Claim(
    statement="What is within sets of demonstrations grows with noise in them, what is between sets grows where they disagree, "
    "and the total tells errors better than one set's own confidence.",
    reported="misclassification on Emotion, LLaMA-2 7B, AUPR / AUROC: within .745 / .696, between .691 / .601, semantic "
    "entropy .697 / .653 (in the paper's naming, which its code turns round)",
    data=f"numbers in {BINS} bins, labelled by a threshold and a direction that each prompt's {SHOTS} examples tell; a Llama of "
    f"2 blocks and width 48 trained on {TRAINED_ON:,} such prompts; {TASKS} tasks of {QUERIES} questions",
    figures={
        "accuracy": "% of questions, higher is better",
        **{f"within, {arm}": "nats" for arm in ("clean", "noisy", "mixed")},
        **{f"between, {arm}": "nats" for arm in ("clean", "noisy", "mixed")},
        "change of within, mixed": "% of within on clean sets",
        **{
            f"AUROC, {name}": "of wrong answers on clean sets"
            for name in ("total", "within", "between", "semantic entropy", "log-probability")
        },
    },
    baseline="log-probability and semantic entropy of one set of demonstrations",
    criterion=f"noisy (labels flipped with probability {FLIPPED}): within rises; mixed (each set of a task of its own): between at "
    "least doubles and within changes by less than 30 %; the total has an AUROC of at least 0.65, and 0.02 over the "
    "log-probability",
    effects=(
        Effect("within rises with noise", better="within, noisy", worse="within, clean", unit="nats"),
        Effect(
            "between doubles with disagreement",
            better="between, mixed",
            worse=lambda row: 2 * row["between, clean"],
            unit="nats",
        ),
        Effect("within stays", better="change of within, mixed", worse=30.0, unit="%", higher=False),
        Effect("AUROC of the total", better="AUROC, total", worse=0.65, unit="AUROC"),
        Effect(
            "total over log-probability",
            better="AUROC, total",
            worse="AUROC, log-probability",
            unit="AUROC",
            margin=0.02,
        ),
        Effect(
            "total over semantic entropy",
            better="AUROC, total",
            worse="AUROC, semantic entropy",
            unit="AUROC",
            headline=False,
        ),
    ),
    settings={"sets": 4, "shots": SHOTS, "scoring": "direct"},
    note="One-dimensional points, where the check that was planned had two dimensions: a smaller model learns them.",
)


class Numbers:
    """Prompts of bare tokens: labels are 0 and 1, a bin b is the token 2 + b."""

    classes = 2

    def ids(self, demonstrations: Sequence[tuple[Any, int]], text: Any) -> list[int]:
        return [*(t for x, y in demonstrations for t in (2 + x, y)), 2 + text]

    def variants(self) -> list[list[tuple[int, ...]]]:
        return [[(0,)], [(1,)]]

    def read(self, answer: Sequence[int]) -> tuple[int, int] | None:
        return (answer[0], 1) if answer and answer[0] < 2 else None

    def blank(self) -> Any:
        raise NotImplementedError


def tasks(n: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Thresholds [n] from 1 to 15, and directions [n]."""
    return torch.randint(1, BINS, (n,), generator=rng), torch.randint(2, (n,), generator=rng)


def points(
    threshold: Tensor, turned: Tensor, count: int, flipped: float, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Bins and labels [n, count] of each task."""
    x = torch.randint(BINS, (len(threshold), count), generator=rng)
    y = (x >= threshold[:, None]).long() ^ turned[:, None]
    return x, y ^ (torch.rand(y.shape, generator=rng) < flipped).long()


def trained(seed: int) -> Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    rng = seeded(seed)
    x, y = points(*tasks(TRAINED_ON, rng), SHOTS + 1, NOISE, rng)
    ids = torch.stack([2 + x, y], 2).flatten(1)
    labels = ids.clone()
    labels[:, ::2] = IGNORED
    rows = [{"input_ids": i, "labels": t} for i, t in zip(ids, labels, strict=True)]
    data = Data(rows, CausalLM(), BATCH)  # type: ignore[arg-type]
    config = LlamaConfig(
        vocab_size=2 + BINS, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with global_seed(seed):
        model = LlamaForCausalLM(config)
    optimizer = AdamW(model.parameters(), lr=LR)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=data.steps + 1)
    fit_(
        model, data, lambda m, b: data.task.losses(m, b).mean(), optimizer, epochs=1, rng=rng,
        loop=Loop(clip=1.0, schedule=rates),
    )  # fmt: skip
    return model.eval()


def measure(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    model, rng = trained(seed), seeded(1000 + seed)
    threshold, turned = tasks(TASKS, rng)
    asked, right = points(threshold, turned, QUERIES, 0.0, rng)
    found: dict[str, list[Tensor]] = {}
    wrong = []
    for t in range(TASKS):
        own = threshold[t].expand(4), turned[t].expand(4)
        for arm, of, flipped in (("clean", own, 0.0), ("noisy", own, FLIPPED), ("mixed", tasks(4, rng), 0.0)):
            x, y = points(*of, SHOTS, flipped, rng)
            sets = [list(zip(a.tolist(), b.tolist(), strict=True)) for a, b in zip(x, y, strict=True)]
            told = HOW.decompose(model, [], asked[t].tolist(), Numbers(), rng=rng, sets=sets)
            found.setdefault(f"within, {arm}", []).append(told.within_demo)
            found.setdefault(f"between, {arm}", []).append(told.between_demo)
            if arm == "clean":
                wrong.append(told.prediction != right[t])
                found.setdefault("total", []).append(told.total)
                found.setdefault("semantic entropy", []).append(told.semantic_entropy)
                found.setdefault("log-probability", []).append(told.surprise)
    each = {name: torch.cat(parts) for name, parts in found.items()}
    errors = torch.cat(wrong)
    row = {n: float(v.mean()) for n, v in each.items() if n.startswith(("within", "between"))}
    row["accuracy"] = 100 * float((~errors).double().mean())
    row["change of within, mixed"] = 100 * abs(row["within, mixed"] / row["within, clean"] - 1)
    scores = {"within": each["within, clean"], "between": each["between, clean"], **each}
    for name in ("total", "within", "between", "semantic entropy", "log-probability"):
        told = detection(scores[name], errors, rng=rng, repeats=2)
        row[f"AUROC, {name}"] = 0.5 if told is None else told.auroc
    return row
