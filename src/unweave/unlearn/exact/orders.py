"""In which orders a shard's slices are learned, and how many deletions such a choice outlives.

S3T (arXiv 2406.16257), sections 3 and 4: an order that lost its first slice is dead, so the orders of a shard should
begin with different slices; where deletions are not equally likely, those that are likely should come late.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial, inf
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor

from ...errors import InputError
from ...random import require_generator

Order = tuple[int, ...]
"""The slices of a shard, first learned first."""
Selector = Literal["cyclic", "matching", "sampling"]

EXPECTED = 100
"""Deletions that the score of an order looks ahead."""


def sequences(
    slices: int,
    budget: int,
    prior: Sequence[float] | None = None,
    selector: Selector = "cyclic",
    rng: Generator | None = None,
) -> tuple[Order, ...]:
    """Choose the orders in which a shard's slices are learned.

    Args:
        slices: L, of the shard.
        budget: B, orders wanted, from 1 to L!. More than L live no longer, but lose less at each deletion.
        prior: how likely each slice is hit by a deletion, [L], summing to at most 1; alike unless given.
        selector: "cyclic" rotates (with B > L also the rest behind each beginning, as evenly as can be) and knows no
            prior; "matching" adds one slice to every order at a time, so that the sum of `score` is largest
            (Hungarian method), and keeps the B best; B may be at most L; "sampling" draws each next slice with
            weight 1 - p.
        rng: for "sampling".

    Raises:
        InputError: if an argument is out of its range, or would do nothing.

    Example:
        >>> sequences(3, 2)
        ((0, 1, 2), (1, 2, 0))
        >>> [order[0] for order in sequences(4, 2, prior=[0.5, 0.1, 0.2, 0.15], selector="matching")]
        [1, 3]
    """
    _check(slices, budget, prior, selector)
    if selector == "cyclic":
        return _cyclic(tuple(range(slices)), budget)
    p = [1 / slices] * slices if prior is None else list(prior)
    if selector == "matching":
        return _matching(p, budget)
    require_generator(rng)
    assert rng is not None
    return _sampled(p, budget, rng)


def score(order: Sequence[int], prior: Sequence[float], expected: float = EXPECTED) -> float:
    """What an order is expected to keep: the sum over k of k * (1 - p_1 - ... - p_k)^expected.

    Args:
        order: slices, first learned first; may be the beginning of an order.
        prior: how likely a deletion hits each slice.
        expected: deletions to look ahead.
    """
    total, hit = 0.0, 0.0
    for k, slice_ in enumerate(order, 1):
        hit += prior[slice_]
        total += k * max(0.0, 1 - hit) ** expected
    return total


def simulate(
    shards: int,
    slices: int,
    budget: int,
    *,
    trials: int,
    rng: Generator,
    prior: Sequence[float] | None = None,
    selector: Selector = "cyclic",
) -> Tensor:
    """Deletions until every order of every shard is dead, int64 [trials].

    Each deletion hits a shard at random and one of its slices (alike, or by `prior`); a slice may be hit again, as
    in the paper's count. For "cyclic", alike, the expectation is m L H(m min(B, L)), H the harmonic number.

    Args:
        shards: m.
        slices: L, of each shard.
        budget: B, orders of each shard.
        trials: services to run down.
        rng: the only source of randomness.
        prior: as in `sequences`, which reads it too unless the selector is "cyclic".
        selector: as in `sequences`.
    """
    require_generator(rng)
    orders = sequences(slices, budget, None if selector == "cyclic" else prior, selector, rng)
    p = torch.full((slices,), 1.0) if prior is None else torch.tensor(list(prior))
    leading = torch.zeros(shards, slices, dtype=torch.bool)
    leading[:, sorted({order[0] for order in orders})] = True
    wanted = leading.flatten()
    weights = p.double().repeat(shards)
    return torch.tensor([_until_all(wanted, weights, rng) for _ in range(trials)])


def until_dead(sizes: Sequence[int], leading: Sequence[bool], *, trials: int, rng: Generator) -> Tensor:
    """Deletions of one example each, drawn at random from those left, until every leading slice is hit, [trials].

    Args:
        sizes: examples left in each slice.
        leading: whether a living order begins with it.
        trials: how often to draw.
        rng: the only source of randomness.

    Returns:
        int64 [trials]; 0 where nothing leads.
    """
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(list(sizes), dtype=torch.long))
    wanted = torch.tensor([leads and size > 0 for leads, size in zip(leading, sizes, strict=True)])
    found = torch.zeros(trials, dtype=torch.long)
    if not bool(wanted.any()):
        return found
    for trial in range(trials):
        drawn = torch.randperm(len(owner), generator=rng)  # example -> when it is asked back
        first = torch.full((len(sizes),), len(owner)).scatter_reduce(0, owner, drawn, "amin")
        found[trial] = first[wanted].max() + 1
    return found


def _until_all(wanted: Tensor, weights: Tensor, rng: Generator, block: int = 256) -> int:
    left, count = set(wanted.nonzero().flatten().tolist()), 0
    while True:
        for hit in torch.multinomial(weights, block, replacement=True, generator=rng).tolist():
            count += 1
            left.discard(hit)
            if not left:
                return count


def _cyclic(items: Order, budget: int) -> tuple[Order, ...]:
    """`budget` orders of the items: rotations; where there are more, the rest behind each first item rotates too."""
    n = len(items)
    turned = [items[k:] + items[:k] for k in range(min(n, budget))]
    if budget <= n:
        return tuple(turned)
    shares = [budget // n + (k < budget % n) for k in range(n)]
    return tuple(
        (one[0], *rest) for one, share in zip(turned, shares, strict=True) for rest in _cyclic(one[1:], share)
    )


def _matching(p: Sequence[float], budget: int) -> tuple[Order, ...]:
    n = len(p)
    orders: list[Order] = [(s,) for s in range(n)]
    for _ in range(n - 1):
        gain = [[-inf if s in order else score((*order, s), p) for s in range(n)] for order in orders]
        rows, columns = linear_sum_assignment(gain, maximize=True)
        orders = [(*orders[i], int(s)) for i, s in zip(rows, columns, strict=True)]
    best = sorted(orders, key=lambda order: (-score(order, p), order))
    return tuple(best[:budget])


def _sampled(p: Sequence[float], budget: int, rng: Generator) -> tuple[Order, ...]:
    found: dict[Order, None] = {}
    n, idle = len(p), 0
    while len(found) < budget:
        weights = torch.tensor([max(1 - x, 1e-9) for x in p], dtype=torch.float64)
        order = tuple(torch.multinomial(weights, n, replacement=False, generator=rng).tolist())
        idle = idle + 1 if order in found else 0
        found[order] = None
        if idle > 10_000:
            raise InputError(
                f"sampling found only {len(found)} different orders of {n} slices; asked for {budget}. Lower budget."
            )
    return tuple(found)


def _check(slices: int, budget: int, prior: Sequence[float] | None, selector: str) -> None:
    if slices < 1:
        raise InputError(f"slices must be at least 1; got {slices}.")
    if selector not in ("cyclic", "matching", "sampling"):
        raise InputError(f'selector must be "cyclic", "matching" or "sampling"; got {selector!r}.')
    most = slices if selector == "matching" else factorial(slices)
    if not 1 <= budget <= most:
        why = "orders of its own first slice" if selector == "matching" else "different orders"
        raise InputError(
            f"budget must be from 1 to {most}, for {slices} slices have {most} {why}; got {budget}."
        )
    if prior is None:
        return
    if selector == "cyclic":
        raise InputError(
            'prior would do nothing with selector="cyclic". Take "matching" or "sampling", or leave it.'
        )
    if len(prior) != slices or any(not 0 <= p <= 1 for p in prior) or sum(prior) > 1 + 1e-9:
        raise InputError(
            f"prior must be {slices} probabilities, one a slice, that sum to at most 1; got {list(prior)}."
        )
