"""`unweave train`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import tyro
from rich.console import Console

from ..errors import InputError
from ..fit import recording, resumable
from ..io.checkpoint import save_model
from ..io.content import described
from ..io.files import write_text
from ..io.runs import RunFolder
from ..jobs.world import Folder, World, open_world
from ..masks.mask import Mask
from ..parallel import single_threaded
from ..report import pictures, words
from ..report.page import Section, render_page
from ..tasks import accuracy
from ._options import named_methods, named_run, parse
from ._training import OWN, refuse_idle_sparsity, trained_with, with_training_options

EXAMPLE = """  unweave train
  unweave train --optimizer sam --sam.rho 0.1
  unweave train project.py --sparse rigl --sparsity 0.95 --epochs 60 --out runs/sparse
  unweave train project.py --sparse gmp --optimizer zo-sam --base adamw
  unweave train ./vit-config --data imagefolder:./pets --optimizer asam --base adamw

Each method named adds its flags: add --help. See `unweave list --family optim` and `--family prune`."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model by its recipe, with another optimiser or sparse from the start; resumable.

    Attributes:
        project: your project.py, a transformers image-classification folder, or nothing for the embedded digits.
        data: images of a transformers folder: imagefolder:PATH, with train and test (or validation) below it.
        pretrained: folder of the pretrained model that a transformers folder starts from; "" starts at random weights.
        optimizer: "recipe" for the recipe's own; sgd, adamw or another of torch; or one of `unweave list --family
            optim`.
        base: what an optimiser that wraps another wraps; the recipe's own unless given.
        sparse: a sparse training (rigl, set, gmp, ...), or a way to prune once after the training; "" keeps the
            recipe's own.
        sparsity: share of the weights removed in the end, in [0, 1); the method's own unless given.
        epochs: passes over the data; the recipe's own unless given.
        lr: peak learning rate; the recipe's own unless given.
        seed: governs the whole run.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        json: print the figures as JSON.
    """

    project: tyro.conf.Positional[str] = ""
    data: str = ""
    pretrained: str = ""
    optimizer: str = OWN
    base: str = ""
    sparse: str = ""
    sparsity: float | None = None
    epochs: int | None = None
    lr: float | None = None
    seed: int = 0
    out: Path | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Train."""
    chains = [c for flag in ("--optimizer", "--sparse") for c in named_methods(argv, (flag,), "") if c]
    asked: Any = parse(with_training_options(Train, chains), argv, command="train", example=EXAMPLE)
    world = open_world(asked.project, Folder(data=asked.data, base=asked.pretrained))
    if world.recipe is None:
        raise InputError(
            f"{world.name} has no recipe, so nothing can be trained. Define `recipe` in project.py."
        )
    recipe = _recipe(world.recipe, asked)
    settings = {"recipe": described(recipe)}
    out_folder = asked.out or named_run("train", settings, asked.project, asked.seed)
    with RunFolder.open(
        out_folder,
        settings=settings,
        inputs=world.files,
        seed=asked.seed,
        command=["unweave", "train", *argv],
    ) as folder:
        with folder.stage("train", "model", "train.json") as stage:
            if stage.todo:
                began = perf_counter()
                with resumable(stage.work), recording() as fits:
                    model = single_threaded(lambda rng: recipe.build(world.train, rng=rng), stage.rng).eval()
                mask = Mask.of(model)
                figures = {
                    "training accuracy": [accuracy(model, world.train), "%"],
                    "held-out accuracy": [accuracy(model, world.heldout), "%"],
                    "weights that live": [100 * mask.density(), "%"],
                    "optimiser steps": [sum(f.steps for f in fits), "steps"],
                    "calls of the loss": [sum(f.calls for f in fits), "calls"],
                    "time of this start": [perf_counter() - began, "s"],
                }
                layers = {n: 100 * float(a.float().mean()) for n, a in mask.keep.items()}
                if world.save is not None:
                    world.save(model, stage.paths[0], mask or None)
                else:
                    save_model(model, stage.paths[0], mask=mask or None)
                told = {"figures": figures, "layers": layers, "losses": [v for f in fits for v in f.losses]}
                write_text(stage.paths[1], json.dumps(told) + "\n")
            told = json.loads(stage.paths[1].read_text(encoding="utf-8"))
        with folder.stage("report", "report.html") as stage:
            if stage.todo:
                write_text(
                    stage.paths[0], _page(world, asked, told, folder.record, ["unweave", "train", *argv])
                )
    if asked.json:
        sys.stdout.write(json.dumps(told["figures"], indent=1) + "\n")
    else:
        show(out_folder)
    return 0


def show(folder: Path) -> None:
    """Print a finished run's figures."""
    told = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    out = Console(highlight=False, soft_wrap=True)
    for name, (value, unit) in told["figures"].items():
        out.print(f"  {name:20} {_text(value):>10} {unit}", markup=False)
    out.print(f"Model: {folder / 'model'}\nReport: {folder / 'report.html'}", markup=False)


def _recipe(recipe: Any, asked: Any) -> Any:
    chain = "+".join(c for c in (asked.sparse, asked.optimizer) if c)
    changed = trained_with(recipe, chain, asked)
    refuse_idle_sparsity(asked.sparsity, recipe, [changed])
    own = {k: v for k, v in (("epochs", asked.epochs), ("lr", asked.lr)) if v is not None}
    fields = {f.name for f in dataclasses.fields(changed)} if dataclasses.is_dataclass(changed) else set()
    if not own.keys() <= fields:
        raise InputError(
            f"the recipe, a {type(recipe).__name__}, has no {' and '.join(own.keys() - fields)} to set. "
            "Use unweave.Supervised."
        )
    return dataclasses.replace(changed, **own) if own else changed


def _page(world: World, asked: Any, told: Any, record: Any, command: Sequence[str]) -> str:
    figures = told["figures"]
    right, unit = figures["held-out accuracy"]
    alive = words.number(figures["weights that live"][0])
    lead = [f"Held-out accuracy {words.number(right)} {unit}, with {alive} % of the weights alive."]
    sections = [
        Section(
            heading="Figures", columns=("figure", "value", "unit"),
            rows=[(name, _text(value), u) for name, (value, u) in figures.items()],
        ),
        Section(
            heading="The loss while it trained", caption="Mean loss of the batches, in order.",
            picture=pictures.curve(told["losses"], words="steps"),
        ),
    ]  # fmt: skip
    if told["layers"]:
        sections.append(
            Section(
                heading="Weights that live, layer by layer", caption="The share of each pruned layer's weights, in %.",
                picture=pictures.dumbbells(
                    {n: {"edited": v} for n, v in told["layers"].items()}, {"edited": "trained model"},
                    unit="weights kept, %", apart=("edited", "edited"), figure="edited", ends=(0.0,),
                ),
            )
        )  # fmt: skip
    run = {k: record[k] for k in ("settings", "seed", "versions", "hardware", "inputs")}
    return render_page(
        "A trained model", kicker=f"Training of {world.name}", lead=lead, sections=sections,
        run={"command": " ".join(command), **run},
    )  # fmt: skip


def _text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else words.number(value, digits=4)
