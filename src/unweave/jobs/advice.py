"""What to do next, said beside a verdict: what came nearest for such a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..audit.result import Audit
from ..errors import InputError
from ..types import Request
from .choice import choose_for


def advised(audit: Audit, request: Request[Any], recipe: Any, model: Any) -> Audit:
    """The audit with a next step where it lacks one and did not find that the model forgot.

    Args:
        audit: of an edited model.
        request: that it was to serve.
        recipe: how the model was made; None where that is not known.
        model: before the edit.
    """
    verdict = audit.verdict
    if not audit.passed and not verdict.next_step:
        verdict = replace(verdict, next_step=_next(audit.method, request, recipe, model))
    return replace(audit, verdict=verdict)


def _next(method: str, request: Request[Any], recipe: Any, model: Any) -> str:
    try:
        nearest = choose_for(request, recipe, model)
    except InputError:  # nothing approximate serves so few examples
        return "Next: define `recipe`, so that it can be retrained; no method without one serves so few examples."
    if nearest.name == method:
        return (
            "Next: retrain (--method retrain)."
            if recipe is not None
            else "Next: define `recipe`, and retrain."
        )
    cost = (
        "at a cost that is not known"
        if nearest.cost is None
        else f"at about {nearest.cost:.2g} of one retraining"
    )
    return (
        f"Next: --method {nearest.name}, which came nearest for such requests where it was measured, {cost}."
    )
