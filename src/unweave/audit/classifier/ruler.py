"""The ruler: does a model read on n examples like models that hold them, or like models that never saw them?

A three-sample comparison, example by example. For each example, models trained with it ("holders") and models
retrained without it ("oracles") give two distributions of a figure; the candidate gives one value. Each
example pulls by how well it tells the two apart, w = d / s, where d is the difference of the two means, shrunk
towards the average example's (a handful of models measures it badly), and s the pooled standard deviation,
shrunk likewise. The candidate's position is 0 at the holders' mean and 1 at the oracles'; leaving each
reference model out in turn gives the spread of both. This is the per-example test of Carlini et al. (arXiv
2112.03570) and Hayes et al. (arXiv 2403.01218), summed over examples and set against retrained models.

The same ruler reads answers (confidence on the forget set, brought to a common scale by held-out examples, so
that a model merely less sure of everything is not taken for one that forgot) and what lies under them (margins
of a last layer made anew, see `head`, which need no such scale).

Four things keep it from being fooled.
- Cancellation: an example counts for no more than one standard deviation beyond either mean, so that pushing
  half of the forget set far down does not pay for keeping the other half. Beyond the oracles the uncut sum
  takes over.
- Average and pattern: the mean square distance from the oracles, example by example.
- A few examples kept whole: their share, by likelihood ratios (see `share`), which the mean does not show.
- Meaningless digits: probabilities under a tenth of chance are one and the same; whether a class that is
  never answered has probability 1e-4 or 1e-9 is an accident of training, not memory.

A two-sample test between the candidate's scores on forget and held-out examples cannot do this: one model's
spread over examples hides the shift of each, and it passes models that forgot nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, log

import numpy as np
import numpy.typing as npt

from ...statistics import Floats
from .share import PRIOR, Ratios

_FAR = 20.0  # standard deviations at which the uncut sum is cut after all


@dataclass(frozen=True)
class Vectors:
    """A figure of k models on n examples.

    Attributes:
        values: [k, n].
        place: median and distance between quartiles of the figure on examples whose answer no deletion
            changes, [k, 2]: what models are brought to a common scale by; None leaves them as they are.
        floor: values under this count as equal, once models are on a common scale.
    """

    values: Floats
    place: Floats | None = None
    floor: float = -inf

    @classmethod
    def matched(cls, forget: Floats, control: Floats, classes: int) -> Vectors:
        """Confidences, to be matched by those on control examples.

        Args:
            forget: log odds of the true label on the forget set, [k, n].
            control: the same on held-out examples of the classes that stay, [k, m].
            classes: how many there are; chance is one over it.
        """
        share = 0.1 / classes
        low = log(share / (1 - share))
        quartiles = np.quantile(np.maximum(control, low), [0.25, 0.5, 0.75], axis=1)
        return cls(forget, np.stack([quartiles[1], quartiles[2] - quartiles[0]], 1), low)

    def __len__(self) -> int:
        return len(self.values)

    def only(self, *at: int) -> Vectors:
        """These models alone."""
        return self._chosen(np.array(at, dtype=np.int64))

    def without(self, i: int) -> Vectors:
        """All models but i."""
        return self._chosen(np.delete(np.arange(len(self)), i))

    def _chosen(self, at: npt.NDArray[np.int64]) -> Vectors:
        return Vectors(self.values[at], None if self.place is None else self.place[at], self.floor)


@dataclass(frozen=True)
class Places:
    """Where k models lie on a ruler.

    Attributes:
        kept: position by the cut sum, [k]: 0 at the holders' mean, 1 at the oracles'; NaN where these do not differ.
        beyond: position by the uncut sum, [k].
        distance: mean square distance from the oracles, in standard deviations squared, [k].
        over: the part of it that lies on the far side of the oracles, away from the holders, [k].
        share: of the examples read as by models that hold them, [k]; see `share`.
    """

    kept: Floats
    beyond: Floats
    distance: Floats
    over: Floats
    share: Floats


@dataclass(frozen=True)
class Ruler:
    """What a candidate is measured against; see the module's first lines.

    Attributes:
        holders: at least three models that hold the examples, so that two are left when one is judged by the others.
        oracles: at least three models retrained without them.
    """

    holders: Vectors
    oracles: Vectors

    @cached_property
    def _fit(self) -> _Fit:
        return _Fit.of(self.holders, self.oracles)

    @cached_property
    def _left_out(self) -> tuple[Floats, Floats]:
        """Raw readings of holders and of oracles, [models, 5], each measured by the others."""
        h, o = self.holders, self.oracles
        holders = [self._without(i).raw(h.only(i)) for i in range(len(h))]
        oracles = [_Fit.of(h, o.without(i)).raw(o.only(i)) for i in range(len(o))]
        return np.concatenate(holders), np.concatenate(oracles)

    def _without(self, holder: int) -> _Fit:
        return _Fit.of(self.holders.without(holder), self.oracles)

    def _placed(self, raw: Floats) -> Places:
        # means over left-out models: one that helped to set the ruler lies too well on it
        a, b = (readings[:, :2].mean(0) for readings in self._left_out)
        span = b - a
        at = (raw[:, :2] - a) / np.where(span > 1e-3, span, np.nan)
        return Places(at[:, 0], at[:, 1], raw[:, 2], raw[:, 3], raw[:, 4])

    @cached_property
    def references(self) -> tuple[Places, Places]:
        """Holders and oracles, each measured by the others."""
        holders, oracles = self._left_out
        return self._placed(holders), self._placed(oracles)

    def read(self, models: Vectors, made_from: Sequence[int] = ()) -> Places:
        """Measure models that are not among the references.

        Args:
            models: k of them.
            made_from: the holder that each was made from, which then takes no part; all take part otherwise.
        """
        if not len(made_from):
            return self._placed(self._fit.raw(models))
        raw = [self._without(holder).raw(models.only(i)) for i, holder in enumerate(made_from)]
        return self._placed(np.concatenate(raw))

    @property
    def information(self) -> float:
        """Sum over examples of (d / s)^2: how much all of them together tell holders from oracles."""
        return float((self._fit.weight**2).sum())

    @property
    def effective(self) -> float:
        """How many examples of equal pull would say as much."""
        pull = self._fit.weight**2 * self._fit.sd
        return float(pull.sum() ** 2 / max(float((pull**2).sum()), 1e-300))

    def ratios(self, model: Vectors) -> Floats:
        """Log likelihood ratio of each example, holders over oracles, for one model, [n]."""
        return self._fit.ratios.of(self._fit.match(model)[0])


@dataclass(frozen=True)
class _Fit:
    """Per-example means, standard deviations and weights."""

    location: float
    scale: float
    holders: Floats
    oracle: Floats
    sd: Floats
    weight: Floats
    ratios: Ratios

    @classmethod
    def of(cls, holders: Vectors, oracles: Vectors) -> _Fit:
        location = scale = 0.0
        if holders.place is not None and oracles.place is not None:
            location, scale = np.concatenate([holders.place, oracles.place]).mean(0).tolist()
        h, o = (_match(models, location, scale) for models in (holders, oracles))
        a, b, df = h.mean(0), o.mean(0), len(h) + len(o) - 2
        squares = ((h - a) ** 2).sum(0) + ((o - b) ** 2).sum(0)
        variance = (squares + PRIOR * squares.mean() / df) / (df + PRIOR) + 1e-6
        d, noise = a - b, variance * (1 / len(h) + 1 / len(o))
        signal = max(float(d.var() - noise.mean()), 0.0)
        d = d.mean() + signal / (signal + noise) * (d - d.mean())
        sd = np.sqrt(variance)
        return cls(location, scale, a, b, sd, d / sd, Ratios.between(h, o))

    def match(self, models: Vectors) -> Floats:
        return _match(models, self.location, self.scale)

    def raw(self, models: Vectors) -> Floats:
        """Position by the cut and the uncut sum (0, 1 at the fitted means), distance, far side and share, [k, 5]."""
        values = self.match(models)
        middle, half = (self.holders + self.oracle) / 2, np.abs(self.holders - self.oracle) / 2

        def position(reach: Floats) -> Floats:
            start, end, here = (
                (self.weight * np.clip((x - middle) / self.sd, -reach, reach)).mean(-1)
                for x in (self.holders, self.oracle, values)
            )
            found: Floats = (start - here) / (start - end if start - end > 1e-9 else np.nan)
            return found

        far = np.maximum(_FAR, half / self.sd + 1)
        off = np.clip((values - self.oracle) / self.sd, -5, 5)
        over = np.where(off * (self.holders - self.oracle) < 0, off, 0.0)
        shares = np.array([self.ratios.share(row) for row in values])
        return np.stack(
            [position(half / self.sd + 1), position(far), (off**2).mean(-1), (over**2).mean(-1), shares], 1
        )


def _match(models: Vectors, location: float, scale: float) -> Floats:
    """The figure, [k, n], as if each model answered control examples like the average one."""
    if models.place is None:
        return models.values
    middle, spread = models.place[:, :1], models.place[:, 1:]
    stretch = np.clip(scale / np.maximum(spread, 1e-9), 0.25, 4.0) if scale > 0 else np.ones_like(spread)
    out: Floats = np.maximum(location + (models.values - middle) * stretch, models.floor)
    return out
