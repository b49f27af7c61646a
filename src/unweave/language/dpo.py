"""Direct preference: prefer another answer to the one to forget, by log-ratios to the model before.

    L = - 2 / beta * mean over texts of log sigmoid(beta * [(lp - lp_0)(alternative) - (lp - lp_0)(answer)]) + alpha * R

with lp the SUM of an answer's log-probabilities and lp_0 that of the original. Rafailov et al., "Direct
Preference Optimization", NeurIPS 2023, arXiv 2305.18290, as TOFU (Maini et al., arXiv 2401.06121) uses it to
forget. lp_0 is read once before the first step and kept, two numbers a text.
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
class DPO:
    """Prefer an alternative answer to the one to forget.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        beta: how sharply answers are told apart, a nat of log-ratio.
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
        "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        "Rafailov, Sharma, Mitchell, Ermon, Manning, Finn",
        "NeurIPS",
        2023,
        "2305.18290",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that prefers the alternatives.

        Args:
            model: left unchanged.
            data: forget set with alternatives and, with alpha above 0, retain set are trained on.
            rng: governs orders and pairing.

        Raises:
            EmptyDataError: if the forget set is empty, or the retain set with alpha above 0.
            InputError: if the data hold no texts, or every parameter is frozen.
                Also if a text to forget has no alternative.
            NonFiniteError: if training diverges; lower lr.
        """
        task = checked(self, data, rng)
        known, other = before(model, data.forget), before(model, data.forget, alternative=True)

        def total(m: Module, batch: Batch, at: Tensor) -> Tensor:
            answer, _ = task.log_probabilities(m, batch)
            instead, _ = task.log_probabilities(m, task.alternative(batch))
            return preference(instead - other[at].to(instead), answer - known[at].to(answer), self.beta)

        return unlearned(self, model, data, Term(total, texts_of(task)), rng=rng)


def preference(wanted: Tensor, unwanted: Tensor, beta: float) -> Tensor:
    """- 2 / beta * the sum of log sigmoid(beta * (wanted - unwanted)), of two log-ratios to the original, [n] each.

    Example:
        >>> import torch
        >>> preference(torch.zeros(1), torch.zeros(1), 2.0)  # ln 2
        tensor(0.6931)
    """
    return -2 / beta * F.logsigmoid(beta * (wanted - unwanted)).sum()
