"""KLOM: divergence of margins between unlearned and retrained models, example by example.

Georgiev et al., 2024, arXiv 2410.23232. It needs about a hundred models a side to be sharp; with few, its
floor (oracles against oracles) is high and must be read beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Generator
from torch.nn import Module

from ...errors import InputError
from ...statistics import Floats, bootstrap
from ...types import Data, Measurement
from .scores import confidences


def klom_of(unlearned: Floats, oracles: Floats, *, bins: int = 20) -> Floats:
    """KL(unlearned || oracle) of each example's histogram of margins.

    Args:
        unlearned: margins (phi) under k models, [k, n].
        oracles: under m models, [m, n].
        bins: equal ones over the joint range of each example; the oracle's shares are at least 1e-5.

    Returns:
        [n] in nats.
    """
    low = np.minimum(unlearned.min(0), oracles.min(0))
    width = np.maximum(np.maximum(unlearned.max(0), oracles.max(0)) - low, 1e-12)

    def shares(values: Floats) -> Floats:
        place = np.minimum(((values - low) / width * bins).astype(int), bins - 1)
        out: Floats = (place[:, :, None] == np.arange(bins)).mean(0)
        return out

    p, q = shares(unlearned), np.maximum(shares(oracles), 1e-5)
    found: Floats = np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0).sum(1)
    return found


def klom(
    unlearned: Sequence[Module],
    oracles: Sequence[Module],
    data: Data[Any],
    *,
    rng: Generator,
    part: str = "forgotten",
) -> tuple[Measurement, Measurement]:
    """KLOM's median and 95th percentile over the examples of `data`, beside oracles against oracles.

    Args:
        unlearned: models made to forget, from originals of different seeds.
        oracles: models retrained without the forget set, at least four.
        data: the forget, retain or held-out part of a request.
        rng: for the bootstrap over examples.
        part: what `data` is, in words.

    Raises:
        InputError: if there are fewer than two unlearned models or four oracles.
    """
    if len(unlearned) < 2 or len(oracles) < 4:
        raise InputError(
            f"KLOM needs at least 2 unlearned models and 4 oracles; got {len(unlearned)} and {len(oracles)}."
        )
    a, b = confidences(unlearned, data), confidences(oracles, data)
    # the floor is found with as many models a side as the figure, or it would be no floor
    half = len(b) // 2
    k = min(len(a), half)
    values, floor = klom_of(a[:k], b[:half]), klom_of(b[half : half + k], b[:half])
    note = f"{k} unlearned models against {half} oracles; the retrained column is oracles against oracles"

    def make(word: str, share: float) -> Measurement:
        def statistic(x: Floats) -> float:
            return float(np.quantile(x, share))

        return Measurement(
            name=f"KLOM on {part} examples, {word}",
            value=statistic(values),
            unit="nats",
            direction="lower is better; retrained models give the floor",
            n=len(values),
            interval=bootstrap(statistic, values, rng=rng),
            oracle_mean=statistic(floor),
            note=note,
        )

    return make("median", 0.5), make("95th percentile", 0.95)
