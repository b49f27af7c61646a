"""CE-U: learn what the model itself would say if the right token did not exist.

    L = mean over tokens of CE(softmax(z with the true token at minus infinity), softmax(z)) + alpha * R

The first distribution is made of the model's own logits z and is not differentiated. The first token of each
answer counts nowhere, as in the published code. Yang, "CE-U: Cross Entropy Unlearning", arXiv 2503.01224.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..paper import Paper
from ..settings import Count, NonNegative, Positive, settings
from ..tasks.language import CausalLM
from ..types import Batch, Request
from ._tune import RetainLoss, Term, checked, logits_of, refuse_idle_loss, unlearned


@settings
class CEU:
    """Unlearn by cross-entropy towards one's own next best tokens.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        alpha: weight of what keeps the rest; 0 reads no retain set.
        retain_loss: what keeps the rest: "nll", the training loss on the retain set, or "kl", closeness to the original
            there.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    alpha: NonNegative = 0.0
    retain_loss: RetainLoss = "nll"

    paper: ClassVar[Paper] = Paper(
        "CE-U: Cross Entropy Unlearning",
        "Yang",
        "arXiv",
        2025,
        "2503.01224",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that prefers other tokens than the ones to forget.

        Args:
            model: left unchanged.
            data: forget and, with alpha above 0, retain set are trained on.
            rng: governs orders and pairing.

        Raises:
            EmptyDataError: if the forget set is empty, or the retain set with alpha above 0.
            InputError: if the data hold no texts, or every parameter is frozen.
                Also if no answer has a second token.
            NonFiniteError: if training diverges; lower lr.
        """
        task = checked(self, data, rng)
        if not any(int(after_first(task.counted(b)).sum()) for b in data.forget.batches()):
            raise InputError("CEU skips each answer's first token, and no text to forget has a second one.")

        def total(m: Module, batch: Batch, _: Tensor) -> Tensor:
            return next_best(*logits_of(task, m, batch, after_first(task.counted(batch)))).sum()

        def size(batch: Batch) -> int:
            return int(after_first(task.counted(batch)).sum())

        return unlearned(self, model, data, Term(total, size), rng=rng)


def after_first(counted: Tensor) -> Tensor:
    """Counted tokens [n, t] without the first of each text.

    Example:
        >>> after_first(torch.tensor([[False, True, True]])).tolist()
        [[False, False, True]]
    """
    return counted & (counted.long().cumsum(1) > 1)


def next_best(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of logits [n, v] to their own softmax without the true token [n], in nats, [n]."""
    wanted = logits.detach().scatter(1, truth[:, None], -torch.inf).softmax(1)
    return -(wanted * logits.log_softmax(1)).sum(1)
