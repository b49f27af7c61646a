"""`unweave train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from ..jobs.opened import Folder
from ..jobs.tracking import Tracker
from ..jobs.train import TrainJob
from ._exact import refuse_idle_exact, train_exact, with_exact_options
from ._opened import opened, tell_before
from ._parse import carried_out, named_methods, parse
from ._recipes import OWN, changed, refuse_idle_sparsity, trained_with, with_training_options

EXAMPLE = """  unweave train
  unweave train --optimizer sam --sam.rho 0.1
  unweave train project.py --sparse rigl --sparsity 0.95 --epochs 60 --out runs/sparse
  unweave train project.py --sparse gmp --optimizer zo-sam --base adamw
  unweave train ./vit-config --data imagefolder:./pets --optimizer asam --base adamw
  unweave train --exact sisa --sisa.shards 3
  unweave train ./vit --data imagefolder:./pets --exact s3t --pretrained-on "ImageNet-21k, none of it ours"

Each method named adds its flags: add --help. See `unweave list --family optim` and `--family prune`."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model by its recipe, with another optimiser, sparse from the start, or able to forget exactly; resumable.

    Attributes:
        project: your project.py, a transformers image-classification folder, or nothing for the embedded digits.
        data: images of a transformers folder: imagefolder:PATH, with train and test (or validation) below it.
        pretrained: folder of the pretrained model that a transformers folder starts from; "" starts at random weights.
        after: model that something was deleted from, or its folder: that is kept out of the training, too.
        optimizer: "recipe" for the recipe's own; sgd, adamw or another of torch; or one of `unweave list --family
            optim`.
        base: what an optimiser that wraps another wraps; the recipe's own unless given.
        sparse: a sparse training (rigl, set, gmp, ...), or a way to prune once after the training; "" keeps the
            recipe's own.
        sparsity: share of the weights removed in the end, in [0, 1); the method's own unless given.
        epochs: passes over the data; the recipe's own unless given.
        lr: peak learning rate; the recipe's own unless given.
        exact: "sisa" or "s3t" trains a model that can forget exactly: `unweave forget` on its folder switches off or
            retrains just what saw the data.
        pretrained_on: with --exact, where training begins at pretrained weights: what these were trained on, as your
            statement that none of it can be asked back.
        by: with --exact, a column whose values group examples (persons, say), so that a group lies in one slice.
        seed: governs the whole run.
        out: folder of the run; the same command on the same folder goes on where it was stopped. Named by the settings
            unless given.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print the figures as JSON.
    """

    project: tyro.conf.Positional[str] = ""
    data: str = ""
    pretrained: str = ""
    after: Path | None = None
    optimizer: str = OWN
    base: str = ""
    sparse: str = ""
    sparsity: float | None = None
    epochs: int | None = None
    lr: float | None = None
    exact: Literal["", "sisa", "s3t"] = ""
    pretrained_on: str = ""
    by: str = ""
    seed: int = 0
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Train."""
    chains = [c for flag in ("--optimizer", "--sparse") for c in named_methods(argv, (flag,), "") if c]
    options = with_exact_options(with_training_options(Train, chains), argv)
    asked: Any = parse(options, argv, command="train", example=EXAMPLE)
    if asked.exact:
        return train_exact(asked, argv)
    refuse_idle_exact(asked)
    subject = opened(asked.project, Folder(data=asked.data, base=asked.pretrained), asked.after)
    tell_before(subject)
    own = subject.require_recipe("nothing can be trained", "Define `recipe` in project.py.")
    recipe = trained_with(own, "+".join(c for c in (asked.sparse, asked.optimizer) if c), asked)
    refuse_idle_sparsity(asked.sparsity, own, [recipe])
    given = {"epochs": asked.epochs, "lr": asked.lr}
    recipe = changed(recipe, **{name: value for name, value in given.items() if value is not None})
    job = TrainJob(subject=replace(subject, recipe=recipe), seed=asked.seed)
    carried_out(job, asked, "train", argv, asked.project, asked.seed)
    return 0
