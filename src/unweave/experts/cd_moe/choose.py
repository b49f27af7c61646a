"""Which experts stay in a condensed layer, with which weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ...errors import InputError
from ...models.moe import MoE
from .states import Metric, Seen, distance

Selector = Literal["greedy", "frequency", "random", "l2 energy"]
Alpha = Literal["conditional mean", "unconditional mean", "least squares"]
_CACHE = 2**31  # bytes of expert outputs that are kept rather than computed again


def condensation_weights(moe: MoE, seen: Seen, kind: Alpha = "conditional mean") -> Tensor:
    """alpha_e of every expert of a block [N], float32: the mean of the weight that the layer really applies.

    Over the tokens that chose the expert ("conditional mean", and where "least squares" starts), or over all of them.
    An expert that no token chose gets the mean over the others.
    """
    sums, counts = torch.zeros(moe.count, dtype=torch.float64), torch.zeros(moe.count, dtype=torch.float64)
    for e in range(moe.count):
        tokens, weights = seen.routed.of(e)
        sums[e], counts[e] = weights.double().sum().cpu(), len(tokens)
    over = torch.full_like(counts, len(seen.routed.index)) if kind == "unconditional mean" else counts
    alpha = sums / over.clamp(min=1)
    chosen = counts > 0
    alpha[~chosen] = alpha[chosen].mean()
    return alpha.float().to(seen.output.device)


def choose_experts(
    moe: MoE, seen: Seen, alpha: Tensor, k: int, *, selector: Selector = "greedy", metric: Metric = "js",
    norm: Module | None = None, rng: Generator,
) -> tuple[list[int], list[float]]:  # fmt: skip
    """K experts of a block in the order of their choice, and the distance after each.

    Greedy: each time the expert with which the layer's output comes nearest to the original's, all other layers being
    original. Those layers do not change what this one reads, so its input and every expert's output are computed once:
    N expert passes in place of N + (N - 1) + ... runs of the model, with the same result.

    Args:
        moe: the block.
        seen: what it read and answered.
        alpha: weights of all its experts [N].
        k: how many.
        selector: "greedy"; the most "frequency"; "random"; or the most "l2 energy", sum of (g_e ||E_e||)^2.
        metric: what "nearest" means, for hidden states.
        norm: applied to the layer's outputs before they are compared: the final norm, at the last layer.
        rng: for "random".
    """
    outputs = _outputs(moe, seen.routed.hidden, alpha)
    read: Callable[[Tensor], Tensor] = torch.nn.Identity() if norm is None else norm
    target = read(seen.layer)
    state = seen.layer - seen.output + moe.apply_shared(seen.routed.hidden)
    chosen: list[int] = []
    left, distances = list(range(moe.count)), [distance(target, read(state), seen.share, metric)]
    ranked = [] if selector == "greedy" else _ranked(moe, seen, selector, rng)
    for step in range(k):
        tried = left if selector == "greedy" else [ranked[step]]
        found = {e: distance(target, read(state + outputs(e)), seen.share, metric) for e in tried}
        best = min(found, key=lambda e: (found[e], e))
        chosen.append(best)
        left.remove(best)
        state = state + outputs(best)
        distances.append(found[best])
    return chosen, distances


def least_squares(moe: MoE, seen: Seen, kept: list[int], alpha: Tensor, ridge: float = 1e-6) -> Tensor:
    """The alpha of the kept experts [k] with which the block's own answers come nearest in l2: one ridge solve.

    The ridge pulls towards `alpha` [k], so that experts which answer alike share their weight.

    Raises:
        InputError: if the block weighs what its experts read, not what they answer: that is not linear in alpha.
    """
    if moe.scales_input:
        raise InputError(
            f'CDMoE.alpha="least squares" has no linear solution in {moe.name}, which weighs what its experts read. '
            'Take "conditional mean".'
        )
    if not kept:
        return alpha
    x = seen.routed.hidden
    rest = (seen.output - moe.apply_shared(x)).double()
    answers = [moe.apply_expert(e, x).double() for e in kept]
    gram = torch.stack([torch.stack([(a * b).sum() for b in answers]) for a in answers])
    right = torch.stack([(a * rest).sum() for a in answers])
    pull = ridge * gram.diagonal().mean() * torch.eye(len(kept), dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(gram + pull, right + pull @ alpha.double()).to(alpha)
    return solved


def _outputs(moe: MoE, x: Tensor, alpha: Tensor) -> Callable[[int], Tensor]:
    """Each expert's weighted answer for all tokens, kept where all of them are few enough."""
    kept: dict[int, Tensor] = {}
    fits = moe.count * x.numel() * x.element_size() <= _CACHE

    def of(e: int) -> Tensor:
        if e in kept:
            return kept[e]
        made = moe.apply_expert(e, x, float(alpha[e]))
        if fits:
            kept[e] = made
        return made

    return of


def _ranked(moe: MoE, seen: Seen, selector: Selector, rng: Generator) -> list[int]:
    if selector == "random":
        drawn: list[int] = torch.randperm(moe.count, generator=rng).tolist()
        return drawn
    scores = torch.zeros(moe.count, dtype=torch.float64)
    for e in range(moe.count):
        tokens, weights = seen.routed.of(e)
        if selector == "frequency":
            scores[e] = len(tokens)
        elif len(tokens):
            answers = moe.apply_expert(e, seen.routed.hidden[tokens], weights)
            scores[e] = answers.double().square().sum().cpu()
    order: list[int] = scores.sort(descending=True, stable=True).indices.tolist()
    return order
