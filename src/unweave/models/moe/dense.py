"""What a mixture of experts becomes when it is condensed: dense layers that every token passes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from ...errors import InputError
from .blocks import MoE
from .matrices import Matrices, stacked


class Dense(Module):
    """A gated feed-forward of F inner units; each may have a factor of its own.

    Args:
        matrices: its weights, copied.
        scale: factors of the inner units [F], or None: on what `down` reads, or where `scales_input`, on gate and up.
        scales_input: see `scale`.
    """

    def __init__(
        self, matrices: Matrices, scale: Tensor | None = None, *, scales_input: bool = False
    ) -> None:
        super().__init__()
        self.gate_proj = _linear(matrices.gate, matrices.gate_bias)
        self.up_proj = _linear(matrices.up, matrices.up_bias)
        self.down_proj = _linear(matrices.down, matrices.down_bias)
        self.unit = deepcopy(matrices.unit)
        self.scales_input = scales_input
        self.scale: Tensor | None
        self.register_buffer(
            "scale", None if scale is None else scale.to(matrices.down), persistent=scale is not None
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        gate, up = self.gate_proj(hidden), self.up_proj(hidden)
        if self.scale is not None and self.scales_input:
            gate, up = gate * self.scale, up * self.scale
        inner = self.unit(gate, up)
        if self.scale is not None and not self.scales_input:
            inner = inner * self.scale
        out: Tensor = self.down_proj(inner)
        return out

    @torch.no_grad()
    def fold_(self) -> None:
        """Multiply the factors into the weights."""
        if self.scale is None:
            return
        if self.scales_input:
            for layer in (self.gate_proj, self.up_proj):
                layer.weight.mul_(self.scale[:, None])
        else:
            self.down_proj.weight.mul_(self.scale)
        self.register_buffer("scale", None, persistent=False)


class Condensed(Module):
    """A condensed mixture of experts: y(x) = Sh(x) + sum over kept e of alpha_e E_e(x), for every token.

    Where the shared expert has no gate it is a part of the same feed-forward, of F_shared + k F inner units; a gate
    depends on the token, so such a shared expert stays beside it.

    Args:
        routed: the kept experts (and the shared one, where it has no gate), or None.
        shared: the shared expert where it has a gate, or None.
        shared_gate: its gate.
        kept: indices of the kept experts in the original block.
        alpha: their weights.
        of: experts that the original block had.
        pair: whether the block answers with a pair whose first is its output.
    """

    def __init__(
        self, routed: Dense | None, shared: Dense | None, shared_gate: Linear | None, *,
        kept: Sequence[int], alpha: Sequence[float], of: int, pair: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.routed, self.shared, self.shared_gate = routed, shared, shared_gate
        self.kept, self.alpha, self.of, self.pair = tuple(kept), tuple(alpha), of, pair

    def forward(self, hidden_states: Tensor) -> Any:
        """[..., H] -> [..., H], or a pair of that and None."""
        y = torch.zeros_like(hidden_states) if self.routed is None else self.routed(hidden_states)
        if self.shared is not None:
            s = self.shared(hidden_states)
            y = y + (s if self.shared_gate is None else torch.sigmoid(self.shared_gate(hidden_states)) * s)
        return (y, None) if self.pair else y

    def fold_(self) -> None:
        """Multiply alpha into the weights; the module then is plain linear layers."""
        if self.routed is not None:
            self.routed.fold_()

    @classmethod
    def of_block(cls, moe: MoE, kept: Sequence[int], alpha: Tensor) -> Condensed:
        """Condense a block.

        Args:
            moe: the block; left unchanged, nothing is shared with it.
            kept: experts to keep.
            alpha: their weights [k].

        Raises:
            InputError: if nothing would be left of it, or its shared expert is no gated feed-forward.
        """
        if not kept and moe.shared is None:
            raise InputError(
                f"{moe.name} has no shared expert, so nothing is left of it without routed ones. Keep some (k >= 1)."
            )
        if moe.shared is not None and moe.shared_matrices is None:
            raise InputError(
                f"the shared expert of {moe.name} is no gated feed-forward, so it cannot be folded."
            )
        parts = [moe.expert(e) for e in kept]
        scales = [w.expand(len(p.gate)) for w, p in zip(alpha, parts, strict=True)]
        weighed = [_weighed_bias(p, w) for p, w in zip(parts, alpha, strict=True)]
        alone = None
        if moe.shared_matrices is not None and moe.shared_gate is None:
            ones = torch.ones(len(moe.shared_matrices.gate)).to(alpha)
            weighed, scales = [moe.shared_matrices, *weighed], [ones, *scales]
        elif moe.shared_matrices is not None:
            alone = Dense(moe.shared_matrices)
        routed = None
        if weighed:
            needed = torch.cat(scales) if len(kept) else None
            routed = Dense(stacked(weighed), needed, scales_input=moe.scales_input)
        return cls(
            routed, alone, deepcopy(moe.shared_gate), kept=kept, alpha=alpha.tolist(), of=moe.count, pair=moe.pair
        )  # fmt: skip


class Trimmed(Module):
    """What is left of a module that was taken out: a block adds nothing, a whole layer hands on what it reads.

    Args:
        whole: whether it stands for a decoder layer.
        pair: whether the block answered with a pair.
    """

    def __init__(self, *, whole: bool, pair: bool = False) -> None:
        super().__init__()
        self.whole, self.pair = whole, pair

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        """Zeros of the input's shape, or the input."""
        if self.whole:
            return hidden_states
        y = torch.zeros_like(hidden_states)
        return (y, None) if self.pair else y


def swap_(model: Module, name: str, new: Module) -> Module:
    """Put another module at a path, in the mode of the old one; returns the old one."""
    path, _, leaf = name.rpartition(".")
    parent, old = model.get_submodule(path), model.get_submodule(name)
    setattr(parent, leaf, new.train(old.training))
    return old


def _linear(weight: Tensor, bias: Tensor | None) -> Linear:
    rows, columns = weight.shape
    made = Linear(columns, rows, bias=bias is not None, device="meta", dtype=weight.dtype)
    made.weight = Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        made.bias = Parameter(bias.detach().clone())
    return made


def _weighed_bias(part: Matrices, weight: Tensor) -> Matrices:
    return part if part.down_bias is None else replace(part, down_bias=part.down_bias.detach() * weight)
