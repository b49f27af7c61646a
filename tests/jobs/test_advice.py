from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from unweave import Request
from unweave.audit.result import Audit, ClassifierOutcome, Verdict
from unweave.jobs.advice import advised

from .subjects import RECIPE, subject


def audit(outcome: ClassifierOutcome, method: str = "salun", **more: Any) -> Audit:
    return Audit(
        kind="classifier", method=method, verdict=Verdict(outcome=outcome, reason="Because.", **more)
    )


@pytest.fixture
def request_() -> Request[Any]:
    s = subject()
    return Request.of(s.train, s.heldout, torch.arange(2, 150, 3))


@pytest.mark.parametrize(
    "outcome", ["not forgotten", "partly forgotten", "answers only", "over-forgotten", "collapsed"]
)
def test_a_next_step_wherever_it_did_not_forget(outcome: ClassifierOutcome, request_: Request[Any]) -> None:
    model = subject(model=True).model
    told = advised(audit(outcome), request_, RECIPE, model).verdict
    assert told.next_step.startswith("Next: --method short-retrain, which came nearest")
    assert "of one retraining" in told.next_step
    assert told.why.endswith(told.next_step)
    assert advised(audit(outcome, "short-retrain"), request_, RECIPE, model).verdict.next_step == (
        "Next: retrain (--method retrain)."
    )


def test_what_stands_is_kept(request_: Request[Any]) -> None:
    model = subject(model=True).model
    assert advised(audit("forgotten"), request_, RECIPE, model) == audit("forgotten")
    kept = audit("inconclusive", next_step="8 + 8 would decide.")
    assert advised(kept, request_, RECIPE, model) == kept


def test_without_a_recipe(request_: Request[Any]) -> None:
    model = subject(model=True).model
    told = advised(audit("not forgotten"), request_, None, model).verdict.next_step
    assert told == (
        "Next: --method sfron, which came nearest for such requests where it was measured, at a cost that is not known."
    )
    assert (
        "define `recipe`, and retrain"
        in advised(audit("not forgotten", "sfron"), request_, None, model).verdict.next_step
    )
    few = replace(request_, forget=request_.forget.subset(torch.arange(3)), retain=subject().train)
    assert (
        "no method without one serves so few"
        in advised(audit("not forgotten"), few, None, model).verdict.next_step
    )
