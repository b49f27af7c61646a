"""What an audit returns: plain frozen records, ready for JSON and for the report's pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..types import Measurement

Outcome = Literal["forgotten", "not forgotten", "over-forgotten", "collapsed", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Error rates of a verdict, leave-one-out over models that set its threshold, or on models that did not.

    Attributes:
        oracles: retrained models judged.
        oracles_accepted: share called forgotten, with its 95 % interval.
        unedited: models that still hold the data, judged.
        unedited_rejected: share called not forgotten, with its 95 % interval.
        inconclusive: share of all judged models called inconclusive.
        wrong: share of all judged models called the opposite of what they are.
        source: which models, in words ("leave-one-out, this run"; "40 + 40 models on digits, ...").
    """

    oracles: int
    oracles_accepted: float
    oracles_interval: tuple[float, float]
    unedited: int
    unedited_rejected: float
    unedited_interval: tuple[float, float]
    inconclusive: float
    wrong: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The relative verdict: nearer to models that hold the data, or to models retrained without it?

    Attributes:
        outcome: one of five words.
        reason: one or two sentences for a lay reader, with the figures that decided.
        position: 0 = where models trained with the data lie on average, 1 = where retrained ones lie; None without
            oracles.
        accepted: interval of `position` in which a fresh retrained model would lie (95 %).
        rejected: the same for a model that still holds the data.
        caveats: what cannot be concluded, one sentence each.
    """

    outcome: Outcome
    reason: str
    position: float | None = None
    accepted: tuple[float, float] | None = None
    rejected: tuple[float, float] | None = None
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Control:
    """A model whose answer is known, put through the same verdict.

    Attributes:
        name: "original model", "fresh retrained model", ...
        expected: outcome it must get.
        got: outcome it got.
        passed: whether they agree.
    """

    name: str
    expected: Outcome
    got: Outcome
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything the audit of one edited model found.

    Attributes:
        method: what was audited, in words ("unprune + salun").
        verdict: the answer.
        controls: run before the answer is given.
        rates: leave-one-out error rates of this run's verdict; None without enough oracles.
        measurements: every figure; names are unique.
        scores: per-example scores of the forget set (logit-scaled confidence), by "edited", "original", "oracle"
            (mean over oracles), "holders" (mean over models that hold the data); one float an example.
        per_class: class -> accuracy in % on held-out examples, by "edited", "original", "oracle".
        layers: for sparse models, parameter -> density of "edited", "original", and "iou_original", "iou_oracle".
    """

    method: str
    verdict: Verdict
    controls: tuple[Control, ...]
    rates: Rates | None
    measurements: tuple[Measurement, ...]
    scores: dict[str, list[float]] = field(repr=False, default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(repr=False, default_factory=dict)
    layers: dict[str, dict[str, float]] = field(repr=False, default_factory=dict)
