"""RMU: steer what a block puts out on the texts to forget to a random direction, and hold it on the others.

    L = mean over F of || h(x) - c u ||^2 / width + alpha * mean over R of || h(x) - h_0(x) ||^2 / width, by token

with h the output of block `layer`, h_0 that of the original, u one vector of uniform(0, 1) numbers, brought to
length 1, and c = `coefficient`, or with `adaptive` `coefficient` times the length of h_0(x). Li et al., "The
WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning", ICML 2024, arXiv 2403.03218, in the
settings of OpenUnlearning; adaptive after Huu-Tien et al., arXiv 2408.06223. The tokens are those whose labels
count.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from ..errors import InputError
from ..models.blocks import after_block, blocks_of
from ..paper import Paper
from ..random import child
from ..settings import Count, NonNegative, Positive, Whole, settings
from ..tasks import evaluating
from ..tasks.language import IGNORED, CausalLM
from ..types import Batch, Request
from ._tune import Term, check_texts, tuned


@settings
class RMU:
    """Scramble what a block represents of the texts to forget.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        layer: block whose output is steered, from 0.
        coefficient: c, length that the output is steered to; with `adaptive` a multiple of its own length.
        adaptive: whether c follows the length of the original's output, token by token.
        window: blocks up to `layer` whose weights are trained; None trains all weights, as far as they matter.
        alpha: weight of what holds the retain set; 0 reads none.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    layer: Whole = 7
    coefficient: Positive = 2.0
    adaptive: bool = False
    window: Count | None = None
    alpha: NonNegative = 1.0

    paper: ClassVar[Paper] = Paper(
        "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning",
        "Li, Pan, Gopal and others",
        "ICML",
        2024,
        "2403.03218",
    )

    def __post_init__(self) -> None:
        if self.window is not None and self.lora is not None:
            raise InputError(
                "RMU.window chooses whole blocks to train; with lora adapters are trained. Give one of them."
            )

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` whose block represents the texts to forget by noise.

        Args:
            model: left unchanged.
            data: forget and, with alpha above 0, retain set are trained on.
            rng: governs orders and pairing.

        Raises:
            EmptyDataError: if the forget set is empty, or the retain set with alpha above 0.
            InputError: if the data hold no texts, or every parameter is frozen.
                Also if the model has no such block.
            NonFiniteError: if training diverges; lower lr.
        """
        check_texts("RMU", rng, data.forget, *([data.retain] if self.alpha else []))
        task, blocks = data.forget.task, blocks_of(model, "RMU")
        if self.layer >= len(blocks):
            raise InputError(
                f"RMU.layer is {self.layer}, but the model has {len(blocks)} blocks, 0 to {len(blocks) - 1}. "
                "The published settings take 7 of 32: about a quarter from the input."
            )

        def seen(m: Module, batch: Batch) -> Tensor:
            out = after_block(blocks_of(m, "RMU")[self.layer], lambda: task.outputs(m, batch))
            return out[(task.labels(batch) != IGNORED).to(out.device)].to(
                torch.promote_types(out.dtype, torch.float32)
            )

        def held(batch: Batch) -> Tensor:
            with evaluating(model):
                return seen(model, batch)

        width = held(next(data.forget.batches())).shape[1]
        direction = torch.rand(width, generator=child(rng))
        direction /= direction.norm()

        def scramble(m: Module, batch: Batch, _: Tensor) -> Tensor:
            here = seen(m, batch)
            reach = self.coefficient * (held(batch).norm(dim=1, keepdim=True) if self.adaptive else 1.0)
            return (here - reach * direction.to(here)).square().mean(1).sum()

        def stay(m: Module, batch: Batch, _: Tensor) -> Tensor:
            return (seen(m, batch) - held(batch)).square().mean(1).sum()

        def size(batch: Batch) -> int:
            return int((task.labels(batch) != IGNORED).sum())

        def chosen(student: Module) -> list[Parameter]:
            upto = list(blocks_of(student, "RMU"))[: self.layer + 1][-(self.window or 1) :]
            return [p for block in upto for p in block.parameters() if p.requires_grad]

        return tuned(
            "RMU", self, model, data, Term(scramble, size), rng=rng, keep=Term(stay, size) if self.alpha else None,
            alpha=self.alpha, train=None if self.window is None else chosen,
        )  # fmt: skip
