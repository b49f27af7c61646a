"""Experts that are fetched one by one, as tokens choose them, through a cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module

from ...errors import InputError
from ...models.moe import MoE
from ...random import seeded
from .cache import Entry, ExpertCache


class HostExperts:
    """A store of a model's own experts on the host; what is changed is changed here.

    Args:
        tensors: parameter -> [experts, ...].
    """

    def __init__(self, tensors: Entry) -> None:
        self.tensors = tensors

    def load(self, expert: str) -> Entry:
        """Copies of an expert's tensors."""
        return {name: t[int(expert)].clone() for name, t in self.tensors.items()}

    def save(self, expert: str, tensors: Entry) -> None:
        """Take an expert's tensors."""
        for name, t in tensors.items():
            self.tensors[name][int(expert)] = t.cpu()


class CachedExperts(Module):
    """Runs a block's experts on those that its tokens chose, fetched through a cache.

    A call stacks the chosen experts in rising order and counts the routing within them, so every kernel sees the
    numbers, in the order, that it would see in the resident block. Each call holds the experts that its tokens chose,
    beside those in the cache.

    Args:
        moe: the block; its experts' parameters are taken away.
        room: experts held by the cache.
        make: of the cache, from a store and room.

    Raises:
        InputError: if the experts cannot be run on fewer of them with the same answers.
    """

    def __init__(self, moe: MoE, room: int, make: Any) -> None:
        super().__init__()
        self.count, self.name = moe.count, moe.name
        self.whole = [moe.experts]  # in a list: its parameters are no longer the model's
        tensors = {n: p.detach().cpu().clone() for n, p in moe.experts.named_parameters(recurse=False)}
        self.device = next(moe.experts.parameters()).device
        self.numbers = [
            n
            for n, v in vars(moe.experts).items()
            if type(v) is int and v == moe.count and not n.startswith("_")
        ]
        x = torch.randn(8, moe.width, generator=seeded(0)).to(next(moe.experts.parameters()))
        index = torch.arange(16).view(8, 2) % max(2, moe.count - 1)
        weights = torch.rand(8, 2, generator=seeded(1)).to(x)
        held: Any = moe.experts
        with torch.no_grad():
            expected = held(x, index.to(x.device), weights)
        self.cache: ExpertCache = make(HostExperts(tensors), room, self._moved)
        for n, p in moe.experts.named_parameters(recurse=False):
            p.data = torch.full((1,), torch.nan, dtype=p.dtype, device=p.device).expand(p.shape)
            assert n in tensors
        with torch.no_grad():
            if not torch.equal(self(x, index.to(x.device), weights), expected):
                raise InputError(
                    f'SEMoE.granularity="expert": the experts of {moe.name} answer otherwise when only the chosen ones '
                    'are held. Take "layer".'
                )

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """As the experts': hidden [tokens, H], index and weights [tokens, k] -> [tokens, H]."""
        chosen = torch.unique(index[index < self.count]).tolist()
        entries = [self.cache.fetch(str(e)) for e in chosen]
        stacked = {n: torch.stack([entry[n] for entry in entries]) for n in entries[0]}
        place = torch.full((self.count + 1,), len(chosen), device=index.device)
        place[torch.tensor(chosen, device=index.device)] = torch.arange(len(chosen), device=index.device)
        experts = self.whole[0]
        for number in self.numbers:
            setattr(experts, number, len(chosen))
        try:
            out: Tensor = functional_call(
                experts, stacked, (hidden, place[index.clamp(max=self.count)], weights)
            )
        finally:
            for number in self.numbers:
                setattr(experts, number, self.count)
        return out

    def _moved(self, entry: Entry) -> Entry:
        return {n: t.to(self.device) for n, t in entry.items()}
