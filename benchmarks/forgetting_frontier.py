"""What forgetting costs: cost against the position of the answers, with held-out gap and memory gauge, method by method.

Small worlds with the training set by heart: Fashion-MNIST at 14 x 14 (1,200 images, CNN without normalisation, 25
epochs) and CIFAR-10 at 16 x 16 (1,300 images, batch-norm CNN, 16 epochs), where a random fifth goes; the same Fashion-MNIST,
where a class goes; and digits under a transformer (900 images, 20 epochs of AdamW), where a random quarter goes. Each method
runs at several fractions of the recipe's passes, from several originals, and is placed between 8 models that hold the data
and 8 retrained ones.

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
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from benchmarks.cifar import cifar10
from claims.unlearn._memorised import World, fashion, figures, normed, world
from unweave import Edit, Request, Supervised, seeded
from unweave.embedded.digits import digits
from unweave.embedded.nets import RowTransformer
from unweave.errors import InputError
from unweave.fit import recording
from unweave.io.files import write_text
from unweave.parallel import build_models
from unweave.tasks import read_labels
from unweave.unlearn import (
    Continue,
    FineTune,
    L1Sparse,
    RandomLabels,
    Retrain,
    SalUn,
    ShockAndHeal,
    ShortRetrain,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guide" / "frontier.md"
STORED = Path(__file__).parent / "results" / "forgetting_frontier.json"
ORIGINALS = (0, 1, 2)
FEWER = ("fashion class", "transformer")
"""Worlds with the first two originals."""
FRACTIONS = (1 / 16, 1 / 8, 3 / 16, 1 / 4)
RATE = 0.1
"""Of methods that train on from the original by SGD."""


def worlds() -> dict[str, Callable[[], World]]:
    """Name -> how to make it."""
    return {"fashion": fashion, "cifar": cifar, "fashion class": fashion_class, "transformer": transformer}


def cifar() -> World:
    """1,300 images of CIFAR-10 at 16 x 16, a network with batch normalisation, 16 epochs."""
    recipe = Supervised(network=normed, epochs=16, lr=0.1)
    return world("CIFAR-10 16 x 16, batch-norm CNN", recipe, *cifar10(1300, 1000))


def fashion_class(gone: int = 3) -> World:
    """The same images and network as `fashion`; a class goes."""
    made = fashion()
    request = Request.of(
        made.train, made.request.heldout, (read_labels(made.train) == gone).nonzero().flatten()
    )
    return replace(made, words=f"{made.words}, a class", request=request)


def transformer() -> World:
    """900 digits of 8 x 8 pixels, a transformer of two blocks that reads them row by row, 20 epochs of AdamW."""
    train, heldout = digits()
    network = partial(RowTransformer, layers=2, width=32)
    recipe = Supervised(network=network, epochs=20, lr=3e-3, optimizer=AdamW)
    gone = torch.randperm(len(train), generator=seeded(77))[: len(train) // 4]
    words = "Digits 8 x 8, transformer, a random quarter"
    return World(words, recipe, Request.of(train, heldout, gone), train)


def methods(w: World) -> Iterator[tuple[str, float, Edit[Request[Any]]]]:
    """Name, fraction of the recipe's passes over what it trains on, method."""
    r, whole = w.recipe, w.recipe.epochs
    yield "retrain", 1.0, Retrain(recipe=r)
    if r.optimizer is not None:  # SGD from a network that AdamW made is no rival: the recipe goes on instead
        for c in (1 / 8, 3 / 16, 1 / 4):
            yield "shock and heal", c, ShockAndHeal(recipe=r, fraction=c)
            yield "short retrain, Muon", c, ShortRetrain(recipe=r, fraction=c)
            yield "short retrain, the recipe's", c, ShortRetrain(recipe=r, fraction=c, optimizer="recipe")
        for c in (1 / 8, 1 / 4):
            yield "continue", c, Continue(recipe=r, epochs=max(1, round(c * whole)), lr=r.lr)
        return
    for c in FRACTIONS:
        yield "shock and heal", c, ShockAndHeal(recipe=r, fraction=c)
        yield "short retrain, Muon", c, ShortRetrain(recipe=r, fraction=c)
    for c in (1 / 8, 1 / 4, 1 / 2):
        epochs = max(1, round(c * whole))
        yield "short retrain, the recipe's", c, ShortRetrain(recipe=r, fraction=c, optimizer="recipe")
        yield "fine-tune", c, FineTune(epochs=epochs, lr=RATE)
    for c in (1 / 4, 1 / 2):
        epochs = max(1, round(c * whole))
        yield "l1-sparse", c, L1Sparse(epochs=epochs, lr=RATE)
        yield "random labels", c, RandomLabels(epochs=epochs)
        yield "salun", c, SalUn(unlearn=RandomLabels(epochs=epochs))


