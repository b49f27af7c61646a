"""Executable claims: a paper's headline, measured again on real data with a baseline beside it.

A claim is a module claims/<family>/<method>.py with three names:

    claim = Claim(statement=..., reported=..., data=..., figures={...}, baseline=...)
    def measure(seed: int) -> dict[str, float]: ...             one figure a name, for one seed
    def holds(rows: list[dict[str, float]]) -> bool: ...        the paper's direction, decided before running

`python -m claims run unlearn/salun` measures every seed, prints and stores claims/results/unlearn/salun.json.
`python -m claims table` writes docs/claims.md from what is stored.
"""

from __future__ import annotations

from claims.framework import RESULTS, Claim, Result, claim_names, read_result, run_claim

__all__ = ["RESULTS", "Claim", "Result", "claim_names", "read_result", "run_claim"]
