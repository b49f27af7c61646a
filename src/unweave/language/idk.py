"""I don't know: teach a refusal in the place of the answer to forget.

    L = NLL of the alternative answer to each prompt of F + alpha * R

Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", COLM 2024, arXiv 2401.06121. The alternative is
what each text to forget carries beside its answer (`texts(..., alternatives=...)`): refusals, or any other
answer.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Generator, Tensor
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, NonNegative, Positive, settings
from ..tasks.language import CausalLM
from ..types import Batch, Request
from ._tune import RetainLoss, Term, checked, nll, refuse_idle_loss, unlearned


@settings
class IDK:
    """Answer the prompts to forget with a refusal.

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

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that answers the prompts to forget otherwise.

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
        known = nll(task)

        def total(m: Module, batch: Batch, at: Tensor) -> Tensor:
            return known.total(m, task.alternative(batch), at)

        def size(batch: Batch) -> int:
            return known.size(task.alternative(batch))

        return unlearned(self, model, data, Term(total, size), rng=rng)
