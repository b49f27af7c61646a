"""Negative preference: ascent that lets go of a text once it is less likely than before.

    L = - 2 / beta * mean over texts of log sigmoid(- beta * (lp - lp_0)) + alpha * R

with lp the SUM of an answer's log-probabilities and lp_0 that of the original. Zhang, Lin, Bai, Mei, "Negative
Preference Optimization: From Catastrophic Collapse to Effective Unlearning", COLM 2024, arXiv 2404.05868. Its
gradient is that of ascent times W = 2 s / (1 + s), s = (pi / pi_0)^beta, a text: beta to 0 is ascent. lp_0 is
read once before the first step and kept, one number a text.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, NonNegative, Positive, settings
from ..tasks.language import CausalLM
from ..types import Batch, Request
from ._tune import RetainLoss, Term, before, checked, refuse_idle_loss, texts_of, unlearned


@settings
class NPO:
    """Make texts less likely than the original finds them, and stop there.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        beta: how soon a text is let go, a nat of log-ratio; near 0 it is ascent.
        alpha: weight of what keeps the rest; 0 reads no retain set.
        retain_loss: what keeps the rest: "nll", the training loss on the retain set, or "kl", closeness to the original
            there.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    beta: Positive = 0.1
    alpha: NonNegative = 1.0
    retain_loss: RetainLoss = "nll"

    paper: ClassVar[Paper] = Paper(
        "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
        "Zhang, Lin, Bai, Mei",
        "COLM",
        2024,
        "2404.05868",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that finds the texts to forget less likely.

        Args:
            model: left unchanged.
            data: forget and, with alpha above 0, retain set are trained on.
            rng: governs orders and pairing.

        Raises:
            EmptyDataError: if the forget set is empty, or the retain set with alpha above 0.
            InputError: if the data hold no texts, or every parameter is frozen.
            NonFiniteError: if training diverges; lower lr.
        """
        task = checked(self, data, rng)
        known = before(model, data.forget)

        def total(m: Module, batch: Batch, at: Tensor) -> Tensor:
            summed, _ = task.log_probabilities(m, batch)
            return rejection(summed - known[at].to(summed), self.beta)

        return unlearned(self, model, data, Term(total, texts_of(task)), rng=rng)


def rejection(ratios: Tensor, beta: float) -> Tensor:
    """- 2 / beta * the sum of log sigmoid(- beta * ratio), of log-ratios to the original, [n].

    Example:
        >>> import torch
        >>> rejection(torch.zeros(2), 2.0)  # 2 ln 2
        tensor(1.3863)
    """
    return -2 / beta * F.logsigmoid(-beta * ratios).sum()
