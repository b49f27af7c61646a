"""Texts with a label, one JSON object a line: what a language model is shown and asked about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .loading import short

_TEXT, _LABEL = "text", "label"


@dataclass(frozen=True)
class LabelledText:
    """One line.

    Attributes:
        text: to classify.
        label: its name; "" where none is given.
    """

    text: str
    label: str = ""


def read_labelled(file: Path, *, labels: bool) -> list[LabelledText]:
    """Read {"text": ..., "label": ...} line by line; a label is text or a whole number.

    Args:
        file: .jsonl, in UTF-8.
        labels: whether every line must have a label; otherwise all have one or none has.

    Raises:
        InputError: if the file cannot be read, is empty, or a line is no such object.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"there is no file {file}.")
    rows = []
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
            if line.strip():
                rows.append(_row(json.loads(line), f"{file}, line {number}", labels))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({short(error)}). Give UTF-8 text.") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}, line {number}, is no JSON ({short(error)}).") from error
    if not rows:
        raise InputError(f"{file} holds no text.")
    bare = sum(not row.label for row in rows)
    if 0 < bare < len(rows):
        raise InputError(
            f"{bare} of the {len(rows)} texts in {file} have no label. Give every one of them its own, or none."
        )
    return rows


def _row(found: object, where: str, labels: bool) -> LabelledText:
    told = found if isinstance(found, dict) else {}
    text, label = told.get(_TEXT), told.get(_LABEL)
    named = isinstance(label, str | int) and not isinstance(label, bool) and str(label).strip() != ""
    if (
        not isinstance(text, str)
        or not text.strip()
        or (label is not None and not named)
        or (labels and not named)
    ):
        wanted = '{"text": ..., "label": ...}' if labels else '{"text": ...}, with a label if it is known'
        has = ", ".join(map(str, told)) if told else f"a {type(found).__name__}"
        raise InputError(f"{where}, must be {wanted}, with a text that is not empty; it has {has}.")
    return LabelledText(text, "" if label is None else str(label).strip())
