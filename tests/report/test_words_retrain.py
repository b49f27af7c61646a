from __future__ import annotations

import pytest

from unweave.report import words


@pytest.mark.parametrize(
    ("method", "spent", "said"),
    [("salun", 0.8, True), ("salun", 0.79, False), ("retrain", 1.0, False), ("short-retrain", 2.0, False)],
)
def test_when_to_retrain_instead(method: str, spent: float, said: bool) -> None:
    told = words.retrain_instead(method, spent, 1.0)
    assert told == (" Retrain instead: that is exact, and as cheap." if said else "")
