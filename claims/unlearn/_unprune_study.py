"""What was tried for un-pruning on digits: `python -m claims.unlearn._unprune_study --sparsity 0.9`.

Settings were chosen on seeds 0 to 2; the stored figures are from seeds 3 to 5, which took no part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Generator
from torch.nn import Module

from claims.framework import RESULTS
from unweave import Edit, Mask, Request, Supervised, seeded
from unweave.audit.classifier.topology import topology
from unweave.embedded.digits import digits
from unweave.embedded.nets import mlp
from unweave.io.files import write_text
from unweave.prune import Channel, Magnitude, Prune, Scope, Uniform
from unweave.tasks import predict, read_labels
from unweave.unlearn import Continue, FixedMask, RandomLabels, SalUn, ShortRetrain, Unprune

EPOCHS, RECOVER = 48, 16  # of the recipe; the budget of every method is an eighth of their sum, 8


@dataclass(frozen=True)
class SparseWorld:
    """A pruned model, its deletion request, and oracles from the same initial weights.

    cost: seconds of one retraining, on this machine and at this moment.
    """

    request: Request[Any]
    recipe: Supervised
    model: Module
    oracles: tuple[Module, ...]
    cost: float


def sparse_world(
    kind: str, seed: int, noise: float, sparsity: float, *, filters: bool = False, oracles: int = 3
) -> SparseWorld:
    train, heldout = digits(noise, seed)
    if kind == "class":
        positions = (read_labels(train) == 3).nonzero().flatten()
    else:
        positions = torch.randperm(len(train), generator=seeded(100 + seed))[:180]
    request = Request.of(train, heldout, positions)
    budget = Uniform(sparsity)
    rule = Prune(budget=budget)
    if filters:
        rule = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(), budget=budget)
    recipe = Supervised(
        network=partial(mlp, 64, 256, 128, 10, batch_norm=filters), epochs=EPOCHS, lr=0.1, init_seed=seed,
        prune=rule, recover_epochs=RECOVER,
    )  # fmt: skip
    model = recipe.build(train, rng=seeded(1000 + seed))
    began = time.process_time()
    built = tuple(recipe.build(request.retain, rng=seeded(2000 + 10 * seed + i)) for i in range(oracles))
    return SparseWorld(request, recipe, model, built, (time.process_time() - began) / oracles)


def judge(world: SparseWorld, method: Edit[Request[Any]], seed: int = 7) -> dict[str, float]:
    """Every figure of one method in one world; gaps are to the mean over the oracles, in points."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a kept mask is what the figures are to show
        edited = method.apply(world.model, world.request, rng=seeded(seed))
    seconds = time.process_time() - began
    masks = [Mask.of(oracle) for oracle in world.oracles]
    found = topology(Mask.of(world.model), Mask.of(edited), masks, same_initial=True)
    theirs = [accuracies(oracle, world.request) for oracle in world.oracles]
    ours = accuracies(edited, world.request)
    apart = {name: ours[name] - statistics.fmean(a[name] for a in theirs) for name in ours}
    forgotten = world.request.forget
    spoken = predict(edited, forgotten).softmax(1)
    distance = statistics.fmean(
        float((spoken - predict(oracle, forgotten).softmax(1)).abs().sum(1).mean()) / 2
        for oracle in world.oracles
    )
    return {
        "iou": found.iou, "gain": found.iou - found.floor, "floor": found.floor,
        "ceiling": found.ceiling or 0.0, "chance": found.chance, "flipped": found.flipped_share,
        "score": (found.iou - found.floor) / ((found.ceiling or 0.0) - found.floor),
        "gap": statistics.fmean(map(abs, apart.values())), **apart, "distance": distance,
        "cost": seconds / world.cost,
    }  # fmt: skip


def accuracies(model: Module, request: Request[Any]) -> dict[str, float]:
    """UA (error on the forgotten), RA and TA in percent."""

    def correct(data: Any) -> float:
        return 100 * float((predict(model, data).argmax(1) == read_labels(data)).double().mean())

    return {
        "UA": 100 - correct(request.forget),
        "RA": correct(request.retain),
        "TA": correct(request.heldout),
    }


@dataclass(frozen=True)
class Then:
    """One edit after another."""

    edits: tuple[Edit[Request[Any]], ...]

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        for edit in self.edits:
            model = edit.apply(model, data, rng=rng)
        return model


@dataclass(frozen=True)
class AnOracle:
    """The first oracle, for the noise between oracles."""

    model: Module

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        return deepcopy(self.model)


