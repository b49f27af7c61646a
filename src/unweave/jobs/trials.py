"""Several methods over several seeds, on the same data and from the same beginnings; each seed is a pair."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..errors import InputError, UnweaveError
from ..io.files import write_text
from ..parallel import parallel_map

Figures = Mapping[str, tuple[float, str]]
"""Name -> (value, unit)."""


@dataclass(frozen=True)
class Trial:
    """One method at one seed.

    Attributes:
        method: its name.
        seed: of the trial; trials of one seed share data order, beginnings and what else is drawn.
        figures: name -> value; empty if it failed.
        units: name -> unit.
        error: why it failed; "" if it did not.
    """

    method: str
    seed: int
    figures: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A figure of a method over its seeds, and against the baseline's, seed by seed.

    Attributes:
        values: one a seed, in the seeds' order.
        mean: of the values.
        spread: their standard deviation; NaN for one.
        interval: 95 % interval of the mean (Student's t); NaN for one.
        differences: from the baseline at the same seed, where both have one.
        difference: mean of these; NaN without any.
        difference_interval: 95 % interval of that mean.
    """

    values: Sequence[float]
    mean: float
    spread: float
    interval: tuple[float, float]
    differences: Sequence[float] = ()
    difference: float = math.nan
    difference_interval: tuple[float, float] = (math.nan, math.nan)


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


def summarise(trials: Sequence[Trial], baseline: str) -> dict[str, dict[str, Summary]]:
    """Figure -> method -> summary, with differences from `baseline`.

    Raises:
        InputError: if no trial has `baseline` as its method.
    """
    names = list(dict.fromkeys(t.method for t in trials))
    if baseline not in names:
        raise InputError(f"the baseline {baseline!r} is none of the methods compared: {', '.join(names)}.")
    figures = dict.fromkeys(name for t in trials for name in t.figures)
    told: dict[str, dict[str, Summary]] = {}
    for figure in figures:
        found = {
            n: {t.seed: t.figures[figure] for t in trials if t.method == n and figure in t.figures}
            for n in names
        }
        told[figure] = {n: _summary(found[n], found[baseline], n == baseline) for n in names if found[n]}
    return told


def to_json(trials: Sequence[Trial], baseline: str) -> str:
    """Trials and what they say together, as strict JSON."""
    told = {
        f: {n: _finite(asdict(s)) for n, s in rows.items()} for f, rows in summarise(trials, baseline).items()
    }
    record = {"baseline": baseline, "trials": [_finite(asdict(t)) for t in trials], "figures": told}
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


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


def _summary(found: Mapping[int, float], base: Mapping[int, float], itself: bool) -> Summary:
    values = list(found.values())
    gaps = [] if itself else [v - base[seed] for seed, v in found.items() if seed in base]
    return Summary(
        values=values, mean=fmean(values), spread=stdev(values) if len(values) > 1 else math.nan,
        interval=_interval(values), differences=gaps, difference=fmean(gaps) if gaps else math.nan,
        difference_interval=_interval(gaps),
    )  # fmt: skip


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (math.nan, math.nan)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return (fmean(values) - half, fmean(values) + half)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
