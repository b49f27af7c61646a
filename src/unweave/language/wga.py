"""Weighted gradient ascent: climb most where the model is still sure.

    L = - gamma * mean over tokens of p^beta * nll + alpha * R

with p the probability of the token itself; as a weight it is not differentiated. Wang et al., "Rethinking LLM
Unlearning Objectives: A Gradient Perspective and Go Beyond", ICLR 2025, arXiv 2502.19301.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Generator
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, NonNegative, Positive, settings
from ..tasks.language import CausalLM
from ..types import Request
from ._tune import RetainLoss, checked, climbed, refuse_idle_loss, unlearned


@settings
class WGA:
    """Ascent weighted by how sure the model still is of each token.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        beta: power of the token's probability; 0 is ascent.
        gamma: weight of the forget term.
        alpha: weight of what keeps the rest; 0 reads no retain set.
        retain_loss: what keeps the rest: "nll", the training loss on the retain set, or "kl", closeness to the original
            there.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    beta: NonNegative = 1.0
    gamma: Positive = 1.0
    alpha: NonNegative = 1.0
    retain_loss: RetainLoss = "nll"

    paper: ClassVar[Paper] = Paper(
        "Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond",
        "Wang, Zhou, Zhou, Shin, Han, Weinberger",
        "ICLR",
        2025,
        "2502.19301",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that climbed the loss of tokens that it was sure of.

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

        return unlearned(
            self,
            model,
            data,
            climbed(task, lambda loss: (-self.beta * loss).exp()),
            rng=rng,
            gamma=self.gamma,
        )
