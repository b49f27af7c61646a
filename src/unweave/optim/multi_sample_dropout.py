"""Multi-sample dropout: several dropout masks a step, for the layers after the dropout alone.

Inoue, "Multi-Sample Dropout for Accelerated Training and Better Generalization", 2019, arXiv 1905.09788, section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import RUNNING_NORMS
from ..paper import Paper
from ..settings import Count, Range, checked


class MultiSampleDropout(Module):
    """A head behind M dropout masks: M answers in train mode, the plain head's in eval mode.

    The paper averages losses, `loss`. Its gradient is the mean over M independent masks of ordinary dropout's, so it
    lowers the noise of the gradient and changes nothing else. The paper's further diversity of copies (flips before
    pooling) is left out.

    Args:
        head: the layers after the dropout, [n, ...] -> [n, classes]; without batch normalisation.
        p: share of the features zeroed.
        samples: M; the paper uses 8.

    Raises:
        InputError: if a setting is out of its range, or the head holds batch normalisation, whose statistics M
            correlated copies would spoil.

    Example:
        >>> import torch
        >>> head = MultiSampleDropout(torch.nn.Linear(6, 3), p=0.7, samples=8)
        >>> head(torch.ones(5, 6)).shape, head.eval()(torch.ones(5, 6)).shape
        (torch.Size([8, 5, 3]), torch.Size([5, 3]))
    """

    paper: ClassVar[Paper] = Paper(
        "Multi-Sample Dropout for Accelerated Training and Better Generalization",
        "Inoue",
        "arXiv",
        2019,
        "1905.09788",
    )

    @checked
    def __init__(
        self,
        head: Module,
        *,
        p: Annotated[float, Range(at_least=0, below=1, why="It is the share of features zeroed.")] = 0.5,
        samples: Count = 8,
    ) -> None:
        super().__init__()
        if any(isinstance(m, RUNNING_NORMS) for m in head.modules()):
            raise InputError(
                "MultiSampleDropout: the head holds batch normalisation, whose statistics would come from correlated "
                "copies. Put it before the dropout."
            )
        if p == 0 and samples > 1:
            warnings.warn(
                "MultiSampleDropout with p = 0: all copies are alike; samples = 1 does the same.",
                stacklevel=3,
            )
        self.head, self.p, self.samples = head, p, samples

    def forward(self, features: Tensor) -> Tensor:
        """[M, n, classes] in train mode, [n, classes] in eval mode, of features [n, ...]."""
        if not self.training:
            out: Tensor = self.head(features)
            return out
        copies = features.unsqueeze(0).expand(self.samples, *features.shape)
        dropped = F.dropout(copies, self.p, training=True)  # a mask for each copy of each example
        answers: Tensor = self.head(dropped.flatten(0, 1))
        return answers.view(self.samples, len(features), *answers.shape[1:])

    @checked
    def loss(
        self,
        features: Tensor,
        labels: Tensor,
        criterion: Callable[..., Tensor] = F.cross_entropy,
        *,
        average: Literal["loss", "logits"] = "loss",
    ) -> Tensor:
        """Loss of each example, [n]: the mean over the copies of their losses.

        Args:
            features: [n, ...].
            labels: [n].
            criterion: (logits, labels, reduction="none") -> [n].
            average: "loss" (the paper), or "logits", the loss of the mean answer: a common variant with another aim,
                and by Jensen's inequality a lower value.
        """
        answers = self(features)
        if answers.ndim == 2 or not self.training:
            return criterion(answers, labels, reduction="none")
        if average == "logits":
            return criterion(answers.mean(0), labels, reduction="none")
        each = criterion(answers.flatten(0, 1), labels.repeat(self.samples), reduction="none")
        return each.view(self.samples, -1).mean(0)
