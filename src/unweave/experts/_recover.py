"""Training on after experts were condensed, pruned or merged: which weights move, and towards what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Linear, Module, Parameter
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError
from ..fit import Loop, fit_
from ..fit.passes import modes_kept
from ..masks.mask import Mask
from ..models.moe import Condensed, Dense, experts_in
from ..types import Batch, Data

Recovery = Literal["none", "lm", "lora", "distil"]
"""No training; language modelling; the same on a low-rank change of the weights; the original's predictions."""
Place = tuple[Module, str]
"""A module and the name of one of its own parameters."""
RANK, ALPHA = 8, 16.0


def expert_places(model: Module) -> list[Place]:
    """Matrices of every expert that is left: of condensed layers if there are any, else of all mixtures of experts."""
    condensed = [m for m in model.modules() if isinstance(m, Condensed)]
    dense = [m for c in condensed for m in c.modules() if isinstance(m, Dense)]
    if dense:
        return [(layer, "weight") for d in dense for layer in (d.gate_proj, d.up_proj, d.down_proj)]
    return [
        (m, n) for m in model.modules() for n, p in m.named_parameters(recurse=False) if p.ndim == 3 and experts_in(m)
    ]  # fmt: skip


def matrix_places(model: Module) -> list[Place]:
    """Every matrix of a linear layer or of stacked experts."""
    linear = [(m, "weight") for m in model.modules() if isinstance(m, Linear)]
    return linear + [
        (m, n) for m in model.modules() for n, p in m.named_parameters(recurse=False) if p.ndim == 3
    ]


def recover_(
    edited: Module, original: Module, data: Data[Any], places: Sequence[Place], *, by: Recovery, epochs: int = 1,
    lr: float = 1e-5, warm: float = 0.03, floor: float = 0.5, decay: float = 0.01, rng: Generator,
) -> None:  # fmt: skip
    """Train some weights of `edited` in place with AdamW; all else stays.

    Args:
        edited: changed.
        original: whose predictions "distil" asks for.
        data: texts.
        places: the weights that move; "lora" moves a low-rank change of them (rank 8, scaled by 16 / 8), which is added
            to the weights in the end.
        by: see `Recovery`.
        epochs: passes over the texts.
        lr: peak rate.
        warm: share of the steps in which the rate rises.
        floor: share of the peak that it falls to, linearly.
        decay: of AdamW.
        rng: for the order of the texts and the first factors.

    Raises:
        InputError: if no weight would move.
    """
    if not places:
        raise InputError("nothing is left to tune: the model holds no expert any more. Leave recover out.")
    steps = epochs * data.steps
    rise = max(1, round(warm * steps)) if warm else 0

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return floor + (1 - floor) * max(0.0, (steps - step) / max(1, steps - rise))

    def objective(m: Module, batch: Batch) -> Tensor:
        if by == "distil":
            return distance(original, m, data.task, batch)
        loss: Tensor = data.task.losses(m, batch).mean()
        return loss

    hold = Mask.of(edited)
    with modes_kept(original), _moving(places, by, rng) as weights:
        original.eval()
        optimizer = AdamW(weights, lr=lr, weight_decay=decay)
        loop = Loop(schedule=LambdaLR(optimizer, factor), label="recover")
        held = None if by == "lora" else hold
        fit_(edited, data, objective, optimizer, epochs=epochs, rng=rng, hold=held, loop=loop)
    if by == "lora":
        hold.apply_(edited)  # a low-rank change is dense: what was pruned is pruned again


def distance(original: Module, model: Module, task: Any, batch: Batch) -> Tensor:
    """KL divergence of a model's predictions from the original's, the mean over the tokens that count, in nats."""
    with torch.no_grad():
        told = task.outputs(original, batch).log_softmax(-1)
    mine = task.outputs(model, batch).log_softmax(-1)
    each = F.kl_div(mine, told, log_target=True, reduction="none").sum(-1)[:, :-1]
    return each[task.counted(batch).to(each.device)].mean()


@contextmanager
def _moving(places: Sequence[Place], by: Recovery, rng: Generator) -> Iterator[list[Tensor]]:
    if by != "lora":
        yield [getattr(module, name) for module, name in places]
        return
    changes = [LowRank(getattr(module, name), rng) for module, name in places]
    for (module, name), change in zip(places, changes, strict=True):
        register_parametrization(module, name, change)
    try:
        yield [p for change in changes for p in change.parameters()]
    finally:
        for module, name in places:
            remove_parametrizations(module, name, leave_parametrized=True)


class LowRank(Module):
    """W + (alpha / rank) B A, for a matrix or for each of a stack of them (Hu et al., 2022, arXiv 2106.09685).

    Args:
        weight: [..., out, in]; only its shape, dtype and device count.
        rng: for A; B begins at zero.
    """

    def __init__(self, weight: Tensor, rng: Generator) -> None:
        super().__init__()
        *stack, rows, columns = weight.shape
        rank = min(RANK, rows, columns)
        drawn = torch.randn(*stack, rank, columns, generator=rng) / columns**0.5
        self.a = Parameter(drawn.to(weight.device, weight.dtype))
        self.b = Parameter(weight.new_zeros(*stack, rows, rank))
        self.scale = ALPHA / rank

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + self.scale * (self.b @ self.a)
