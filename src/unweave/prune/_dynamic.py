"""What dynamic sparse training shares: a random start, and the exchange of living weights for dead ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, pi
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from ..errors import InputError
from ..fit import Step
from ..masks.budgets import Budget
from ..masks.mask import Mask
from ..masks.patterns import Unstructured
from ..masks.scope import Scope
from ..masks.select import select
from ..masks.threshold import kth_largest
from ..types import Data
from .random_scores import RandomScores


def start(model: Module, data: Data[Any], budget: Budget, scope: Scope, rng: Generator) -> Mask:
    """The model's own mask if it is sparse; else a random one of this budget, drawn from `rng`."""
    given = Mask.of(model)
    scores = RandomScores(scope=scope, seed=int(torch.randint(2**31, (), generator=rng))).score(model, data)
    if given:
        missing = [name for name in given.keep if name not in scores]
        if missing:
            raise InputError(
                f"the model is sparse in {', '.join(missing[:3])}, which is out of scope. Widen `scope`."
            )
        return Mask(
            {name: given.keep.get(name, torch.ones_like(s, dtype=torch.bool)) for name, s in scores.items()}
        )
    return select(scores, Unstructured(), budget)


def due(index: int, every: int, last: float) -> bool:
    """Whether a mask is changed after step `index`."""
    return index % every == 0 and index <= last


def cosine(rate: float, index: int, last: float) -> float:
    """Rate / 2 (1 + cos(pi t / T))."""
    return rate / 2 * (1 + cos(pi * min(1.0, index / max(last, 1))))


def lowest(values: Tensor, among: Tensor, n: int) -> Tensor:
    """Exactly the `n` smallest values among some positions, equal ones by position; a mask of the values' shape."""
    if n <= 0:
        return torch.zeros_like(among)
    threshold = -kth_largest([values[among].neg_()], n)
    found = (values < threshold) & among
    ties = ((values == threshold) & among).flatten().nonzero().flatten()
    found.view(-1)[ties[: n - int(found.sum())]] = True
    return found


def drawn(among: Tensor, n: int, rng: Generator) -> Tensor:
    """`n` of the positions, at random; a mask."""
    chosen = torch.zeros(among.numel(), dtype=torch.bool)
    pool = among.flatten().cpu()
    count = int(pool.sum())
    if n > count // 2:
        at = pool.nonzero().flatten()
        chosen[at[torch.randperm(len(at), generator=rng)[:n]]] = True
        return chosen.view(among.shape).to(among.device)
    have = 0
    while have < n:  # a few draws of a few positions, where a permutation of all dead weights would be long
        guess = torch.randint(
            pool.numel(), (int(1.3 * (n - have) * pool.numel() / count) + 8,), generator=rng
        )
        guess = guess[pool[guess] & ~chosen[guess]]
        first = torch.unique(guess)
        if len(first) > n - have:
            first = first[torch.randperm(len(first), generator=rng)[: n - have]]
        chosen[first] = True
        have += len(first)
    return chosen.view(among.shape).to(among.device)


def exchange(
    step: Step,
    drop: Callable[[str, Parameter, Tensor], Tensor],
    grow: Callable[[str, Parameter, Tensor, Tensor], Tensor],
) -> None:
    """Change the mask of a training, layer by layer, and forget the optimiser's state where it changed.

    Args:
        step: of the training; its `hold` is replaced.
        drop: (name, weight, alive) -> which living weights die.
        grow: (name, weight, alive, dropped) -> which of the others live instead.
    """
    assert step.hold is not None
    keep: dict[str, Tensor] = {}
    changed: dict[Parameter, Tensor] = {}
    for name, weight, alive in step.hold.match(step.model):
        dropped = drop(name, weight, alive)
        grown = grow(name, weight, alive, dropped)
        keep[name] = (alive & ~dropped) | grown
        changed[weight] = keep[name] != alive
    reset_(step.optimizer, changed)
    step.hold = Mask({**step.hold.keep, **keep})


def reset_(optimizer: Optimizer, at: Mapping[Parameter, Tensor]) -> None:
    """Zero momenta and moments at these positions, in an optimiser and in the one that it wraps."""
    inner: Any = getattr(optimizer, "base", None)
    for state in (optimizer.state, inner.state if isinstance(inner, Optimizer) else {}):
        for weight, where in at.items():
            for value in state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(where, 0)


def check(who: str, *, rate: float, every: int, until: float) -> None:
    """Refuse settings that make no sense.

    Raises:
        InputError: naming the method.
    """
    if not 0 < rate <= 1:
        raise InputError(
            f"{who}.rate must be in (0, 1]; got {rate}. It is the share of living weights exchanged at first."
        )
    if every < 1:
        raise InputError(
            f"{who}.every must be at least 1; got {every}. It is the number of steps between two exchanges."
        )
    if not 0 < until <= 1:
        raise InputError(
            f"{who}.until must be in (0, 1]; got {until}. It is the share of the training with exchanges."
        )
