"""Linear systems of a curvature: conjugate gradients and WoodFisher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError, NonFiniteError

Product = Callable[[Tensor], Tensor]
"""v [d] -> A v [d]."""


def conjugate_gradients(
    product: Product,
    vector: Tensor,
    *,
    damping: float,
    steps: int,
    tolerance: float,
    limit: float | None = None,
) -> Tensor:
    """Solve (A + damping I) x = vector, symmetric positive definite (Hestenes and Stiefel, 1952).

    Args:
        product: v -> A v.
        vector: [d].
        damping: added to A's diagonal.
        steps: products at most.
        tolerance: residual norm to reach, as a share of the norm of `vector`.
        limit: residual norm to reach, instead of that share.

    Raises:
        InputError: if A + damping I is not positive definite, or the residual is not reached in `steps`.
        NonFiniteError: if a product is not finite.

    Example:
        >>> conjugate_gradients(lambda v: 3 * v, torch.tensor([8.0]), damping=1.0, steps=5, tolerance=1e-6)
        tensor([2.])
    """
    x, residual = torch.zeros_like(vector), vector.clone()
    direction, square = residual.clone(), float(vector @ vector)
    goal = (tolerance**2) * square if limit is None else limit**2
    for _ in range(steps):
        if square <= goal:
            return x
        image = product(direction) + damping * direction
        bend = float(direction @ image)
        if bend != bend:
            raise NonFiniteError("a curvature product is not finite; the model was kept.")
        if bend <= 0:
            raise InputError(
                f"the curvature with damping {damping:g} is not positive definite (found "
                f"{bend / float(direction @ direction):.3g} along a direction), so it has no minimum to step "
                "to. Raise damping, or set curvature to 'ggn'."
            )
        length = square / bend
        x, residual = x + length * direction, residual - length * image
        former, square = square, float(residual @ residual)
        direction = residual + (square / former) * direction
    if square <= goal:
        return x
    reached, wanted = ((end / float(vector @ vector)) ** 0.5 for end in (square, goal))
    raise InputError(
        f"conjugate gradients reached a relative residual of {reached:.2g} in {steps} steps; {wanted:.2g} "
        "was wanted. Raise steps, damping or tolerance."
    )


def woodfisher(block: Callable[[int], Tensor], blocks: int, vector: Tensor, damping: float) -> Tensor:
    """Multiply `vector` by the inverse of (damping I + G'G / N) exactly, for N gradients G [N, d].

    This is what the recursion of Singh and Alistarh (2020, eq. 5) arrives at after N single-sample gradients
    g, F^-1 <- F^-1 - F^-1 g g' F^-1 / (N + g' F^-1 g) from F^-1 = I / damping, without a d x d matrix:
    (v - G' (N damping I + G G')^-1 G v) / damping.

    Args:
        block: i -> rows [b, d] of G; called again for the same i when there are several.
        blocks: how many.
        vector: [d].
        damping: positive.
    """
    gram_rows: list[list[Tensor]] = [[] for _ in range(blocks)]
    seen = []
    for i in range(blocks):
        rows = block(i)
        seen.append((rows @ vector).double())
        for j in range(i):
            gram_rows[i].append((rows @ block(j).T).double())
        gram_rows[i].append((rows @ rows.T).double())
    gram = torch.cat(
        [
            torch.cat([*gram_rows[i], *(gram_rows[j][i].T for j in range(i + 1, blocks))], 1)
            for i in range(blocks)
        ]
    )
    shift = len(gram) * damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved = torch.linalg.solve(gram + shift, torch.cat(seen))
    out, at = vector.clone(), 0
    for i in range(blocks):
        rows = block(i)
        out -= solved[at : at + len(rows)].to(rows.dtype) @ rows
        at += len(rows)
    return out / damping
