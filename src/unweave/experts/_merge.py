"""Merge clusters of experts: align hidden units, average weights, tie the router's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..models.moe import Matrices, MoE, expert_count, tie_

Clusters = Sequence[Sequence[int]]
Align = bool | Callable[[MoE, Matrices, Matrices], Matrices]
"""Whether members are aligned to the first by their weights, or how: (block, first, member) -> member."""


def merge_(
    model: Module, moes: Sequence[MoE], clusters: Mapping[str, Clusters], weights: Mapping[str, Tensor], *, align: Align
) -> None:  # fmt: skip
    """Merge each cluster into one expert, in place; the router keeps its outputs.

    Args:
        model: changed.
        moes: its blocks.
        clusters: block -> lists of experts that become one, each expert once; the first of a list is what the others
            are aligned to.
        weights: block -> weight of each expert in the mean [N]; all zero in a cluster gives the plain mean.
        align: whether, or how, hidden units are permuted first, which changes no expert's answers.
    """
    field = expert_count(model, moes[0])
    for moe in moes:
        for cluster in clusters[moe.name]:
            merge_cluster_(moe, cluster, weights[moe.name], align=align)
        tie_(model, moe, clusters[moe.name], field)


def merge_cluster_(moe: MoE, cluster: Sequence[int], weights: Tensor, *, align: Align) -> None:
    """Put the mean of a cluster of experts at the place of its first; arguments as in `merge_`."""
    first, *others = (moe.expert(e) for e in cluster)
    if align is True:
        others = [aligned(first, part) for part in others]
    elif align:
        others = [align(moe, first, part) for part in others]
    moe.layout.put_(moe.experts, cluster[0], averaged([first, *others], weights[list(cluster)]))


def refuse_scaled_inputs(moes: Sequence[MoE]) -> None:
    """Refuse blocks that weigh what experts read.

    Raises:
        InputError: if there is one.
    """
    for moe in moes:
        if moe.scales_input:
            raise InputError(
                f"{moe.name} weighs what its experts read, so merged weights do not add up. Prune them instead."
            )


def aligned(reference: Matrices, part: Matrices) -> Matrices:
    """The same feed-forward with its hidden units in the order that fits a reference best.

    The permutation P maximises <gate_ref, P gate> + <up_ref, P up> + <down_ref, down P^T>: a linear assignment.
    """
    score = (
        reference.gate.detach().double() @ part.gate.detach().double().T
        + reference.up.detach().double() @ part.up.detach().double().T
        + reference.down.detach().double().T @ part.down.detach().double()
    )
    return ordered(part, score)


def ordered(part: Matrices, score: Tensor) -> Matrices:
    """The same feed-forward with its hidden units put where they score most in total; score [place, unit]."""
    order = torch.tensor(
        linear_sum_assignment(score.cpu().numpy(), maximize=True)[1], device=part.gate.device
    )
    biases = {n: None if (b := getattr(part, n)) is None else b[order] for n in ("gate_bias", "up_bias")}
    return replace(part, gate=part.gate[order], up=part.up[order], down=part.down[:, order], **biases)  # type: ignore[arg-type]


def averaged(parts: Sequence[Matrices], weights: Tensor) -> Matrices:
    """Weighted mean of several feed-forwards' matrices and biases, in float32 or wider."""
    share = weights.double() if float(weights.sum()) > 0 else torch.ones(len(parts), dtype=torch.float64)
    share = share / share.sum()

    def mean(name: str) -> Tensor | None:
        held = [getattr(p, name) for p in parts]
        if held[0] is None:
            return None
        total = sum(
            float(w) * t.detach().to(torch.promote_types(t.dtype, torch.float32))
            for w, t in zip(share, held, strict=True)
        )
        return torch.as_tensor(total).to(held[0].dtype)

    names = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
    return replace(parts[0], **{n: mean(n) for n in names})  # type: ignore[arg-type]
