"""SparseGPT on one 4096 x 4096 layer beside the Cholesky factorisations its paper takes: python -m benchmarks.sparse_gpt"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from unweave import seeded
from unweave.io.files import write_text
from unweave.prune import NM, SparseGPT
from unweave.prune.sparse_gpt import _factor, repair

SIZE, REPEATS = 4096, 3


def seconds(work: object) -> float:
    times = []
    for _ in range(REPEATS):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return median(times)


def main() -> None:
    rng = seeded(0)
    x = torch.randn(2 * SIZE, SIZE, generator=rng)
    gram, weight = x.T @ x, torch.randn(SIZE, SIZE, generator=rng)
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(SIZE)

    def published() -> None:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        torch.linalg.cholesky(inverse, upper=True)

    told = {
        "Cholesky, inverse, Cholesky (the paper's)": seconds(published),
        "one Cholesky": seconds(lambda: torch.linalg.cholesky(damped)),
        "the same factor by ours": seconds(lambda: _factor("w", gram, 0.01)),
        "SparseGPT 50 %": seconds(lambda: repair("w", weight, gram, SparseGPT(sparsity=0.5))),
        "SparseGPT 2:4": seconds(lambda: repair("w", weight, gram, SparseGPT(pattern=NM(2, 4)))),
    }
    base = told["Cholesky, inverse, Cholesky (the paper's)"]
    result = {
        "size": SIZE,
        "threads": torch.get_num_threads(),
        "seconds": told,
        "over the paper's factorisations": {k: v / base for k, v in told.items()},
    }
    print(json.dumps(result, indent=1))
    write_text(Path(__file__).parent / "results" / "sparse_gpt.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
