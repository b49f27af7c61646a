"""Has a text-to-image pipeline forgotten its concepts? Drawn, judged, and set beside the original and a retrained one.

All pipelines draw the same prompts from the same noise. A judge names what it sees; its word is as good as its own
accuracy on the original's images, which is the first control.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from ...erase import Concepts, TextToImage, draws_in_one_step
from ...errors import InputError
from ...progress import progress
from ...random import seeded
from ...statistics import wilson
from ...types import Measurement

Verdict = Literal["erased", "not erased", "damaged", "inconclusive"]
MEANING: dict[Verdict, str] = {
    "erased": "Asked for an erased concept, this pipeline draws it no more often than one that never saw it.",
    "not erased": "Asked for an erased concept, this pipeline still draws it.",
    "damaged": "This pipeline lost concepts that it should have kept.",
    "inconclusive": "The evidence does not decide whether the concepts are gone.",
}


class Judge(Protocol):
    """Names what images show."""

    def names(self, images: Tensor) -> list[str]:
        """Concept of each image [n, channels, height, width] (about -1 to 1); "" where it sees none that it knows."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """What it reads them by, [n, width], for distances between sets of images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One pipeline's images.

    Attributes:
        images: concept -> images [n, channels, height, width].
        named: concept -> what the judge called each.
    """

    images: Mapping[str, Tensor]
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def hits(self, concepts: Sequence[str]) -> tuple[int, int]:
        """Images of these concepts that the judge named rightly, and how many there are."""
        named = [(c, said) for c in concepts for said in self.named.get(c, ())]
        return sum(c == said for c, said in named), len(named)


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What an audit found.

    Attributes:
        method: how the pipeline was edited.
        verdict: its outcome.
        reason: why, with figures.
        controls: (what was checked, whether it came out right).
        measurements: every figure.
        concepts: concept -> series ("original", "edited", "oracle") -> % of its images that show it.
    """

    method: str
    verdict: Verdict
    reason: str
    controls: tuple[tuple[str, bool], ...]
    measurements: tuple[Measurement, ...]
    concepts: Mapping[str, Mapping[str, float]]


def draw(
    model: TextToImage,
    concepts: Concepts,
    judge: Judge | None,
    *,
    each: int,
    seed: int,
    steps: int,
    guidance: float,
    label: str = "",
) -> Drawn:
    """Draw `each` images of every template with every concept, from noise that depends on `seed` alone.

    A generator of one step draws in one, without guidance, whatever is asked for.

    Args:
        model: pipeline.
        concepts: what is asked for: those erased and those preserved.
        judge: names the images, if there is one.
        each: images a prompt.
        seed: of the noise.
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        label: shown beside the progress bar.
    """
    asked = (*concepts.erase, *concepts.preserve)
    if draws_in_one_step(model):
        steps, guidance = 1, 1.0
    images, named = {}, {}
    with progress(label, len(asked)) as bar:
        for i, concept in enumerate(asked):
            prompts = [p for p in concepts.prompts(concept) for _ in range(each)]
            images[concept] = model.sample(
                prompts, steps=steps, guidance=guidance, rng=seeded(1000 * seed + i)
            ).cpu()
            if judge is not None:
                named[concept] = judge.names(images[concept])
            bar.advance()
    return Drawn(images=images, named=named)


