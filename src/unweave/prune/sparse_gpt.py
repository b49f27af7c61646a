"""SparseGPT: prune a trained layer at once and repair the weights that stay.

Frantar, Alistarh, "SparseGPT: Massive Language Models Can be Accurately Pruned in One-Shot", ICML 2023,
arXiv 2301.00774, algorithm 1: columns from left to right; what a removed weight did to the output is made good by the
columns to its right, through the Cholesky factor of the inverse Hessian.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.budgets import Sparsity
from ..masks.layers import copied
from ..masks.patterns import NM, Unstructured, refuse_own_sparsity
from ..masks.scope import Scope
from ..masks.select import lowest
from ..paper import Paper
from ..random import require_generator
from ..settings import Count, Positive, settings
from ..types import Data
from ._layerwise import walk


@settings
class SparseGPT:
    """Prune layer by layer against the outputs of the layers before, already pruned, and repair what stays.

    Weights that are zero already stay zero and count towards the sparsity; padding of texts does not count. The factor
    U of H^-1 = U^T U comes from one Cholesky of H with its rows and columns reversed and a triangular inverse, where
    the paper takes a Cholesky, an inverse and another Cholesky: the same numbers for half the work.

    Attributes:
        sparsity: share of each layer's weights to remove; N:M patterns set their own.
        pattern: single weights, or N:M; layers whose inputs its m does not divide stay dense.
        examples: calibration examples, evenly spaced through the data (the paper: 128 sequences of 2,048 tokens).
        damping: share of the Hessian's mean diagonal added to its diagonal.
        block: columns whose weights are chosen together.
        scope: which layers; in a transformer, those inside its blocks.
        refit: after the paper's pass, fit all weights that stay to the layer's dense outputs again, by least squares on
            the mask that it chose. A column that went could be made good only by those to its right; here every one
            answers. The damped error of the layer never rises; it takes some products with the Hessian more.
    """

    sparsity: Sparsity = 0.5
    pattern: Unstructured | NM = Unstructured()
    examples: Count = 128
    damping: Positive = 0.01
    block: Count = 128
    scope: Scope = Scope()
    refit: bool = False

    paper: ClassVar[Paper] = Paper(
        "SparseGPT: Massive Language Models Can be Accurately Pruned in One-Shot", "Frantar, Alistarh", "ICML", 2023,
        "2301.00774",
    )  # fmt: skip

    def __post_init__(self) -> None:
        refuse_own_sparsity(self, "sparsity", self.sparsity)
        if isinstance(self.pattern, NM) and self.block % self.pattern.m:
            raise InputError(
                f"SparseGPT.block must be a multiple of {self.pattern.m}, the group; got {self.block}."
            )

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A pruned and repaired copy of `model`.

        Raises:
            EmptyDataError: if there is no example.
            InputError: if a layer is never called, N:M fits none, or a Hessian cannot be factorised.
        """
        require_generator(rng)
        copy = copied(model)

        @torch.no_grad()
        def visit(name: str, layer: Module, weight: Tensor, gram: Tensor) -> None:
            matrix = _matrix(weight, self.pattern)
            gram = _arranged(gram, weight, self.pattern)
            weight.copy_(_restored(repair(name, matrix, gram, self), weight, self.pattern))

        walk("SparseGPT", copy, data, self.examples, self.scope, self.pattern, visit)
        return copy


@torch.no_grad()
def repair(name: str, weight: Tensor, gram: Tensor, how: SparseGPT) -> Tensor:
    """The pruned and repaired weight.

    Args:
        name: of the layer, for errors.
        weight: [out, in].
        gram: sum of x x^T over the layer's inputs, [in, in].
        how: sparsity, pattern, damping, block, and whether to refit.
    """
    # inputs in rows: what a column is to the paper lies together in memory
    work = weight.to(gram.dtype).T.contiguous()
    given = work == 0
    factor, unused = _factor(name, gram, how.damping)
    work[unused] = 0
    inputs = len(work)
    for low in range(0, inputs, how.block):
        high = min(low + how.block, inputs)
        part, here, dead = work[low:high], factor[low:high, low:high], given[low:high]
        errors = torch.empty_like(part)
        scale = here.diagonal()[:, None]
        kept = torch.empty_like(dead)
        if not isinstance(how.pattern, NM):
            worth = (part / scale).square_().masked_fill_(dead, -1.0)
            count = max(int(round(how.sparsity * worth.numel())), int(dead.sum()))
            kept = ~lowest(worth, torch.ones_like(dead), count)
        for i in range(high - low):
            if isinstance(how.pattern, NM) and i % how.pattern.m == 0:
                group = slice(i, i + how.pattern.m)
                worth = (part[group] / scale[group]).square_().masked_fill_(dead[group], -1.0)
                best = worth.topk(how.pattern.n, dim=0).indices
                kept[group] = torch.zeros_like(dead[group]).scatter_(0, best, True) & ~dead[group]
            left = part[i] * kept[i]
            torch.sub(part[i], left, out=errors[i]).div_(scale[i])
            part[i + 1 :].addr_(here[i, i + 1 :], errors[i], alpha=-1)
            part[i] = left
        work[high:].addmm_(factor[low:high, high:].T, errors, alpha=-1)
    work.masked_fill_(given, 0)
    if how.refit:
        dense = weight.to(gram.dtype).T.masked_fill(unused[:, None], 0)
        work = refitted(work, dense, _damped(gram, how.damping)[0])
    return work.T.to(weight.dtype)


