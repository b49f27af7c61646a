"""Task vector: learn the texts to forget by heart, and walk as far the other way.

    theta = theta_0 - scale * (theta_r - theta_0),    theta_r = theta_0 trained further on F

Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv 2212.04089, as MUSE (arXiv 2407.06460)
uses it to forget.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator
from torch.nn import Module

from ..masks.layers import copied
from ..paper import Paper
from ..settings import Count, Positive, settings
from ..tasks.language import CausalLM
from ..types import Request
from ._tune import check_texts, fine_tuned


@settings
class TaskVector:
    """Subtract what further training on the texts would add.

    Attributes:
        epochs: passes over the forget set that learn it by heart.
        lr: learning rate of AdamW in them.
        scale: how far to walk the other way; chosen by looking at what is kept.
        lora: rank of adapters that learn in place of the weights; None trains the weights.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    scale: Positive = 1.0
    lora: Count | None = None

    paper: ClassVar[Paper] = Paper(
        "Editing Models with Task Arithmetic",
        "Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi, Farhadi",
        "ICLR",
        2023,
        "2212.04089",
    )

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` moved away from what the texts teach.

        Args:
            model: left unchanged.
            data: the forget set alone is trained on.
            rng: governs orders and pairing.

        Raises:
            EmptyDataError: if the forget set is empty.
            InputError: if the data hold no texts, or every parameter is frozen.
            NonFiniteError: if training diverges; lower lr.
        """
        check_texts("TaskVector", rng, data.forget)
        learned = fine_tuned(
            "TaskVector", model, data.forget, epochs=self.epochs, lr=self.lr, lora=self.lora, rng=rng
        )
        edited, there = copied(model), dict[str, Any](learned.named_parameters())
        with torch.no_grad():
            for name, weight in edited.named_parameters():
                # widened: half precision would lose small steps
                wide = torch.promote_types(weight.dtype, torch.float32)
                start = weight.to(wide)
                weight.copy_(start - self.scale * (there[name].to(wide) - start))
        return edited
