"""Reading a model's answers, and how far another model's have moved from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Linear, Module

from ...errors import InputError
from ...tasks.language import IGNORED
from ...types import Batch


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


def divergence(
    original: Tensor, pruned: Tensor, answered: Tensor, kind: Literal["jsd", "kl"] = "jsd"
) -> Tensor:
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
