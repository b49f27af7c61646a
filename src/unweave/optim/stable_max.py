"""StableMax: a softmax that does not saturate in floating point.

Prieto, Barsbey, Mediano, Birdal, "Grokking at the Edge of Numerical Stability", ICLR 2025, arXiv 2501.04697:
s(x) = x + 1 for x >= 0 and 1 / (1 - x) below; p_i = s(z_i) / sum_j s(z_j).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..paper import Paper
from ..settings import checked


def stable_max(logits: Tensor, dim: int = -1) -> Tensor:
    """Probabilities of the logits: positive, in the logits' order, with sum 1; float32 or wider."""
    return log_stable_max(logits, dim).exp()


def log_stable_max(logits: Tensor, dim: int = -1) -> Tensor:
    """Their logarithms."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # log s(x); clamped so that the branch not taken has a finite gradient, and the one taken its own at zero
    raised = torch.where(wide >= 0, wide.clamp(min=0).log1p(), -(-wide).clamp(min=0).log1p())
    return raised.log_softmax(dim)


class StableMaxCrossEntropy(Module):
    """Cross-entropy of StableMax's probabilities, in float64 as the authors compute it.

    Not for calibrated probabilities: the largest logit stays the largest, its probability is another.

    Args:
        reduction: "mean", "sum" or "none".
        dtype: in which it is computed.

    Raises:
        InputError: if a setting is none of these, or `forward` gets labels that are no class numbers.
    """

    paper: ClassVar[Paper] = Paper(
        "Grokking at the Edge of Numerical Stability",
        "Prieto, Barsbey, Mediano, Birdal",
        "ICLR",
        2025,
        "2501.04697",
    )

    @checked
    def __init__(
        self, *, reduction: Literal["mean", "sum", "none"] = "mean", dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        if not dtype.is_floating_point:
            raise InputError(f"StableMaxCrossEntropy.dtype must be a floating type; got {dtype}.")
        self.reduction, self.dtype = reduction, dtype

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits [n, classes] and labels [n]."""
        if labels.is_floating_point() or labels.shape != logits.shape[:1]:
            raise InputError(
                "StableMaxCrossEntropy takes logits [n, classes] and integer labels [n]; got "
                f"{tuple(logits.shape)} and {labels.dtype} {tuple(labels.shape)}."
            )
        told = log_stable_max(logits.to(self.dtype), 1)
        each = -told.gather(1, labels.long()[:, None])[:, 0]
        return each if self.reduction == "none" else each.mean() if self.reduction == "mean" else each.sum()


def softmax_collapse_rate(logits: Tensor) -> float:
    """Share of examples whose softmax has collapsed: in this dtype sum_k exp(z_k - max z) is exactly 1.

    Such an example has no gradient, though its loss need not be at its minimum.

    Args:
        logits: [n, classes], in the dtype that training uses.
    """
    shifted = logits - logits.max(1, keepdim=True).values
    return float((shifted.exp().sum(1) == 1).double().mean())
