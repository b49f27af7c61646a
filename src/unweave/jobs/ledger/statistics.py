"""Where the requests of a ledger stand, in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from .book import Ledger
from .evidence import old_evidence
from .plan import LEVELS
from .relapse import UNLAPSED
from .state import Asked, Version, now_utc

_SHOWN = 40


@dataclass(frozen=True)
class Report:
    """Where things stand.

    Attributes:
        now: when this was found.
        requests: all of them, in their order.
        overdue: names of requests that are late.
        models: versions in use.
        days: time from receiving to serving, median and 95th percentile; None before any was served.
        levels: what may be claimed -> requests.
        lapses: earlier requests that came back in an approximate edit.
        approximate: rounds since the last training from scratch, of how many.
        superseded: earlier versions whose files still hold what was deleted: in the ledger's folder, and elsewhere.
        old: requests whose evidence was kept for as long as the policy says.
        late: models in use that hold what was deleted, due at once.
        head: the newest entry.
        signed: whether entries are signed.
    """

    now: datetime
    requests: tuple[Asked, ...]
    overdue: tuple[str, ...]
    models: tuple[Version, ...]
    days: tuple[float, float] | None
    levels: dict[str, int]
    lapses: int
    approximate: tuple[int, int]
    superseded: tuple[int, int]
    late: tuple[str, ...]
    old: tuple[str, ...]
    head: dict[str, Any]
    signed: bool

    def json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "requests": [
                {
                    "name": r.name, "status": r.status, "examples": r.examples, "received": r.received.isoformat(),
                    "due": r.due.isoformat(), "overdue": r.name in self.overdue, "reason": r.reason,
                }
                for r in self.requests
            ],
            "models": {v.name: {"digest": v.digest, "how": v.how, "entry": v.entry} for v in self.models},
            "days to serve": dict(zip(("median", "95 %"), self.days, strict=True)) if self.days else None,
            "levels": self.levels, "lapses": self.lapses, "approximate rounds": self.approximate[0],
            "superseded versions": {"in the ledger": self.superseded[0], "elsewhere": self.superseded[1]},
            "late models": list(self.late), "old evidence": list(self.old), "head": self.head, "signed": self.signed,
        }  # fmt: skip

    def text(self, *, everything: bool = False) -> str:
        """As text: requests that wait first."""
        counts = Counter(r.status for r in self.requests)
        told = ", ".join(f"{n:,} {status}" for status, n in sorted(counts.items())) or "none yet"
        lines = [f"Requests: {told}" + (f"; {len(self.overdue)} OVERDUE" if self.overdue else "")]
        shown = [r for r in self.requests if everything or r.status in ("open", "held")]
        for r in shown if everything else shown[:_SHOWN]:
            left = (r.due - self.now) / timedelta(days=1)
            late = f"{left:.0f} days left" if left >= 0 else f"{-left:.0f} days LATE"
            more = f": {r.reason}" if r.reason else ""
            when = (
                f"due {r.due:%Y-%m-%d}, {late}" if r.status in ("open", "held") else f"due {r.due:%Y-%m-%d}"
            )
            lines.append(f"  {r.name}  {r.status:7} {r.examples:>7,} examples  {when}{more}")
        if not everything and len(shown) > _SHOWN:
            lines.append(f"  and {len(shown) - _SHOWN:,} more: --all")
        lines.append("Models in use:")
        lines += [
            f"  {v.name:16} {v.digest[:12]}  {v.how}, entry {v.entry}"
            + ": HOLDS what was deleted, due at once: serve" * (v.name in self.late)
            for v in self.models
        ]
        if self.days:
            lines.append(f"Days to serve: median {self.days[0]:.1f}, 95th percentile {self.days[1]:.1f}")
        lines += [
            f"Level {level}: {n:,} requests ({LEVELS[level]})" for level, n in sorted(self.levels.items())
        ]
        if self.approximate[0]:
            lines.append(
                f"{self.approximate[0]} of {self.approximate[1]} approximate rounds before a whole training"
            )
        ours, theirs = self.superseded
        if ours:
            lines.append(f"Earlier versions in here that still hold what was deleted: {ours}; serve --purge")
        if self.old:
            lines.append(f"Evidence whose time is over: {len(self.old)}; serve --purge")
        if theirs:
            lines.append(f"Earlier versions elsewhere, which are yours to remove: {theirs}")
        lines.append(
            f"Entry {self.head['number']:,} is the newest{'' if self.signed else '; entries are not signed'}"
        )
        return "\n".join(lines)


def report(ledger: Ledger, *, now: datetime | None = None) -> Report:
    """Find where things stand.

    Args:
        ledger: whose requests.
        now: the time; the clock's unless given.
    """
    entries = list(ledger.log.entries())
    state, now = ledger.state(), now or now_utc()
    requests = tuple(state.requests.values())
    times = {e.number: (datetime.fromisoformat(e.time), e.body) for e in entries if e.kind == "served"}
    waits = [(times[r.served][0] - r.received) / timedelta(days=1) for r in requests if r.served]
    levels = Counter(times[r.served][1]["level"] for r in requests if r.served)
    lapses = sum(r["outcome"] not in UNLAPSED for _, b in times.values() for r in b["relapse"])
    late = tuple(r.name for r in requests if r.status in ("open", "held") and now > r.due)
    days = (float(np.median(waits)), float(np.quantile(waits, 0.95))) if waits else None
    newest = entries[-1]
    old, ours = len(ledger.models.superseded()), len(ledger.models.purgeable())
    return Report(
        now, requests, late, tuple(state.in_use()), days, dict(levels), lapses,
        (state.approximate, ledger.policy["retrain_after"]), (ours, old - ours),
        tuple(v.name for v in ledger.models.late()), tuple(old_evidence(ledger, now)),
        {"number": newest.number, "hash": newest.hash, "signature": newest.signature}, bool(ledger.public),
    )  # fmt: skip
