"""What a claim is, how it is run, and how its result is stored."""

from __future__ import annotations

import importlib
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import torch

import unweave
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
    data: what it is measured on here.
    figures: figure name -> "unit, direction" in words.
    baseline: what the method is compared with, and how that was tuned.
    criterion: what `holds` asks, in words.
    seeds: one measurement each.
    settings: hyperparameters and the like.
    note: what a reader must know to read the figures.
    """

    statement: str
    data: str
    figures: Mapping[str, str]
    baseline: str
    criterion: str
    reported: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < 3:
            raise InputError(f"a claim needs at least 3 different seeds; got {self.seeds}.")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured, as stored."""

    name: str
    status: str
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


def run_claim(name: str, *, store: bool = True) -> Result:
    """Measure one claim over its seeds and store the result.

    Raises:
        InputError: if there is no such claim, or a seed measured other figures than the claim names, or a NaN.
    """
    if name not in claim_names():
        raise InputError(f"there is no claim {name!r}. There are: {', '.join(claim_names())}.")
    module = importlib.import_module(f"claims.{name.replace('/', '.')}")
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
        status="holds" if module.holds(rows) else "does not hold",
        claim=asdict(claim),
        mean={k: statistics.fmean(r[k] for r in rows) for k in claim.figures},
        spread={k: statistics.stdev(r[k] for r in rows) for k in claim.figures},
        rows=rows,
        seconds=round(time.perf_counter() - began, 1),
        versions={
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__, "unweave": unweave.__version__,
        },
        hardware=f"{platform.machine()}, {torch.get_num_threads()} threads",
        commit=_commit(),
    )  # fmt: skip
    if store:
        path = RESULTS / f"{name}.json"
        write_text(path, json.dumps(asdict(result), indent=1, sort_keys=False) + "\n")
    return result


def judge(name: str) -> Result | None:
    """Judge what is stored by the claim as it is written now; measures nothing."""
    result = read_result(name)
    if result is None:
        return None
    module = importlib.import_module(f"claims.{name.replace('/', '.')}")
    told = json.loads(json.dumps(asdict(module.claim)))
    told["figures"], told["settings"] = result.claim["figures"], result.claim["settings"]
    result = replace(result, claim=told, status="holds" if module.holds(result.rows) else "does not hold")
    write_text(RESULTS / f"{name}.json", json.dumps(asdict(result), indent=1) + "\n")
    return result


def read_result(name: str) -> Result | None:
    """The stored result of a claim, or None if it was not run."""
    path = RESULTS / f"{name}.json"
    return Result(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
