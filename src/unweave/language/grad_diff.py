"""Gradient difference: climb the loss of the texts to forget, descend on that of the others.

    L = - gamma * NLL_F + alpha * R,     R = NLL_R, or KL(original || model) on R

with means over all counted tokens of a batch. `alpha=0` is gradient ascent alone (GA), `retain_loss="kl"` what
is known as KL minimisation; both have a constructor. Maini et al., "TOFU: A Task of Fictitious Unlearning for
LLMs", COLM 2024, arXiv 2401.06121, as in OpenUnlearning (arXiv 2506.12618).

Departure: the KL counts the tokens that the loss counts, by token; the published code averages it over padding
too.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, NonNegative, Positive, settings
from ..tasks.language import CausalLM
from ..types import Request
from ._tune import RetainLoss, checked, climbed, refuse_idle_loss, unlearned


@settings
class GradDiff:
    """Push texts away by ascent while the rest is held.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        gamma: weight of the ascent.
        alpha: weight of what keeps the rest; 0 reads no retain set.
        retain_loss: what keeps the rest: "nll", the training loss on the retain set, or "kl", closeness to the original
            there.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    gamma: Positive = 1.0
    alpha: NonNegative = 1.0
    retain_loss: RetainLoss = "nll"

    paper: ClassVar[Paper] = Paper(
        "TOFU: A Task of Fictitious Unlearning for LLMs",
        "Maini, Feng, Schwarzschild, Lipton, Kolter",
        "COLM",
        2024,
        "2401.06121",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    @classmethod
    def ascent(cls, **fields: Any) -> GradDiff:
        """Gradient ascent alone, GA: no retain set, and no end, so that long runs ruin the model."""
        return cls(alpha=0.0, **fields)

    @classmethod
    def kl_minimisation(cls, **fields: Any) -> GradDiff:
        """Ascent on the forget set, and closeness to the original on the retain set."""
        return cls(retain_loss="kl", **fields)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that climbed the loss of the forget set.

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
        return unlearned(self, model, data, climbed(task, torch.ones_like), rng=rng, gamma=self.gamma)
