"""Simple negative preference: NPO by mean log-probability a token, without a model to compare with.

    L = - gamma * 2 / beta * mean over texts of log sigmoid(beta * (nll - delta)) + alpha * R

with nll the MEAN negative log-probability of an answer's tokens. Fan et al., "Simplicity Prevails: Rethinking
Negative Preference Optimization for LLM Unlearning", arXiv 2410.07163. delta is the margin as published code
has it, inside beta; the paper's margin outside is beta * delta. gamma is the forget term's weight, no margin.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, NonNegative, Number, Positive, settings
from ..tasks.language import CausalLM
from ..types import Batch, Request
from ._tune import RetainLoss, Term, checked, refuse_idle_loss, texts_of, unlearned


@settings
class SimNPO:
    """Make each token of the texts unlikely, short and long texts alike.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        beta: how sharply texts are let go, a nat a token.
        delta: mean loss in nats a token that is asked for; may be negative.
        gamma: weight of the forget term.
        alpha: weight of what keeps the rest; 0 reads no retain set.
        retain_loss: what keeps the rest: "nll", the training loss on the retain set, or "kl", closeness to the original
            there.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    beta: Positive = 4.5
    delta: Number = 0.0
    gamma: Positive = 0.125
    alpha: NonNegative = 1.0
    retain_loss: RetainLoss = "nll"

    paper: ClassVar[Paper] = Paper(
        "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning",
        "Fan, Liu, Lin, Jia, Zhang, Mei, Liu",
        "arXiv",
        2024,
        "2410.07163",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that finds the tokens to forget less likely.

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
            summed, tokens = task.log_probabilities(m, batch)
            return -2 / self.beta * F.logsigmoid(self.beta * (-summed / tokens - self.delta)).sum()

        return unlearned(self, model, data, Term(total, texts_of(task)), rng=rng, gamma=self.gamma)