def run(name: str, cache: Path | None) -> None:
    w, stored = worlds()[name](), _read()
    rows = stored.setdefault(name, {"world": w.words, "rows": []})["rows"]
    done = {_key(row) for row in rows if "outcome" in row}  # the others were judged by former rules
    references = w.references(cache)
    whole = _steps_and_seconds(Retrain(recipe=w.recipe), references["holders"][0], w, 0)[1:]
    for seed in ORIGINALS[: 2 if name in FEWER else None]:
        (original,) = build_models(w.recipe, w.train, [seed], jobs=1, cache=cache)
        auditor = w.auditor(original, references)
        for method_name, fraction, method in [("untouched", 0.0, None), *methods(w)]:
            if (method_name, round(fraction, 4), seed) in done:
                continue
            edited, steps, seconds = (
                (original, 0, 0.0) if method is None else _steps_and_seconds(method, original, w, 50 + seed)
            )
            row = figures(auditor.audit(edited))
            cost = {"steps": steps / whole[0], "seconds": seconds / whole[1]}
            which = {"method": method_name, "fraction": fraction, "original": seed}
            rows[:] = [known for known in rows if _key(known) != _key(which)]
            rows.append({**which, **row, **cost})
            rounded = json.loads(json.dumps(stored), parse_float=lambda x: round(float(x), 4))
            write_text(STORED, json.dumps(rounded, indent=1) + "\n")
            print(name, seed, method_name, round(fraction, 3), rows[-1], flush=True)


def _key(row: dict[str, Any]) -> tuple[str, float, int]:
    return row["method"], round(row["fraction"], 4), row["original"]


def _steps_and_seconds(method: Any, model: nn.Module, w: World, seed: int) -> tuple[nn.Module, int, float]:
    began = time.process_time()
    with recording() as fits:
        edited = method.apply(model, w.request, rng=seeded(seed)).eval()
    return edited, sum(fit.steps for fit in fits), time.process_time() - began


def _read() -> dict[str, Any]:
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}


MARKS = {
    "short retrain, Muon": "o", "shock and heal": "D", "short retrain, the recipe's": "s", "fine-tune": "v",
    "l1-sparse": "^", "random labels": "P", "salun": "X", "continue": "<", "retrain": "*",
}  # fmt: skip
LABELS = {
    "position": "position of the answers",
    "gauge": "memory gauge",
    "under": "position under the last layer made anew",
}
WORST = 6.0  # points of held-out accuracy at which the colours end


def draw() -> None:
    """Write the figure, and the tables into the page between its two comments."""
    stored = _read()
    _picture(stored)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- tables -->")
    _, _, after = rest.partition("<!-- end of tables -->")
    tables = "\n\n".join(_table(found) for found in stored.values())
    write_text(PAGE, f"{before}<!-- tables -->\n\n{tables}\n\n<!-- end of tables -->{after}")


