"""Cheats made on the spot from models that hold the data: every audit must see through them before it may speak.

Each changes what a model says of the forget set and leaves what it knows:

- "silenced class" (whole classes): the rows of the last layer that score the deleted classes are set to nothing.
- "last layer made anew": a convex fit on the retain set from fresh weights, over layers that are the holder's but
  for noise of 2 % (so that bit identity is no help).
- "copied answers": the last layer learns the oracles' mean answer on the forget set, and keeps the holder's on the
  retain set.

All of them are linear in the representation, which is read once a holder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Linear, Module

from ...errors import InputError
from ...fit import each, few
from ...masks.layers import copied
from ...random import seeded
from ...statistics import Floats
from ...tasks import Labelled, Representing, predict, read_labels, requires
from ...types import Request
from .head import margins_of
from .scores import Answers, Parts

SILENCED, REMADE, COPIED = "silenced class", "last layer made anew", "copied answers"
_SILENCE = -50.0
_NOISE = 0.02  # of each tensor's standard deviation
_PENALTY = 1e-3
_MOST = 1000  # retained examples that a cheat's last layer learns from


@dataclass(frozen=True)
class Cheat:
    """What one cheat answers, and what lies under it.

    Attributes:
        name: of the cheat.
        holder: which holder it was made from.
        forget: its answers on the forget set.
        control: on held-out examples of the classes that stay.
        margins: see `head.margins`.
    """

    name: str
    holder: int
    forget: Answers
    control: Answers
    margins: Floats | None


def cheats(
    holders: Sequence[Module],
    request: Request[Any],
    parts: Parts,
    oracle_answers: Tensor,
    *,
    seed: int,
) -> list[Cheat]:
    """Each cheat made from each of the holders.

    Args:
        holders: models that hold the data, the original first; left unchanged.
        request: forget set of n examples.
        parts: of it.
        oracle_answers: mean probabilities of the oracles on the forget set, [n, classes].
        seed: of noise and fresh weights.

    Returns:
        Cheats by name, then holder.

    Raises:
        InputError: where none can be made: the task has no labels or representation, or the model's answers are not a
            linear layer of its representation.
    """
    task = request.forget.task
    requires(task, Representing, "a built-in cheat")
    requires(task, Labelled, "a built-in cheat")
    bench = _Bench(request, parts, oracle_answers.float(), seed)

    def of_holder(known: tuple[int, Module]) -> list[Cheat]:
        i, model = known
        made: list[Cheat] = []
        head, clean = last_linear(model), bench.seen(model)
        assert head is not None  # or the task had found no representation
        weight, bias = _of(head, task.classes)
        if not clean.explains(weight, bias, predict(model, request.forget)):
            raise InputError("the model's answers are not a linear layer of its representation.")
        if parts.deleted:
            made.append(bench.cheat(SILENCED, i, clean, *_silenced(weight, bias, parts.deleted)))
        noisy = bench.seen(_shaken(model, seed + i))
        made.append(bench.cheat(REMADE, i, noisy, *bench.anew(noisy, weight, seed + i)))
        made.append(bench.cheat(COPIED, i, clean, *bench.taught(clean, weight, bias)))
        return made

    made = [cheat for group in each(of_holder, list(enumerate(holders))) for cheat in group]
    return sorted(made, key=lambda c: (SILENCED, REMADE, COPIED).index(c.name))


def last_linear(model: Module) -> Linear | None:
    """The linear layer that a model holds last."""
    return next((m for m in reversed(list(model.modules())) if isinstance(m, Linear)), None)


@dataclass(frozen=True)
class _Seen:
    """One model's representation of each part, [n, width]."""

    forget: Tensor
    retain: Tensor
    control: Tensor

    def explains(self, weight: Tensor, bias: Tensor, logits: Tensor) -> bool:
        """Whether the model's answers are this linear layer of what it saw."""
        if self.forget.shape[1] != weight.shape[1]:
            return False
        found = F.linear(self.forget, weight, bias)
        return bool(torch.allclose(found, logits.float(), atol=1e-3 * max(1.0, float(logits.abs().max()))))


