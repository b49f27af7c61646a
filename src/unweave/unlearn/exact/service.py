"""What was trained on what: stages by the slices they saw, which of them serve, and what a deletion takes away."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ...errors import InputError
from ...types import Data
from .orders import Order, until_dead
from .slices import Place, Slices, ids_of

State = Mapping[str, Tensor]
"""What one stage trained: name -> tensor."""
Key = tuple[int, Order]
"""A stage: (shard, the slices it saw, in the order in which they came)."""
Retrain = Literal["none", "dead", "all"]

Run = Callable[[Key, Callable[[], State]], State]
"""Carries out the training of a stage, and returns what it made."""


def at_once(key: Key, train: Callable[[], State]) -> State:
    """Train, and keep the result in memory."""
    return train()


class Stages(Protocol):
    """How a stage is trained, and how stages make a model."""

    def trained(self, before: Sequence[State], data: Data[Any], *, seed: int) -> State:
        """Train the stage after `before` (the stages of its prefix, in order) on the union of the prefix's slices.

        All that is drawn at random follows from `seed`.
        """
        ...

    def assembled(self, states: Sequence[State]) -> Module:
        """The model in eval mode after these stages of one prefix."""
        ...


class RetrainingDue(InputError):
    """Every shard is dead: nothing that is left was trained without the deleted data."""


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """What a deletion did.

    Attributes:
        ids: taken out now.
        before: of those asked for, taken out earlier; nothing was done for them.
        hit: (shard, slice) -> how many of the ids lay there.
        removed: stages that saw one of them, and are gone.
        served: for each shard, the length of the prefix that serves, before and after; 0 is a dead shard.
        trained: stages trained anew on what is left.
    """

    ids: tuple[str, ...]
    before: tuple[str, ...]
    hit: Mapping[Place, int]
    removed: tuple[Key, ...]
    served: tuple[tuple[int, int], ...]
    trained: tuple[Key, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Service:
    """Trained stages and the data they saw; a deletion makes a new one.

    Attributes:
        stages: how a stage is trained, and how stages make a model.
        slices: where each example lies.
        orders: of each shard.
        states: of the stages that are there.
        seed: of the whole; a stage's own follows from it and from the slices it saw.
    """

    stages: Stages = field(repr=False)
    slices: Slices
    orders: tuple[tuple[Order, ...], ...]
    states: Mapping[Key, State] = field(repr=False)
    seed: int

    def served(self, shard: int) -> Order:
        """The longest prefix whose stages are all there; of equal ones, that of the first order. () is a dead shard."""
        return max((order[: self.length(shard, order)] for order in self.orders[shard]), key=len)

    def length(self, shard: int, order: Order) -> int:
        """How many stages of an order are left, from the first on."""
        lacking = (j for j in range(len(order)) if (shard, order[: j + 1]) not in self.states)
        return next(lacking, len(order))

    def lengths(self) -> list[list[int]]:
        """`length` of every order of every shard."""
        return [[self.length(k, order) for order in orders] for k, orders in enumerate(self.orders)]

    def serving(self) -> dict[int, Order]:
        """Living shard -> the prefix that serves.

        Raises:
            RetrainingDue: if there is none.
        """
        found = {k: prefix for k in range(self.slices.shards) if (prefix := self.served(k))}
        if not found:
            raise RetrainingDue(
                f"all {self.slices.shards} shards are dead: every order of each began with a slice that held deleted "
                "data. Retraining is due: train the dead orders again on what is left (--retrain dead)."
            )
        return found

    def parts(self, shard: int, prefix: Order) -> list[State]:
        """States of the stages of a prefix, in order."""
        return [self.states[shard, prefix[: j + 1]] for j in range(len(prefix))]

    def model(self, shard: int, prefix: Order) -> Module:
        """The model after the stages of a prefix, in eval mode."""
        return self.stages.assembled(self.parts(shard, prefix)).eval()

    def without(self, ids: Iterable[Any]) -> tuple[Service, Deleted]:
        """Take examples out: every stage that saw one is dropped, nothing is trained.

        The same request again changes nothing, and says so.

        Raises:
            InputError: if an id was never in the data.
        """
        slices, new, before = self.slices.without(ids)
        hit: dict[Place, int] = {}
        for name in new:
            place = self.slices.places[name]
            hit[place] = hit.get(place, 0) + 1
        removed = [key for key in self.states if any((key[0], s) in hit for s in key[1])]
        gone = set(removed)
        left = replace(self, slices=slices, states={k: v for k, v in self.states.items() if k not in gone})
        served = tuple((len(self.served(k)), len(left.served(k))) for k in range(slices.shards))
        done = Deleted(
            ids=tuple(new), before=tuple(before), hit=hit, removed=tuple(sorted(removed)), served=served
        )
        return left, done

    def retrained(
        self,
        data: Data[Any],
        only: Literal["dead", "all"] = "all",
        *,
        ids: Sequence[Any] | None = None,
        run: Run = at_once,
    ) -> tuple[Service, tuple[Key, ...]]:
        """Train the stages that are missing, each on what is left of the slices of its prefix.

        Args:
            data: what the service was trained on, with or without what was deleted.
            only: "dead" trains orders none of whose stages is left; "all" completes the others, too.
            ids: of the examples of `data`; its own unless given.
            run: carries out the training of each stage; `kept_in(folder)` makes it survive a kill.

        Returns:
            The service with them, and which were trained. An order whose first slice is empty stays dead.
        """
        where = self.slices.positions(data, ids)
        states, trained = dict(self.states), []
        for shard, orders in enumerate(self.orders):
            for order in orders:
                if only == "dead" and self.length(shard, order):
                    continue
                for j in range(1, len(order) + 1):
                    key = (shard, order[:j])
                    if key in states:
                        continue
                    seen = self.slices.members(where, shard, order[:j])
                    if not len(seen):
                        break
                    before = [states[shard, order[: i + 1]] for i in range(j - 1)]
                    states[key] = run(key, partial(self.train, key, before, data.subset(seen)))
                    trained.append(key)
        return replace(self, states=states), tuple(trained)

    def train(self, key: Key, before: Sequence[State], data: Data[Any]) -> State:
        """Train one stage from its own seed."""
        return self.stages.trained(before, data, seed=stage_seed(self.seed, *key))

    def requests_left(self, rng: Generator, trials: int = 200) -> tuple[float, int]:
        """Requests of one example each, drawn at random from what is left, until every shard is dead.

        Returns:
            Their mean over `trials`, and the fewest that could do it.
        """
        sizes = self.slices.sizes()
        leads = [
            (sizes[k][s], any(o[0] == s and self.length(k, o) for o in orders))
            for k, orders in enumerate(self.orders)
            for s in range(self.slices.slices)
        ]
        counts = until_dead([n for n, _ in leads], [leading for _, leading in leads], trials=trials, rng=rng)
        return float(counts.double().mean()), sum(leading and n > 0 for n, leading in leads)


def stage_seed(seed: int, shard: int, prefix: Order) -> int:
    """The seed of a stage: of the whole's, the shard and the slices it sees, and of nothing else."""
    text = f"{seed}/{shard}/{','.join(map(str, prefix))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def begun(
    stages: Stages,
    data: Data[Any],
    orders: Sequence[Order],
    *,
    shards: int,
    seed: int,
    ids: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
) -> Service:
    """A service with all data placed and no stage trained.

    Raises:
        InputError: if no order of a shard begins with a slice that has an example.
    """
    slices = Slices.drawn(
        ids_of(data) if ids is None else ids, shards=shards, slices=len(orders[0]), seed=seed, groups=groups
    )
    leading = sorted({order[0] for order in orders})
    empty = [k for k, row in enumerate(slices.sizes()) if not any(row[s] for s in leading)]
    if empty:
        raise InputError(
            f"shard {empty[0]} has none of the {len(data)} examples in a slice that an order begins with (slices "
            f"{', '.join(map(str, leading))}), so nothing could be trained there. Use fewer shards or slices."
        )
    return Service(stages=stages, slices=slices, orders=(tuple(orders),) * shards, states={}, seed=seed)


def same_bits(a: State, b: State) -> list[str]:
    """Names at which two states differ in a bit, a shape, a type or by being absent."""
    return [
        name for name in sorted({*a, *b}) if name not in a or name not in b or not _same(a[name], b[name])
    ]


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.numel() == 0 or torch.equal(_raw(a), _raw(b))


def _raw(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
