"""Adam on a share of every weight matrix that changes while it trains: what `SculptingMemory` sculpts with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam


class Sculptor(Adam):
    """Adam that moves only the positions kept, and sums up what every position would have liked.

    All it knows is in its state and its first parameter group, so that a resumed run comes to the same bits. Weights
    off the mask keep theirs: neither their gradient nor a moment of it ever reaches them.

    Args:
        weights: name -> parameter that it trains.
        keep: name -> positions that may move; parameters not named move whole.
        lr: of Adam.
    """

    def __init__(self, weights: Mapping[str, Parameter], keep: Mapping[str, Tensor], *, lr: float) -> None:
        super().__init__(list(weights.values()), lr=lr)
        for name, weight in weights.items():
            state = self.state[weight]
            state["step"] = torch.tensor(0.0)
            for part in ("exp_avg", "exp_avg_sq", "best"):
                state[part] = torch.zeros_like(weight)
            if name in keep:
                state["keep"] = keep[name].to(
                    weight.dtype
                )  # an optimiser's state is loaded in its weight's dtype
                state["sum"] = torch.zeros_like(weight)
        self.param_groups[0].update(total=0.0, count=0, lowest=math.inf)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """One step of Adam on the masked gradient; the whole gradient is added to the sums."""
        with torch.enable_grad():
            loss = closure()
        for weight, state in self._masked():
            if weight.grad is not None:
                state["sum"] += weight.grad
                weight.grad *= state["keep"]
        super().step()
        return loss

    @torch.no_grad()
    def change_(self, share: float) -> None:
        """Exchange this share of every mask, one position at least: smallest |sum| out, largest |sum| in.

        The sums start afresh. The moments of what goes out are zeroed, so that it stops at once.
        """
        for _, state in self._masked():
            keep, size = state["keep"].bool(), state["sum"].abs()
            living = int(keep.sum())
            n = min(max(1, int(share * living)), living, keep.numel() - living)
            out = size.masked_fill(~keep, math.inf).flatten().topk(n, largest=False).indices
            into = size.masked_fill(keep, -1).flatten().topk(n).indices
            state["keep"].view(-1)[out] = 0
            state["keep"].view(-1)[into] = 1
            for part in ("exp_avg", "exp_avg_sq"):
                state[part] *= state["keep"]
            state["sum"].zero_()

    @torch.no_grad()
    def note_(self, value: float, *, close: bool) -> None:
        """Add a value to the running mean; where that closes as the lowest so far, remember the weights."""
        group = self.param_groups[0]
        group["total"], group["count"] = group["total"] + value, group["count"] + 1
        if not close:
            return
        mean = group["total"] / group["count"]
        group["total"], group["count"] = 0.0, 0
        if mean < group["lowest"]:
            group["lowest"] = mean
            for weight in group["params"]:
                self.state[weight]["best"].copy_(weight)

    @torch.no_grad()
    def put_back_(self) -> None:
        """Give the weights the values remembered, if there are any."""
        group = self.param_groups[0]
        if group["lowest"] < math.inf:
            for weight in group["params"]:
                weight.copy_(self.state[weight]["best"])

    def _masked(self) -> list[tuple[Parameter, dict[str, Any]]]:
        pairs = [(weight, self.state[weight]) for weight in self.param_groups[0]["params"]]
        return [(weight, state) for weight, state in pairs if "keep" in state]
