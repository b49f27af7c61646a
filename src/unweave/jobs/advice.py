"""What to do next, said beside a verdict: what came nearest for such a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..audit.result import Audit
from ..errors import InputError
from ..types import Request
from .kinds import Kind

ALONE = "That alone shows it; no audit is needed."
ONLY_GIVEN = "What a recipe reads beside the examples that it is given is not looked at."


def advised(audit: Audit, request: Request[Any], recipe: Any, model: Any, kind: Kind | None = None) -> Audit:
    """The audit with a next step where it lacks one and did not find that the model forgot.

    Args:
        audit: of an edited model.
        request: that it was to serve.
        recipe: how the model was made; None where that is not known.
        model: before the edit.
        kind: of model; one that answers examples unless given.
    """
    verdict = audit.verdict
    if not audit.passed and not verdict.next_step:
        verdict = replace(verdict, next_step=_next(audit.method, request, recipe, model, kind or Kind()))
    return replace(audit, verdict=verdict)


def by_construction(audit: Audit) -> Audit:
    """The audit of a model that is exact however little its figures decide."""
    alone = audit.verdict.reason if audit.verdict.position is not None else ""
    reason = f"The recipe was run again on the retained examples. {ALONE}"
    told = [f"The audit by itself decides nothing here: {alone}"] if alone else []
    verdict = replace(
        audit.verdict, outcome="exact", reason=reason, caveats=(ONLY_GIVEN, *told), next_step=""
    )
    return replace(audit, verdict=verdict)


def _next(method: str, request: Request[Any], recipe: Any, model: Any, kind: Kind) -> str:
    try:
        nearest = kind.choose(request, recipe, model)
    except InputError:  # nothing approximate serves so few examples
        return f"Next: {kind.recipe_by}, so that it can be retrained; no method without one serves so few examples."
    if nearest.name == method:
        return (
            "Next: retrain (--method retrain)."
            if recipe is not None
            else f"Next: {kind.recipe_by}, and retrain."
        )
    if nearest.name == "retrain":
        return "Next: retrain (--method retrain), which is exact."
    cost = (
        "at a cost that is not known"
        if nearest.cost is None
        else f"at about {nearest.cost:.2g} of one retraining"
    )
    return (
        f"Next: --method {nearest.name}, which came nearest for such requests where it was measured, {cost}."
    )
