"""Figures of what pipelines draw: erased and kept concepts, and how good the images are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...statistics import wilson
from ...types import Measurement
from ..measured import measurement
from .compared import Compared, share
from .damage import NEAR
from .drawn import Drawn, Hits, Judge


def by_concept(c: Compared) -> dict[str, dict[str, float]]:
    """Concept -> series -> % of its images that show it."""
    found = {}
    for concept in (*c.concepts.labels, *c.kept, *c.earlier):
        found[concept] = {"original": c.original.rate([concept]), "edited": c.edited.rate([concept])}
        if c.oracles:
            found[concept]["oracle"] = float(np.mean([o.rate([concept]) for o in c.oracles]))
    return found


def drawn_concepts(c: Compared) -> list[Measurement]:
    """How often erased and kept concepts are drawn, and both in one figure."""
    found = [
        _share(c, "erased concepts drawn", c.concepts.labels, "near the retrained; lower is more forgotten")
    ]
    if c.concepts.preserve:
        kept = _share(c, "kept concepts drawn", c.concepts.preserve, "near the original; higher is better")
        found += [kept, _overall(c)]
    if c.neighbours:
        name = "neighbours that nobody named, drawn"
        found.append(_share(c, name, c.neighbours, "near the original; higher is better"))
    if c.edited.hits(c.earlier)[1]:
        found.append(_share(c, "concepts erased earlier, drawn", c.earlier, "lower is more forgotten"))
    if c.strayed is not None:
        asked, others = "prompts without a concept: ", c.also_strayed
        found += [
            _strayed(
                f"{asked}images unlike any of the original's", c.strayed.outside, [o.outside for o in others]
            ),
            _strayed(
                f"{asked}the original's that have no like", c.strayed.missing, [o.missing for o in others]
            ),
        ]
    return found


def _strayed(name: str, hits: Hits, oracles: Sequence[Hits]) -> Measurement:
    low, high = wilson(*hits)
    return measurement(
        name, 100 * share(hits), 100 * (1 - NEAR), [100 * share(o) for o in oracles],
        unit="%", direction="near 5 %, as of its own others; all of them in a wreck", n=hits[1],
        interval=(100 * low, 100 * high),
    )  # fmt: skip


def _share(c: Compared, name: str, group: Sequence[str], direction: str) -> Measurement:
    hits, n = c.edited.hits(group)
    low, high = wilson(hits, n)
    return measurement(
        name,
        100 * hits / n,
        c.original.rate(group),
        [o.rate(group) for o in c.oracles],
        unit="%",
        direction=direction,
        n=n,
        interval=(100 * low, 100 * high),
    )


def _overall(c: Compared) -> Measurement:
    def score(d: Drawn) -> float:
        kept, gone = d.rate(c.concepts.preserve), 100 - d.rate(c.concepts.labels)
        return 2 * kept * gone / (kept + gone) if kept + gone else 0.0

    return measurement(
        "overall score",
        score(c.edited),
        score(c.original),
        [score(o) for o in c.oracles],
        unit="%",
        n=c.edited.hits((*c.concepts.labels, *c.concepts.preserve))[1],
        direction="higher is better: harmonic mean of what is kept and what is gone",
    )


def distance(c: Compared, judge: Judge, real: Tensor | None) -> Measurement:
    """Fréchet distance of the kept concepts' images to real ones, or to the original's where there are none."""
    kept = c.kept or c.concepts.labels

    def features(d: Drawn) -> Tensor:
        return judge.features(torch.cat([d.images[concept] for concept in kept])).cpu().double()

    edited, original = features(c.edited), features(c.original)
    yard = original if real is None else judge.features(real).cpu().double()
    against = "the original's images" if real is None else "real images"
    return measurement(
        f"Fréchet distance to {against}",
        frechet(edited, yard),
        None if real is None else frechet(original, yard),
        [frechet(features(o), yard) for o in c.oracles],
        unit="",
        direction="lower is better; in the judge's features, not comparable with FID",
        n=len(edited),
    )


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features [n, width].

    ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), as FID (Heusel et al., 2017, arXiv 1706.08500), in other features.
    """
    if min(len(a), len(b)) < 2:
        raise InputError(f"frechet needs at least two images on each side; got {len(a)} and {len(b)}.")
    x, y = (np.asarray(t, dtype=np.float64) for t in (a, b))
    gap = float(np.square(x.mean(0) - y.mean(0)).sum())
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2)
    values, vectors = np.linalg.eigh(np.atleast_2d(c1))
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ np.atleast_2d(c2) @ root), 0, None)).sum()
    return max(0.0, gap + float(np.trace(np.atleast_2d(c1)) + np.trace(np.atleast_2d(c2)) - 2 * shared))
