"""A ledger's entries beside rows that sqlite3 alone writes as durably, and a ledger of ten thousand requests.

    python -m benchmarks.ledger [REQUESTS]

Both write one row a transaction, with a write-ahead log and synchronous=FULL, in turns, so that a busy disk counts for
both. What is measured is what the hash chain, the signature and the head add to a durable entry.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

from unweave.jobs.ledger import Ledger, verify
from unweave.jobs.ledger.merkle import leaf, root
from unweave.jobs.ledger.statistics import report

BODY = {"name": "r-00001", "received": "2026-11-28T09:00:00+00:00", "examples": 3, "by": "ids", "root": "0" * 64,
        "ground": "consent withdrawn", "verified": True, "urgent": False}  # fmt: skip


def entries(folder: Path, n: int = 600) -> dict[str, float]:
    """Median milliseconds of a durable entry, and of a row of sqlite3 alone of the same size."""
    ledger = Ledger.init(folder / "ledger")
    plain = sqlite3.connect(folder / "plain.sqlite", isolation_level=None)
    plain.execute("PRAGMA journal_mode=WAL")
    plain.execute("PRAGMA synchronous=FULL")
    plain.execute("CREATE TABLE log(number INTEGER PRIMARY KEY, body TEXT)")
    text = "x" * 700  # what an entry takes
    ours, alone = [], []
    for _ in range(n):
        began = perf_counter()
        ledger.log.append("repeated", BODY)
        ours.append(perf_counter() - began)
        began = perf_counter()
        plain.execute("INSERT INTO log(body) VALUES (?)", (text,))
        alone.append(perf_counter() - began)
    more = [a - b for a, b in zip(ours, alone, strict=True)]
    found = {
        "entry": 1000 * median(ours),
        "sqlite3 alone": 1000 * median(alone),
        "added": 1000 * median(more),
    }
    return {**found, "signed": float(bool(ledger.public))}


def many(folder: Path, n: int) -> dict[str, float]:
    """Seconds of status and verify with n requests of three examples, and with half of them."""
    ledger, found, now = (
        Ledger.init(folder / "many"),
        dict[str, float](),
        datetime.now(UTC) - timedelta(days=60),
    )
    for size in (n // 2, n):
        with ledger.log.adding() as add:
            for i in range(ledger.log.count("request"), size):
                name, at = f"r-{i + 1:05}", now + timedelta(seconds=i)
                prints = [i.to_bytes(8, "big") + bytes([k]) * 8 for k in range(3)]
                end = root([leaf(ledger.salt(name), p) for p in prints]).hex()
                body = {**BODY, "name": name, "received": at.isoformat(), "root": end}
                add("request", body, scope=[(name, p) for p in prints], now=datetime.now(UTC))
        began = perf_counter()
        assert len(report(Ledger(folder / "many")).requests) == size
        found[f"status of {size:,}"] = perf_counter() - began
        began = perf_counter()
        assert verify(ledger) == []
        found[f"verify of {size:,}"] = perf_counter() - began
    return found


def main(requests: int = 10_000) -> None:
    """Print both."""
    with tempfile.TemporaryDirectory() as folder:
        for name, value in entries(Path(folder)).items():
            print(f"  {name:24} {value:8.3f}" + (" ms" if name != "signed" else ""))
        for name, value in many(Path(folder), requests).items():
            print(f"  {name:24} {value:8.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