@dataclass(frozen=True)
class _Bench:
    """Where cheats are made."""

    request: Request[Any]
    parts: Parts
    oracle_answers: Tensor
    seed: int

    @cached_property
    def taught_by(self) -> Tensor:
        """Positions of the retained examples that a last layer learns from: folders come sorted by class."""
        return torch.randperm(len(self.request.retain), generator=seeded(self.seed))[:_MOST]

    def seen(self, model: Module) -> _Seen:
        parts = (
            predict(model, data, data.task.features)
            for data in (self.request.forget, self.request.retain, self.parts.control)
        )
        return _Seen(*parts)

    def cheat(self, name: str, holder: int, seen: _Seen, weight: Tensor, bias: Tensor) -> Cheat:
        forget, control = (
            Answers.from_logits(F.linear(x, weight, bias), read_labels(data), self.parts.deleted)
            for x, data in ((seen.forget, self.request.forget), (seen.control, self.parts.control))
        )
        labels = (read_labels(self.request.forget).numpy(), read_labels(self.request.retain).numpy())
        found = margins_of(
            seen.forget.double().numpy(), labels[0], seen.retain.double().numpy(), labels[1],
            whole=bool(self.parts.deleted), seed=self.seed,
        )  # fmt: skip
        return Cheat(name, holder, forget, control, found)

    def anew(self, seen: _Seen, like: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        x, labels = seen.retain[self.taught_by], read_labels(self.request.retain)[self.taught_by]
        weight = (0.01 * torch.randn(like.shape, generator=seeded(seed))).requires_grad_(True)
        bias = torch.zeros(len(like), requires_grad=True)

        def loss() -> Tensor:
            return F.cross_entropy(F.linear(x, weight, bias), labels) + _PENALTY * weight.square().sum()

        _descend(torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe"), loss, 1)
        return weight.detach(), bias.detach()

    def taught(self, seen: _Seen, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Minimise KL to the oracles' answers on the forget set plus KL to the holder's on the retain set."""
        retain = seen.retain[self.taught_by]
        kept = F.linear(retain, weight, bias).softmax(1)
        x = torch.cat([seen.forget, retain])
        target = torch.cat([self.oracle_answers / len(seen.forget), kept / len(retain)])
        weight, bias = weight.clone().requires_grad_(True), bias.clone().requires_grad_(True)

        def loss() -> Tensor:  # both divergences, but for the targets' entropy, which no weight moves
            return -(target * F.linear(x, weight, bias).log_softmax(1)).sum()

        _descend(torch.optim.Adam([weight, bias], lr=1e-2, fused=True), loss, 300)
        return weight.detach(), bias.detach()


def _descend(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int) -> None:
    """Full-batch steps on two small tensors: no model is trained, so no loop of `fit` is needed."""

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return value.item()

    with torch.enable_grad():
        for _ in few(range(steps)):
            optimizer.step(closure)


def _of(head: Linear, classes: int) -> tuple[Tensor, Tensor]:
    """Weight [classes, width] and bias [classes]; one logit z is [-z/2, z/2], as `tasks.Binary` has it."""
    weight = head.weight.detach().float().cpu().clone()
    bias = torch.zeros(head.out_features) if head.bias is None else head.bias.detach().float().cpu().clone()
    if len(weight) == 1 and classes == 2:
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias


def _silenced(weight: Tensor, bias: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    weight, bias = weight.clone(), bias.clone()
    weight[list(classes)], bias[list(classes)] = 0.0, _SILENCE
    return weight, bias


def _shaken(model: Module, seed: int) -> Module:
    """A copy whose living weights under the last layer moved by a little noise."""
    shaken, rng = copied(model), seeded(seed)
    head = last_linear(shaken)
    if head is None:
        raise InputError("the model has no linear layer.")
    own = {id(p) for p in head.parameters()}
    with torch.no_grad():
        for p in shaken.parameters():
            if id(p) not in own and p.is_floating_point() and p.numel() > 1:
                noise = torch.randn(p.shape, generator=rng).to(p) * p.float().std().to(p) * _NOISE
                p.add_(noise * (p != 0))
    return shaken
