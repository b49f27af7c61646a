"""One garment of ten erased from the world of Fashion-MNIST (16 x 16 pixels), by erasers of every kind.

python -m benchmarks.erase_fashion [garment] [seeds]

One pipeline trained on all ten garments, one without the garment (claims/erase/_fashion.py, about ten minutes of one
core each, kept); every method at the best of three strengths by overall score on other noise, at each seed of its own
draws. F is the share of images of the garment still named so, P that of the other nine. The judge's own accuracy
is printed first.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from claims.erase._fashion import CLOTHES, concepts, judge, world
from unweave import seeded
from unweave.erase import ESD, UCE, ConceptAblation, ConceptSalUn, TextToImage

STORED = Path(__file__).parent / "results" / "erase_fashion.json"
DRAWN = {"sampler_steps": 10, "guidance": 3.0}
RATES = (2e-4, 5e-4, 1e-3)
GRID: dict[str, list[Callable[[], object]]] = {
    "UCE": [partial(UCE, strength=v) for v in (0.1, 0.5, 2.0)],
    "ESD-x": [partial(ESD, steps=60, batch_size=16, lr=lr, **DRAWN) for lr in RATES],
    "Concept Ablation": [
        partial(ConceptAblation, steps=60, batch_size=16, lr=lr, images=64, prior=1.0, **DRAWN)
        for lr in RATES
    ],
    "SalUn": [partial(ConceptSalUn, steps=60, batch_size=16, lr=lr, images=64, **DRAWN) for lr in RATES],
}


def measure(model: TextToImage, garment: str, seed: int, each: int = 4) -> dict[str, float]:
    asked, right = concepts(garment), {}
    for i, name in enumerate(CLOTHES):
        prompts = [p for p in asked.prompts(name) for _ in range(each)]
        images = model.sample(prompts, steps=10, guidance=3.0, rng=seeded(1000 * seed + i))
        right[name] = 100 * float((judge().named(images) == i).float().mean())
    f = right.pop(garment)
    p = statistics.mean(right.values())
    return {"F": f, "P": p, "overall": 2 * p * (100 - f) / (p + 100 - f) if p + 100 - f else 0.0}


def main(garment: str, seeds: int) -> None:
    torch.set_num_threads(1)
    print(f"judge: {judge().accuracy:.1f} % of real held-out images")
    model, never = world(0), world(0, (garment,))
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("original", "retrained", *GRID)}
    for seed in range(seeds):
        rows["original"].append(measure(model, garment, seed))
        rows["retrained"].append(measure(never, garment, seed))
        for name, settings in GRID.items():
            made = [m().apply(model, concepts(garment), rng=seeded(seed)) for m in settings]  # type: ignore[attr-defined]
            best = max(made, key=lambda e: measure(e, garment, 500 + seed, each=2)["overall"])
            rows[name].append(measure(best, garment, seed))
            print(seed, name, rows[name][-1], flush=True)
    mean = {n: {k: statistics.mean(r[k] for r in rs) for k in rs[0]} for n, rs in rows.items()}
    STORED.write_text(
        json.dumps({"garment": garment, "judge": judge().accuracy, "mean": mean, "seeds": rows}, indent=1)
        + "\n"
    )
    print("| | F | P | overall |\n| --- | ---: | ---: | ---: |")
    for name, row in mean.items():
        print(f"| {name} | {row['F']:.1f} | {row['P']:.1f} | {row['overall']:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bag", int(sys.argv[2]) if len(sys.argv) > 2 else 3)
