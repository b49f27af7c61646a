"""The ruler: does a model answer the forget set like models that hold it, or like models that never saw it?

A three-sample comparison, example by example. For each forget example, models trained with it ("holders") and
models retrained without it ("oracles") give two distributions of its logit-scaled confidence phi; the
candidate gives one value. Each example pulls by how well it tells the two apart, w = d / s, where d is the
difference of the two means, shrunk towards the average example's (a handful of models measures it badly), and
s the pooled standard deviation, shrunk likewise. The candidate's position is 0 at the holders' mean and 1
at the oracles'; leaving each reference model out in turn gives the spread of both, and so the intervals. This
is the per-example test of Carlini et al. (arXiv 2112.03570) and Hayes et al. (arXiv 2403.01218), summed over
examples and set against retrained models.

Five things keep it from being fooled.
- Model-wide shifts: phi is first put on a common scale by the median and quartiles of held-out examples of
  the classes that stay, so that a model that is merely less sure of everything is not taken for one that
  forgot.
- Cancellation: an example counts for no more than one standard deviation beyond either mean, so that pushing
  half of the forget set far down does not pay for keeping the other half. Beyond the oracles the uncut sum
  takes over.
- Average and pattern: the mean square distance from the oracles, example by example, must be that of
  an oracle.
- A class merely never named: where a whole class goes, its score, however low, must not pick the class's
  examples out of the others any better than a retrained model's does.
- Meaningless digits: probabilities under a tenth of chance are one and the same; whether a class that is
  never answered has probability 1e-4 or 1e-9 is an accident of training, not memory.

A two-sample test between the candidate's scores on forget and held-out examples cannot do this: one model's
spread over examples hides the shift of each, and it passes models that forgot nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite, log

import numpy as np
import numpy.typing as npt

from ...statistics import Floats, prediction
from ..result import Outcome

TOLERANCE = 0.1
"""A candidate this share of the way short of the oracles' mean may be accepted, however alike they are."""
EXCESS = 0.25
"""A candidate this share of the way beyond the oracles' mean is not yet called over-forgotten."""
MARGIN = 2.0
"""Points of accuracy below the oracles' mean that are no collapse, however alike they are."""
RUIN = 10.0
"""Points of accuracy below the oracles' mean at which nothing else needs to be said."""
UNEVEN = 1.5
"""Mean square distance from the oracles, over theirs, up to which the examples count as treated alike."""
_PRIOR = 8.0  # degrees of freedom that the average example's variance counts for
_FAR = 20.0  # standard deviations at which the uncut sum is cut after all


@dataclass(frozen=True)
class Sample:
    """Answers of k models.

    Attributes:
        forget: phi on the forget set of n examples, [k, n].
        place: median and distance between quartiles of phi on held-out examples of the classes that stay, [k,
            2].
        utility: accuracy in % on retained and on held-out examples of the classes that stay, [k, 2].
        floor: phi under which all values count as equal, once models are on a common scale.
        trace: for whole classes, AUC of the score of the deleted classes, forget set against held-out ones
            of the classes that stay, [k]; None where no class was deleted whole.
    """

    forget: Floats
    place: Floats
    utility: Floats
    floor: float = -inf
    trace: Floats | None = None

    @classmethod
    def of(
        cls, forget: Floats, control: Floats, utility: Floats, classes: int, trace: Floats | None = None
    ) -> Sample:
        """Sum up the control examples.

        Args:
            forget: phi on the forget set, [k, n].
            control: phi on held-out examples of the classes that stay, [k, m].
            utility: accuracy in % on retained and on those held-out examples, [k, 2].
            classes: how many there are; chance is one over it.
            trace: as in `Sample`.
        """
        share = 0.1 / classes
        low = log(share / (1 - share))
        quartiles = np.quantile(np.maximum(control, low), [0.25, 0.5, 0.75], axis=1)
        place = np.stack([quartiles[1], quartiles[2] - quartiles[0]], 1)
        return cls(forget, place, utility, low, trace)

    def __len__(self) -> int:
        return len(self.forget)

    def only(self, i: int) -> Sample:
        """Model i alone."""
        return self._chosen(np.array([i]))

    def without(self, i: int) -> Sample:
        """All models but i."""
        return self._chosen(np.delete(np.arange(len(self)), i))

    def _chosen(self, at: npt.NDArray[np.int64]) -> Sample:
        trace = None if self.trace is None else self.trace[at]
        return Sample(self.forget[at], self.place[at], self.utility[at], self.floor, trace)


@dataclass(frozen=True)
class Reading:
    """Where one model lies.

    Attributes:
        kept: position by the cut sum: 0 at holders' mean, 1 at oracles'.
        beyond: position by the uncut sum.
        distance: mean square distance from the oracles, in standard deviations squared.
        utility: accuracy in % on retained and held-out examples.
        trace: see `Sample`; None where no class was deleted whole.
    """

    kept: float
    beyond: float
    distance: float
    utility: Floats
    trace: float | None


@dataclass(frozen=True)
class Judgement:
    """An outcome with its reason in words, before the controls are looked at."""

    outcome: Outcome
    reason: str
    position: float | None


