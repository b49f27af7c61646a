"""What a report says in plain words, whatever the kind of model, shared by HTML and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..audit.result import Audit, Kind, Rates
from ..audit.shown import (
    counted,
    interval,
    number,
    oracle_text,
    place,
    ratio,
    seconds,
    share,
    span,
    unit,
    value_text,
)
from ..errors import InputError

__all__ = [
    "GLOSSARY",
    "LIMITS",
    "NAME",
    "ONLY_WITH_ORACLES",
    "caveats",
    "costs",
    "error_rates",
    "flat",
    "interval",
    "number",
    "oracle_text",
    "place",
    "ratio",
    "require_one_kind",
    "seconds",
    "share",
    "unit",
    "untested",
    "value_text",
]

NAME: dict[Kind, str] = {
    "classifier": "Deletion audit",
    "drawing": "Erasure audit",
    "language": "Deletion audit",
}
"""What a report of this kind is called."""

_NO_LAWYER = "This is technical evidence, not a finding of legal compliance."
LIMITS: dict[Kind, tuple[str, ...]] = {
    "classifier": (
        "The audit looks at this one model. It says nothing about copies of the data, backups, earlier versions "
        "of the model or models derived from it.",
        "On scattered examples it cannot tell a model whose every layer was taught a retrained model's answers.",
        _NO_LAWYER,
    ),
    "drawing": (
        "What is measured is what these prompts draw, as the judge named it. Other words, languages or attacks may "
        "still draw an erased concept; an attack success rate, where there is one, says how easily. Damage was looked "
        "for in the kept concepts, the erased ones' nearest neighbours and a few general prompts only.",
        _NO_LAWYER,
    ),
    "language": (
        "The audit looks at this one model. It says nothing about copies of the texts, backups, earlier versions of "
        "the model, models derived from it, or other texts that tell the same facts.",
        "It cannot tell a model whose every layer was taught a retrained model's answers.",
        _NO_LAWYER,
    ),
}
"""What no audit of this kind can conclude."""

_FIGURES = (
    (
        "95 % interval",
        "the range in which the true figure is expected; of ranges made this way, 95 in 100 contain it.",
    ),
    ("Spread (±)", "the standard deviation over retrained models."),
)
GLOSSARY: dict[Kind, tuple[tuple[str, str], ...]] = {
    "classifier": (
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
        ("Member", "an example that a model was trained on. A membership attack guesses who was a member."),
        (
            "Score of an example",
            "how sure the model is of the right answer: log(p / (1 - p)) with p its probability. 0 is "
            "undecided, higher is surer.",
        ),
        *_FIGURES,
        (
            "Control",
            "a model whose right answer is known, judged first. If the verdict gets it wrong, it is not used.",
        ),
        (
            "Cheat",
            "a control: a model made on the spot that only looks as if it had forgotten, by its last layer.",
        ),
        (
            "Power",
            "whether a test could have come out otherwise with these retrained models and those that hold the data. "
            "One without power neither flags a model nor clears it.",
        ),
        (
            "Pruned (sparse) model",
            "a model in which part of the weights were removed; the mask says which are kept.",
        ),
        (
            "IoU",
            "overlap of two masks: weights kept in both, divided by weights kept in at least one; 1 is the same.",
        ),
    ),
    "drawing": (
        ("Pipeline", "the models that together draw what a text asks for."),
        ("Edited pipeline", "the pipeline after the concepts were erased; the one that is handed out."),
        ("Original pipeline", "the pipeline before the edit."),
        ("Retrained pipeline (oracle)", "one that was trained without ever seeing the erased concepts."),
        ("Erased, kept concepts", "what must not be drawn any more, and what must still be."),
        ("Judge", "a classifier that names what an image shows; the figures are as good as it is."),
        (
            "Fréchet distance",
            "how far two sets of images lie apart in what the judge reads them by; 0 for the same set.",
        ),
        (
            "Attack success",
            "share of prompts for which a search finds words that draw an erased concept after all.",
        ),
        *_FIGURES,
        ("Control", "a case whose answer is known, checked first. If it fails, the verdict is not used."),
    ),
}
GLOSSARY["language"] = tuple(
    (term.replace("example", "text"), said.replace("examples", "texts").replace("an example", "a text"))
    for term, said in GLOSSARY["classifier"]
    if term not in ("Pruned (sparse) model", "IoU")
)
"""Terms a lay reader meets in a report."""


def require_one_kind(audits: Sequence[Audit]) -> Audit:
    """The first of the audits of one report.

    Raises:
        InputError: if there is none, or they are of several kinds.
    """
    if not audits:
        raise InputError("A report needs at least one audit; got none.")
    kinds = sorted({audit.kind for audit in audits})
    if len(kinds) > 1:
        raise InputError(f"A report is about one kind of model; got audits of {' and '.join(kinds)}.")
    return audits[0]


def error_rates(rates: Rates, *, fresh: bool, kind: Kind = "classifier") -> list[dict[str, str]]:
    """The two error rates of a verdict as count and sentence.

    Args:
        rates: what was measured.
        fresh: whether the judged models took no part in setting the verdict's threshold.
        kind: of model.

    Returns:
        Two entries with "count", "what" and "interval".
    """
    seen = ", never seen before," if fresh else ""
    what = {
        "classifier": (
            f"retrained models{seen} were accepted",
            f"models that still hold the data{seen} were rejected",
        ),
        "drawing": (
            "retrained pipelines were called erased",
            "pipelines that were not, or damaged, were rejected",
        ),
    }["drawing" if kind == "drawing" else "classifier"]
    return [
        {
            "count": counted(rates.oracles_accepted, rates.oracles),
            "what": what[0],
            "interval": span(rates.oracles_interval),
        },
        {
            "count": counted(rates.unedited_rejected, rates.unedited),
            "what": what[1],
            "interval": span(rates.unedited_interval),
        },
    ]


def retrain_instead(method: str, spent: float, retrain: float) -> str:
    """Where an edit takes four fifths of a retraining or more, and is none itself: that it is not worth its doubts."""
    if spent < 0.8 * retrain or method in ("retrain", "short-retrain"):
        return ""
    return " Retrain instead: that is exact, and as cheap."


def elsewhere(published: Sequence[Rates]) -> str:
    """Error rates on models that took no part in setting the threshold, in one sentence."""
    accepted = [rates.oracles_accepted for rates in published]
    rejected = [rates.unedited_rejected for rates in published]
    worlds = f"{len(published)} other settings" if len(published) > 1 else "one other setting"
    return (
        f"How often it is right on models never seen before, in {worlds}: "
        f"{share(min(accepted))} to {share(max(accepted))} of those that are clean passed, "
        f"{share(min(rejected))} to {share(max(rejected))} of those that are not were rejected."
    )


ONLY_WITH_ORACLES = "These rates hold only with retrained models to compare with; this run had none."
"""Beside published error rates in a report without oracles."""


def caveats(audit: Audit) -> list[str]:
    """What cannot be concluded from this audit, and from any audit of this kind."""
    found = list(audit.verdict.caveats)
    exact = audit.verdict.outcome == "exact"
    if audit.kind != "drawing" and audit.verdict.position is None and not found and not exact:
        found.append(
            "Without retrained models to compare with, it cannot be said whether this model has forgotten."
        )
    failed = [c.name for c in audit.controls if not c.passed]
    if failed and audit.verdict.outcome == "inconclusive":
        found.append(
            f"The verdict got a known case wrong ({', '.join(failed)}); its answer on this model is not used."
        )
    return [*found, *LIMITS[audit.kind]]


def untested(audit: Audit) -> str:
    """What stands where no control was run."""
    if audit.verdict.outcome == "exact":
        return "It follows from how the model was made, whatever an audit could tell."
    return "No control was run."


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
