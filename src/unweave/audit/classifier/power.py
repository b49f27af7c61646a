"""How many models would decide: a request's size sets how far single models scatter, and so what can be judged."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, log, sqrt

import numpy as np
from scipy import stats

LEAST = 4
"""Models of either kind below which nothing is decided."""
ADVISED = 8
WITH_EDITS = 16
"""References beside which several edits are judged."""
_MOST_REFERENCES, _MOST_EDITS = 32, 12
# sd of one model's position, by examples deleted at random, plain network on Fashion-MNIST: measured at 1 and 5, from
# 20 on reckoned back from how many references it took to decide
_TYPICAL = ((1, 0.40), (5, 0.30), (20, 0.165), (60, 0.15), (240, 0.105))


@dataclass(frozen=True)
class Need:
    """What it takes to judge a request.

    Attributes:
        references: models of either kind.
        edits: edited models of one method, from as many models that hold the data; their mean is judged.
    """

    references: int
    edits: int = 1

    @property
    def advised(self) -> Need:
        """With a margin: the spreads that the need was reckoned from are themselves known roughly."""
        if self.edits > 1:
            return Need(self.references, self.edits + 2)
        return Need(ceil(1.5 * self.references))

    @property
    def words(self) -> str:
        """As the command takes it."""
        told = f"{self.references} retrained models and {self.references} that hold the data"
        flags = f"--oracles {self.references} --holders {self.references}"
        if self.edits > 1:
            told += f", and {self.edits} edited models of the same method judged by their mean"
            flags += f" --edits {self.edits}"
        return f"{told} ({flags})"


def needed(oracles: float, holders: float) -> Need | None:
    """The fewest models that tell forgotten from not, k edits at first one; None if no number up to 32 and 12 does.

    The smallest (r, k) with (t.99 s_O + t.975 s_H) sqrt(1/k + 1/r) < 1, so that the two ranges part, and t.99 s_O
    sqrt(1/k + 1/r) < 1/2, so that half-forgotten does not pass; t with r - 1 degrees of freedom.

    Args:
        oracles: standard deviation of the position of one retrained model.
        holders: the same of one that holds the data.

    Example:
        >>> needed(0.4, 0.4), needed(0.1, 0.1)
        (Need(references=16, edits=6), Need(references=5, edits=1))
    """
    tried = [Need(r) for r in range(LEAST, _MOST_REFERENCES + 1)]
    tried += [Need(WITH_EDITS, k) for k in range(2, _MOST_EDITS + 1)]
    return next((need for need in tried if decides(need, oracles, holders)), None)


def decides(need: Need, oracles: float, holders: float) -> bool:
    """Whether so many models tell forgotten from not; see `needed`."""
    r = need.references
    if r < LEAST:
        return False
    one, two = (float(stats.t.ppf(level, r - 1)) for level in (0.99, 0.975))
    wide = sqrt(1 / need.edits + 1 / r)
    return (one * oracles + two * holders) * wide < 1 and one * oracles * wide < 0.5


def forecast(examples: int, oracles: int, holders: int, edits: int, *, whole: bool) -> str:
    """What so many references will not decide, said before any is trained; "" where they can.

    Args:
        examples: to be deleted.
        oracles: retrained models.
        holders: models that hold the data, the original among them.
        edits: edited models judged by their mean.
        whole: whether they are whole classes, which are seen sooner than scattered examples.
    """
    now = min(oracles, holders)
    if now < LEAST + edits - 1:
        least = LEAST + edits - 1
        return (
            f"{oracles} retrained models and {holders} that hold the data decide nothing: it takes at least {least} of "
            f"each. Advised: {Need(max(least, ADVISED)).words}."
        )
    spread = foreseen(examples)
    if whole or decides(Need(now, edits), spread, spread):
        return ""
    need = needed(spread, spread)
    what = "1 scattered example" if examples == 1 else f"{examples} scattered examples"
    said = f"{what} can hardly be judged with {now} references of each kind"
    said += f" and {edits} edits" if edits > 1 else ""
    exact = "an exact path needs no verdict: retrain, short-retrain, or unweave train --exact from the start"
    if need is None:
        return f"{said}, nor with more: pool them with other requests, or take an exact path ({exact})."
    more = need.advised
    return (
        f"{said} (by what was measured on Fashion-MNIST). What would decide: {more.words}, "
        f"{2 * more.references + more.edits - 1} trainings in all. Else {exact}."
    )


def foreseen(examples: int) -> float:
    """Typical standard deviation of one model's position when so many examples are deleted at random.

    Example:
        >>> round(foreseen(1), 2), round(foreseen(10_000), 3)
        (0.4, 0.105)
    """
    sizes, spreads = zip(*_TYPICAL, strict=True)
    return exp(float(np.interp(log(examples), np.log(sizes), np.log(spreads))))
