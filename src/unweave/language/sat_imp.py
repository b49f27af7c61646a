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
from ..settings import Count, NonNegative, Positive, refuse_idle, settings
from ..tasks.language import CausalLM
from ..types import Batch, Request
from ._tune import RetainLoss, Term, check_texts, keeping, tokens_of, tuned


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
        if self.alpha == 0:
            refuse_idle(self, "retain_loss", when="with alpha=0, which keeps nothing")

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
        check_texts("SatImp", rng, data.forget, *([data.retain] if self.alpha else []))
        task = data.forget.task

        def total(m: Module, batch: Batch, _: Tensor) -> Tensor:
            each, counted = task.token_losses(m, batch)
            known = each.detach()
            weight = (-self.beta1 * known).exp() * (-torch.expm1(-known)) ** self.beta2
            return -(weight * each * counted).sum()

        keep = keeping(self.retain_loss, model, task) if self.alpha else None
        return tuned(
            "SatImp",
            self,
            model,
            data,
            Term(total, tokens_of(task)),
            rng=rng,
            gamma=self.gamma,
            keep=keep,
            alpha=self.alpha,
        )