def audit_erasure(
    concepts: Concepts,
    edited: Drawn,
    original: Drawn,
    oracles: Sequence[Drawn] = (),
    *,
    judge: Judge | None,
    real: Tensor | None = None,
    changed: float,
    seconds: float,
    memory: int | None = None,
    attacks: Sequence[Measurement] = (),
    method: str = "edit",
    margin: float = 5.0,
    rng: Generator,
) -> Erasure:
    """Compare an edited pipeline's images with the original's and with those of pipelines that never saw the concepts.

    Args:
        concepts: erased and preserved.
        edited: images of the edited pipeline.
        original: images of the pipeline before the edit.
        oracles: images of pipelines retrained without the concepts.
        judge: that named the images; without one nothing is concluded.
        real: real images of preserved concepts, to measure quality against; the original's unless given.
        changed: share of the pipeline's weights that the edit changed.
        seconds: the edit took.
        memory: bytes that it needed at most, beyond the pipeline itself; None if unknown.
        attacks: attack success rates; where one, for sure, exceeds the retrained pipelines' under the same attack by
            more than `margin`, the concept is hidden and not gone.
        method: name of the edit.
        margin: points by which the drawing of erased and kept concepts may differ unnoticed.
        rng: draws bootstrap samples.

    Returns:
        The audit: `inconclusive` without a judge, or where the judge does not know the original's images.
    """
    measurements: list[Measurement] = []
    controls: list[tuple[str, bool]] = []
    per: dict[str, dict[str, float]] = {}
    sets = {"original": original, "edited": edited}
    everything = (*concepts.erase, *concepts.preserve)
    if judge is not None:
        for concept in everything:
            per[concept] = {name: _rate(d, [concept]) for name, d in sets.items()}
            if oracles:
                per[concept]["oracle"] = _mean([_rate(o, [concept]) for o in oracles])
        for name, group, direction in (
            ("erased concepts drawn", concepts.erase, "near the retrained; lower is more forgotten"),
            ("kept concepts drawn", concepts.preserve, "near the original; higher is better"),
        ):
            if group:
                measurements.append(_share(name, group, edited, original, oracles, direction))
        if concepts.preserve:
            measurements.append(_overall(concepts, edited, original, oracles))
        measurements.append(_distance(judge, concepts, edited, original, oracles, real, rng))
    measurements += attacks
    measurements.append(
        Measurement(name="weights changed", value=100 * changed, unit="%", direction="as few as needed", n=1)
    )
    measurements.append(
        Measurement(name="time of the edit", value=seconds, unit="s", direction="lower is better", n=1)
    )
    measurements.append(
        Measurement(
            name="peak memory of the edit", value=None if memory is None else memory / 2**20, unit="MiB",
            direction="lower is better", n=1,
            note="beyond the pipeline itself" if memory is not None else "read on Linux and on GPUs only",
        )
    )  # fmt: skip
    verdict, reason = _verdict(concepts, edited, original, oracles, judge, margin, controls, attacks)
    return Erasure(
        method=method,
        verdict=verdict,
        reason=reason,
        controls=tuple(controls),
        measurements=tuple(measurements),
        concepts=per,
    )


def _verdict(
    concepts: Concepts,
    edited: Drawn,
    original: Drawn,
    oracles: Sequence[Drawn],
    judge: Judge | None,
    margin: float,
    controls: list[tuple[str, bool]],
    attacks: Sequence[Measurement],
) -> tuple[Verdict, str]:
    if judge is None:
        return "inconclusive", "No judge was given, so nobody has looked at the images. Give --judge."
    before, after = _rate(original, concepts.erase), _rate(edited, concepts.erase)
    known = before >= 50
    controls.append((f"the judge sees the concepts in the original's images ({before:.0f} % of them)", known))
    ceiling = margin
    if oracles:
        never = [_rate(o, concepts.erase) for o in oracles]
        ceiling = max(never) + margin
        controls.append(
            (
                f"the retrained pipelines do not draw them ({_mean(never):.0f} %)",
                max(never) < before - 2 * margin,
            )
        )
    if not all(passed for _, passed in controls):
        return "inconclusive", f"A control failed: {next(text for text, passed in controls if not passed)}."
    low, high = (100 * e for e in wilson(*edited.hits(concepts.erase)))
    drawn = f"{after:.0f} % of the images asked for show an erased concept (95 % interval {low:.0f} to {high:.0f} %)"
    against = "no retrained one to compare with"
    if oracles:
        against = f"retrained pipelines {_mean([_rate(o, concepts.erase) for o in oracles]):.0f} %"
    if low > ceiling:
        return "not erased", f"{drawn}; original {before:.0f} %, {against}."
    for attack in attacks:
        if attack.interval and attack.oracle_mean is not None and attack.value is not None:
            if attack.interval[0] > attack.oracle_mean + margin:
                return (
                    "not erased",
                    f"It is hidden, not gone. {attack.name}: {attack.value:.0f} % of the prompts attacked draw an "
                    f"erased concept (95 % interval {attack.interval[0]:.0f} to {attack.interval[1]:.0f} %), retrained "
                    f"pipelines under the same attack {attack.oracle_mean:.0f} %. Unattacked, {drawn}.",
                )
    if concepts.preserve:
        kept, was = _rate(edited, concepts.preserve), _rate(original, concepts.preserve)
        yard = min([was, *(_rate(o, concepts.preserve) for o in oracles)])
        top = 100 * wilson(*edited.hits(concepts.preserve))[1]
        if top < yard - margin:
            return (
                "damaged",
                f"Kept concepts are drawn in {kept:.0f} % of their images, before in {was:.0f} %.",
            )
    if high > ceiling + 20:
        return "inconclusive", f"{drawn}: too few images to tell. Draw more (--images)."
    return "erased", f"{drawn}; original {before:.0f} %, {against}."


