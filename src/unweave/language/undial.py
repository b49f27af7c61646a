"""UNDIAL: learn the original's own answers with the right tokens turned down.

    L = mean over tokens of CE(softmax(z_0 - beta * onehot(y)), softmax(z)) + alpha * R

with z_0 the logits of the original. Dong, Lin, Belkin, Huerta, Vulic, "UNDIAL: Self-Distillation with Adjusted
Logits for Robust Unlearning in Large Language Models", NAACL 2025, arXiv 2402.10052.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, NonNegative, Positive, settings
from ..tasks import evaluating
from ..tasks.language import CausalLM
from ..types import Batch, Request
from ._tune import RetainLoss, Term, checked, logits_of, refuse_idle_loss, tokens_of, unlearned


@settings
class UNDIAL:
    """Distil from the original with the true token's logit lowered.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        beta: by how much the true token's logit is lowered.
        alpha: weight of what keeps the rest; 0 reads no retain set.
        retain_loss: what keeps the rest: "nll", the training loss on the retain set, or "kl", closeness to the original
            there.
    """

    epochs: Count = 10
    lr: Positive = 1e-4
    accumulate: Count = 1
    lora: Count | None = None
    beta: Positive = 10.0
    alpha: NonNegative = 0.0
    retain_loss: RetainLoss = "nll"

    paper: ClassVar[Paper] = Paper(
        "UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language Models",
        "Dong, Lin, Belkin, Huerta, Vulic",
        "NAACL",
        2025,
        "2402.10052",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that learnt the adjusted logits.

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

        def total(m: Module, batch: Batch, _: Tensor) -> Tensor:
            counted = task.counted(batch)
            with evaluating(model):
                taught, truth = logits_of(task, model, batch, counted)
            return adjusted(logits_of(task, m, batch, counted)[0], taught, truth, self.beta).sum()

        return unlearned(self, model, data, Term(total, tokens_of(task)), rng=rng)


def adjusted(logits: Tensor, taught: Tensor, truth: Tensor, beta: float) -> Tensor:
    """Cross-entropy of logits [n, v] to the teacher's, with that of the true token [n] lowered, in nats, [n]."""
    lowered = taught.scatter_add(1, truth[:, None], torch.full_like(taught[:, :1], -beta))
    return -(lowered.softmax(1) * logits.log_softmax(1)).sum(1)
