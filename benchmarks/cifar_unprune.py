"""Un-pruning a 95 % sparse ResNet-20 on CIFAR-10 against retraining and pruning again, three initialisations.

    python -m benchmarks.cifar_world CACHE            dense models, once
    python -m benchmarks.cifar_unprune CACHE sparse   prune them and train on under the mask, once
    python -m benchmarks.cifar_unprune CACHE edit     every method on both requests; writes results/cifar_unprune.json

Retraining is 14 dense and 10 masked epochs; an edit may take 3, an eighth.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from time import process_time
from typing import Any

from safetensors.torch import load_file, save_file
from torch.nn import Module

from benchmarks.cifar import cifar10, recipe
from benchmarks.cifar_world import SEEDS, dense, orders, requests
from unweave import Mask, Request, seeded
from unweave.audit.classifier.topology import topology
from unweave.io.files import write_text
from unweave.parallel import parallel_map, training_cost
from unweave.prune import Global, Prune
from unweave.tasks import predict, read_labels
from unweave.unlearn import (
    Continue,
    FineTune,
    FixedMask,
    Influence,
    RandomLabels,
    SalUn,
    ShortRetrain,
    Unprune,
)

RESULTS = Path(__file__).parent / "results" / "cifar_unprune.json"
SPARSITY, RECOVER, RECOVER_LR = 0.95, 10, 0.05


def how(seed: int) -> Any:
    return replace(
        recipe(seed), prune=Prune(budget=Global(SPARSITY)), recover_epochs=RECOVER, recover_lr=RECOVER_LR
    )


def sparse_path(cache: Path, seed: int, which: str, order: int) -> Path:
    return cache / "sparse" / f"{seed}-{which}-{order}.safetensors"


def make_sparse(job: tuple[int, str, int], cache: Path) -> None:
    seed, which, order = job
    path = sparse_path(cache, *job)
    if path.exists():
        return
    model = dense(seed, which, (order,), cache)[0]
    data = cifar10()[0] if which == "all" else requests(seed)[which].retain
    began = process_time()
    made = how(seed)
    pruned = made.prune.apply(model, data, rng=seeded(order))
    made.train_(pruned, data, epochs=RECOVER, lr=RECOVER_LR, rng=seeded(order), hold=Mask.of(pruned))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({"cpu_seconds": process_time() - began}))
    save_file({k: v.contiguous() for k, v in pruned.state_dict().items()}, path)


def sparse(cache: Path, seed: int, which: str, order: int) -> Module:
    model = how(seed).initial(seeded(0))
    model.load_state_dict(load_file(sparse_path(cache, seed, which, order)))
    return model.eval()


def methods(seed: int) -> dict[str, Callable[[], Any]]:
    made = how(seed)
    on = partial(Continue, recipe=made)
    scout = partial(Unprune, recipe=made)
    return {
        "fixed mask + 3 epochs": lambda: FixedMask(unlearn=on(epochs=3, lr=0.1)),
        "fixed mask + SalUn, 3 epochs": lambda: FixedMask(unlearn=SalUn(unlearn=RandomLabels(epochs=3))),
        "fixed mask + influence": lambda: FixedMask(unlearn=Influence()),
        "short retrain, 2 + 1 epochs": lambda: ShortRetrain(
            recipe=made, epochs=2, of=14, recover_epochs=1, recover_lr=0.05
        ),
        "unprune, paper mode + fine-tune": lambda: scout(mode="paper", unlearn=FineTune(epochs=3, lr=0.02)),
        "unprune, rewind + 3 epochs": lambda: scout(mode="rewind", unlearn=on(epochs=3, lr=0.1)),
        "unprune, scout 2 + 1 epoch": lambda: scout(scout_epochs=2, unlearn=on(epochs=1, lr=0.1)),
        "unprune, scout 1 + 2 epochs": lambda: scout(scout_epochs=1, unlearn=on(epochs=2, lr=0.1)),
        "unprune, paper mode 1 + recover 2": lambda: scout(
            mode="paper", unlearn=on(epochs=1, lr=0.1), recover_epochs=2, recover_lr=0.1
        ),
        "unprune, rewind 1 + recover 2": lambda: scout(
            mode="rewind", rewind=0.5, unlearn=on(epochs=1, lr=0.1), recover_epochs=2, recover_lr=0.1
        ),
    }


def figures(model: Module, request: Request) -> dict[str, float]:
    """Accuracy in % on the three parts; held-out without the deleted class, if one is."""

    def accuracy(data: Any) -> float:
        return 100 * float((predict(model, data).argmax(1) == read_labels(data)).float().mean())

    gone = set(read_labels(request.forget).tolist()) - set(read_labels(request.retain).tolist())
    labels = read_labels(request.heldout).tolist()
    stay = request.heldout.subset([i for i, y in enumerate(labels) if y not in gone])
    return {"forget": accuracy(request.forget), "retain": accuracy(request.retain), "heldout": accuracy(stay)}


def measure(job: tuple[int, str, str], cache: Path) -> dict[str, Any]:
    seed, which, name = job
    request = requests(seed)[which]
    original = sparse(cache, seed, "all", 10)
    oracles = [sparse(cache, seed, which, o) for o in orders(seed, which)]
    if name in ("untouched", "retrained"):
        edited, spent = (original, 0.0) if name == "untouched" else (oracles[-1], 0.0)
        oracles = oracles[:1] if name == "retrained" else oracles
    else:
        began = process_time()
        edited = methods(seed)[name]().apply(original, request, rng=seeded(50 + seed))
        spent = process_time() - began
    got, want = figures(edited, request), [figures(o, request) for o in oracles]
    gaps = [abs(got[k] - fmean(w[k] for w in want)) for k in got]
    shape = topology(Mask.of(original), Mask.of(edited), [Mask.of(o) for o in oracles], same_initial=True)
    retrain = [training_cost(recipe(seed), request.retain, orders(seed, which), cache)]
    masked = [
        json.loads(sparse_path(cache, seed, which, o).with_suffix(".json").read_text())["cpu_seconds"]
        for o in orders(seed, which)
    ]
    dense_cost = [r["cpu_seconds"] for r in retrain if r]
    return {
        "seed": seed, "request": which, "method": name, **got, "gap": fmean(gaps), "iou": shape.iou,
        "floor": shape.floor,
        "ceiling": shape.ceiling, "chance": shape.chance, "cpu_seconds": spent,
        "retrain_cpu_seconds": fmean(dense_cost) + fmean(masked) if dense_cost else None,
    }  # fmt: skip


if __name__ == "__main__":
    cache, stage = Path(sys.argv[1]), sys.argv[2]
    if stage == "sparse":
        jobs = [
            (s, w, o)
            for s in SEEDS
            for w in ("all", "class", "random")
            for o in orders(s, w)
            if (w, o) != ("all", 11)
        ]
        parallel_map(partial(make_sparse, cache=cache), jobs, jobs=2)
    else:
        names = ["untouched", "retrained", *methods(0)]
        asked = [
            (s, w, n) for n in names for w in ("random", "class") for s in SEEDS if n != "retrained" or s == 0
        ]
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        done = {(r["seed"], r["request"], r["method"]) for r in known}
        rows = known + parallel_map(
            partial(measure, cache=cache), [a for a in asked if a not in done], jobs=2
        )
        write_text(RESULTS, json.dumps(rows, indent=1) + "\n")
        for which in ("random", "class"):
            for name in names:
                of = [r for r in rows if r["request"] == which and r["method"] == name]
                spread = stdev(r["gap"] for r in of) if len(of) > 1 else 0.0
                m = {
                    k: fmean(r[k] for r in of)
                    for k in ("gap", "iou", "floor", "forget", "retain", "heldout", "cpu_seconds")
                }
                print(f"{which:7} {name:34} gap {m['gap']:5.2f} +- {spread:4.2f}  iou {m['iou']:.3f}", end="")
                print(
                    f" (floor {m['floor']:.3f})  forget {m['forget']:5.1f} retain {m['retain']:5.1f}", end=""
                )
                print(f" heldout {m['heldout']:5.1f}  {m['cpu_seconds']:5.0f} s")
