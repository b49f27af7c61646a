"""What forgetting costs: cost against the position of the answers, with held-out gap and memory gauge, method by method.

Two small worlds, both with the training set by heart: Fashion-MNIST at 14 x 14 (1,200 images, CNN without
normalisation, 25 epochs) and CIFAR-10 at 16 x 16 (1,300 images, batch-norm CNN, 16 epochs). A random fifth goes. Each
method runs at several fractions of the recipe's passes, from several originals, and is placed between 8 models that
hold the data and 8 retrained ones.

    python -m benchmarks.forgetting_frontier run        # about 20 minutes on one core; goes on where it was stopped
    python -m benchmarks.forgetting_frontier draw       # the figure and the table of docs/guide/frontier.md

Cost is counted twice: optimiser steps, and processor seconds, over those of one retraining. Steps of methods that also
train on the forgotten examples count as such. What an audit costs is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cifar import cifar10
from claims.data import fashion_mnist
from unweave import Edit, Request, Supervised, seeded
from unweave.audit import audit
from unweave.audit.result import Audit
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.fit import recording
from unweave.io.files import write_text
from unweave.parallel import build_models
from unweave.unlearn import FineTune, L1Sparse, RandomLabels, Retrain, SalUn, ShockAndHeal, ShortRetrain

STORED = Path(__file__).parent / "results" / "forgetting_frontier.json"
ORIGINALS = (0, 1, 2)
REFERENCES = 8
SHARE = 0.2
FRACTIONS = (1 / 16, 1 / 8, 3 / 16, 1 / 4)


class Plain(nn.Module):
    """One convolution and two linear layers on 14 x 14 pixels; 19,738 weights, no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.full, self.out = nn.Conv2d(1, 8, 3, 2, 1), nn.Linear(392, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.full(F.relu(self.conv(x)).flatten(1))))


def normed(width: int = 16) -> nn.Module:
    """Three convolutions with batch normalisation and a linear layer on 16 x 16 pixels; 33,946 weights."""
    layers: list[nn.Module] = []
    for a, b, stride in ((3, width, 2), (width, 2 * width, 1), (2 * width, 4 * width, 2)):
        layers += [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * width, 10))


@dataclass(frozen=True)
class World:
    """A recipe and a request; `rate` suits methods that train on from the original."""

    words: str
    recipe: Supervised
    request: Request[Any]
    train: Any
    rate: float


def _halved(data: Any, first: int) -> Any:
    images, labels = data.examples.tensors
    return of_tensors(F.avg_pool2d(images[:first], 2), labels[:first], classes=10, batch_size=64)


def worlds() -> dict[str, Callable[[], World]]:
    """Name -> how to make it."""
    return {"fashion": _fashion, "cifar": _cifar}


def _fashion() -> World:
    data, held = fashion_mnist(1200, 1000)
    recipe = Supervised(network=Plain, epochs=25, lr=0.1)
    return _world(
        "Fashion-MNIST 14 x 14, CNN without normalisation", recipe, _halved(data, 1200), _halved(held, 1000)
    )


def _cifar() -> World:
    data, held = cifar10(1300, 1000)
    recipe = Supervised(network=normed, epochs=16, lr=0.1)
    return _world("CIFAR-10 16 x 16, batch-norm CNN", recipe, _halved(data, 1300), _halved(held, 1000))


def _world(words: str, recipe: Supervised, train: Any, heldout: Any) -> World:
    gone = torch.randperm(len(train), generator=seeded(77))[: round(SHARE * len(train))]
    return World(words, recipe, Request.of(train, heldout, gone), train, rate=0.1)


def methods(w: World) -> Iterator[tuple[str, float, Edit[Request[Any]]]]:
    """Name, fraction of the recipe's passes over what it trains on, method."""
    r, whole = w.recipe, w.recipe.epochs
    yield "retrain", 1.0, Retrain(recipe=r)
    for c in FRACTIONS:
        yield "shock and heal", c, ShockAndHeal(recipe=r, fraction=c)
        yield "short retrain, Muon", c, ShortRetrain(recipe=r, fraction=c)
    for c in (1 / 8, 1 / 4, 1 / 2):
        epochs = max(1, round(c * whole))
        yield "short retrain, the recipe's", c, ShortRetrain(recipe=r, fraction=c, optimizer="recipe")
        yield "fine-tune", c, FineTune(epochs=epochs, lr=w.rate)
    for c in (1 / 4, 1 / 2):
        epochs = max(1, round(c * whole))
        yield "l1-sparse", c, L1Sparse(epochs=epochs, lr=w.rate)
        yield "random labels", c, RandomLabels(epochs=epochs)
        yield "salun", c, SalUn(unlearn=RandomLabels(epochs=epochs))


def figures(found: Audit, steps: float, seconds: float) -> dict[str, float | str | None]:
    """What is kept of an audit."""
    by_name = {m.name: m for m in found.measurements}

    def gap(where: str) -> float:
        m = by_name[f"accuracy on {where} examples"]
        assert m.value is not None
        assert m.oracle_mean is not None
        return m.value - m.oracle_mean

    return {
        "outcome": found.verdict.outcome, "position": found.verdict.position,
        "heldout": gap("held-out"), "retained": gap("retained"), "forgotten": gap("forgotten"),
        "gauge": by_name["memory gauge"].value, "steps": steps, "seconds": seconds,
    }  # fmt: skip


def run(world: str, cache: Path | None) -> None:
    w, stored = worlds()[world](), _read()
    rows = stored.setdefault(world, {"world": w.words, "rows": []})["rows"]
    done = {(row["method"], row["fraction"], row["original"]) for row in rows}
    references = {
        "oracles": build_models(
            w.recipe, w.request.retain, range(1000, 1000 + REFERENCES), jobs=1, cache=cache
        ),
        "holders": build_models(w.recipe, w.train, range(2000, 2000 + REFERENCES), jobs=1, cache=cache),
    }
    whole = _steps_and_seconds(Retrain(recipe=w.recipe), references["holders"][0], w, 0)[1:]
    for seed in ORIGINALS:
        (original,) = build_models(w.recipe, w.train, [seed], jobs=1, cache=cache)
        for name, fraction, method in [("untouched", 0.0, None), *methods(w)]:
            if (name, fraction, seed) in done:
                continue
            edited, steps, seconds = (
                (original, 0, 0.0) if method is None else _steps_and_seconds(method, original, w, 50 + seed)
            )
            found = audit(edited, w.request, original=original, rng=seeded(0), quick=True, **references)
            row = figures(found, steps / whole[0], seconds / whole[1])
            rows.append({"method": name, "fraction": fraction, "original": seed, **row})
            rounded = json.loads(json.dumps(stored), parse_float=lambda x: round(float(x), 4))
            write_text(STORED, json.dumps(rounded, indent=1) + "\n")
            print(world, seed, name, round(fraction, 3), rows[-1], flush=True)


def _steps_and_seconds(method: Any, model: nn.Module, w: World, seed: int) -> tuple[nn.Module, int, float]:
    began = time.process_time()
    with recording() as fits:
        edited = method.apply(model, w.request, rng=seeded(seed)).eval()
    return edited, sum(fit.steps for fit in fits), time.process_time() - began


def _read() -> dict[str, Any]:
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["run", "draw"])
    parser.add_argument("--world", choices=list(worlds()), nargs="+", default=list(worlds()))
    parser.add_argument("--cache", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for world in asked.world:
        try:
            run(world, asked.cache)
        except InputError as absent:
            print(f"{world}: skipped. {absent}")


if __name__ == "__main__":
    main()
