"""Dynamic sparse training as data: what dies, what lives instead, how many and when.

A method is an `Exchange` of its own: SET drops the smallest weights and grows at random, RigL grows by gradient, ITOP
is either set to explore, DSR drops over all layers together, MEST goes over its budget for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import cos, pi
from typing import Any, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from ..errors import InputError
from ..fit import Step
from ..masks.budgets import ERK, Budget, Global, Uniform
from ..masks.mask import Mask
from ..masks.patterns import Unstructured
from ..masks.scope import Scope
from ..masks.select import lowest, select
from ..random import draw_seed, require_generator, seeded
from ..settings import settings
from ..types import Data
from .random_scores import RandomScores

Begun = tuple[Mask, Callable[[Step], None]]
"""What a sparse training starts from, and what to do after each of its steps."""


@settings
class StaticMask:
    """Train under one random mask, held from the first step to the last: what every exchange must beat.

    For `Supervised(sparse=StaticMask(...))`.

    Attributes:
        budget: how many weights live, and where; the model's own mask is kept if it is sparse already.
        scope: which weights.
    """

    budget: ERK | Uniform | Global = ERK(0.9)
    scope: Scope = Scope()

    def begin(self, model: Module, data: Data[Any], *, steps: int, rng: Generator) -> Begun:
        """The mask, and nothing to do after a step."""
        return start(model, data, self.budget, self.scope, rng), lambda step: None


@dataclass(frozen=True)
class Moment:
    """A training whose mask is about to change.

    Attributes:
        step: of the training.
        last: the step after which masks stay as they are, T_end.
        draws: for this exchange alone, so that a resumed training makes the same ones.
    """

    step: Step
    last: float
    draws: Generator

    @cached_property
    def layers(self) -> dict[str, tuple[Parameter, Tensor]]:
        """Parameter name -> the weight, and which of it lives."""
        assert self.step.hold is not None
        return {name: (weight, alive) for name, weight, alive in self.step.hold.match(self.step.model)}

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Parameter name -> dense gradient on the step's batch; costs a pass when it is first read."""
        return self.step.gradients()


Positions = dict[str, Tensor]
"""Parameter name -> bool of its shape."""
Drop = Callable[[Moment], Positions]
"""Which living weights die."""
Grow = Callable[[Moment, Positions], Positions]
"""Which others live instead of those that die."""
Rate = Callable[[Moment], float]
"""Share of the living weights that is exchanged."""


class Exchanging(Protocol):
    """The settings that every exchange has."""

    @property
    def budget(self) -> Budget: ...  # noqa: D102
    @property
    def scope(self) -> Scope: ...  # noqa: D102
    @property
    def every(self) -> int | None: ...  # noqa: D102
    @property
    def usual(self) -> int: ...  # noqa: D102
    @property
    def until(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Exchange:
    """Every so many steps some living weights die and others live instead.

    Attributes:
        of: the method, named in errors, with its budget, scope, interval and end.
        drop: which die.
        grow: which live instead.
        beyond: whether masks change after `until` and after the last step too, for what is over the budget.
    """

    of: Exchanging
    drop: Drop
    grow: Grow
    beyond: bool = False

    def begin(self, model: Module, data: Data[Any], *, steps: int, rng: Generator) -> Begun:
        """A sparse start, and the exchange to make after each step of a training of `steps` steps.

        Raises:
            InputError: if no exchange would fall into the training, or the model is sparse outside the scope.
        """
        mask = start(model, data, self.of.budget, self.of.scope, rng)
        return mask, self.after(steps, draw_seed(rng))

    def after(self, steps: int, seed: int) -> Callable[[Step], None]:
        """What to do after each step; the function remembers nothing.

        Raises:
            InputError: if no exchange would fall into the training; the function, if the first one moves no weight.
        """
        who, last = type(self.of).__name__, self.of.until * steps
        usual = self.of.usual if last >= self.of.usual else max(1, int(last // 10))
        every = self.of.every or usual
        if every > last:
            raise InputError(
                f"{who} would never exchange a weight: every={every}, but the training has {steps} steps and exchanges "
                f"end after step {last:g} (until={self.of.until:g}). Lower every, train longer, or use StaticMask."
            )

        def change(step: Step) -> None:
            due = step.index % every == 0 and (step.index <= last or self.beyond)
            if not due and not (self.beyond and step.index == steps):
                return
            died = self._change_(Moment(step, last, seeded(seed + step.index)))
            if step.index == every and not died:
                raise InputError(
                    f"{who} exchanged no weight after step {every}, its first: the share to exchange is less than one "
                    "weight in every layer, or no weight is dead. Raise it, lower every, or ask for more sparsity."
                )

        return change

    def _change_(self, at: Moment) -> int:
        """Give the step its new mask, forget the optimiser's state where it changed; how many weights died."""
        assert at.step.hold is not None
        dropped = self.drop(at)
        grown = self.grow(at, dropped)
        keep = {name: (alive & ~dropped[name]) | grown[name] for name, (_, alive) in at.layers.items()}
        reset_(at.step.optimizer, {weight: keep[n] != alive for n, (weight, alive) in at.layers.items()})
        at.step.hold = Mask({**at.step.hold.keep, **keep})
        return sum(int(where.sum()) for where in dropped.values())


def start(model: Module, data: Data[Any], budget: Budget, scope: Scope, rng: Generator) -> Mask:
    """The model's own mask if it is sparse; else a random one of this budget, drawn from `rng`.

    Raises:
        InputError: if the model is sparse outside the scope.
    """
    require_generator(rng)
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


def constant(rate: float) -> Rate:
    """The same share each time."""
    return lambda at: rate


def cosine(rate: float) -> Rate:
    """Share zeta / 2 (1 + cos(pi t / T_end)), from zeta down to 0."""
    return lambda at: rate / 2 * (1 + cos(pi * min(1.0, at.step.index / max(at.last, 1))))


def smallest(rate: Rate) -> Drop:
    """In each layer that share of its living weights, the smallest; never more than are dead in it."""

    def drop(at: Moment) -> Positions:
        share = rate(at)
        return {
            name: lowest(weight.detach().abs(), alive, min(int(share * alive.sum()), int((~alive).sum())))
            for name, (weight, alive) in at.layers.items()
        }

    return drop


def at_random(at: Moment, dropped: Positions) -> Positions:
    """In each layer as many as died, of those dead before."""
    return {n: drawn(~alive, int(dropped[n].sum()), at.draws) for n, (_, alive) in at.layers.items()}


def by_gradient(at: Moment, dropped: Positions) -> Positions:
    """In each layer as many as died, those with the largest gradients; who just died may be among them."""
    return {
        n: lowest(at.gradients[n].abs().neg_(), ~alive | dropped[n], int(dropped[n].sum()))
        for n, (_, alive) in at.layers.items()
    }


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


def reset_(optimizer: Optimizer, at: Mapping[Parameter, Tensor]) -> None:
    """Zero momenta and moments at these positions, in an optimiser and in the one that it wraps."""
    inner: Any = getattr(optimizer, "base", None)
    for state in (optimizer.state, inner.state if isinstance(inner, Optimizer) else {}):
        for weight, where in at.items():
            for value in state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(where, 0)
