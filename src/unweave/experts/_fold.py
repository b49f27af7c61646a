"""Fold a router down to as many outputs as there are clusters of merged experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Module

from ..models.moe import MoE, Routed, keep_experts_, route_once
from ._merge import Align, Clusters, merge_cluster_

_WORST = 0.3  # relative error of a layer above which folded rows are fitted


def fold_(
    model: Module, moes: Sequence[MoE], clusters: Mapping[str, Clusters], usage: Mapping[str, Tensor],
    weights: Mapping[str, Tensor], align: Align, x: Mapping[str, Tensor], who: str,
) -> None:  # fmt: skip
    """Merge clusters of experts, in place, and average their router rows by usage.

    Where the router has a bias, the log of how crowded a cluster is (its choices over the mean) is added.

    Args:
        model: changed.
        moes: its blocks.
        clusters: block -> lists of experts that become one.
        usage: block -> tokens that chose each expert [N].
        weights: block -> weight of each expert in the mean of the matrices [N].
        align: see `merge_`.
        x: block -> tokens [n, H] that the folded router is judged on.
        who: named in errors.
    """
    kept: dict[str, Sequence[int]] = {}
    originals = {}
    for moe in moes:
        with torch.no_grad():
            originals[moe.name] = route_once(moe, x[moe.name])
            for cluster in clusters[moe.name]:
                merge_cluster_(moe, cluster, weights[moe.name], align=align)
            _average_rows_(moe, clusters[moe.name], usage[moe.name])
        kept[moe.name] = sorted(c[0] for c in clusters[moe.name])
    keep_experts_(model, dict(kept), moes, who)
    for moe in moes:
        order = {e: i for i, e in enumerate(kept[moe.name])}
        places = [0] * len(usage[moe.name])
        for cluster in clusters[moe.name]:
            for e in cluster:
                places[e] = order[cluster[0]]
        fit_rows_(moe, x[moe.name], *originals[moe.name], torch.tensor(places))


def _average_rows_(moe: MoE, clusters: Clusters, usage: Tensor) -> None:
    held = [*moe.router.named_parameters(recurse=False), *moe.router.named_buffers(recurse=False)]
    for name, row in held:
        if not row.ndim or len(row) != moe.count:
            continue
        for cluster in map(list, clusters):
            own = usage[cluster]
            share = own / own.sum() if float(own.sum()) > 0 else torch.full_like(own, 1 / len(own))
            mean = torch.einsum("e,e...->...", share.to(row), row[cluster])
            crowd = (own.sum() * len(clusters) / usage.sum()).clamp(min=1e-6)
            row[cluster[0]] = mean + (crowd.log().to(row) if name == "bias" else 0.0)


def fit_rows_(moe: MoE, x: Tensor, target: Tensor, routed: Routed, place: Tensor) -> float:
    """Fit a folded router's rows to the original's choices where the layer's answers are far off; returns how far.

    Multinomial logistic regression on which cluster's experts the original gave how much weight, with a small ridge
    towards the averaged rows.
    """
    with torch.no_grad():
        before = float((route_once(moe, x)[0] - target).norm() / target.norm().clamp(min=1e-30))
    if before <= _WORST:
        return before
    wanted = torch.zeros(len(x), moe.count, dtype=torch.float64, device=x.device)
    wanted.scatter_add_(1, place.to(x.device)[routed.index], routed.weights.double())
    wanted = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-30)
    own = next(p for p in moe.router.parameters(recurse=False) if p.ndim == 2)
    start = own.detach().double()
    rows = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([rows], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = (x.double() @ rows.T).log_softmax(-1)
        loss = -(wanted * scores).sum(1).mean() + 1e-4 * (rows - start).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        own.copy_(rows)
        after = float((route_once(moe, x)[0] - target).norm() / target.norm().clamp(min=1e-30))
        if after > before:
            own.copy_(start)
    return min(before, after)