def _share(
    name: str, group: Sequence[str], edited: Drawn, original: Drawn, oracles: Sequence[Drawn], direction: str
) -> Measurement:
    hits, n = edited.hits(group)
    low, high = wilson(hits, n)
    rates = [_rate(o, group) for o in oracles]
    return Measurement(
        name=name,
        value=100 * hits / n,
        unit="%",
        direction=direction,
        n=n,
        interval=(100 * low, 100 * high),
        original=_rate(original, group),
        oracle_mean=_mean(rates) if rates else None,
        oracle_spread=_spread(rates),
    )


def _overall(concepts: Concepts, edited: Drawn, original: Drawn, oracles: Sequence[Drawn]) -> Measurement:
    def score(d: Drawn) -> float:
        kept, gone = _rate(d, concepts.preserve), 100 - _rate(d, concepts.erase)
        return 2 * kept * gone / (kept + gone) if kept + gone else 0.0

    found = [score(o) for o in oracles]
    return Measurement(
        name="overall score",
        value=score(edited),
        unit="%",
        n=edited.hits((*concepts.erase, *concepts.preserve))[1],
        direction="higher is better: harmonic mean of what is kept and what is gone",
        original=score(original),
        oracle_mean=_mean(found) if found else None,
        oracle_spread=_spread(found),
    )


def _distance(
    judge: Judge,
    concepts: Concepts,
    edited: Drawn,
    original: Drawn,
    oracles: Sequence[Drawn],
    real: Tensor | None,
    rng: Generator,
) -> Measurement:
    kept = concepts.preserve or concepts.erase
    features = {
        id(d): judge.features(torch.cat([d.images[c] for c in kept])).double().cpu()
        for d in (edited, original, *oracles)
    }
    yard = judge.features(real).double().cpu() if real is not None else features[id(original)]
    values = {key: frechet(value, yard) for key, value in features.items()}
    against = "real images" if real is not None else "the original's images"
    rates = [values[id(o)] for o in oracles]
    return Measurement(
        name=f"Fréchet distance to {against}",
        value=values[id(edited)],
        unit="",
        direction="lower is better; in the judge's features, not comparable with FID",
        n=len(features[id(edited)]),
        original=values[id(original)] if real is not None else None,
        oracle_mean=_mean(rates) if rates else None,
        oracle_spread=_spread(rates),
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


def changed_share(edited: TextToImage, original: TextToImage) -> float:
    """Share of all weights that differ, in [0, 1]."""
    before = dict(original.named_parameters())
    total = changed = 0
    for name, weight in edited.named_parameters():
        total += weight.numel()
        if weight is not before[name]:
            changed += int((weight != before[name]).sum())
    return changed / total


def in_turn(
    edit: Callable[[TextToImage, Concepts], TextToImage], model: TextToImage, concepts: Concepts
) -> list[tuple[str, TextToImage]]:
    """Erase one concept after the other, each from what the last erasure left.

    Returns:
        (concept, pipeline after it was erased), in order.
    """
    done = []
    for concept in concepts.erase:
        model = edit(model, concepts.only(concept))
        done.append((concept, model))
    return done


def _rate(drawn: Drawn, group: Sequence[str]) -> float:
    hits, n = drawn.hits(group)
    return 100 * hits / n if n else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    middle = _mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1))
