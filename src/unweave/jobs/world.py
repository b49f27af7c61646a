"""Where a model comes from: the embedded digits, the user's project.py, or a transformers folder.

A `World` is all that `unweave forget` knows of a user's model: its data, how it was trained, how it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..embedded.digits import digits
from ..embedded.nets import mlp
from ..errors import InputError
from ..fit.recipe import Supervised
from ..masks.mask import Mask
from ..tasks import read_labels
from ..types import Data, Recipe


@dataclass(frozen=True, kw_only=True)
class Folder:
    """How a model in a transformers folder was trained, so that it can be trained again without the forgotten data.

    Attributes:
        data: where its images are: imagefolder:PATH, with train and test (or validation) below it.
        epochs: passes over the data.
        lr: peak learning rate of AdamW.
        base: folder of the pretrained model that training began from; "" began at random weights.
        init_seed: seed of the random initial weights, where it is known; un-pruning needs it, or `base`.
    """

    data: str = ""
    epochs: int = 10
    lr: float = 3e-4
    base: str = ""
    init_seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class World:
    """A user's model and data.

    Attributes:
        name: in a few words, for the report.
        train: what the model was trained on.
        heldout: examples of the same distribution that it never saw.
        recipe: how it was trained; None where unknown, and then there can be no oracle.
        load: weights file or folder -> model.
        save: model, folder, mask -> files; None writes model.safetensors.
        ids: of the training examples; positions where the data set brings none.
        class_names: of the classes, in the order of their labels.
        columns: column name -> values, one a training example, to choose by.
        files: name -> what was read, to be hashed.
        model: weights to start from where the user names no others.
    """

    name: str
    train: Data[Any]
    heldout: Data[Any]
    recipe: Recipe | None
    load: Callable[[Path], Module]
    save: Callable[[Module, Path, Mask | None], None] | None = None
    ids: Sequence[Any] = ()
    class_names: Sequence[str] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    model: Path | None = None

    def labels(self) -> Tensor:
        """Class of every training example."""
        return read_labels(self.train)


def open_world(source: str, folder: Folder | None = None) -> World:
    """Open what the user named.

    Args:
        source: "" for the embedded digits, a .py file, or a transformers image-classification folder.
        folder: for a transformers folder, its images and how it was trained.

    Raises:
        InputError: if it is none of these, or incomplete.
    """
    if not source:
        return embedded()
    path = Path(source)
    if path.suffix == ".py":
        return _project(path)
    if path.is_dir():
        return _folder(path, folder or Folder())
    what = "does not exist" if not path.exists() else "is neither a .py file nor a folder"
    raise InputError(
        f"{source} {what}. Give a project.py, a transformers image-classification folder, or nothing for the "
        "embedded digits."
    )


def embedded() -> World:
    """scikit-learn's digits with pixel noise and a pruned two-layer network, all made on the spot."""
    from ..prune import Global, Prune

    train, heldout = digits()
    recipe = Supervised(
        network=partial(mlp, 64, 256, 256, 10), epochs=40, lr=0.05, init_seed=0,
        prune=Prune(budget=Global(0.9)), recover_epochs=10, recover_lr=0.05,
    )  # fmt: skip
    return World(
        name="scikit-learn digits, 90 % sparse two-layer network", train=train, heldout=heldout, recipe=recipe,
        load=partial(_load_state, recipe), class_names=[str(i) for i in range(10)], ids=range(len(train)),
        columns={"digit": read_labels(train).tolist()},
    )  # fmt: skip


def _project(path: Path) -> World:
    from ..io.project import load_project

    project = load_project(path)
    return World(
        name=str(path), train=project.train, heldout=project.heldout, recipe=project.recipe, load=project.model,
        class_names=project.class_names, columns=project.columns, files={"project": path},
        ids=getattr(project.train.examples, "ids", range(len(project.train))),
    )  # fmt: skip


def _folder(path: Path, how: Folder) -> World:
    from ..io.transformers_folder import TransformersRecipe, load_images, load_model, save_model_folder

    if not how.data:
        raise InputError(f"{path} is a model folder; its images are missing. Give --data imagefolder:PATH.")
    images = load_images(how.data, path)
    recipe = TransformersRecipe(
        folder=path, epochs=how.epochs, lr=how.lr, base=how.base, init_seed=how.init_seed
    )
    return World(
        name=f"{path} on {how.data.partition(':')[2]}", train=images.train, heldout=images.heldout, recipe=recipe,
        load=load_model, save=lambda model, to, mask: save_model_folder(model, to, mask=mask, source=path),
        ids=images.ids, class_names=images.class_names, columns=images.columns, files={"checkpoint": path}, model=path,
    )  # fmt: skip


def _load_state(recipe: Any, path: Path) -> Module:
    from ..io.checkpoint import load_into

    if not hasattr(recipe, "initial"):
        raise InputError(
            f"cannot tell the network of {path}: the recipe has no `initial(rng)`. Define load(path) in project.py."
        )
    return load_into(recipe.initial(torch.Generator().manual_seed(0)), path)
