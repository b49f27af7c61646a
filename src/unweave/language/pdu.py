"""PDU: flatten the logits of the texts to forget, at a price on the retain loss that rises while it is too high.

    min over theta  max over lambda >= 0:   mean over F's tokens of (z_k - mean z)^2 + lambda * (NLL_R - bound)

with z the logits of a token, z_k that of the true one or the largest one, and bound the original's own loss on
the retain set plus `slack`. Entesari et al., "Constrained Entropic Unlearning: A Primal-Dual Framework for
Large Language Models", NeurIPS 2025, arXiv 2506.05314. After each epoch lambda moves by `dual_lr` times the
excess of the retain set's mean loss a token, and not below 0. Ours: when lambda moves, and the bound relative
to the original.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..fit import Step
from ..masks.layers import free
from ..paper import Paper
from ..settings import Count, NonNegative, Positive, settings
from ..tasks import evaluating
from ..tasks.language import CausalLM
from ..types import Batch, Data, Request
from ._tune import Term, check_texts, logits_of, nll, tokens_of, tuned


@settings
class PDU:
    """Flatten logits under a bound on the loss of the rest.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        flatten: the logit that is brought to the mean: that of the "true" token, or the "largest".
        alpha: lambda at the beginning.
        dual_lr: by how much lambda moves, a nat of excess and epoch.
        slack: nats a token by which the retain set's loss may exceed the original's.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    flatten: Literal["true", "largest"] = "true"
    alpha: NonNegative = 1.0
    dual_lr: Positive = 1.0
    slack: NonNegative = 0.1

    paper: ClassVar[Paper] = Paper(
        "Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models",
        "Entesari, Hatami, Khaziev, Ramakrishna, Fazlyab",
        "NeurIPS",
        2025,
        "2506.05314",
    )

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that is undecided on the texts to forget.

        Args:
            model: left unchanged.
            data: forget and retain set are trained on.
            rng: governs orders and pairing.

        Raises:
            EmptyDataError: if the forget set is empty, or the retain set with alpha above 0.
            InputError: if the data hold no texts, or every parameter is frozen.
            NonFiniteError: if training diverges; lower lr.
        """
        check_texts("PDU", rng, data.forget, data.retain)
        task = data.forget.task
        bound = mean_loss(model, data.retain) + self.slack

        def total(m: Module, batch: Batch, _: Tensor) -> Tensor:
            return off_mean(*logits_of(task, m, batch, task.counted(batch)), self.flatten).sum()

        def priced(student: Module) -> list[Parameter]:
            student.register_buffer(_PRICE, torch.tensor(self.alpha))  # a buffer, so that it survives a kill
            return free("PDU", student)

        def raise_price(step: Step) -> None:
            if step.last_of_epoch:
                price: Any = getattr(step.model, _PRICE)
                price.copy_(raised(float(price), mean_loss(step.model, data.retain) - bound, self.dual_lr))

        edited = tuned(
            "PDU", self, model, data, Term(total, tokens_of(task)), rng=rng, keep=nll(task),
            alpha=lambda m: float(getattr(m, _PRICE)), train=priced, after_step=raise_price,
        )  # fmt: skip
        if hasattr(edited, _PRICE):
            delattr(edited, _PRICE)
        return edited


def raised(price: float, excess: float, lr: float) -> float:
    """The price after a dual step: price + lr * excess, not below 0.

    Example:
        >>> raised(1.0, 0.5, 2.0), raised(1.0, -3.0, 2.0)
        (2.0, 0.0)
    """
    return max(0.0, price + lr * excess)


def off_mean(logits: Tensor, truth: Tensor, which: Literal["true", "largest"]) -> Tensor:
    """Square of how far a logit lies from the mean one, of logits [n, v] and true ids [n], [n]."""
    own = logits.gather(1, truth[:, None])[:, 0] if which == "true" else logits.max(1).values
    return (own - logits.mean(1)).square()


def mean_loss(model: Module, data: Data[Any]) -> float:
    """Mean loss a token, in nats."""
    summed, tokens = 0.0, 0
    with evaluating(model):
        for batch in data.batches():
            each, n = data.task.log_probabilities(model, batch)
            summed, tokens = summed - float(each.double().sum()), tokens + int(n.sum())
    return summed / tokens


_PRICE = "price_of_retain_loss"
