"""Five of ten digits erased at once by every eraser, each at its tuned best and at matched preservation.

python benchmarks/erase_five.py [seeds]

The small world's PixArt transformer (where feed-forwards matter), 3 seeds; F is the share of images of erased digits
still named so, P that of the other five, overall = 2 P (1 - F) / (P + 1 - F). Each method has the same number of
settings of its strength; its best is the highest overall score on other noise. Matched preservation is the lowest F
among the settings whose P is at least so much. Everything is drawn from prompts that name the digits as words.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from claims.erase._world import (
    FIVE,
    GUIDANCE,
    Scores,
    forgotten_at,
    original,
    request,
    scores,
)
from unweave import seeded
from unweave.erase import ESD, FIA, UCE, ConceptAblation, ConceptPrune, ConceptSalUn

STORED = Path(__file__).parent / "results" / "erase_five.json"
DRAWN = {"sampler_steps": 10, "guidance": GUIDANCE}
RATES = (2e-4, 4e-4, 8e-4, 1.6e-3)
GRID: dict[str, list[Callable[[], object]]] = {
    "UCE": [partial(UCE, strength=v) for v in (0.1, 0.5, 2.0, 10.0)],
    "ESD-x": [partial(ESD, steps=120, batch_size=16, lr=lr, **DRAWN) for lr in RATES],
    "Concept Ablation": [
        partial(ConceptAblation, steps=120, batch_size=32, lr=lr, images=128, prior=1.0, **DRAWN)
        for lr in RATES
    ],
    "SalUn": [partial(ConceptSalUn, steps=120, batch_size=16, lr=lr, images=128, **DRAWN) for lr in RATES],
    "FIA": [
        partial(FIA, r1=0.05, r2=r2, record=20, steps=20, guidance=GUIDANCE, union=union)
        for r2, union in ((0.05, True), (0.1, False), (0.1, True), (0.2, False))
    ],
    "ConceptPrune": [
        partial(ConceptPrune, density=d, record=10, steps=20, guidance=GUIDANCE)
        for d in (0.01, 0.02, 0.05, 0.1)
    ],
}


def measure(seed: int) -> dict[str, dict[str, float]]:
    model, asked, rows = original("dit", seed), request(*FIVE), {}
    for name, settings in GRID.items():
        chosen: list[Scores] = []
        points: list[Scores] = []
        for make in settings:
            edited = make().apply(model, asked, rng=seeded(seed))  # type: ignore[attr-defined]
            chosen.append(scores(edited, FIVE, 500 + seed))
            points.append(scores(edited, FIVE, seed))
        best = points[max(range(len(points)), key=lambda i: chosen[i].overall)]
        rows[name] = {
            "F": best.forgotten, "F numeral": best.numeral, "P": best.preserved, "overall": best.overall,
            **{f"F at P {p}": forgotten_at(points, p) for p in (90, 75, 50)},
        }  # fmt: skip
        print(seed, name, {k: round(v, 1) for k, v in rows[name].items()}, flush=True)
    return rows


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    found = {seed: measure(seed) for seed in range(seeds)}
    names = next(iter(found.values()))
    table = {
        name: {k: statistics.mean(rows[name][k] for rows in found.values()) for k in names[name]}
        for name in names
    }
    spread = {name: statistics.stdev(rows[name]["overall"] for rows in found.values()) for name in names}
    STORED.write_text(
        json.dumps({"mean": table, "spread of overall": spread, "seeds": found}, indent=1) + "\n"
    )
    columns = list(next(iter(table.values())))
    print("| method |", " | ".join(columns), "|")
    print("| --- |", " | ".join("---:" for _ in columns), "|")
    for name, row in sorted(table.items(), key=lambda pair: -pair[1]["overall"]):
        print(f"| {name} |", " | ".join(f"{row[c]:.1f}" for c in columns), "|")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
