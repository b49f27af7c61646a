"""DSR: dynamic sparse reparameterisation, which also moves weights between layers.

Mostafa, Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse
Reparameterization", ICML 2019, arXiv 1902.05967, algorithm 1.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Generator
from torch.nn import Module

from ..masks.budgets import ERK, Uniform
from ..masks.scope import Scope
from ..masks.select import lowest
from ..paper import Paper
from ..settings import Count, Range, SomeShare, settings
from ..types import Data
from .dynamic import Begun, Exchange, Moment, Positions, drawn


@settings
class DSR:
    """Train sparsely from the start: one threshold for all layers drops, and layers that kept more grow more.

    For `Supervised(sparse=DSR(...))`. The paper doubles or halves a threshold from exchange to exchange until about
    the wanted number of weights falls below it; here the threshold is the one below which exactly that number lies,
    so that nothing need be remembered. What a full layer cannot take is grown in the others; each layer keeps at least
    one weight.

    Attributes:
        budget: how many weights live, and where at first; the model's own mask is kept if it is sparse already.
        rate: share of all living weights exchanged.
        every: steps between two exchanges; unless given, 100, or a tenth of the steps in which weights are
            exchanged where those are fewer than 100.
        until: share of the training with exchanges.
        scope: which weights.
    """

    budget: ERK | Uniform = ERK(0.9)
    rate: Annotated[
        float, Range(above=0, at_most=1, why="It is the share of all living weights exchanged.")
    ] = 0.1
    every: Count | None = None
    until: SomeShare = 0.75
    scope: Scope = Scope()

    usual: ClassVar[int] = 100
    paper: ClassVar[Paper] = Paper(
        "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse Reparameterization",
        "Mostafa, Wang", "ICML", 2019, "1902.05967",
    )  # fmt: skip

    def begin(self, model: Module, data: Data[Any], *, steps: int, rng: Generator) -> Begun:
        """A sparse start, and the exchange to make after each step of the training.

        Raises:
            InputError: if no exchange would fall into the training, or the model is sparse outside the scope.
        """
        return Exchange(self, self._drop, _grow).begin(model, data, steps=steps, rng=rng)

    def _drop(self, at: Moment) -> Positions:
        """The smallest living weights of all layers together, but for one in a layer that would lose all its own."""
        sizes = torch.cat([w.detach().abs()[alive].float().cpu() for w, alive in at.layers.values()])
        ends = torch.tensor([int(alive.sum()) for _, alive in at.layers.values()]).cumsum(0)
        fallen = lowest(sizes, torch.ones_like(sizes, dtype=torch.bool), int(self.rate * len(sizes)))
        drops: Positions = {}
        for (name, (_, alive)), part in zip(at.layers.items(), fallen.tensor_split(ends[:-1]), strict=True):
            if part.all() and len(part):
                part = part.clone()
                part[-1] = False
            drops[name] = torch.zeros_like(alive)
            drops[name][alive] = part.to(alive.device)
        return drops


def _grow(at: Moment, dropped: Positions) -> Positions:
    """At random as many as died in all, in proportion to what each layer kept."""
    layers = {n: (int((a & ~dropped[n]).sum()), int((~a).sum())) for n, (_, a) in at.layers.items()}
    shares = _shares(layers, sum(int(d.sum()) for d in dropped.values()))
    return {n: drawn(~alive, shares[n], at.draws) for n, (_, alive) in at.layers.items()}


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
