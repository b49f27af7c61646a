"""`unweave ledger serve` and `plan`: what becomes of the models."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from ..jobs.ledger import Ledger, Plan, ServeJob
from ..jobs.ledger.plan import STEPS, opened
from ..jobs.subject import Subject
from ._flags import with_methods
from ._named import unlearner
from ._parse import named_methods, parse, say


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Carry out what is open: every model that saw the examples, then earlier requests again, then evidence.

    Attributes:
        ledger: its folder.
        method: how to forget; chosen by the request unless given.
        now: do not wait for the batch window.
        oracles: models to retrain without the examples, to judge an approximate method by.
        holders: models to retrain with them.
        seed: of every training.
        jobs: processes that train at once; 0 takes all cores.
        cache: folder of retrained models; UNWEAVE_CACHE or ~/.cache/unweave unless given.
        quick: spend less on the figures; the verdict stays the same.
        purge: remove files of earlier versions in the ledger's folder that hold what was deleted, and evidence whose
            time is over.
        json: print as JSON.
    """

    ledger: tyro.conf.Positional[Path]
    method: str = ""
    now: bool = False
    oracles: int = 8
    holders: int = 8
    seed: int = 0
    jobs: int = 0
    cache: Path | None = None
    quick: bool = False
    purge: bool = False
    json: bool = False


def serve(argv: Sequence[str]) -> int:
    """Serve. Exit code 3 if a request was tried and is not served."""
    example = "  unweave ledger serve ./deletions --now\n  unweave forget --ledger ./deletions"
    chain = named_methods(argv, ("--method",), "")[0]
    options = with_methods(ServeOptions, [chain]) if chain else ServeOptions
    asked: Any = parse(options, argv, command="ledger serve", example=example)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        done = _job(asked).run(command=["unweave", "ledger", "serve", *argv])
    if asked.json:
        sys.stdout.write(done.json())
    else:
        done.show()
    return 3 if done.models and not done.done else 0


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Print what serving would do; nothing is changed.

    Attributes:
        ledger: its folder.
        now: as if the batch window were over.
    """

    ledger: tyro.conf.Positional[Path]
    now: bool = False


def show_plan(argv: Sequence[str]) -> int:
    """Print what serving would do."""
    asked: PlanOptions = parse(
        PlanOptions, argv, command="ledger plan", example="  unweave ledger plan ./deletions --now"
    )
    say(_told(ServeJob(ledger=Ledger(asked.ledger), at_once=asked.now).plan()))
    return 0


def _job(asked: Any) -> ServeJob:
    ledger = Ledger(asked.ledger)
    edits = {asked.method: unlearner(asked.method, asked, _first(ledger))} if asked.method else None
    return ServeJob(
        ledger=ledger, edits=edits, at_once=asked.now, oracles=asked.oracles, holders=asked.holders, seed=asked.seed,
        jobs=asked.jobs or None, cache=asked.cache, quick=asked.quick, purge=asked.purge,
    )  # fmt: skip


def _first(ledger: Ledger) -> Subject:
    return next(opened(v, ledger, {}) for v in ledger.state().in_use() if v.source is not None)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {message}", markup=False)


def _told(found: Plan) -> str:
    if not found.steps:
        return f"Nothing would be served: {found.waits}."
    lines = [f"{len(found.requests)} requests, {sum(r.examples for r in found.requests):,} examples:"]
    lines += [f"  {name} is late: it was taken in after a deletion of what it holds" for name in found.late]
    lines += [f"  {r.name}  {r.examples:>7,} examples, due by {r.due:%Y-%m-%d}" for r in found.requests]
    lines += [f"  {version.name}: {STEPS[step]}" for version, step in found.steps]
    lines += [found.retrain + "."] if found.retrain else []
    return "\n".join([*lines, *(f"note: {note}." for note in found.notes)])
