"""What a claim is, how it is run, how its result is stored, and what its status is."""

from __future__ import annotations

import importlib
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import torch

import unweave
from claims.effects import Effect, Finding, status
from unweave.errors import InputError
from unweave.io.files import write_text
from unweave.progress import progress

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is claimed and how it is checked.

    statement: the paper's claim in one sentence, with its direction.
    reported: the paper's own figure and setting, in words ("the paper reports ..."); "" if unknown.
    from_memory: whether that figure was quoted without the paper at hand.
    data: what it is measured on here.
    figures: figure name -> "unit, direction" in words.
    baseline: what the method is compared with, and how that was tuned.
    criterion: what the headline effects ask, in words.
    effects: the comparisons; those that are headlines decide, all of them together.
    seeds: one measurement each.
    settings: hyperparameters and the like.
    note: what a reader must know to read the figures.
    """

    statement: str
    data: str
    figures: Mapping[str, str]
    baseline: str
    criterion: str
    effects: tuple[Effect, ...]
    reported: str = ""
    from_memory: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < 3:
            raise InputError(f"a claim needs at least 3 different seeds; got {self.seeds}.")
        if not any(effect.headline for effect in self.effects):
            raise InputError(
                "a claim needs at least one headline effect; without it nothing decides its status."
            )
        names = [effect.name for effect in self.effects]
        if len(set(names)) < len(names):
            raise InputError(f"the effects of a claim need different names; got {names}.")
        for effect in self.effects:
            effect.on(
                [dict.fromkeys(self.figures, 1.0)] * 3
            )  # raises if it names a figure that is not measured


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured, as stored. It holds no status: that follows from the rows and from the claim's effects."""

    name: str
    claim: dict[str, Any]
    mean: dict[str, float]
    spread: dict[str, float]
    rows: list[dict[str, float]]
    seconds: float
    versions: dict[str, str]
    hardware: str
    commit: str


def claim_names() -> list[str]:
    """Every claim there is, as "family/method"."""
    files = sorted(
        p for p in HERE.glob("*/*.py") if not p.name.startswith("_") and p.parent.name != "results"
    )
    return [f"{p.parent.name}/{p.stem}" for p in files]


def load(name: str) -> ModuleType:
    """The module of a claim.

    Raises:
        InputError: if there is none of that name, or it lacks a `claim` or a function `measure`.
    """
    if name not in claim_names():
        raise InputError(f"there is no claim {name!r}. There are: {', '.join(claim_names())}.")
    module = importlib.import_module(f"claims.{name.replace('/', '.')}")
    if not isinstance(getattr(module, "claim", None), Claim) or not callable(
        getattr(module, "measure", None)
    ):
        raise InputError(
            f"claims/{name}.py must define `claim`, a Claim, and `measure`, from a seed to its figures."
        )
    return module


def read_claim(name: str) -> Claim:
    """A claim as it is written now."""
    claim: Claim = load(name).claim
    return claim


def run_claim(name: str, *, store: bool = True) -> Result:
    """Measure one claim over its seeds and store the result.

    Raises:
        InputError: if there is no such claim, or a seed measured other figures than the claim names, or a NaN.
    """
    module = load(name)
    claim: Claim = module.claim
    began = time.perf_counter()
    rows = []
    with progress(name, len(claim.seeds)) as bar:
        for seed in claim.seeds:
            row = {k: float(v) for k, v in module.measure(seed).items()}
            if row.keys() != set(claim.figures) or not all(map(math.isfinite, row.values())):
                raise InputError(
                    f"{name}, seed {seed}: measured {row}; the claim names {list(claim.figures)}."
                )
            rows.append(row)
            bar.advance()
    result = Result(
        name=name,
        claim={f.name: getattr(claim, f.name) for f in fields(claim) if f.name != "effects"},
        mean={k: statistics.fmean(r[k] for r in rows) for k in claim.figures},
        spread={k: statistics.stdev(r[k] for r in rows) for k in claim.figures},
        rows=rows,
        seconds=round(time.perf_counter() - began, 1),
        versions={
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__, "unweave": unweave.__version__,
        },
        hardware=f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        commit=_commit(),
    )  # fmt: skip
    if store:
        path = RESULTS / f"{name}.json"
        write_text(path, json.dumps(asdict(result), indent=1, sort_keys=False) + "\n")
    return result


def read_result(name: str) -> Result | None:
    """The stored result of a claim, or None if it was not run."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Result(**{f.name: stored[f.name] for f in fields(Result)})


def findings(name: str) -> list[Finding]:
    """A claim's effects on the stored rows; none if it was not run."""
    result = read_result(name)
    return [effect.on(result.rows) for effect in read_claim(name).effects] if result else []


def claim_status(name: str) -> str:
    """ "holds", "not shown", "contradicted" or "not run"."""
    return status(findings(name))


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
