"""Saturation and importance: ascent on tokens that are known, but not the ones known best.

    L = - gamma * mean over tokens of p^beta1 * (1 - p)^beta2 * nll + alpha * R

with p the probability of the token itself; as a weight it is not differentiated. Yang et al., "Exploring
Criteria of Loss Reweighting to Enhance LLM Unlearning", ICML 2025, arXiv 2505.11953.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, NonNegative, Positive, settings
from ..tasks.language import CausalLM
from ..types import Request
from ._tune import RetainLoss, checked, climbed, refuse_idle_loss, unlearned


@settings
class SatImp:
    """Ascent weighted by how far a token is from forgotten and from certain.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        beta1: power of the token's probability (saturation).
        beta2: power of one minus it (importance).
        gamma: weight of the forget term.
        alpha: weight of what keeps the rest; 0 reads no retain set.
        retain_loss: what keeps the rest: "nll", the training loss on the retain set, or "kl", closeness to the original
            there.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    beta1: NonNegative = 5.0
    beta2: NonNegative = 1.0
    gamma: Positive = 0.1
    alpha: NonNegative = 1.0
    retain_loss: RetainLoss = "nll"

    paper: ClassVar[Paper] = Paper(
        "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning",
        "Yang, Wang, Huang, Liu, Zhang, Han",
        "ICML",
        2025,
        "2505.11953",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that climbed the loss of such tokens.

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

        def weight(loss: Tensor) -> Tensor:
            return (-self.beta1 * loss).exp() * (-torch.expm1(-loss)) ** self.beta2

        return unlearned(self, model, data, climbed(task, weight), rng=rng, gamma=self.gamma)
