"""Filling a budget with examples that fit together: key phrases, their consistency, and shares of the budget."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from math import floor
from typing import Any

import torch

from ...errors import InputError
from ...types import Data

COMMON = 0.1
"""Tokens in more than this share of the examples separate key phrases and belong to none."""


def key_phrases(data: Data[Any]) -> list[set[Hashable]]:
    """Runs of token ids between those in more than a tenth of the examples: of each example, its set of runs.

    Raises:
        InputError: if the task has no token ids.
    """
    if not hasattr(data.task, "ids"):
        raise InputError(
            'PASER.concepts="phrases" needs a task with token ids. Give a function of an example, or None.'
        )
    texts: list[list[int]] = []
    for batch in data.batches():
        ids = data.task.ids(batch)
        masked = isinstance(batch, Mapping) and "attention_mask" in batch
        keep = batch["attention_mask"].bool() if masked else torch.ones_like(ids, dtype=torch.bool)
        texts += [row[here].tolist() for row, here in zip(ids, keep, strict=True)]
    counts = Counter(token for text in texts for token in set(text))
    common = {token for token, count in counts.items() if count > COMMON * len(texts)}
    found: list[set[Hashable]] = []
    for text in texts:
        runs: list[list[int]] = [[]]
        for token in text:
            if token in common:
                runs.append([])
            else:
                runs[-1].append(token)
        found.append({tuple(run) for run in runs if run})
    return found


class Consistency:
    """Concepts seen together so far; an example with two known concepts never seen together contradicts them."""

    def __init__(self) -> None:
        self.beside: dict[Hashable, set[Hashable]] = defaultdict(set)

    def accept(self, concepts: set[Hashable]) -> bool:
        """Whether the example fits; if so, its concepts are seen together from now on."""
        known = {c for c in concepts if c in self.beside}
        if any(not known <= self.beside[c] for c in known):
            return False
        for c in concepts:
            self.beside[c] |= concepts
        return True


def fill(
    queues: list[list[int]],
    weights: list[float],
    budget: int,
    concepts: Callable[[int], set[Hashable]] | None,
) -> tuple[list[int], list[int], int]:
    """Take `budget` examples off the heads of the queues, each queue's share in proportion to its weight.

    What a queue cannot give goes to the others, again by weight, until the budget is met or all queues are empty.

    Returns:
        Chosen, rejected for their concepts, and how many were examined for them.
    """
    chosen: list[int] = []
    rejected: list[int] = []
    graph, at = Consistency(), [0] * len(queues)
    order = sorted(range(len(queues)), key=lambda k: -weights[k])
    while len(chosen) < budget and (rooms := [len(q) - a for q, a in zip(queues, at, strict=True)]).count(
        0
    ) < len(at):
        quotas = apportion(budget - len(chosen), weights, rooms)
        for k in order:
            stop = len(chosen) + quotas[k]
            while len(chosen) < stop and at[k] < len(queues[k]):
                i = queues[k][at[k]]
                at[k] += 1
                (chosen if concepts is None or graph.accept(concepts(i)) else rejected).append(i)
    return chosen, rejected, 0 if concepts is None else sum(at)


def apportion(total: int, weights: list[float], rooms: list[int]) -> list[int]:
    """Whole shares of `total` in proportion to the weights, none above its room: floors, then largest remainders.

    They add up to `total`, or to all rooms if that is less. Queues of weight 0 share equally what others have no room
    for.
    """
    given = [0] * len(weights)
    left = min(total, sum(rooms))
    while left:
        open_ = [k for k in range(len(weights)) if given[k] < rooms[k]]
        of = sum(weights[k] for k in open_)
        shares = {k: left * (weights[k] / of if of > 0 else 1 / len(open_)) for k in open_}
        if full := [k for k in open_ if shares[k] > rooms[k] - given[k]]:
            add = {k: rooms[k] - given[k] for k in full}
        else:
            add = {k: floor(shares[k]) for k in open_}
            ahead = sorted(open_, key=lambda k: add[k] - shares[k])
            for k in ahead[: left - sum(add.values())]:
                add[k] += 1
        for k, extra in add.items():
            given[k] += extra
        left = min(total, sum(rooms)) - sum(given)
    return given
