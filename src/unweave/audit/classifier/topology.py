"""Topology: is an edited mask that of a model pruned without the deleted data?

The overlap of masks is the intersection over union (IoU) of surviving positions (Xiao et al., 2025, "The
Right to be Forgotten in Pruning", arXiv 2507.18725). A bare IoU says nothing: beside it stand its floor (the
untouched mask), its ceiling (two oracles that differ in batch order), and chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ...errors import InputError
from ...masks.layers import copied
from ...masks.mask import Mask
from ...tasks import evaluating
from ...types import Data, Measurement

_LEAST = 0.02


@dataclass(frozen=True, kw_only=True)
class Topology:
    """An edited mask beside the original's and the oracles'.

    Attributes:
        iou: of the edited mask with the oracles', mean over these.
        floor: of the original mask with the oracles'.
        ceiling: of each oracle's mask with every other's; None for a single oracle.
        chance: expected of two independent masks with as many survivors in each layer.
        score: (iou - floor) / (ceiling - floor); 1 is an oracle, 0 the untouched mask. None where ceiling
            and floor are less than 0.02 apart: the mask then hardly depends on the deleted data.
        filters: iou of whole filters, one living if any of its weights does; None where all filters live
            everywhere.
        flipped: positions where edited and original mask differ.
        flipped_share: births over survivors: the share of the edited mask's survivors that were dead before.
        survivors: living positions of the edited mask.
        oracles: how many.
        spread: standard deviation of `iou` over the oracles; 0.0 for one.
        layers: parameter -> "edited", "original" (densities), "iou_original" (edited with original),
            "iou_oracle" (edited with the oracles, mean), "floor".
    """

    iou: float
    floor: float
    ceiling: float | None
    chance: float
    score: float | None
    filters: float | None
    flipped: int
    flipped_share: float
    survivors: int
    oracles: int
    spread: float
    layers: dict[str, dict[str, float]] = field(repr=False)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """For the report."""
        limits = f"chance {self.chance:.3f}, floor {self.floor:.3f}, ceiling " + (
            "unknown: it takes two oracles" if self.ceiling is None else f"{self.ceiling:.3f}"
        )
        flat = "mean overlap with the oracles' masks; higher is nearer to them, the ceiling is ideal"
        found = [
            Measurement(
                name="mask overlap", value=self.iou, unit="IoU", direction=flat, n=self.oracles,
                original=self.floor, oracle_mean=self.ceiling, note=limits,
            ),
            Measurement(
                name="mask score", value=self.score, unit="share", n=self.oracles, original=0.0,
                oracle_mean=1.0, direction="way from the untouched mask (0) to an oracle's (1)",
                note="" if self.score is not None else f"needs ceiling - floor >= {_LEAST}; {limits}",
            ),
            Measurement(
                name="changed survivors", value=100 * self.flipped_share, unit="%", n=self.survivors,
                original=0.0, direction="share of survivors that were pruned before; 0 is the unchanged mask",
                note=f"{self.flipped} positions differ",
            ),
        ]  # fmt: skip
        if self.filters is not None:
            found.append(
                Measurement(
                    name="filter overlap", value=self.filters, unit="IoU", direction=flat, n=self.oracles
                )
            )
        return tuple(found)


def topology(original: Mask, edited: Mask, oracles: Sequence[Mask], *, same_initial: bool) -> Topology:
    """Compare masks.

    Args:
        original: of the model before the edit.
        edited: of the model after it; an empty mask is a dense model's.
        oracles: of models trained without the deleted data and pruned by the same rule, at least one.
        same_initial: whether all these models began at the same weights.

    Raises:
        InputError: if they did not (then overlap is at chance whatever was forgotten), there is no oracle,
            or the original is dense.
    """
    if not same_initial:
        raise InputError(
            "the masks come from different initialisations, so their overlap is at chance whatever "
            "was forgotten. Train the oracles from the original's initial weights (Supervised.init_seed)."
        )
    if not oracles:
        raise InputError("topology needs the mask of at least one oracle.")
    if not original:
        raise InputError("topology needs a pruned model; the original has no zeros.")
    found = [edited.iou(mask) for mask in oracles]
    iou, floor = fmean(found), fmean(original.iou(mask) for mask in oracles)
    ceiling = fmean(a.iou(b) for a, b in combinations(oracles, 2)) if len(oracles) > 1 else None
    apart = None if ceiling is None else ceiling - floor
    by_filter = [filters(mask) for mask in oracles]
    structured = any(mask.count() < mask.size() for mask in by_filter)
    changed = (edited | original) - (edited & original)
    return Topology(
        iou=iou,
        floor=floor,
        ceiling=ceiling,
        chance=chance(edited, oracles[0]),
        score=(iou - floor) / apart if apart is not None and apart >= _LEAST else None,
        filters=fmean(filters(edited).iou(mask) for mask in by_filter) if structured else None,
        flipped=changed.count(),
        flipped_share=(edited - original).count() / max(1, edited.count()),
        survivors=edited.count(),
        oracles=len(oracles),
        spread=stdev(found) if len(found) > 1 else 0.0,
        layers={
            name: {
                "edited": _layer(edited, name).density(),
                "original": alive.float().mean().item(),
                "iou_original": _layer(edited, name).iou(_layer(original, name)),
                "iou_oracle": fmean(_layer(edited, name).iou(_layer(mask, name)) for mask in oracles),
                "floor": fmean(_layer(original, name).iou(_layer(mask, name)) for mask in oracles),
            }
            for name, alive in original.keep.items()
        },
    )


def chance(a: Mask, b: Mask) -> float:
    """Expected overlap of two masks whose survivors were drawn at random, as many in each layer as here.

    For one layer of equal density d it is d / (2 - d): 0.053 at 90 % sparsity. Ratio of expectations.

    Example:
        >>> half = Mask({"weight": torch.tensor([True, False])})
        >>> round(chance(half, half), 3)
        0.333
    """
    both = either = 0.0
    for name in {**a.keep, **b.keep}:
        one, other = _layer(a, name), _layer(b, name)
        size = max(one.size(), other.size())
        both += size * one.density() * other.density()
        either += size * (one.density() + other.density() - one.density() * other.density())
    return both / either if either else 1.0


def filters(mask: Mask) -> Mask:
    """Which output filters live, [out] for each weight: those with at least one living weight."""
    return Mask({name: alive.flatten(1).any(1) for name, alive in mask.keep.items() if alive.ndim > 1})


def bound_proxy(
    model: Module,
    initial: Module,
    mask: Mask,
    data: Data[Any],
    *,
    lr: float,
    steps: int,
    rng: Generator,
    iterations: int = 20,
) -> Measurement:
    """A proxy of the unlearning error bound of sparse models: a motivation in figures, not a certificate.

    lr^2 * steps * ||M * (w - w0)|| * lambda, with lambda the largest absolute curvature of the mean loss on
    unmasked coordinates (Jia et al., 2023, arXiv 2304.04934, after Thudi et al., "Unrolling SGD", 2021, arXiv
    2109.13398). The article on un-pruning adds a term that reviewers found not to follow; it is left out.

    Args:
        model: w; left unchanged. Read in eval mode, in float32 or wider.
        initial: w0, with the same parameters.
        mask: M; parameters that it does not name count whole.
        data: that the loss is averaged over.
        lr: of the training that is unrolled.
        steps: of that training.
        rng: draws the first direction.
        iterations: of the power method; each costs two backward passes over `data`.

    Raises:
        InputError: if lr or steps is not positive or the two models differ.
        EmptyDataError: if `data` is empty.
    """
    if lr <= 0 or steps < 1 or iterations < 1:
        raise InputError(
            f"bound_proxy needs positive lr, steps and iterations; got {lr}, {steps}, {iterations}."
        )
    data.require_examples("bound_proxy")
    origins = dict(initial.named_parameters())
    if {n: p.shape for n, p in model.named_parameters()} != {n: p.shape for n, p in origins.items()}:
        raise InputError("bound_proxy needs two models with the same parameters.")
    copy = copied(model)
    if next(copy.parameters()).dtype not in (torch.float32, torch.float64):
        copy = copy.float()
    named = dict(copy.named_parameters())
    lives = {
        n: mask.keep[n].to(p.device) if n in mask.keep else torch.ones_like(p, dtype=torch.bool)
        for n, p in named.items()
    }
    moved = [(p.detach() - origins[n].detach().to(p)) * lives[n] for n, p in named.items()]
    travelled = float(torch.stack([m.norm() for m in moved]).norm())
    largest = _largest_curvature(copy, data, list(lives.values()), rng, iterations)
    return Measurement(
        name="error-bound proxy", value=lr**2 * steps * travelled * largest, unit="", n=len(data),
        direction="lower suggests easier unlearning; proxy, not a certificate",
        note=f"proxy, not a certificate: ||M(w - w0)|| = {travelled:.3g}, largest curvature {largest:.3g}",
    )  # fmt: skip


def _largest_curvature(
    model: Module, data: Data[Any], lives: list[Tensor], rng: Generator, iterations: int
) -> float:
    weights = list(model.parameters())
    for weight in weights:
        weight.requires_grad_(True)
    drawn = [
        torch.randn(w.shape, generator=rng).to(w) * alive for w, alive in zip(weights, lives, strict=True)
    ]
    direction, largest = _unit(drawn)[0], 0.0
    with evaluating(model), torch.enable_grad():
        for _ in range(iterations):
            product = [torch.zeros_like(w) for w in weights]
            for batch in data.batches():
                loss = data.task.losses(model, batch).sum() / len(data)
                slopes = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
                along = sum((s * d).sum() for s, d in zip(slopes, direction, strict=True))
                assert isinstance(along, Tensor)
                for total, part in zip(
                    product, torch.autograd.grad(along, weights, materialize_grads=True), strict=True
                ):
                    total += part
            direction, largest = _unit([p * alive for p, alive in zip(product, lives, strict=True)])
            if largest == 0:
                return 0.0
    return largest


def _unit(direction: list[Tensor]) -> tuple[list[Tensor], float]:
    norm = float(torch.stack([d.norm() for d in direction]).norm())
    return [d / norm for d in direction] if norm else direction, norm


def _layer(mask: Mask, name: str) -> Mask:
    return Mask({name: mask.keep[name]}) if name in mask.keep else Mask({})
