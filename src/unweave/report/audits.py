"""Audits as a page for people, as Markdown and as strict JSON.

`render_html` gives one file that opens offline: no script, no font, no address is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ..audit.result import Audit, Control, Outcome, Rates, Verdict
from ..errors import InputError
from ..io.files import strict_json
from ..types import Measurement
from . import pictures, words
from .markdown import render_markdown
from .page import template

__all__ = ["from_json", "render_html", "render_markdown", "to_json"]

_FORMAT = "unweave audit"
_VERSION = 2


def render_html(audits: Sequence[Audit], run: Mapping[str, Any], published: Sequence[Rates]) -> str:
    """The report as one self-contained page.

    Args:
        audits: the model that is handed out first; then methods it is compared with.
        run: what was done. Read by name, all optional: "request" and "model" (in words), "command", "cost"
            (with "retrain", seconds of one retraining, and "edit", seconds of the first audit's edit or
            method -> seconds). Every other entry is listed as it is.
        published: error rates of the verdict on models that took no part in setting it.

    Returns:
        HTML. All text from the arguments is escaped.

    Raises:
        InputError: if there is no audit.
    """
    _require(audits)
    first = audits[0]
    edits, retrain = words.costs(audits, run)
    return template("report").render(
        audits=audits,
        first=first,
        meaning=words.MEANING[first.verdict.outcome],
        symbol=words.SYMBOL[first.verdict.outcome],
        caveats=words.caveats(first),
        rates=[(words.error_rates(r, fresh=True), r) for r in published]
        + ([(words.error_rates(first.rates, fresh=False), first.rates)] if first.rates else []),
        position=pictures.position(audits),
        scores=pictures.scores(first.scores),
        classes=pictures.dumbbells(
            first.per_class,
            {k: pictures.SERIES[k] for k in ("original", "oracle", "edited")},
            unit="accuracy on held-out examples, %",
            apart=("edited", "oracle"),
            figure="edited",
        ),
        density=pictures.dumbbells(
            _percent(first.layers, ("original", "edited")),
            {"original": "original model", "edited": "edited model"},
            unit="weights kept, %",
            apart=("edited", "original"),
            figure="edited",
            ends=(0.0,),
        ),
        overlap=pictures.dumbbells(
            first.layers,
            {
                "iou_original": "with the original model's mask",
                "iou_oracle": "with the retrained models' masks",
            },
            unit="overlap (IoU): 0 none, 1 the same weights",
            apart=("iou_original", "iou_oracle"),
            figure="iou_oracle",
            ends=(0.0, 1.0),
        ),
        cost=pictures.costs(edits, retrain),
        run=run,
        details=words.flat({k: v for k, v in run.items() if k not in ("request", "command")}),
        glossary=words.GLOSSARY,
        words=words,
        pictures=pictures,
    )


def to_json(audits: Sequence[Audit]) -> str:
    """Audits as strict JSON, every figure with its unit, direction and count; NaN and infinity are null.

    Example:
        >>> record = Measurement(name="accuracy", value=91.5, unit="%", direction="near the oracle", n=200)
        >>> verdict = Verdict(outcome="inconclusive", reason="No oracle.")
        >>> audit = Audit(method="salun", verdict=verdict, controls=(), rates=None, measurements=(record,))
        >>> from_json(to_json([audit])) == (audit,)
        True
    """
    record = {"format": _FORMAT, "version": _VERSION, "audits": [dataclasses.asdict(a) for a in audits]}
    return strict_json(record)


def from_json(text: str) -> tuple[Audit, ...]:
    """Read what `to_json` wrote.

    Raises:
        InputError: if it is not JSON or not of this format, or an entry is missing or of the wrong kind.
    """
    try:
        record = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"audit.json is not strict JSON: {error}.") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise InputError(f"This is no audit: its format must be {_FORMAT!r}.")
    if record.get("version") != _VERSION:
        raise InputError(
            f"This audit is of version {record.get('version')!r}; this program reads {_VERSION}."
        )
    try:
        return tuple(_audit(entry) for entry in record["audits"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"The audit is incomplete or damaged: {type(error).__name__} {error}.") from error


def _require(audits: Sequence[Audit]) -> None:
    if not audits:
        raise InputError("A report needs at least one audit; got none.")


def _percent(layers: Mapping[str, Mapping[str, float]], series: Sequence[str]) -> dict[str, dict[str, float]]:
    return {name: {s: 100 * row[s] for s in series if s in row} for name, row in layers.items()}


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")


def _audit(entry: dict[str, Any]) -> Audit:
    return Audit(
        method=_text(entry["method"]),
        verdict=_verdict(entry["verdict"]),
        controls=tuple(
            Control(
                name=_text(c["name"]),
                expected=_outcome(c["expected"]),
                got=_outcome(c["got"]),
                passed=_flag(c["passed"]),
            )
            for c in entry["controls"]
        ),
        rates=None if entry["rates"] is None else _rates(entry["rates"]),
        measurements=tuple(_measurement(m) for m in entry["measurements"]),
        scores={_text(k): [_share(v) for v in row] for k, row in entry["scores"].items()},
        per_class=_table(entry["per_class"]),
        layers=_table(entry["layers"]),
    )


def _verdict(entry: dict[str, Any]) -> Verdict:
    return Verdict(
        outcome=_outcome(entry["outcome"]),
        reason=_text(entry["reason"]),
        position=_number(entry["position"]),
        accepted=_ends(entry["accepted"]),
        rejected=_ends(entry["rejected"]),
        caveats=tuple(_text(c) for c in entry["caveats"]),
    )


def _rates(entry: dict[str, Any]) -> Rates:
    low, high = entry["oracles_interval"]
    below, above = entry["unedited_interval"]
    return Rates(
        oracles=int(entry["oracles"]),
        oracles_accepted=_share(entry["oracles_accepted"]),
        oracles_interval=(_share(low), _share(high)),
        unedited=int(entry["unedited"]),
        unedited_rejected=_share(entry["unedited_rejected"]),
        unedited_interval=(_share(below), _share(above)),
        inconclusive=_share(entry["inconclusive"]),
        wrong=_share(entry["wrong"]),
        source=_text(entry["source"]),
    )


def _measurement(entry: dict[str, Any]) -> Measurement:
    return Measurement(
        name=_text(entry["name"]),
        value=_number(entry["value"]),
        unit=_text(entry["unit"]),
        direction=_text(entry["direction"]),
        n=int(entry["n"]),
        interval=_ends(entry["interval"]),
        original=_number(entry["original"]),
        oracle_mean=_number(entry["oracle_mean"]),
        oracle_spread=_number(entry["oracle_spread"]),
        note=_text(entry["note"]),
    )


def _table(entry: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {_text(k): {_text(s): _share(v) for s, v in row.items()} for k, row in entry.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"true or false expected, got {value!r}")
    return value


def _outcome(value: Any) -> Outcome:
    if value not in get_args(Outcome):
        raise ValueError(f"unknown outcome {value!r}")
    known: Outcome = value
    return known


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number expected, got {value!r}")
    return value


def _share(value: Any) -> float:
    found = _number(value)
    return math.nan if found is None else found


def _ends(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = (_number(v) for v in value)
    return -math.inf if low is None else low, math.inf if high is None else high
