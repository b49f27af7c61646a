"""The memory gauge: how much of the original's memory of single examples is left in the answers.

With phi the log odds of the true label and a(theta) = AUC of phi, forgotten against held-out examples, minus 1/2,

    gauge = 1 - a(theta) / a(original)

is 0 for the model before the edit and about 1 for one that never saw the examples. A position near the models that
hold the data may have two causes: memory that is left, or a model that has not healed yet and answers like neither. The
gauge sees the first alone, and tells the two apart.

It takes the forgotten examples for a random draw of what the held-out ones were drawn from. Of whole classes, of
sources, and of less than `LEAST` examples it can say nothing.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from ...statistics import Floats
from ...types import Measurement
from ..measured import measurement
from ..result import Verdict
from .compared import Compared
from .membership import auc
from .references import Read

NAME = "memory gauge"
LEAST = 200
"""Examples to forget, and held-out ones, below which noise drowns it: retrained models read 0.5 to 0.9 at 60."""
CLEAR = 0.9
"""From here on, noise taken into account, no more memory is left than a retrained model has."""
_UNIT, _IDEAL = "share", "near 1, and near the retrained models; 0 is the memory of the original"


def advantage(forget: Floats, heldout: Floats) -> float:
    """a: by how much confidence tells forgotten [n] from held-out [m] examples; 0 not at all, 1/2 wholly.

    Example:
        >>> import numpy as np
        >>> advantage(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
        0.375
    """
    return auc(forget, heldout) - 0.5


def gauge(edited: float, original: float) -> float:
    """1 - a(edited) / a(original), of two advantages.

    Example:
        >>> gauge(0.125, 0.25)
        0.5
    """
    return 1 - edited / original


def noise(forgotten: int, heldout: int) -> float:
    """Standard deviation of an advantage where both kinds of examples are alike: sqrt((n + m + 1) / (12 n m)).

    That of the rank sum test (Mann and Whitney, 1947); for n much below m it is 0.29 / sqrt(n).

    Example:
        >>> round(noise(240, 10**6), 4)
        0.0186
    """
    return sqrt((forgotten + heldout + 1) / (12 * forgotten * heldout))


def memory_gauge(c: Compared) -> Measurement:
    """The gauge of the edited model beside the retrained ones', with its 95 % interval; or why it cannot tell."""
    n, m = len(c.edited_read.forget.phi), len(c.edited_read.control.phi)
    if c.parts.deleted:
        return _silent(n, "whole classes go, and their examples are no random draw of all")
    if min(n, m) < LEAST:
        return _silent(n, f"{n} examples to forget and {m} held-out ones; it needs {LEAST} of each")
    edited, original = _advantage(c.edited_read), _advantage(c.holders_read[0])
    oracles, spread = [_advantage(read) for read in c.oracles_read], noise(n, m)
    if original < 3 * spread:
        return _silent(
            n, f"the original hardly tells them from held-out ones (by {original:.3f}, noise {spread:.3f})"
        )
    # single readings share the examples, so their mean is no less noisy than one of them
    apart = sum(oracles) / max(1, len(oracles))
    if abs(apart) > 3 * spread:
        return _silent(
            n,
            f"retrained models tell them from held-out ones, too (by {apart:.3f}, noise {spread:.3f}): they are no "
            "random draw",
        )
    value, wide = gauge(edited, original), 1.96 * spread / original
    return measurement(
        NAME,
        value,
        0.0,
        [gauge(a, original) for a in oracles],
        unit=_UNIT,
        direction=_IDEAL,
        n=n,
        interval=(value - wide, value + wide),
        note=in_words(value, wide),
    )


def in_words(value: float, wide: float) -> str:
    """What a reading means beside the position of the answers; `wide` is half its 95 % interval."""
    if value + wide < CLEAR:
        return f"memory of the deleted examples is left: {1 - value:.2f} of the original's"
    if value - wide < 0.5:
        return f"cannot tell: too noisy here (+- {wide:.2f})"
    return (
        "no more memory of single examples is seen than in a retrained model; answers that still differ from its "
        "answers need healing, not forgetting"
    )


def not_healed(verdict: Verdict, gauge: Measurement) -> Verdict:
    """The verdict, with what the gauge adds where answers are still far from a retrained model's.

    A model that never saw the examples, but was trained too little, lies short of the retrained ones as well.
    """
    if verdict.outcome not in ("not forgotten", "partly forgotten") or None in (gauge.value, gauge.interval):
        return verdict
    assert gauge.value is not None
    assert gauge.interval is not None
    wide = gauge.interval[1] - gauge.value
    if gauge.value + wide < CLEAR or gauge.value - wide < 0.5:
        return verdict
    said = (
        f"The memory gauge reads {gauge.value:.2f} (0 the original's memory of examples, 1 a retrained model's): "
        "what is missing may be healing rather than forgetting, as in a model that never saw the examples and was "
        "trained too little. Train it longer on the retained examples before anything stronger."
    )
    return replace(verdict, caveats=(*verdict.caveats, said))


def _advantage(read: Read) -> float:
    return advantage(read.forget.phi, read.control.phi)


def _silent(n: int, why: str) -> Measurement:
    return Measurement(name=NAME, value=None, unit=_UNIT, direction=_IDEAL, n=n, note=f"cannot tell: {why}")
