"""Effects: what a claim compares, as differences paired by seed, with their 95 % interval and the status that follows.

Which way the difference is taken depends on the effect: it is always positive where the claim is right. Its interval is
Student's t over the seeds. A status follows from where that interval lies:

    holds         all of it is above the margin that the claim asks for (0 unless it says otherwise)
    not shown     the margin lies within it: these seeds cannot tell
    contradicted  all of it is below the margin
    not run       nothing is stored

Where every seed gives the same difference, the interval is that one value. It is then judged as it stands; on the margin
itself it holds if the other side is a fixed bar ("exactly 0", "100 %"), and is not shown between two measured figures.
Such an interval means that the seeds do not differ (a figure at 0 or 100 %), not that the effect is known exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Union

from unweave.errors import InputError
from unweave.statistics import Trial, summarise

HOLDS, NOT_SHOWN, CONTRADICTED, NOT_RUN = "holds", "not shown", "contradicted", "not run"
STATUSES = (HOLDS, NOT_SHOWN, CONTRADICTED, NOT_RUN)

Row = Mapping[str, float]
"""Figure -> value, of one seed."""
Side = Union[str, float, Callable[[Row], float], "tuple[Side, ...]"]


@dataclass(frozen=True)
class Effect:
    """One comparison of a claim.

    Attributes:
        name: what is compared, in a few words: "Wanda over magnitude".
        better: the side that should be better: a figure's name, a number, a function of one seed's figures, or several
            of these, of which the one with the best mean over the seeds is taken (one method at several settings).
        worse: the other side, likewise. A number makes the effect a bar: "F at most 20 %".
        unit: of both sides.
        higher: whether more is better.
        margin: the least difference asked for, in that unit; below zero where `better` may be a little worse. A figure's
            name stands for its mean over the seeds (a noise floor).
        every: whether each seed alone has to reach the margin as well.
        paper: the paper's own difference in that unit, where it is known and comparable.
        floor: a figure whose mean over the seeds is the noise floor of such a difference; "" if none was measured.
        headline: whether the claim's status depends on it; the others stand beside.
    """

    name: str
    better: Side
    worse: Side
    unit: str = "points"
    higher: bool = True
    margin: float | str = 0.0
    every: bool = False
    paper: float | None = None
    floor: str = ""
    headline: bool = True

    def on(self, rows: Sequence[Row]) -> Finding:
        """Measure it on the rows of at least three seeds.

        Raises:
            InputError: if there are fewer rows, or they lack a figure that it names.
        """
        if len(rows) < 3:
            raise InputError(f"effect {self.name!r} needs the figures of at least 3 seeds; got {len(rows)}.")
        better, worse = self._values(self.better, rows), self._values(self.worse, rows)
        if not self.higher:
            better, worse = worse, better
        trials = [
            Trial(side, seed, {"value": value})
            for side, values in (("better", better), ("worse", worse))
            for seed, value in enumerate(values)
        ]
        found = summarise(trials, "worse")["value"]["better"]
        gaps = tuple(found.differences)
        alike = min(gaps) == max(gaps)
        return Finding(
            effect=self,
            differences=gaps,
            mean=gaps[0] if alike else found.difference,
            interval=(gaps[0], gaps[0]) if alike else found.difference_interval,
            margin=fmean(self._values(self.margin, rows))
            if isinstance(self.margin, str)
            else float(self.margin),
            floor=fmean(self._values(self.floor, rows)) if self.floor else None,
        )

    def _values(self, side: Side, rows: Sequence[Row]) -> list[float]:
        if isinstance(side, tuple):
            best = max if self.higher else min
            return best((self._values(one, rows) for one in side), key=fmean)
        if isinstance(side, (int, float)):
            return [float(side)] * len(rows)
        try:
            return [float(row[side] if isinstance(side, str) else side(row)) for row in rows]
        except KeyError as missing:
            raise InputError(
                f"effect {self.name!r} names the figure {missing}, which was not measured. There are: {', '.join(rows[0])}."
            ) from None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An effect as measured.

    Attributes:
        effect: which.
        differences: one a seed; positive where the claim is right.
        mean: of these.
        interval: 95 % interval of that mean; one value where all differences are the same.
        margin: what the effect asks for, as a number.
        floor: the noise floor, as a number; None without one.
    """

    effect: Effect
    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    margin: float
    floor: float | None

    @property
    def status(self) -> str:
        """ "holds", "not shown" or "contradicted"."""
        low, high = self.interval
        reached = low > self.margin or (low == high == self.margin and self.is_bar)
        if high < self.margin:
            return CONTRADICTED
        if not reached or (self.effect.every and min(self.differences) < self.margin):
            return NOT_SHOWN
        return HOLDS

    @property
    def is_bar(self) -> bool:
        """Whether the other side is a fixed number."""
        return isinstance(self.effect.worse, (int, float))


def within(one: str, other: str, margin: float, name: str, *, unit: str = "points") -> tuple[Effect, Effect]:
    """Two effects that together say that two figures differ by at most `margin`: neither lies farther below the other."""
    return (
        Effect(f"{name} (no lower)", better=one, worse=other, unit=unit, margin=-margin),
        Effect(f"{name} (no higher)", better=other, worse=one, unit=unit, margin=-margin),
    )


def status(findings: Iterable[Finding]) -> str:
    """Of a claim, from its headline effects: contradicted if any is, not shown if any is, else it holds.

    Returns:
        "not run" if there are no findings.
    """
    found = [f.status for f in findings if f.effect.headline]
    return next((s for s in (CONTRADICTED, NOT_SHOWN, HOLDS) if s in found), NOT_RUN)
