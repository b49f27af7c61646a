"""Figures and outcomes in plain words, shared by the HTML and the Markdown report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..audit.result import Audit, Control, Outcome, Rates
from ..types import Measurement

MEANING: dict[Outcome, str] = {
    "forgotten": "On the deleted examples, this model answers like models that never saw them.",
    "not forgotten": "On the deleted examples, this model still answers like models trained on them.",
    "over-forgotten": "This model answers the deleted examples worse than models that never saw them. "
    "That is a trace too: it can show which examples were deleted.",
    "collapsed": "This model lost abilities it should have kept, so nothing can be said for its forgetting.",
    "inconclusive": "The evidence does not decide whether this model has forgotten the deleted examples.",
}
"""One sentence an outcome, for somebody who has read nothing else."""

SYMBOL: dict[Outcome, str] = {
    "forgotten": "✓",
    "not forgotten": "✕",
    "over-forgotten": "▲",
    "collapsed": "■",
    "inconclusive": "?",
}
"""A shape an outcome, so that it can be told apart without colour."""

LIMITS = (
    "The audit looks at this one model. It says nothing about copies of the data, backups, earlier versions "
    "of the model or models derived from it.",
    "This is technical evidence, not a finding of legal compliance.",
)
"""What no audit of this kind can conclude."""

GLOSSARY = (
    ("Edited model", "the model after the deletion request was carried out; the one that is handed out."),
    ("Original model", "the model before the edit; it was trained on the deleted examples."),
    ("Forget set", "the examples that were to be deleted."),
    ("Retained examples", "the rest of the training data, which the model may keep."),
    (
        "Held-out examples",
        "examples that were never used for training; they show how well a model works on new data.",
    ),
    (
        "Retrained model (oracle)",
        "a model trained from scratch without the deleted examples: what perfect forgetting looks like. No "
        "two come out the same, so several are trained and their spread is used as the yardstick.",
    ),
    (
        "Holder",
        "a model trained anew with the deleted examples, by the same recipe; several show how far models "
        "that hold the data differ by chance.",
    ),
    ("Member", "an example that a model was trained on. A membership attack guesses who was a member."),
    (
        "Score of an example",
        "how sure the model is of the right answer: log(p / (1 - p)) with p its probability. 0 is undecided, "
        "higher is surer.",
    ),
    (
        "95 % interval",
        "the range in which the true figure is expected; of ranges made this way, 95 in 100 contain it.",
    ),
    ("Spread (±)", "the standard deviation over retrained models."),
    (
        "Control",
        "a model whose right answer is known, judged first. If the verdict gets it wrong, it is not used.",
    ),
    (
        "Pruned (sparse) model",
        "a model in which part of the weights were removed; the mask says which are kept.",
    ),
    (
        "IoU",
        "overlap of two masks: weights kept in both, divided by weights kept in at least one; 1 is the same.",
    ),
)
"""Terms a lay reader meets in the report."""


def number(value: float | None, *, digits: int = 3) -> str:
    """A figure with this many significant digits, thousands separated; a dash when there is none.

    Example:
        >>> [number(x) for x in (16000.4, 92.44, -0.5034, 0.0000123, 0.0, None)]
        ['16,000', '92.4', '−0.503', '1.23e−05', '0', '–']
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e9:
        text = f"{value:.{digits}g}"
    else:
        text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return text.replace("-", "−")


def place(value: float | None) -> str:
    """A position between 0 and 1, to two decimals."""
    return f"{value:.2f}".replace("-", "−") if value is not None and math.isfinite(value) else "–"


def interval(ends: tuple[float, float] | None) -> str:
    """Both ends with "to" between them; empty when there is none."""
    return "" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def seconds(value: float) -> str:
    """A duration a person would say.

    Example:
        >>> [seconds(x) for x in (0.034, 4.21, 75.0, 7300.0)]
        ['0.034 s', '4.2 s', '1 min 15 s', '2 h 2 min']
    """
    if value < 1:
        return f"{value:.2g} s"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def ratio(edit: float, retrain: float) -> str:
    """How much an edit costs beside one retraining.

    Example:
        >>> ratio(1.0, 8.0), ratio(9.0, 10.0), ratio(30.0, 10.0)
        ('1/8 of one retraining', '90 % of one retraining', '3.0 times one retraining')
    """
    share = edit / retrain
    if share > 1.05:
        return f"{number(share, digits=2)} times one retraining"
    if share >= 0.55:
        return f"{share:.0%} of one retraining".replace("%", " %")
    return f"1/{1 / share:,.0f} of one retraining"


