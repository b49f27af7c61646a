"""ResNet-20 at 0.75, 0.5 and 0.25 of its multiplications, beside torch-pruning, in one run.

Inner channels of every block alone (what both libraries cut), chosen by score from 256 training images, then one epoch
on 1,280 images by the same recipe and seed. `whole` cuts the residual width too, to the same multiplications. Accuracy
on 1,000 held-out images, in percent: mean and 95 % interval over the seeds, seed by seed in the JSON. What the file of
--out holds already is not measured again, so a run that was stopped goes on.

    python -m benchmarks.shrink_beside_torch_pruning --seeds 5 --out benchmarks/results/shrink_beside_torch_pruning.json
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from scipy.stats import t as student
from torch.nn import Conv2d, Linear, Module

from unweave import Data, Supervised, seeded
from unweave.embedded.nets import ResNet, shift_and_flip
from unweave.io.checkpoint import load_into
from unweave.io.files import write_text
from unweave.jobs.measured import macs
from unweave.prune import Channel, Magnitude, Prune, Scope, Taylor, Uniform, Wanda, recalibrate_, shrink
from unweave.tasks import accuracy

from .cifar import FOLDER, cifar10

WEIGHTS = FOLDER.parent / "weights" / "resnet_cifar10" / "resnet20.safetensors"
SHARES = {0.75: 0.25, 0.5: 0.5, 0.25: 0.75}
"""Share of the multiplications -> share of the inner channels to cut."""
INNER = ("layer?.?.conv1.weight",)


def ours(model: Module, data: Data[Any], score: Any, sparsity: float) -> Module:
    pruned = Prune(score=score, pattern=Channel(), budget=Uniform(sparsity)).apply(model, data, rng=seeded(0))
    return shrink(pruned, next(data.batches())[0]).model


def inner(score: Callable[..., Any]) -> Callable[[Module, Data[Any], float], Module]:
    return lambda model, data, share: ours(model, data, score(scope=Scope(only=INNER)), SHARES[share])


def whole(model: Module, data: Data[Any], share: float) -> Module:
    """All widths, by the sparsity that comes nearest to the share of the multiplications."""
    full = macs(model, data)
    tried = [ours(model, data, Magnitude(scope=Scope(last=False)), s / 32) for s in range(2, 24)]
    return min(tried, key=lambda m: abs(macs(m, data) / full - share))


def theirs(importance: Callable[[], Any]) -> Callable[[Module, Data[Any], float], Module]:
    def cut(model: Module, data: Data[Any], share: float) -> Module:
        small = load()
        chosen = {id(m) for n, m in small.named_modules() if n.endswith("conv1") and n.startswith("layer")}
        spared = [m for m in small.modules() if isinstance(m, Conv2d | Linear) and id(m) not in chosen]
        for images, labels in data.batches():
            F.cross_entropy(small(images), labels).backward()
        pruner = tp.pruner.BasePruner(
            small, next(data.batches())[0][:1], importance=importance(), pruning_ratio=SHARES[share], ignored_layers=spared,
        )  # fmt: skip
        pruner.step()
        small.zero_grad()
        return small

    return cut


def load() -> Module:
    return load_into(ResNet(20), WEIGHTS).eval()


ARMS: dict[str, Callable[[Module, Data[Any], float], Module]] = {
    "unweave magnitude": inner(Magnitude),
    "unweave Taylor": inner(Taylor),
    "unweave Wanda": inner(Wanda),
    "unweave magnitude, whole": whole,
    "torch-pruning magnitude": theirs(lambda: tp.importance.MagnitudeImportance(p=2)),
    "torch-pruning group magnitude": theirs(lambda: tp.importance.GroupMagnitudeImportance(p=2)),
    "torch-pruning group Taylor": theirs(lambda: tp.importance.GroupTaylorImportance()),
}


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--seeds", type=int, default=5)
    asked.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    asked.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    asked.add_argument("--out", type=Path)
    given = asked.parse_args()
    warnings.simplefilter("ignore")
    train, heldout = cifar10(train=1280, heldout=1000)
    few, dense = train.subset(range(256)), load()
    full = macs(dense, heldout)
    print(f"dense: {accuracy(dense, heldout):.1f} %")
    recipe = Supervised(network=lambda: ResNet(20), augment=shift_and_flip)
    rows = json.loads(given.out.read_text())["rows"] if given.out and given.out.exists() else []
    there = {(row["share"], row["arm"]) for row in rows if len(row["recovered"]) >= given.seeds}
    for share, name in product(given.shares, given.arms):
        if (share, name) in there:
            continue
        small = ARMS[name](dense, few, share).eval()
        again = recalibrate_(deepcopy(small), train)
        found = []
        for seed in range(given.seeds):
            trained = deepcopy(small)
            recipe.train_(trained, train, epochs=1, lr=0.01, rng=seeded(seed))
            found.append(accuracy(trained.eval(), heldout))
        row = {
            "share": share, "arm": name, "macs": macs(small, heldout) / full, "at once": accuracy(small, heldout),
            "recalibrated": accuracy(again, heldout), "recovered": found, "mean": sum(found) / len(found),
            "interval": spread(found),
        }  # fmt: skip
        rows = [r for r in rows if (r["share"], r["arm"]) != (share, name)] + [row]
        print(
            f"{row['macs']:.3f}  {name:30} {row['at once']:5.1f} -> {row['recalibrated']:5.1f} -> "
            f"{row['mean']:5.1f} +- {row['interval']:.1f}", flush=True,
        )  # fmt: skip
        if given.out:
            told = {"dense": accuracy(dense, heldout), "rows": rows}
            write_text(given.out, json.dumps(told, indent=1) + "\n")


def spread(found: list[float]) -> float:
    n = len(found)
    if n < 2:
        return float("nan")
    return float(torch.tensor(found).std()) / n**0.5 * float(student.ppf(0.975, n - 1))


if __name__ == "__main__":
    main()
