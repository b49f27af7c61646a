"""Train the dense ResNet-20s that the CIFAR-10 experiments start from, and keep them in a cache folder.

For each of three initialisations: one original, and a model retrained without 500 random examples and one without a
class; for the first initialisation two of each, which differ in batch order only.

Run: `python -m benchmarks.cifar_world CACHE`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks.cifar import cifar10, recipe
from unweave import Request, seeded
from unweave.parallel import build_models, parallel_map

SEEDS = (0, 1, 2)
CLASS = 5


def requests(seed: int) -> dict[str, Request]:
    train, heldout = cifar10()
    labels = train.examples.tensors[1]
    chosen = torch.randperm(len(train), generator=seeded(100 + seed))[:500].sort().values
    return {
        "random": Request.of(train, heldout, chosen),
        "class": Request.of(train, heldout, (labels == CLASS).nonzero().flatten()),
    }


def dense(seed: int, which: str, orders: tuple[int, ...], cache: Path) -> list[torch.nn.Module]:
    """Models from initialisation `seed`, trained on all ("all") or on a request's retain set, one a batch order."""
    data = cifar10()[0] if which == "all" else requests(seed)[which].retain
    return build_models(recipe(init_seed=seed), data, orders, cache=cache, jobs=1)


def orders(seed: int, which: str) -> tuple[int, ...]:
    first = 10 if which == "all" else 20
    return (first, first + 1) if seed == 0 else (first,)


def build(job: tuple[int, str, int], cache: Path) -> None:
    seed, which, order = job
    dense(seed, which, (order,), cache)


if __name__ == "__main__":
    cache = Path(sys.argv[1])
    jobs = [(s, w, o) for s in SEEDS for w in ("all", "class", "random") for o in orders(s, w)]
    parallel_map(partial(build, cache=cache), jobs, jobs=2)
