"""How unequally groups suffer when images are corrupted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..random import child, seeded
from ..settings import Count, Range, checked
from ..tasks import evaluating

Severity = Annotated[float, Range(at_least=0, why="It is how strong the corruption is.")]

CORRUPTIONS: Mapping[str, Callable[[Tensor, float, Generator], Tensor]] = {
    "gaussian": lambda x, s, rng: x + s * torch.randn(x.shape, generator=rng),
    "impulse": lambda x, s, rng: torch.where(
        torch.rand(x.shape, generator=rng) < s, (torch.rand(x.shape, generator=rng) < 0.5).to(x), x
    ),
    "contrast": lambda x, s, rng: 0.5 + (1 - s) * (x - 0.5),
    "brightness": lambda x, s, rng: x + s,
}
"""Name -> (images in [0, 1], severity, generator) -> images, to be clamped to [0, 1]; severity 0 changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Accuracies by group, clean and corrupted, in %.

    Attributes:
        clean: of each group, [K].
        corrupted: (corruption, severity) -> of each group, [K].
        disparity: Corrupted Degradation Disparity, the mean over corruptions of max_g - min_g of (clean - corrupted).
        interval: 95 % bootstrap interval of `disparity`.
        worst_group: lowest accuracy of a group, mean over corruptions.
        overall: accuracy on all corrupted images: a model at chance everywhere has no disparity.
    """

    clean: Tensor
    corrupted: Mapping[tuple[str, float], Tensor]
    disparity: float
    interval: tuple[float, float]
    worst_group: float
    overall: float


@checked
def corruption_degradation(
    model: Module,
    images: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    corruptions: Mapping[str, tuple[Severity, ...]],
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
    rng: Generator,
    repeats: Count = 200,
) -> Degradation:
    """Corrupted Degradation Disparity (CDD) of a classifier.

    Args:
        model: prepared images -> logits.
        images: in [0, 1], [n, ...]; corrupted in this space, each always by the same noise.
        labels: [n].
        groups: [n], from 0.
        corruptions: name in `CORRUPTIONS` -> severities, one or more.
        prepare: what the model wants done to pixels, such as standardising.
        rng: of the noise and of the bootstrap.
        repeats: bootstrap samples.

    Raises:
        InputError: if a corruption is unknown, none is given, an image lies outside [0, 1], or groups are no integers
            from 0 without gaps.
    """
    _require(images, groups, corruptions)
    seed = int(torch.randint(2**31, (), generator=child(rng)))
    clean, rights = _right(model, images, labels, corruptions, prepare, seed)
    count, n = int(groups.max()) + 1, len(labels)

    def disparity(chosen: Tensor) -> float:
        base = _accuracies(clean[chosen], groups[chosen], count)
        falls = [base - _accuracies(r[chosen], groups[chosen], count) for r in rights.values()]
        return float(torch.stack([f.max() - f.min() for f in falls]).mean())

    draws = sorted(disparity(torch.randint(n, (n,), generator=rng)) for _ in range(repeats))
    corrupted = {key: _accuracies(r, groups, count) for key, r in rights.items()}
    return Degradation(
        clean=_accuracies(clean, groups, count),
        corrupted=corrupted,
        disparity=disparity(torch.arange(n)),
        interval=(draws[int(0.025 * repeats)], draws[int(0.975 * repeats) - 1]),
        worst_group=float(torch.stack([c.min() for c in corrupted.values()]).mean()),
        overall=100 * float(torch.stack(list(rights.values())).mean()),
    )


def _require(images: Tensor, groups: Tensor, corruptions: Mapping[str, tuple[float, ...]]) -> None:
    """Refuse what cannot be measured, and warn of what can be measured badly."""
    unknown = [name for name in corruptions if name not in CORRUPTIONS]
    if unknown:
        raise InputError(f"there is no corruption {', '.join(unknown)}; there are {', '.join(CORRUPTIONS)}.")
    if not any(corruptions.values()):
        raise InputError(f"corruption_degradation got no severity of a corruption; got {dict(corruptions)}.")
    if float(images.min()) < -1e-6 or float(images.max()) > 1 + 1e-6:
        raise InputError("corruption_degradation takes images in [0, 1].")
    if groups.is_floating_point() or int(groups.min()) < 0:
        raise InputError("corruption_degradation takes groups that are integers from 0.")
    sizes = torch.bincount(groups)
    fewest, least = int(sizes.argmin()), int(sizes.min())
    if least == 0:
        raise InputError(
            f"corruption_degradation: group {fewest} has no test example. Number groups without gaps."
        )
    if least < 30:
        warnings.warn(f"a group has {least} test examples; its degradation is mostly noise.", stacklevel=4)


def _right(
    model: Module,
    images: Tensor,
    labels: Tensor,
    corruptions: Mapping[str, tuple[float, ...]],
    prepare: Callable[[Tensor], Tensor],
    seed: int,
) -> tuple[Tensor, dict[tuple[str, float], Tensor]]:
    """1 for each image that is told right, clean and by corruption and severity; always by the same noise."""
    rights: dict[tuple[str, float], Tensor] = {}
    with evaluating(model):
        clean = (model(prepare(images)).argmax(1) == labels).double()
        for name, severities in corruptions.items():
            for severity in severities:
                worse = CORRUPTIONS[name](images, severity, seeded(seed)).clamp(0, 1)
                rights[name, severity] = (model(prepare(worse)).argmax(1) == labels).double()
    return clean, rights


def _accuracies(right: Tensor, groups: Tensor, count: int) -> Tensor:
    """Of each group, in %; 0 of one without an example."""
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, groups, right)
    return 100 * total / torch.bincount(groups, minlength=count).clamp(min=1)
