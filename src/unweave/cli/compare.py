"""`unweave compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ..errors import InputError
from ..jobs.opened import Folder
from ..jobs.tracking import Tracker
from ..unlearn.worst_case_forget import Which
from ._compared import compared, unlearns
from ._flags import with_methods
from ._opened import opened, tell_before
from ._parse import carried_out, named_methods, parse
from ._recipes import OWN, with_training_options

EXAMPLE = """  unweave compare
  unweave compare --methods recipe sam zo-sam --seeds 5
  unweave compare project.py --methods magnitude snip rigl gmp --sparsity 0.95
  unweave compare project.py --methods magnitude rigl --sparsity 0.5 0.8 0.9 0.95 --seeds 5
  unweave compare project.py --methods rigl rigl+sam --sparsity 0.9 --baseline rigl
  unweave compare project.py --random 90 --hardest worst --methods fine-tune salun scrub
  unweave compare project.py --methods recipe sam --seeds 20 --engine ray

Optimisers, sparse trainings and ways to prune train the recipe anew; methods of family unlearn edit the model that the
recipe trains, and are measured beside a retraining without the data. Each method named adds its flags: add --help."""
DEFAULT = (OWN, "sam", "rigl")


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Run several methods over several seeds and compare them seed by seed.

    Attributes:
        project: your project.py, a transformers image-classification folder, or nothing for the embedded digits.
        data: images of a transformers folder: imagefolder:PATH, with train and test (or validation) below it.
        after: model that something was deleted from, or its folder: that is kept out of the training, too.
        methods: what to compare; "recipe" is the recipe as it is, and "a+b" puts two together: "rigl+sam" trains
            sparsely with SAM, "unprune+scrub" un-prunes around SCRUB.
        baseline: differences are from this one; the first method unless given.
        seeds: how many; seed 0 is the first. All methods see the same ones.
        base: what an optimiser that wraps another wraps; the recipe's own unless given.
        sparsity: share of the weights that pruning and sparse training remove; the methods' own unless given. Several
            draw curves of accuracy over sparsity, a line a method, with the dense model as a band.
        epochs: passes over the data; the recipe's own unless given.
        ids: file with the ids to delete, for methods of family unlearn; see `unweave forget --help`.
        classes: classes to delete.
        where: delete examples whose column has this value: COLUMN=VALUE.
        random: delete this many examples drawn at random.
        hardest: instead of one drawn, the set of that many that is worst or easiest to erase, or has extreme losses.
        seed: governs which examples --random draws.
        jobs: processes at once; 0 takes all cores.
        engine: "joblib" for the cores of this machine, or "ray" for a Ray cluster.
        cache: folder of trained models, shared with `unweave forget`; UNWEAVE_CACHE or ~/.cache/unweave unless given.
        out: folder of the run; the same command on it goes on where it was stopped. Named by the settings unless given.
        tracker: also tell an experiment tracker: settings, the loss at every step, the figures at the end.
        json: print the figures as JSON.
    """

    project: tyro.conf.Positional[str] = ""
    data: str = ""
    after: Path | None = None
    methods: tuple[str, ...] = DEFAULT
    baseline: str = ""
    seeds: int = 3
    base: str = ""
    sparsity: tuple[float, ...] = ()
    epochs: int | None = None
    ids: Path | None = None
    classes: tuple[str, ...] = ()
    where: str = ""
    random: int | None = None
    hardest: Which = "random"
    seed: int = 0
    jobs: int = 0
    engine: Literal["joblib", "ray"] = "joblib"
    cache: Path | None = None
    out: Path | None = None
    tracker: Tracker | None = None
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Compare. Exit code 0 if every trial ran, 3 if some failed."""
    chains = named_methods(argv, ("--methods",), "") if "--methods" in " ".join(argv) else list(DEFAULT)
    unlearners = [chain for chain in chains if unlearns(chain)]
    trainers = [chain for chain in chains if chain not in unlearners]
    options = with_training_options(with_methods(Compare, unlearners), trainers)
    asked: Any = parse(options, argv, command="compare", example=EXAMPLE)
    if len(set(asked.methods)) < len(asked.methods):
        raise InputError(f"--methods needs two or more different methods; got {' '.join(asked.methods)}.")
    subject = opened(asked.project, Folder(data=asked.data), asked.after)
    tell_before(subject)
    job = compared(asked, subject, unlearners)
    done = carried_out(job, asked, "compare", argv, asked.project, asked.seed)
    return 3 if done.failed else 0
