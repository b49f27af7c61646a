"""DASG-MoE's grouped attention (a reconstruction) against a window alone and against full attention, on recall from afar."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.utils.data import TensorDataset

from claims.effects import Effect
from claims.framework import Claim
from unweave import Data, fit_, seeded
from unweave.experts import DASGMoE
from unweave.tasks import predict
from unweave.tasks.language import CausalLM

LENGTH, GROUP, KEYS, VALUES, STEPS, LR = 128, 16, 8, 8, 400, 3e-3
RIGHT = "share of answers right, %, higher is better"

claim = Claim(
    statement="Summaries of groups let a stack with a window recall what was said far before it, nearly as well as full attention.",
    reported="better than other models on long sequences (no figure could be read; ours is a reconstruction)",
    data=f"sequences of {LENGTH} symbols: key and value pairs early, a stretch of noise, then questions for a value, all "
    f"farther back than the window of {GROUP}; 2 blocks of width 32, {STEPS} steps of 32 sequences",
    figures={"grouped": RIGHT, "window": RIGHT, "full": RIGHT},
    baseline="the same stack with the window alone, and with full attention",
    criterion="`grouped` is right at least 30 points more often than `window`, and at most 10 less than `full`",
    effects=(
        Effect("grouped over window", better="grouped", worse="window", unit="points", margin=30.0),
        Effect("grouped near full", better="grouped", worse="full", unit="points", margin=-10.0),
    ),
    settings={"length": LENGTH, "group": GROUP, "steps": STEPS, "lr": LR},
)


class Model(nn.Module):
    """Ids [n, t] -> logits, with learned positions and the stack between."""

    def __init__(self, attention: Literal["grouped", "window", "full"], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.symbols, self.places = nn.Embedding(KEYS + VALUES + 8, 32), nn.Embedding(LENGTH, 32)
            self.head = nn.Linear(32, KEYS + VALUES + 8)
        self.stack = DASGMoE(32, 4, blocks=2, group=GROUP, window=GROUP, attention=attention, seed=seed)

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        x = self.symbols(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        return SimpleNamespace(logits=self.head(self.stack(x)))


def recall(count: int, rng: Generator) -> Data[Any]:
    """Pairs in the first third, noise, and pairs again at the end; only the values at the end count."""
    rows = []
    for _ in range(count):
        value = torch.randint(VALUES, (KEYS,), generator=rng) + KEYS
        first, last = (torch.randperm(KEYS, generator=rng) for _ in range(2))
        row = torch.randint(8, (LENGTH,), generator=rng) + KEYS + VALUES
        for at, order in ((GROUP, first), (LENGTH - 2 * KEYS, last)):
            row[at : at + 2 * KEYS : 2], row[at + 1 : at + 2 * KEYS : 2] = order, value[order]
        rows.append(row)
    ids = torch.stack(rows)
    return Data(TensorDataset(ids), CausalLM(), 32)


def answers(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the asked values [n, KEYS], and of nothing else."""
    at = torch.arange(LENGTH - 2 * KEYS, LENGTH, 2)
    return nn.functional.cross_entropy(logits[:, at].transpose(1, 2), ids[:, at + 1], reduction="none")


def measure(seed: int) -> Mapping[str, float]:
    train, test = recall(32 * STEPS, seeded(seed)), recall(256, seeded(1000 + seed))
    row = {}
    for kind in ("grouped", "window", "full"):
        model = Model(kind, seed)

        def objective(m: nn.Module, batch: Any) -> Tensor:
            ids = train.task.ids(batch)
            return answers(train.task.outputs(m, batch), ids).mean() + m.stack.auxiliary()

        fit_(model, train, objective, AdamW(model.parameters(), lr=LR), epochs=1, rng=seeded(seed))
        logits = predict(model.eval(), test)
        ids = torch.cat([test.task.ids(b) for b in test.batches()])
        at = torch.arange(LENGTH - 2 * KEYS, LENGTH, 2)
        row[kind] = 100 * float((logits[:, at].argmax(-1) == ids[:, at + 1]).double().mean())
    return row