@dataclass(frozen=True)
class Ruler:
    """What a candidate is measured against; see the module's first lines.

    Attributes:
        holders: models that hold the forget set.
        oracles: models retrained without it.
    """

    holders: Sample
    oracles: Sample

    @cached_property
    def _fit(self) -> _Fit:
        return _Fit.of(self.holders, self.oracles)

    @cached_property
    def _left_out(self) -> tuple[Floats, Floats]:
        """Raw readings (kept, beyond, distance) of holders and oracles, each measured by the others."""
        h, o = self.holders, self.oracles
        # a lone model cannot be left out: by construction it lies at its own mean
        holders = (
            [_Fit.of(h.without(i), o).raw(h.only(i)) for i in range(len(h))]
            if len(h) > 1
            else [(0.0, 0.0, np.nan)]
        )
        oracles = (
            [_Fit.of(h, o.without(i)).raw(o.only(i)) for i in range(len(o))]
            if len(o) > 1
            else [(1.0, 1.0, np.nan)]
        )
        return np.array(holders), np.array(oracles)

    @cached_property
    def _anchors(self) -> tuple[Floats, Floats]:
        holders, oracles = self._left_out
        return holders.mean(0), oracles.mean(0)

    def _placed(self, raw: Floats) -> Floats:
        # means over left-out models: one that helped to set the ruler lies too well on it
        a, b = self._anchors
        span = b[:2] - a[:2]
        out: Floats = (raw[..., :2] - a[:2]) / np.where(span > 1e-3, span, np.nan)
        return out

    def read(self, model: Sample) -> Reading:
        """Measure one model that is not among the references."""
        raw = np.array(self._fit.raw(model))
        kept, beyond = self._placed(raw)
        trace = None if model.trace is None else float(model.trace[0])
        return Reading(float(kept), float(beyond), float(raw[2]), model.utility[0], trace)

    @cached_property
    def accepted(self) -> tuple[float, float]:
        """Positions that pass: where 95 % of fresh oracles lie, and no narrower than the tolerances."""
        placed = self._placed(self._left_out[1])
        low, high = prediction(placed[:, 0], left_out=True)[0], prediction(placed[:, 1], left_out=True)[1]
        return min(low, 1 - TOLERANCE), max(high, 1 + EXCESS)

    @cached_property
    def rejected(self) -> tuple[float, float]:
        """Where 95 % of models that hold the forget set lie; unbounded with one such model."""
        return prediction(self._placed(self._left_out[0])[:, 0], left_out=True)

    def judge(self, model: Sample) -> Judgement:
        """The outcome for one model that is not among the references."""
        r = self.read(model)
        (low, high), (_, top) = self.accepted, self.rejected
        top = top if len(self.holders) > 1 else 0.5
        lost = self._collapse(r.utility)
        ruined = lost and bool((r.utility < self.oracles.utility.mean(0) - RUIN).any())
        # a model that still holds the data is told so first, unless it is ruined
        if ruined or (lost and not r.kept < low):
            return Judgement("collapsed", lost, r.kept if isfinite(r.kept) else None)
        if not isfinite(r.kept):
            return Judgement(
                "inconclusive",
                "Retrained models answer the forget set no differently from models that hold it.",
                None,
            )
        outcome, what = self._compare(r, low, high, top)
        traced = outcome == "not forgotten" and r.kept >= low
        at = self._trace_position(r) if traced else r.beyond if outcome == "over-forgotten" else r.kept
        also = f" {lost}" if lost else ""
        return Judgement(outcome, f"On the forget set its position is {at:.2f}{what}{also}", at)

    def _compare(self, r: Reading, low: float, high: float, top: float) -> tuple[Outcome, str]:
        if len(self.oracles) < 2:
            if len(self.holders) > 2 and r.kept <= top < 0.5:
                return "not forgotten", f", inside the range of models that hold the data (up to {top:.2f})."
            return "inconclusive", ", but one retrained model does not show how far such models differ."
        if r.kept < low:
            how = (
                "inside the range of models that hold the data"
                if r.kept <= top
                else "part of the way from models that hold the data (0) to retrained ones (1)"
            )
            return "not forgotten", f", {how}; 95 % of retrained models lie above {low:.2f}."
        if r.kept <= top:
            return "inconclusive", (
                f", where both retrained models (from {low:.2f}) and models that hold the data (up to "
                f"{top:.2f}) are found."
            )
        if low <= 0.5:
            return "inconclusive", (
                f", but retrained models differ so much (from {low:.2f}) that half-forgotten would pass too."
            )
        if self._traces(r):
            return "not forgotten", (
                ": it never answers the deleted class, but its score for it still picks these examples out "
                f"of all others (AUC "
                f"{r.trace:.2f}; {_mean(self.oracles.trace):.2f} for retrained models, "
                f"{_mean(self.holders.trace):.2f} for models that hold the data)."
            )
        if r.beyond > high:
            return "over-forgotten", (
                f", beyond where retrained models lie (up to {high:.2f}): it answers these examples worse "
                "than a model that never saw them."
            )
        if r.distance > self._distance_limit:
            return "inconclusive", (
                ", like a retrained model's on average but not example by example: some are remembered, "
                "others pushed beyond."
            )
        return "forgotten", (
            f", where retrained models lie ({low:.2f} to {high:.2f}) and outside the range of models that "
            f"hold the data (up to {top:.2f})."
        )

    @cached_property
    def _distance_limit(self) -> float:
        distances = self._left_out[1][:, 2]
        mean = float(distances.mean())
        return max(prediction(distances, 0.99, left_out=True)[1], UNEVEN * mean, mean + 1.0)

    def _traces(self, r: Reading) -> bool:
        """Whether a class that is never answered is still scored as by models that know it."""
        holders, oracles = self.holders.trace, self.oracles.trace
        if r.trace is None or holders is None or oracles is None:
            return False
        half_way = (float(holders.mean()) + float(oracles.mean())) / 2
        return r.trace > max(half_way, prediction(oracles, 0.99)[1])

    def _trace_position(self, r: Reading) -> float:
        start, end = _mean(self.holders.trace), _mean(self.oracles.trace)
        return (start - (r.trace if r.trace is not None else end)) / (start - end)

    def _collapse(self, utility: Floats) -> str:
        # below the holders too: with a class gone, oracles do better on the rest than these
        for i, where in enumerate(("retained", "held-out")):
            oracles, holders = self.oracles.utility[:, i], self.holders.utility[:, i]
            limits = [min(_low(sample), float(sample.mean()) - MARGIN) for sample in (oracles, holders)]
            if utility[i] < min(limits):
                return (
                    f"Its accuracy on {where} examples is {utility[i]:.1f} %, against {oracles.mean():.1f} % "
                    "for retrained models."
                )
        return ""

    @cached_property
    def left_out_outcomes(self) -> tuple[list[Outcome], list[Outcome]]:
        """Outcomes of holders and of oracles, each judged by a ruler that it took no part in."""
        h, o = self.holders, self.oracles
        holders = (
            [Ruler(h.without(i), o).judge(h.only(i)).outcome for i in range(len(h))] if len(h) > 1 else []
        )
        oracles = (
            [Ruler(h, o.without(i)).judge(o.only(i)).outcome for i in range(len(o))] if len(o) > 1 else []
        )
        return holders, oracles


