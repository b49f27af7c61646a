"""Several methods over several seeds, on the same data and from the same beginnings; each seed is a pair."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UnweaveError
from ..io.files import strict_json, write_text
from ..parallel import parallel_map
from ..statistics import Trial, summarise

Figures = Mapping[str, tuple[float, str]]
"""Name -> (value, unit)."""


def run_trials(
    methods: Mapping[str, Callable[[int], Figures]],
    seeds: Sequence[int],
    *,
    keep: Path,
    jobs: int | None = None,
) -> list[Trial]:
    """Run every method at every seed, in processes; a trial that fails is told of, and the others go on.

    Args:
        methods: name -> seed -> figures; must be picklable by cloudpickle.
        seeds: paired over the methods.
        keep: folder of finished trials; those that are there are not run again.
        jobs: processes; all cores unless given.

    Returns:
        Trials by method, then seed.
    """
    keep.mkdir(parents=True, exist_ok=True)
    work = [(name, seed) for seed in seeds for name in methods]  # early results let methods be compared early
    done = parallel_map(partial(_run, methods, keep), work, jobs=jobs, label="compare")
    order = {name: i for i, name in enumerate(methods)}
    return sorted(done, key=lambda t: (order[t.method], seeds.index(t.seed)))


def to_json(
    trials: Sequence[Trial],
    baseline: str,
    *,
    curves: Mapping[str, Mapping[float, str]] | None = None,
    by: Mapping[str, str] | None = None,
) -> str:
    """Trials and what they say together, as strict JSON; `curves` and `by` as in `Compared`."""
    told = {f: {n: asdict(s) for n, s in rows.items()} for f, rows in summarise(trials, baseline).items()}
    more: dict[str, Any] = {"by": dict(by)} if by else {}
    more |= (
        {"curves": {n: {f"{s:g}": m for s, m in line.items()} for n, line in curves.items()}}
        if curves
        else {}
    )
    return strict_json({"baseline": baseline, **more, "trials": [asdict(t) for t in trials], "figures": told})


def trials_from_json(text: str) -> list[Trial]:
    """Read back what `to_json` wrote."""
    return [
        Trial(**{**t, "figures": {k: math.nan if v is None else v for k, v in t["figures"].items()}})
        for t in json.loads(text)["trials"]
    ]


def _run(methods: Mapping[str, Callable[[int], Figures]], keep: Path, work: tuple[str, int]) -> Trial:
    name, seed = work
    file = keep / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}-{seed}.json"
    if file.exists():
        return Trial(**json.loads(file.read_text(encoding="utf-8")))
    try:
        figures = methods[name](seed)
        trial = Trial(
            name, seed, {k: v for k, (v, _) in figures.items()}, {k: u for k, (_, u) in figures.items()}
        )
    except UnweaveError as error:
        trial = Trial(name, seed, error=str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        trial = Trial(
            name,
            seed,
            error=f"{type(error).__name__}: {error} (in {Path(where.filename).name}, line {where.lineno})",
        )
    write_text(file, json.dumps(asdict(trial)) + "\n")
    return trial
