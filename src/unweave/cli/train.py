"""`unweave train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from ..jobs.subject import Folder, open_subject
from ..jobs.train import TrainJob
from ._parse import named_methods, named_run, parse, show
from ._recipes import OWN, changed, refuse_idle_sparsity, trained_with, with_training_options

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
    subject = open_subject(asked.project, Folder(data=asked.data, base=asked.pretrained))
    own = subject.require_recipe("nothing can be trained", "Define `recipe` in project.py.")
    recipe = trained_with(own, "+".join(c for c in (asked.sparse, asked.optimizer) if c), asked)
    refuse_idle_sparsity(asked.sparsity, own, [recipe])
    given = {"epochs": asked.epochs, "lr": asked.lr}
    recipe = changed(recipe, **{name: value for name, value in given.items() if value is not None})
    job = TrainJob(subject=replace(subject, recipe=recipe), seed=asked.seed)
    at = asked.out or named_run("train", job.plan(), asked.project, asked.seed)
    show(job.run(at, command=["unweave", "train", *argv]), asked.json)
    return 0