def refitted(
    start: Tensor, dense: Tensor, hessian: Tensor, steps: int = 200, tolerance: float = 1e-6
) -> Tensor:
    """Weights on the support of `start` whose outputs are nearest to those of `dense`: least squares, column by column.

    Conjugate gradients from `start`, preconditioned by the Hessian's diagonal, all outputs at once: each step is one
    product with the Hessian, where a factorisation would be one for every output's own support.

    Args:
        start: [in, out]; its zeros stay.
        dense: weights to come near to, [in, out].
        hessian: damped, [in, in].
        steps: at most.
        tolerance: of the residual's norm, relative to that of `hessian @ dense`; reached for every output, it ends.
    """
    alive, found = start != 0, start.clone()
    inverse = 1 / hessian.diagonal()[:, None]
    residual = (hessian @ (dense - found)) * alive
    enough = tolerance * (hessian @ dense).norm(dim=0)
    direction = inverse * residual
    before = (residual * direction).sum(0)
    for _ in range(steps):
        if bool((residual.norm(dim=0) <= enough).all()):
            break
        moved = (hessian @ direction) * alive
        length = before / (direction * moved).sum(0).clamp(min=torch.finfo(before.dtype).tiny)
        found += length * direction
        residual -= length * moved
        ahead = inverse * residual
        after = (residual * ahead).sum(0)
        direction = ahead + after / before.clamp(min=torch.finfo(before.dtype).tiny) * direction
        before = after
    return found


def _damped(gram: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The Hessian with `damping` times its mean diagonal on the diagonal; and which inputs are always zero."""
    hessian = gram.clone()
    diagonal = hessian.diagonal()
    unused = diagonal == 0
    diagonal[unused] = 1
    diagonal += damping * diagonal.mean()
    return hessian, unused


def _factor(name: str, gram: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Upper triangular U with U^T U the inverse of the damped Hessian; and which inputs are always zero."""
    hessian, unused = _damped(gram, damping)
    # H = R R^T with R upper triangular is the Cholesky of H reversed; then H^-1 = R^-T R^-1
    lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    if int(failed):
        raise InputError(
            f"SparseGPT: the Hessian of {name} cannot be factorised. Raise damping, or give more examples."
        )
    return _inverse_(lower).flip(0, 1).contiguous(), unused


def _inverse_(lower: Tensor) -> Tensor:
    """Inverse of a lower triangular matrix, in its place: by halves, so that most of the work is matrix products."""
    n = len(lower)
    if n <= 256:
        identity = torch.eye(n, dtype=lower.dtype, device=lower.device)
        return lower.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
    half = n // 2
    first, corner, last = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    _inverse_(first)
    _inverse_(last)
    corner.copy_(last @ (corner @ first)).neg_()
    return lower


def _matrix(weight: Tensor, pattern: Unstructured | NM) -> Tensor:
    """[out, in * h * w]; for N:M the inputs run fastest, so that groups are neighbours in the input dimension."""
    if weight.ndim == 2:
        return weight.detach()
    return (weight.detach().movedim(1, -1) if isinstance(pattern, NM) else weight.detach()).flatten(1)


def _restored(matrix: Tensor, weight: Tensor, pattern: Unstructured | NM) -> Tensor:
    if weight.ndim == 2:
        return matrix
    if isinstance(pattern, NM):
        out, inputs, *kernel = weight.shape
        return matrix.view(out, *kernel, inputs).movedim(-1, 1)
    return matrix.view_as(weight)


def _arranged(gram: Tensor, weight: Tensor, pattern: Unstructured | NM) -> Tensor:
    """The gram matrix in the order of `_matrix`'s columns."""
    if weight.ndim == 2 or not isinstance(pattern, NM):
        return gram
    order = torch.arange(len(gram), device=gram.device).view(weight.shape[1:]).movedim(0, -1).flatten()
    return gram[order][:, order]
