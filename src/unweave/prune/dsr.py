"""DSR: dynamic sparse reparameterisation, which also moves weights between layers.

Mostafa, Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse
Reparameterization", ICML 2019, arXiv 1902.05967, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..fit import Step
from ..masks.budgets import ERK, Uniform
from ..masks.mask import Mask
from ..masks.scope import Scope
from ..paper import Paper
from ..random import draw_seed, seeded
from ..types import Data
from ._dynamic import check, drawn, due, exchange, lowest, start


@dataclass(frozen=True, kw_only=True)
class DSR:
    """Train sparsely from the start: one threshold for all layers drops, and layers that kept more grow more.

    For `Supervised(sparse=DSR(...))`. The paper doubles or halves a threshold from exchange to exchange until about
    the wanted number of weights falls below it; here the threshold is the one below which exactly that number lies,
    so that nothing need be remembered. What a full layer cannot take is grown in the others; each layer keeps at least
    one weight.

    Attributes:
        budget: how many weights live, and where at first; the model's own mask is kept if it is sparse already.
        rate: share of all living weights exchanged, in (0, 1].
        every: steps between two exchanges.
        until: share of the training with exchanges.
        scope: which weights.
    """

    budget: ERK | Uniform = ERK(0.9)
    rate: float = 0.1
    every: int = 100
    until: float = 0.75
    scope: Scope = Scope()

    paper: ClassVar[Paper] = Paper(
        "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse Reparameterization",
        "Mostafa, Wang", "ICML", 2019, "1902.05967",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check("DSR", rate=self.rate, every=self.every, until=self.until)

    def begin(
        self, model: Module, data: Data[Any], *, steps: int, rng: Generator
    ) -> tuple[Mask, Callable[[Step], None]]:
        """A sparse start, and the exchange to make after each step of the training."""
        mask, seed, last = (
            start(model, data, self.budget, self.scope, rng),
            draw_seed(rng),
            self.until * steps,
        )

        def after(step: Step) -> None:
            if not due(step.index, self.every, last):
                return
            assert step.hold is not None
            draws, layers = seeded(seed + step.index), list(step.hold.match(step.model))
            sizes = torch.cat([w.detach().abs()[alive].float().cpu() for _, w, alive in layers])
            ends = torch.tensor([int(alive.sum()) for _, _, alive in layers]).cumsum(0)
            fallen = lowest(sizes, torch.ones_like(sizes, dtype=torch.bool), int(self.rate * len(sizes)))
            parts = fallen.tensor_split(ends[:-1])
            drops: dict[str, Tensor] = {}
            for (name, _, alive), part in zip(layers, parts, strict=True):
                if part.all() and len(part):
                    part = part.clone()
                    part[-1] = False
                drops[name] = torch.zeros_like(alive)
                drops[name][alive] = part.to(alive.device)
            grown = _shares({n: (int((a & ~drops[n]).sum()), int((~a).sum())) for n, _, a in layers}, sum(
                int(d.sum()) for d in drops.values()
            ))  # fmt: skip
            exchange(
                step,
                lambda name, w, alive: drops[name],
                lambda name, w, alive, dropped: drawn(~alive, grown[name], draws),
            )

        return mask, after


def _shares(layers: dict[str, tuple[int, int]], total: int) -> dict[str, int]:
    """Share out `total` in proportion to each layer's (survivors, room), never more than its room."""
    given = dict.fromkeys(layers, 0)
    total = min(total, sum(room for _, room in layers.values()))
    while total:
        open_ = {n: s for n, (s, room) in layers.items() if given[n] < room}
        weight = sum(open_.values()) or len(open_)
        more = {n: min(layers[n][1] - given[n], int(total * (s or 0) / weight)) for n, s in open_.items()}
        if not any(more.values()):
            more = {next(n for n in sorted(open_, key=lambda n: -open_[n])): 1}
        for name, count in more.items():
            given[name] += count
            total -= count
    return given
