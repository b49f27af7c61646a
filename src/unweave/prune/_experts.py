"""Fused experts in a walk through a model: each expert's matrices with what that expert reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import experts_of
from ..models.moe import MoE, Routed, moe_layers, watching


@dataclass(frozen=True)
class Stack:
    """A parameter of fused experts.

    Attributes:
        moe: the mixture that it belongs to.
        part: "in", gate and up, which read the tokens; "down" reads what these make.
    """

    moe: MoE
    part: Literal["in", "down"]

    def matrices(self, e: int) -> dict[str, Tensor]:
        """The matrices [out, in] of an expert, views of the parameter."""
        own = self.moe.expert(e)
        found = {"gate": own.gate, "up": own.up} if self.part == "in" else {"down": own.down}
        return {name: matrix.detach() for name, matrix in found.items()}

    @property
    def shape(self) -> torch.Size:
        """Of one matrix."""
        return next(iter(self.matrices(0).values())).shape


def stacks_of(who: str, model: Module) -> dict[str, Stack]:
    """Parameter -> its place in a mixture of experts; none where a model has no experts that can be read."""
    if not any(experts_of(module) for module in model.modules()):
        return {}
    try:
        moes = moe_layers(model, who)
    except InputError:  # of another kind: they stay dense, and the scope says so
        return {}
    names = {id(module): name for name, module in model.named_modules()}
    found = {}
    for moe in moes:
        inside = f"{names[id(moe.experts)]}."
        found[inside + moe.layout.gate_up] = Stack(moe, "in")
        found[inside + moe.layout.down] = Stack(moe, "down")
    return found


@contextmanager
def gathering(
    stacks: dict[str, Stack], present: Tensor | None, grams: dict[str, list[Tensor | None]]
) -> Iterator[None]:
    """Add to the grams what each expert reads in the block at positions that are `present`; None of one not asked."""
    moes: Sequence[MoE] = list({id(s.moe): s.moe for s in stacks.values()}.values())

    def see(moe: MoE, routed: Routed) -> None:
        here = {name: stack for name, stack in stacks.items() if stack.moe is moe}
        for e in range(moe.count):
            tokens, weights = routed.of(e)
            if not len(tokens):
                continue
            rows = routed.hidden[tokens]
            rows = rows * weights[:, None].to(rows.dtype) if moe.scales_input else rows
            for name, stack in here.items():
                kept = grams.setdefault(name, [None] * moe.count)
                read = rows if stack.part == "in" else moe.expert(e).inner(rows)
                wide = read.detach().to(torch.promote_types(read.dtype, torch.float32))
                gram, before = wide.T @ wide, kept[e]
                kept[e] = gram if before is None else before + gram

    if not moes:
        yield
        return
    with watching(moes, see, present):
        yield


def each(name: str, stack: Stack, grams: list[Tensor | None]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, matrix, gram) of every expert; one that no token reached is judged by its weights alone, which is told."""
    unseen = [e for e, gram in enumerate(grams) if gram is None]
    if unseen:
        warnings.warn(
            f"{name}: no calibration token reached experts {', '.join(map(str, unseen[:8]))}"
            f"{' and more' if len(unseen) > 8 else ''}; their weights are judged by size alone. Give more examples.",
            UserWarning, stacklevel=4,
        )  # fmt: skip
    for e, gram in enumerate(grams):
        for part, matrix in stack.matrices(e).items():
            seen = gram
            if seen is None:
                dtype = torch.promote_types(matrix.dtype, torch.float32)
                seen = torch.eye(matrix.shape[1], dtype=dtype, device=matrix.device)
            yield f"{name}[{e}].{part}", matrix, seen
