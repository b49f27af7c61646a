"""From scores to a mask: shared by pruning, saliency masks and channel choice."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from .budgets import ERK, Budget, Global, PerOutput
from .mask import Mask
from .patterns import NM, Pattern, Unstructured
from .threshold import kth_largest

_WEIGHTS, _NINE_TENTHS = Unstructured(), Global(0.9)


def select(scores: Mapping[str, Tensor], pattern: Pattern = _WEIGHTS, budget: Budget = _NINE_TENTHS) -> Mask:
    """Keep the highest-scoring groups within a budget.

    Exactly round(density * groups) groups live in each layer, or over all layers for `Global` and `ERK`: equal scores
    at the threshold are decided by position, earlier layers and entries first.

    Args:
        scores: parameter name -> scores of its shape; higher is worth keeping. Any sign, finite or infinite.
        pattern: what lives or dies together. `NM` sets its own density.
        budget: how much lives. Not read by `NM`.

    Returns:
        A mask over the same names and shapes.

    Raises:
        InputError: if a score is NaN, nothing was scored, or a layer would lose all its weights.

    Example:
        >>> scores = {"a": torch.tensor([[3.0, 1.0]]), "b": torch.tensor([[2.0, 0.5]])}
        >>> select(scores, Unstructured(), Global(0.5)).keep
        {'a': tensor([[ True, False]]), 'b': tensor([[ True, False]])}
    """
    groups = _grouped(scores, pattern)
    chosen = (
        {name: _best_of_each(group, pattern.n) for name, group in groups.items()}
        if isinstance(pattern, NM)
        else _chosen(scores, groups, budget)
    )
    for name, alive in chosen.items():
        if not alive.any():
            raise InputError(
                f"layer {name} would be fully pruned: none of its {alive.numel()} groups is left. "
                "Ask for less sparsity, or for a budget by layer (Uniform, ERK)."
            )
    return Mask({name: pattern.spread(alive, scores[name]) for name, alive in chosen.items()})


def lowest(values: Tensor, among: Tensor, n: int) -> Tensor:
    """Exactly the `n` smallest values among some positions, equal ones by position.

    Args:
        values: of any shape, without NaN.
        among: positions to choose from, bool of that shape.
        n: how many; none or fewer choose nothing.

    Returns:
        Bool of that shape.

    Example:
        >>> lowest(torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([True, True, True, False]), 2)
        tensor([False,  True,  True, False])
    """
    if n <= 0:
        return torch.zeros_like(among)
    threshold = -kth_largest([values[among].neg_()], n)
    found = (values < threshold) & among
    ties = ((values == threshold) & among).flatten().nonzero().flatten()
    found.view(-1)[ties[: n - int(found.sum())]] = True
    return found


def _grouped(scores: Mapping[str, Tensor], pattern: Pattern) -> dict[str, Tensor]:
    if not scores:
        raise InputError("select was given no scores: no parameter is in scope. Widen the score's scope.")
    for name, values in scores.items():
        if values.isnan().any():
            raise InputError(
                f"the scores of {name} contain NaN. Check the weights and the data they came from."
            )
    return {name: pattern.group(name, values.detach()) for name, values in scores.items()}


def _chosen(scores: Mapping[str, Tensor], groups: Mapping[str, Tensor], budget: Budget) -> dict[str, Tensor]:
    """Which groups of each layer live within a budget."""
    if isinstance(budget, PerOutput):
        return {name: _best_of_rows(name, group, 1 - budget.sparsity) for name, group in groups.items()}
    densities = budget.densities({name: values.shape for name, values in scores.items()})
    sizes = {name: group.numel() for name, group in groups.items()}
    if densities is None:
        return _best(groups, _count(1 - budget.sparsity, sum(sizes.values())))
    if isinstance(budget, ERK):
        counts = _shared_out(densities, sizes, 1 - budget.sparsity)
    else:
        counts = {name: _count(densities[name], sizes[name]) for name in sizes}
    return {name: _best({name: group}, counts[name])[name] for name, group in groups.items()}


def _shared_out(densities: Mapping[str, float], sizes: Mapping[str, int], density: float) -> dict[str, int]:
    """Whole numbers near density * size in each layer whose sum is exactly that of all layers together."""
    exact = {name: densities[name] * sizes[name] for name in sizes}
    counts = {name: min(sizes[name], int(value + 1e-9)) for name, value in exact.items()}
    missing = round(density * sum(sizes.values())) - sum(counts.values())
    for name in sorted(exact, key=lambda n: counts[n] - exact[n])[: max(0, missing)]:
        counts[name] += 1
    return counts


def _count(density: float, total: int) -> int:
    return min(total, round(density * total))


def _best(groups: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """The k highest entries over all tensors, ties by position."""
    if k == 0:
        return {name: torch.zeros_like(group, dtype=torch.bool) for name, group in groups.items()}
    threshold = kth_largest(list(groups.values()), k)
    # contiguous, to be viewed as flat, also where the scores are channels_last
    alive = {name: (group > threshold).contiguous() for name, group in groups.items()}
    places = k - sum(int(torch.count_nonzero(a)) for a in alive.values())
    for name, group in groups.items():
        if not places:
            break
        ties = (group == threshold).flatten().nonzero().flatten()[:places]
        alive[name].view(-1)[ties] = True
        places -= len(ties)
    return alive


def _best_of_rows(name: str, group: Tensor, density: float) -> Tensor:
    if group.ndim < 2:
        raise InputError(
            f"PerOutput compares weights within a row; {name} has one score an output. Use Uniform."
        )
    rows = group.flatten(1)
    return _best_of_each(rows, _count(density, rows.shape[1])).view(group.shape)


def _best_of_each(group: Tensor, n: int) -> Tensor:
    order = group.sort(dim=-1, descending=True, stable=True).indices[..., :n]
    return torch.zeros_like(group, dtype=torch.bool).scatter_(-1, order, True)
