"""What was read of models for a verdict, and the limits between which one figure of memory can speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ...statistics import Floats, prediction
from .ruler import Places

HEAD, TRACE, RELEARN, MASK = (
    "last layer made anew", "score of the deleted class", "relearn time", "mask overlap with holders",
)  # fmt: skip


@dataclass(frozen=True)
class Readings:
    """What the verdict knows of k models; figures that were not taken of a model are NaN.

    Attributes:
        answers: on the ruler of answers.
        hidden: position on the ruler of re-made margins, [k].
        trace: AUC of the score of the deleted classes, forget set against other classes, [k].
        relearn: steps to learn the forget set again, [k].
        mask: overlap with the masks of models that hold the data, itself left out, [k].
        heldout: accuracy in % on held-out examples of the classes that stay, [k].
        retain: accuracy in % on retained examples, [k].
        more: further figures of memory by name, each on a scale where oracles lie high, [k].
    """

    answers: Places
    hidden: Floats
    trace: Floats
    relearn: Floats
    mask: Floats
    heldout: Floats
    retain: Floats
    more: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.heldout)

    def at(self, chosen: Any) -> Readings:
        """Some of the models, by an index or mask of numpy's."""
        return self._each(lambda values: values[chosen])

    def mean(self) -> Readings:
        """One model's worth: the mean over all."""
        return self._each(lambda values: values.mean(keepdims=True))

    def _each(self, change: Callable[[Floats], Floats]) -> Readings:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        answers, more = parts.pop("answers"), parts.pop("more")
        return Readings(
            Places(**{f.name: change(getattr(answers, f.name)) for f in fields(answers)}),
            **{name: change(values) for name, values in parts.items()},
            more={name: change(values) for name, values in more.items()},
        )


@dataclass(frozen=True)
class Hidden:
    """One figure of memory under the answers, on a scale where oracles lie high.

    Attributes:
        name: of the measurement.
        holders: of models that hold the data.
        oracles: of retrained ones.
        alpha: chance that a fresh oracle lies below the limit.
        cap: the limit lies no higher, however alike the oracles are.
        left_out: whether each value was measured against the others.
        several: how many models' mean is judged.
    """

    name: str
    holders: Floats
    oracles: Floats
    alpha: float
    cap: float
    left_out: bool
    several: int = 1

    @property
    def limit(self) -> float:
        """Below it lies memory."""
        return min(self._ends(self.oracles, self.alpha)[0], self.cap)

    @property
    def power(self) -> bool:
        """Whether the limit lies above where models that hold the data do: else it can neither flag nor clear."""
        return min(len(self.holders), len(self.oracles)) > 2 and (
            self.limit > self._ends(self.holders, 0.05)[1]
        )

    def _ends(self, values: Floats, alpha: float) -> tuple[float, float]:
        return prediction(values, 1 - 2 * alpha, left_out=self.left_out, several=self.several)

    def place(self, value: float) -> float:
        """0 at the holders' mean, 1 at the oracles'."""
        a, b = float(self.holders.mean()), float(self.oracles.mean())
        return (value - a) / (b - a)

    def flags(self, value: float) -> bool:
        """Whether a value shows memory."""
        return self.power and value < self.limit
