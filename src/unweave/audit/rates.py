"""Error rates of the verdict on models that had no part in setting its threshold, as measured and shipped."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from .result import Kind, Rates

_FILES: dict[Kind, str] = {
    "classifier": "error_rates.json",
    "drawing": "erasure_error_rates.json",
    "language": "language_error_rates.json",
}


def published(kind: Kind = "classifier") -> list[Rates]:
    """Rates that the benchmarks measured for this kind of model, one entry a setting; empty if there are none.

    `benchmarks/audit_error_rates.py` measures those of classifiers, `benchmarks/erasure_error_rates.py` of pipelines,
    `benchmarks/language_error_rates.py` of language models.
    """
    file = resources.files("unweave.audit") / _FILES[kind]
    if not file.is_file():
        return []
    return [_rates(entry) for entry in json.loads(file.read_text(encoding="utf-8"))["rates"]]


def _rates(entry: dict[str, Any]) -> Rates:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return Rates(**values)
