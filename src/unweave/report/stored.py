"""Audits as strict JSON, and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Sequence
from typing import Any

from ..audit.result import OUTCOMES, Audit, Check, Control, Panel, Passages, Rates, Rows, Samples, Verdict
from ..errors import InputError
from ..types import Measurement
from .first_version import converted

FORMAT = "unweave audit"
VERSION = 2


def to_json(audits: Sequence[Audit]) -> str:
    """Audits as strict JSON, every figure with its unit, direction and count; NaN and infinity are null.

    The word and its reason stand at the head of each audit too, for what reads no more than these.

    Example:
        >>> record = Measurement(name="accuracy", value=91.5, unit="%", direction="near the oracle", n=200)
        >>> verdict = Verdict(outcome="inconclusive", reason="No oracle.")
        >>> audit = Audit(kind="classifier", method="salun", verdict=verdict, measurements=(record,))
        >>> from_json(to_json([audit])) == (audit,)
        True
    """
    record = {"format": FORMAT, "version": VERSION, "audits": [_entry(a) for a in audits]}
    return json.dumps(_finite(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[Audit, ...]:
    """Read what `to_json` wrote, and what the first version of either format held.

    Raises:
        InputError: if it is not JSON or not of this format, or an entry is missing or of the wrong kind.
    """
    try:
        record = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"audit.json is not strict JSON: {error}.") from error
    if not isinstance(record, dict) or record.get("format") not in (FORMAT, "unweave erasure"):
        raise InputError(f"This is no audit: its format must be {FORMAT!r}.")
    if record.get("version") not in (1, VERSION):
        raise InputError(
            f"This audit is of version {record.get('version')!r}; this program reads 1 and {VERSION}."
        )
    try:
        entries = converted(record) if record["version"] == 1 else record["audits"]
        return tuple(_audit(entry) for entry in entries)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"The audit is incomplete or damaged: {type(error).__name__} {error}.") from error


def _entry(audit: Audit) -> dict[str, Any]:
    head = {"outcome": audit.verdict.outcome, "reason": audit.verdict.reason}
    return head | dataclasses.asdict(audit)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")


def _audit(entry: dict[str, Any]) -> Audit:
    return Audit(
        kind=_one_of(entry["kind"], OUTCOMES),
        method=_text(entry["method"]),
        verdict=_verdict(entry["verdict"]),
        controls=tuple(
            Control(
                name=_text(c["name"]),
                expected=_text(c["expected"]),
                got=_text(c["got"]),
                passed=_flag(c["passed"]),
            )
            for c in entry["controls"]
        ),
        rates=None if entry["rates"] is None else _rates(entry["rates"]),
        measurements=tuple(_measurement(m) for m in entry["measurements"]),
        panels=tuple(_panel(p) for p in entry["panels"]),
    )


def _verdict(entry: dict[str, Any]) -> Verdict:
    return Verdict(
        outcome=_text(entry["outcome"]),  # type: ignore[arg-type]  # the audit knows which its kind has
        reason=_text(entry["reason"]),
        position=_number(entry["position"]),
        accepted=_ends(entry["accepted"]),
        rejected=_ends(entry["rejected"]),
        checks=tuple(
            Check(
                name=_text(c["name"]),
                half=_one_of(c["half"], ("answers", "memory")),
                power=_flag(c["power"]),
                passed=None if c["passed"] is None else _flag(c["passed"]),
                position=_number(c["position"]),
                accepted=_ends(c["accepted"]),
            )
            for c in entry["checks"]
        ),
        caveats=tuple(_text(c) for c in entry["caveats"]),
        next_step=_text(entry["next_step"]),
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


def _panel(entry: dict[str, Any]) -> Panel:
    if entry["name"] == "answers":
        said = {_text(k): {_text(s): _text(v) for s, v in row.items()} for k, row in entry["rows"].items()}
        return Passages(name="answers", rows=said)
    unit = _text(entry["unit"])
    if "samples" in entry:
        samples = {_text(k): [_share(v) for v in row] for k, row in entry["samples"].items()}
        return Samples(name=_one_of(entry["name"], ("scores",)), unit=unit, samples=samples)
    rows = {_text(k): {_text(s): _share(v) for s, v in row.items()} for k, row in entry["rows"].items()}
    return Rows(name=_one_of(entry["name"], ("classes", "layers", "concepts", "turns")), unit=unit, rows=rows)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"true or false expected, got {value!r}")
    return value


def _one_of(value: Any, known: Collection[str]) -> Any:
    if _text(value) not in known:
        raise ValueError(f"one of {', '.join(known)} expected, got {value!r}")
    return value


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