def methods(w: SparseWorld) -> Iterator[tuple[str, Edit[Request[Any]]]]:
    r = w.recipe
    on: Callable[[int, float], Continue] = lambda epochs, lr: Continue(recipe=r, epochs=epochs, lr=lr)  # noqa: E731
    relabel = RandomLabels(epochs=6, lr=0.02)
    yield "an oracle (counts itself among three)", AnOracle(w.oracles[0])
    yield "fixed mask, 8 epochs at 0.1", FixedMask(unlearn=on(8, 0.1))
    yield "fixed mask, SalUn", FixedMask(unlearn=SalUn(unlearn=replace(relabel, epochs=8)))
    yield "short retrain 6 + 2, squeezed schedule", ShortRetrain(recipe=r, epochs=6)
    yield (
        "short retrain 6 + 2, beginning of the full one",
        ShortRetrain(recipe=r, epochs=6, of=EPOCHS, recover_lr=0.1),
    )
    paper = partial(Unprune, mode="paper", recipe=r, recover_epochs=2)
    yield "paper, theta0, 6 at 0.1 + 2", paper(unlearn=on(6, 0.1))
    yield "paper, random, 6 at 0.1 + 2", paper(unlearn=on(6, 0.1), init="random")
    yield "paper, gradual 5 x 20 %, 5 x 1 at 0.1 + 2", paper(unlearn=on(1, 0.1), growth=0.2, rounds=5)
    yield "paper, SalUn + 2", paper(unlearn=SalUn(unlearn=relabel))
    for share in (0.1, 0.25, 0.5):
        rewind = partial(Unprune, mode="rewind", recipe=r, recover_epochs=2, rewind=share)
        yield f"rewind {share}, 6 at 0.1 + 2", rewind(unlearn=on(6, 0.1))
    yield (
        "rewind 0.25, SalUn + 2",
        Unprune(mode="rewind", recipe=r, recover_epochs=2, unlearn=SalUn(unlearn=relabel)),
    )
    scout = partial(Unprune, recipe=r)
    yield "scout 6 squeezed at 0.15, then 2 at 0.2", scout(unlearn=on(2, 0.2), scout_of=6, scout_lr=0.15)
    yield "scout 6, then 2 at 0.1", scout(unlearn=on(2, 0.1))
    yield "scout 6, then 2 at 0.2", scout(unlearn=on(2, 0.2))
    yield "scout 6 without stretch, then 2 at 0.2", scout(unlearn=on(2, 0.2), stretch=1.0)
    yield "scout 5, then 3 at 0.2", scout(unlearn=on(3, 0.2), scout_epochs=5)
    yield "scout 6, survivors half way back, then 2 at 0.2", scout(unlearn=on(2, 0.2), rewind=0.5)
    yield (
        "scout 6, then SalUn 1 and 1 at 0.2",
        scout(unlearn=Then((SalUn(unlearn=replace(relabel, epochs=1)), on(1, 0.2)))),
    )
    yield (
        "scout from other initial weights",
        scout(unlearn=on(2, 0.2), recipe=replace(r, init_seed=(r.init_seed or 0) + 500)),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--noise", type=float, default=0.45)
    parser.add_argument("--filters", action="store_true")
    asked = parser.parse_args()
    path = RESULTS / "unlearn" / "unprune_study.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    for sparsity in asked.sparsity:
        for kind in ("class", "random"):
            rows: dict[str, list[dict[str, float]]] = {}
            for seed in asked.seeds:
                world = sparse_world(kind, seed, asked.noise, sparsity, filters=asked.filters)
                for name, method in methods(world):
                    rows.setdefault(name, []).append(judge(world, method))
            key = f"{'filters' if asked.filters else 'weights'}, {sparsity}, {kind}, noise {asked.noise}"
            stored[key] = {"seeds": asked.seeds, "rows": rows}
            print(f"\n{key}, seeds {asked.seeds}")
            for name, found in rows.items():
                mean = {k: statistics.fmean(row[k] for row in found) for k in found[0]}
                least = min(row["gain"] for row in found)
                around = f"floor {mean['floor']:.3f}, ceiling {mean['ceiling']:.3f}"
                apart = f"{mean['UA']:+.1f} {mean['RA']:+.1f} {mean['TA']:+.1f}"
                print(
                    f"{name:50} IoU {mean['iou']:.3f} ({around}) gain {mean['gain']:+.3f} least {least:+.3f} "
                    f"score {mean['score']:+.2f} gap {mean['gap']:.1f} [{apart}] "
                    f"distance {mean['distance']:.3f} flipped {mean['flipped']:.2f} cost {mean['cost']:.2f}",
                    flush=True,
                )
            rounded = json.loads(json.dumps(stored), parse_float=lambda x: round(float(x), 4))
            write_text(path, json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
