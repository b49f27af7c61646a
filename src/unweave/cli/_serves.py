"""Which methods serve a request to delete data from the kind of model that was named."""

from __future__ import annotations

import inspect
from typing import Any

from ..catalogue import Method
from ..errors import InputError
from ..jobs.subject import Subject
from ..jobs.texts import OfTexts


def require_serves(method: Method, subject: Subject) -> None:
    """Refuse a method that does not serve a request of this kind of model.

    Raises:
        InputError: if so, with what does.
    """
    families = subject.kind.families
    if method.family not in families or not deletes(method):
        what = "" if method.family in families else f" is of family {method.family}, and"
        cure = " For a language model's folder, name it first: unweave forget ./llm --data texts.jsonl."
        raise InputError(
            f"{method.name}{what} does not delete data from {subject.name}. See: unweave list --family {families[0]}."
            + cure * (method.family == "language")
        )
    if getattr(method.cls, "guards", False):
        raise InputError(
            f"{method.name} puts the model behind a guard, which no folder of transformers holds, and erases nothing. "
            "Call it from Python."
        )
    if isinstance(subject.kind, OfTexts) and "labels" in method.needs:
        raise InputError(
            f"{method.name} needs labels, and texts have none. See: unweave list --family {families[0]}."
        )


def deletes(method: Method) -> bool:
    """Whether a method's verb takes a request to delete data."""
    verb: Any = getattr(method.cls, "apply", None)
    return verb is not None and "Request" in str(inspect.signature(verb).parameters["data"].annotation)
