"""Bit-identity: what serves beside what a run without the deleted data makes, trained again from the beginning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...types import Data
from .service import Key, Run, Service, State, at_once, same_bits


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was compared.

    Attributes:
        stages: trained again, in order.
        tensors: compared, bit by bit.
        differing: "shard 0, slices 1, 2: name" of each that differs.
    """

    stages: tuple[Key, ...]
    tensors: int
    differing: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether something was compared and nothing differs."""
        return self.tensors > 0 and not self.differing


def prove(
    service: Service,
    data: Data[Any],
    *,
    shards: Iterable[int] | None = None,
    ids: Sequence[Any] | None = None,
    run: Run = at_once,
) -> Proof:
    """Train what serves again from the data that are left, as if the deleted had never been, and compare every bit.

    The deleted examples take no part: each stage reads what is left of its slices, whose members stay where their own
    ids put them, and begins at its own seed.

    Args:
        service: after a deletion, or before any.
        data: what it was trained on, with or without what was deleted.
        shards: whose serving stages are trained again; all living ones unless given. Dead ones are passed over.
        ids: of the examples of `data`; its own unless given.
        run: carries out the training of each stage; `kept_in(folder)` makes it survive a kill.
    """
    where = service.slices.positions(data, ids)
    stages: list[Key] = []
    differing: list[str] = []
    tensors = 0
    for shard in sorted(set(range(service.slices.shards) if shards is None else shards)):
        prefix, before = service.served(shard), list[State]()
        for j in range(1, len(prefix) + 1):
            key = (shard, prefix[:j])
            seen = service.slices.members(where, shard, prefix[:j])
            state = run(key, partial(service.train, key, before, data.subset(seen)))
            kept = service.states[key]
            told = f"shard {shard}, slices {', '.join(map(str, prefix[:j]))}"
            differing += [f"{told}: {name}" for name in same_bits(kept, state)]
            tensors += len({*kept, *state})
            stages.append(key)
            before.append(state)
    return Proof(stages=tuple(stages), tensors=tensors, differing=tuple(differing))
