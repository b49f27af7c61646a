"""What choosing recovery data takes: reading two models' answers, key phrases, and filling a budget."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from math import floor, log
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module

from ...errors import InputError
from ...tasks.language import IGNORED
from ...types import Batch, Data

COMMON = 0.1
"""Tokens in more than this share of the examples separate key phrases and belong to none."""


@dataclass(frozen=True)
class Reading:
    """What a model says of a batch; a classifier's answer is a text of one position.

    Attributes:
        shape: of the logits as they came.
        logits: [n, t, vocabulary].
        answered: positions whose logits answer something, bool [n, t].
        asked: tokens that are given, not answered; all tokens where there are no such, bool [n, t].
        tokens: tokens that are not padding, bool [n, t].
        hidden: what the last Linear layer read, [n, t, width]; None if not wanted.
    """

    shape: torch.Size
    logits: Tensor
    answered: Tensor
    asked: Tensor
    tokens: Tensor
    hidden: Tensor | None

    def meaning(self) -> Tensor:
        """Mean of the hidden states over what is asked, [n, width]."""
        assert self.hidden is not None
        weight = self.asked.to(self.hidden)
        return torch.einsum("nt,nth->nh", weight, self.hidden) / weight.sum(1, keepdim=True)


def reading(model: Module, task: Any, batch: Batch, *, hidden: bool) -> Reading:
    """Run a model on a batch.

    Raises:
        InputError: if hidden states are wanted and the model calls no Linear layer.
    """
    seen: list[Tensor] = []
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    hook = linears[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0])) if linears else None
    try:
        out = task.outputs(model, batch)
    finally:
        if hook is not None:
            hook.remove()
    if hidden and not seen:
        raise InputError("PASER: the model calls no Linear layer to read hidden states from. Give embed.")
    logits = out.view(len(out), -1, out.shape[-1])
    n, t = logits.shape[:2]
    tokens = torch.ones(n, t, dtype=torch.bool, device=out.device)
    answered, asked = tokens, tokens
    if out.ndim == 3 and hasattr(task, "counted"):
        if isinstance(batch, Mapping) and "attention_mask" in batch:
            tokens = batch["attention_mask"].to(out.device) != 0
        # position j answers what token j + 1 is
        answered = torch.nn.functional.pad(task.counted(batch).to(out.device), (0, 1))
        asked = tokens & (task.labels(batch).to(out.device) == IGNORED)
        asked = torch.where(asked.any(1, keepdim=True), asked, tokens)
    states = seen[-1].reshape(n, t, -1).float() if hidden else None
    return Reading(out.shape, logits, answered, asked, tokens, states)


def divergence(original: Tensor, pruned: Tensor, answered: Tensor, kind: str = "jsd") -> Tensor:
    """Mean over the answered positions of the divergence of two models' answers, nats, [n].

    Args:
        original: logits [n, t, vocabulary].
        pruned: logits of the same shape.
        answered: which positions count, bool [n, t]; at least one in each row.
        kind: "jsd", 1/2 KL(p || m) + 1/2 KL(q || m) with m = (p + q) / 2, at most log 2; or "kl", KL(p || q).
    """
    p, q = original[answered].log_softmax(-1), pruned[answered].log_softmax(-1)
    if kind == "kl":
        each = _kl(p, q)
    else:
        middle = torch.logaddexp(p, q) - log(2)
        each = (_kl(p, middle) + _kl(q, middle)) / 2
    total = torch.zeros(answered.shape, dtype=each.dtype, device=each.device).masked_scatter(answered, each)
    return total.sum(1) / answered.sum(1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL divergence of log-probabilities over the last dimension; what has probability 0 adds nothing."""
    return torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(-1).clamp(min=0)


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
