"""Lists of tensors as one vector: its norm, inner products and moves, at once where torch can."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def norm(tensors: Iterable[Tensor], *, foreach: bool = True) -> float:
    """Euclidean norm of all tensors as one vector, in float32 or wider."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for t in tensors:
        kinds.setdefault((t.dtype, t.device), []).append(t)
    lengths = []
    for (dtype, _), alike in kinds.items():
        norms = (
            torch._foreach_norm(alike, 2, wide(dtype))
            if foreach
            else [torch.linalg.vector_norm(t, dtype=wide(dtype)) for t in alike]
        )
        lengths.append(float(torch.stack(list(norms)).norm()))
    return math.hypot(*lengths)


def dot(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """Inner product of two lists of tensors, each as one vector, in float32 or wider."""
    parts = [(x.to(wide(x.dtype)) * y).sum() for x, y in zip(a, b, strict=True)]
    return math.fsum(float(p) for p in parts)


def wide(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for all others: what sums are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def shift_(weights: list[Tensor], by: list[Tensor], scales: list[float], *, foreach: bool = True) -> None:
    """Add `scale * by` to each weight in place."""
    if foreach and len(set(scales)) == 1:
        torch._foreach_add_(weights, by, alpha=scales[0])
        return
    for weight, step, scale in zip(weights, by, scales, strict=True):
        weight.add_(step, alpha=scale)


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies in memory of their own."""
    return [t.detach().clone() for t in tensors]


def copy_(weights: list[Tensor], values: list[Tensor], *, foreach: bool = True) -> None:
    """Write values into weights of the same shapes."""
    if weights and foreach:
        torch._foreach_copy_(weights, values)
        return
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