def _picture(stored: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "frontier",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2,
        len(stored),
        figsize=(4.6 * len(stored) + 1.6, 6.4),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    shown = None
    for column, found in enumerate(stored.values()):
        gauged = any(r["gauge"] is not None for r in found["rows"])
        for row, what in enumerate(("position", "gauge" if gauged else "under")):
            ax = axes[row][column]
            ax.axhline(1, color="0.75", lw=1, zorder=0)
            ax.axhline(0, color="0.75", lw=1, zorder=0)
            for method, mark in MARKS.items():
                points = [p for p in _means(found["rows"]) if p["method"] == method and p[what] is not None]
                x, y = [p["steps"] for p in points], [p[what] for p in points]
                ax.errorbar(x, y, yerr=[p[f"{what} sd"] for p in points], color="0.6", lw=1, zorder=1)
                shown = ax.scatter(
                    x,
                    y,
                    c=[p["heldout"] for p in points],
                    cmap="RdYlBu",
                    vmin=-WORST,
                    vmax=WORST,
                    marker=mark,
                    s=52,
                    edgecolors="0.2",
                    linewidths=0.7,
                    zorder=2,
                    label=method,
                )
            ax.set_xscale("log")
            ax.set_xticks([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1], ["1/16", "1/8", "1/4", "1/2", "1"])
            ax.minorticks_off()
            ax.set_ylabel(LABELS[what])
        axes[0][column].set_title(found["world"], fontsize=10)
        axes[1][column].set_xlabel("steps beside one retraining")
    handles, labels = axes[0][0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    for handle in legend.legend_handles:
        handle.set(array=None, facecolor="0.85")
    figure.colorbar(
        shown, ax=axes, label="held-out accuracy against retrained models, points", shrink=0.6, extend="both"
    )
    figure.savefig(PAGE.with_suffix(".svg"), metadata={"Date": None})


def _means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the originals, by method and fraction."""
    found = []
    for method, fraction in dict.fromkeys((r["method"], r["fraction"]) for r in rows):
        same = [r for r in rows if (r["method"], r["fraction"]) == (method, fraction)]
        point: dict[str, Any] = {"method": method, "fraction": fraction, "n": len(same)}
        for figure in ("position", "under", "heldout", "retained", "gauge", "steps", "seconds"):
            values = [r[figure] for r in same if r.get(figure) is not None]
            point[figure] = fmean(values) if values else None
            point[f"{figure} sd"] = stdev(values) if len(values) > 1 else 0.0
        outcomes = [r["outcome"] for r in same if "outcome" in r]
        point["forgotten"] = f"{outcomes.count('forgotten')} of {len(outcomes)}" if outcomes else None
        found.append(point)
    return found


COLUMNS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "method": lambda p: p["method"],
    "steps": lambda p: f"{p['steps']:.2f}",
    "time": lambda p: f"{p['seconds']:.2f}",
    "position": lambda p: _cell(p, "position"),
    "under the last layer": lambda p: _cell(p, "under"),
    "held-out": lambda p: f"{p['heldout']:+.1f} ± {p['heldout sd']:.1f}",
    "retained": lambda p: f"{p['retained']:+.1f}",
    "gauge": lambda p: _cell(p, "gauge"),
    "forgotten": lambda p: p["forgotten"],
}
"""Head of a column -> what it says of a point; columns that say nothing of any are left out."""


def _table(found: dict[str, Any]) -> str:
    points = sorted(_means(found["rows"]), key=lambda p: (p["steps"], p["method"]))
    columns = {head: [cell(p) for p in points] for head, cell in COLUMNS.items()}
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    n = len({r["original"] for r in found["rows"]})
    rows = zip(*([cell or "–" for cell in cells] for cells in columns.values()), strict=True)
    lines = [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n".join([f"**{found['world']}**, mean ± standard deviation over {n} originals.", "", *lines])


def _cell(point: dict[str, Any], figure: str) -> str | None:
    return None if point[figure] is None else f"{point[figure]:.2f} ± {point[f'{figure} sd']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["run", "draw"])
    parser.add_argument("--world", choices=list(worlds()), nargs="+", default=list(worlds()))
    parser.add_argument("--cache", type=Path, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "draw":
        draw()
        return
    for name in asked.world:
        try:
            run(name, asked.cache)
        except InputError as absent:
            print(f"{name}: skipped. {absent}")


if __name__ == "__main__":
    main()
