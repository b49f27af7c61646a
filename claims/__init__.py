"""Executable claims: a paper's headline, measured again on real data with a baseline beside it.

A claim is a module claims/<family>/<method>.py with two names:

    claim = Claim(statement=..., reported=..., data=..., figures={...}, baseline=..., effects=(Effect(...), ...))
    def measure(seed: int) -> dict[str, float]: ...             one figure a name, for one seed

Its effects say which figures are compared, in which direction and by what margin, decided before the first run; whether it
holds follows from the stored figures (claims/effects.py). `python -m claims run unlearn/salun` measures every seed, prints and
stores claims/results/unlearn/salun.json. `python -m claims table` writes docs/claims/ and everything else that repeats what
is stored.
"""

from __future__ import annotations

from claims.effects import STATUSES, Effect, Finding
from claims.framework import (
    RESULTS,
    Claim,
    Result,
    claim_names,
    claim_status,
    findings,
    load,
    read_claim,
    read_result,
    run_claim,
)

__all__ = [
    "RESULTS",
    "STATUSES",
    "Claim",
    "Effect",
    "Finding",
    "Result",
    "claim_names",
    "claim_status",
    "findings",
    "load",
    "read_claim",
    "read_result",
    "run_claim",
]