def share(value: float) -> str:
    """A share as a percentage, "–" when it is not known."""
    return f"{100 * value:.3g} %" if math.isfinite(value) else "–"


def counted(value: float, total: int) -> str:
    """A share of a known number of models as a count of them ("39 of 40")."""
    return f"{round(value * total)} of {total}" if total and math.isfinite(value) else "none judged"


def span(ends: tuple[float, float]) -> str:
    """An interval of a share in percent; empty when there is none."""
    low, high = ends
    return f"{100 * low:.0f}–{100 * high:.0f} %" if math.isfinite(low) and math.isfinite(high) else ""


def error_rates(rates: Rates, *, fresh: bool) -> list[dict[str, str]]:
    """The two error rates of a verdict as count and sentence.

    Args:
        rates: what was measured.
        fresh: whether the judged models took no part in setting the verdict's threshold.

    Returns:
        Two entries with "count", "what" and "interval".
    """
    seen = ", never seen before," if fresh else ""
    return [
        {
            "count": counted(rates.oracles_accepted, rates.oracles),
            "what": f"retrained models{seen} were accepted",
            "interval": span(rates.oracles_interval),
        },
        {
            "count": counted(rates.unedited_rejected, rates.unedited),
            "what": f"models that still hold the data{seen} were rejected",
            "interval": span(rates.unedited_interval),
        },
    ]


ONLY_WITH_ORACLES = "These rates hold only with retrained models to compare with; this run had none."
"""Beside published error rates in a report without oracles."""


def control_sentence(control: Control) -> str:
    """What a control had to get and what it got."""
    if control.passed:
        return f"{control.name}: called {control.got}, as it must be"
    return f"{control.name}: called {control.got}, but must be called {control.expected}"


def caveats(audit: Audit) -> list[str]:
    """What cannot be concluded from this audit, and from any audit."""
    found = list(audit.verdict.caveats)
    if audit.verdict.position is None and not found:
        found.append(
            "Without retrained models to compare with, it cannot be said whether this model has forgotten."
        )
    failed = [c.name for c in audit.controls if not c.passed]
    if failed:
        found.append(
            f"The verdict got a known case wrong ({', '.join(failed)}); its answer on this model is not used."
        )
    return [*found, *LIMITS]


def value_text(m: Measurement, *, interval_too: bool = True) -> str:
    """The edited model's figure with its unit and, unless told otherwise, its interval."""
    if m.value is None or not math.isfinite(m.value):
        return "not measured"
    ends = f" ({interval(m.interval)})" if m.interval and interval_too else ""
    return f"{number(m.value)}{unit(m)}{ends}"


def unit(m: Measurement) -> str:
    """The unit as it follows a figure; a share needs none."""
    return f" {m.unit}" if m.unit and m.unit != "share" else ""


def oracle_text(m: Measurement) -> str:
    """Mean and spread over the retrained models."""
    if m.oracle_mean is None:
        return "–"
    spread = f" ± {number(m.oracle_spread, digits=2)}" if m.oracle_spread is not None else ""
    return f"{number(m.oracle_mean)}{spread}{unit(m)}"


def costs(audits: Sequence[Audit], run: Mapping[str, Any]) -> tuple[dict[str, float], float | None]:
    """Seconds of each audited method's edit, and of one retraining.

    Args:
        audits: in the order of the report.
        run: its `cost` holds "retrain" (seconds) and "edit" (seconds of the first, or method -> seconds).
    """
    cost = run.get("cost") or {}
    edit, retrain = cost.get("edit"), cost.get("retrain")
    if isinstance(edit, Mapping):
        edits = {a.method: float(edit[a.method]) for a in audits if edit.get(a.method) is not None}
    else:
        edits = {audits[0].method: float(edit)} if edit is not None else {}
    return edits, float(retrain) if retrain else None


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested dict as rows of dotted name and text."""
    if isinstance(value, Mapping):
        return [
            row
            for key, inner in value.items()
            for row in flat(inner, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(map(str, value)))]
    if isinstance(value, float):
        return [(prefix, f"{value:.6g}")]
    return [(prefix, "" if value is None else str(value))]
