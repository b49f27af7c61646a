"""SparseGPT on one 4096 x 4096 layer beside the Cholesky factorisations its paper takes: python -m benchmarks.sparse_gpt

Each row is the median of five turns, taken in rotation so that all meet the same machine. Processor time is the
process's own, over all its threads: other work on the machine hardly shows in it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch

from unweave import seeded
from unweave.io.files import write_text
from unweave.prune import NM, SparseGPT
from unweave.prune.sparse_gpt import _factor, repair

SIZE, TURNS = 4096, 5
BASE = "Cholesky, inverse, Cholesky (the paper's)"


def main() -> None:
    rng = seeded(0)
    x = torch.randn(2 * SIZE, SIZE, generator=rng)
    gram, weight = x.T @ x, torch.randn(SIZE, SIZE, generator=rng)
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(SIZE)

    def published() -> None:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        torch.linalg.cholesky(inverse, upper=True)

    work: dict[str, Callable[[], object]] = {
        BASE: published,
        "one Cholesky": lambda: torch.linalg.cholesky(damped),
        "the same factor by ours": lambda: _factor("w", gram, 0.01),
        "SparseGPT 50 %, factor included": lambda: repair("w", weight, gram, SparseGPT(sparsity=0.5)),
        "SparseGPT 2:4, factor included": lambda: repair("w", weight, gram, SparseGPT(pattern=NM(2, 4))),
    }
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(TURNS + 1):
        for name, one in work.items():
            began, began_cpu = perf_counter(), process_time()
            one()
            turns[name].append((perf_counter() - began, process_time() - began_cpu))
    told = {}
    for name, times in turns.items():
        wall, cpu = (median(t[k] for t in times[1:]) for k in (0, 1))  # the first turn warms up
        told[name] = {"wall, s": round(wall, 3), "processor, s": round(cpu, 3)}
    for row in told.values():
        row |= {
            "wall over the paper's factorisations": round(row["wall, s"] / told[BASE]["wall, s"], 3),
            "processor over the paper's factorisations": round(
                row["processor, s"] / told[BASE]["processor, s"], 3
            ),
        }
    result = {
        "size": SIZE, "turns": TURNS, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "hardware": platform.machine(), **told,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    write_text(Path(__file__).parent / "results" / "sparse_gpt.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