@dataclass(frozen=True)
class _Fit:
    """Per-example means, standard deviations and weights."""

    location: float
    scale: float
    holder: Floats
    oracle: Floats
    sd: Floats
    weight: Floats

    @classmethod
    def of(cls, holders: Sample, oracles: Sample) -> _Fit:
        location, scale = np.concatenate([holders.place, oracles.place]).mean(0)
        h, o = _match(holders, location, scale), _match(oracles, location, scale)
        a, b, df = h.mean(0), o.mean(0), len(h) + len(o) - 2
        squares = ((h - a) ** 2).sum(0) + ((o - b) ** 2).sum(0)
        typical = squares.mean() / df if df else ((a - b) ** 2).mean() / 4
        variance = (squares + _PRIOR * typical) / (df + _PRIOR) + 1e-6
        d, noise = a - b, variance * (1 / len(h) + 1 / len(o))
        signal = max(float(d.var() - noise.mean()), 0.0)
        d = d.mean() + signal / (signal + noise) * (d - d.mean())
        sd = np.sqrt(variance)
        return cls(float(location), float(scale), a, b, sd, d / sd)

    def raw(self, model: Sample) -> tuple[float, float, float]:
        """Position by the cut and the uncut sum (0, 1 at the fitted means), and distance from the oracles."""
        phi = _match(model, self.location, self.scale)[0]
        middle, half = (self.holder + self.oracle) / 2, np.abs(self.holder - self.oracle) / 2

        def position(reach: Floats) -> float:
            start, end, here = (
                float((self.weight * np.clip((x - middle) / self.sd, -reach, reach)).mean())
                for x in (self.holder, self.oracle, phi)
            )
            return (start - here) / (start - end) if start - end > 1e-9 else float("nan")

        far = np.maximum(_FAR, half / self.sd + 1)
        distance = float((np.clip((phi - self.oracle) / self.sd, -5, 5) ** 2).mean())
        return position(half / self.sd + 1), position(far), distance


def _match(models: Sample, location: float, scale: float) -> Floats:
    """Phi on the forget set, [k, n], as if each model answered held-out examples like the average one."""
    middle, spread = models.place[:, :1], models.place[:, 1:]
    stretch = np.clip(scale / np.maximum(spread, 1e-9), 0.25, 4.0) if scale > 0 else np.ones_like(spread)
    out: Floats = np.maximum(location + (models.forget - middle) * stretch, models.floor)
    return out


def _mean(trace: Floats | None) -> float:
    return float("nan") if trace is None else float(trace.mean())


def _low(sample: Floats) -> float:
    return prediction(sample)[0] if len(sample) > 2 else float(sample.mean()) - 2.5 * MARGIN
