"""What a job works on: the embedded digits, the user's project.py, a transformers folder, or objects at hand.

A `Subject` is all that jobs know of a user's model: its data, how it was trained, how it is read and written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..embedded.digits import digits
from ..embedded.nets import mlp
from ..errors import InputError
from ..fit import resumable
from ..fit.recipe import Supervised
from ..io.checkpoint import load_into, save_model
from ..io.content import describe, fingerprint
from ..io.deleted import WITNESSES, Deleted, find, read_deleted
from ..io.identities import By, fingerprints, identities, named, read_key
from ..io.runs import RunFolder
from ..masks.layers import copied
from ..masks.mask import Mask
from ..parallel import single_threaded
from ..random import seeded
from ..settings import settings
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
class Before:
    """What earlier requests deleted from a model.

    Attributes:
        requests: how many there were.
        examples: how many they deleted.
        positions: of those that are still in the training data, ascending.
    """

    requests: int = 0
    examples: int = 0
    positions: tuple[int, ...] = ()

    def __str__(self) -> str:
        """In words; "" if nothing was."""
        if not self.requests:
            return ""
        left, request = len(self.positions), "request" if self.requests == 1 else "requests"
        there = f"{left:,} are still in the data and are kept out" if left else "none is in the data any more"
        return (
            f"{self.requests} earlier {request} deleted {self.examples:,} examples from this model: {there}"
        )


@settings
class Subject:
    """A user's model and data. `Subject(train=..., heldout=..., recipe=..., model=...)` makes one of objects at hand.

    Attributes:
        train: what the model was trained on.
        heldout: examples of the same distribution that it never saw.
        recipe: how it was trained; None where unknown, and then nothing can be trained anew.
        model: the trained model, or its weights; None trains it by the recipe.
        name: in a few words, for the report.
        load: weights file or folder -> model; unless given, weights are read into the model or the recipe's network.
        save: model, folder, mask -> files; unless given, model.safetensors is written. With a fourth argument, the
            record of removed structure, shrunk models can be written too.
        ids: of the training examples; positions unless given.
        class_names: of the classes, in the order of their labels.
        columns: column name -> values, one a training example, to choose by.
        files: name -> what was read, to be hashed.
        key: file of the key under which deletions are recorded; UNWEAVE_KEY or the user's own unless given.
    """

    train: Data[Any]
    heldout: Data[Any]
    recipe: Recipe | None = None
    model: Path | str | Module | None = None
    name: str = "a model at hand"
    load: Callable[[Path], Module] | None = None
    save: Callable[..., None] | None = None
    ids: Any = ()
    class_names: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    key: Path | None = None

    @cached_property
    def identities(self) -> tuple[By, list[bytes]]:
        """What the training examples are known by, whatever their positions; see `unweave.io.identities`."""
        return identities(self.train, self.ids)

    @cached_property
    def before(self) -> Before:
        """What earlier requests deleted from the model, by the record in its folder.

        Raises:
            InputError: if there is a record, and the examples that it names cannot be told.
        """
        record = None if isinstance(self.model, Module | None) else read_deleted(Path(self.model))
        if record is None:
            return Before()
        key, (by, known) = read_key(self.key), self.identities
        positions = find(record, by, fingerprints(known, key), key, f"{self.model}")
        return Before(requests=record.requests, examples=len(record.gone), positions=tuple(positions))

    @cached_property
    def left(self) -> Subject:
        """This subject without the training examples that earlier requests deleted from its model."""
        return self.without(self.before.positions) if self.before.positions else self

    def without(self, positions: Sequence[int] | Tensor) -> Subject:
        """This subject without the training examples at these positions."""
        gone = set(torch.as_tensor(positions).tolist())
        rest = [i for i in range(len(self.train)) if i not in gone]
        return replace(
            self, train=self.train.subset(torch.tensor(rest, dtype=torch.int64)),
            ids=[self.ids[i] for i in rest] if len(self.ids) else (),
            columns={name: [values[i] for i in rest] for name, values in self.columns.items()},
        )  # fmt: skip

    def record(self, forgotten: Sequence[int] | Tensor, folder: Path) -> None:
        """Write into a model's folder what was deleted from it, now and by earlier requests; nothing if nothing was.

        Args:
            forgotten: positions of what this request deletes.
            folder: of the model.
        """
        now = torch.as_tensor(forgotten).tolist()
        former = None if isinstance(self.model, Module | None) else read_deleted(Path(self.model))
        if not now and former is None:
            return
        key, (by, known) = read_key(self.key), self.identities
        prints = fingerprints(known, key)
        gone = {prints[i] for i in now} | set(former.gone if former else ())
        # their order is the key's, so the first are a random sample
        kept = sorted(set(prints) - gone)[:WITNESSES]
        requests = (former.requests if former else 0) + bool(now)
        Deleted(
            key=named(key), by=by, requests=requests, gone=tuple(sorted(gone)), kept=tuple(kept)
        ).write(folder)  # fmt: skip

    def labels(self) -> Tensor:
        """Class of every training example."""
        return read_labels(self.train)

    def inputs(self) -> dict[str, Path | str]:
        """Name -> file, or hash, of all that a run reads, for its record."""
        found: dict[str, Path | str] = dict(self.files)
        if self.model is not None:
            found["model"] = hashable(self.model)
        return {
            **found, "training data": fingerprint(self.train), "held-out data": fingerprint(self.heldout)
        }  # fmt: skip

    def require_recipe(self, what: str, cure: str = "Define `recipe`.") -> Recipe:
        """The recipe.

        Raises:
            InputError: if there is none; it says `what` cannot be done then, and the cure.
        """
        if self.recipe is None:
            raise InputError(f"{self.name} has no recipe, so {what}. {cure}")
        return self.recipe

    def given(self) -> Module | None:
        """The trained model in eval mode, a copy; None if it is to be trained by the recipe."""
        return None if self.model is None else self.opened(self.model)

    def opened(self, model: Path | str | Module) -> Module:
        """A model of this architecture in eval mode: read from its weights, or a copy of the one at hand."""
        return copied(model).eval() if isinstance(model, Module) else self.read(Path(model))

    def read(self, path: Path) -> Module:
        """The model with the weights at `path`, in eval mode.

        Raises:
            InputError: if its architecture is not known.
        """
        if self.load is not None:
            return self.load(path).eval()
        if isinstance(self.model, Module):
            return load_into(self.model, path).eval()
        initial = getattr(self.recipe, "initial", None)
        if initial is None:
            raise InputError(
                f"cannot tell the network of {path}: the recipe has no `initial(rng)`. Define load(path)."
            )
        return load_into(initial(seeded(0)), path).eval()

    def write(self, model: Module, folder: Path, structure: Mapping[str, Any] | None = None) -> None:
        """Write a model with its mask, and the record of what was removed from its structure.

        Raises:
            InputError: if structure was removed, and `save` takes no record of it.
        """
        mask = Mask.of(model) or None
        if self.save is None:
            save_model(model, folder, mask=mask, structure=structure)
        elif structure is None:
            self.save(model, folder, mask)
        else:
            try:
                signature(self.save).bind(model, folder, mask, structure)
            except TypeError as error:
                raise InputError(
                    "Subject.save takes no record of removed structure, so a shrunk model cannot be written. Give it a "
                    "fourth argument, which is None for other models."
                ) from error
            self.save(model, folder, mask, structure)

    def trained(self, run: RunFolder, recipe: Recipe) -> Module:
        """The model that `recipe` trains on the training data, in a stage of the run, in eval mode."""
        with run.stage("train", "original") as stage:
            if stage.todo:
                with resumable(stage.work):
                    model = single_threaded(lambda rng: recipe.build(self.train, rng=rng), stage.rng)
                self.write(model, stage.paths[0])
        return self.read(stage.paths[0])


def hashable(model: Path | str | Module) -> Path | str:
    """What a run records of a model: its file, to be hashed, or the hash of the weights at hand."""
    return describe(model.state_dict()) if isinstance(model, Module) else Path(model)


def open_subject(source: str, folder: Folder | None = None) -> Subject:
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


def embedded() -> Subject:
    """scikit-learn's digits with pixel noise and a pruned two-layer network, all made on the spot."""
    from ..prune import Global, Prune

    train, heldout = digits()
    recipe = Supervised(
        network=partial(mlp, 64, 256, 256, 10), epochs=40, lr=0.05, init_seed=0,
        prune=Prune(budget=Global(0.9)), recover_epochs=10, recover_lr=0.05,
    )  # fmt: skip
    return Subject(
        name="scikit-learn digits, 90 % sparse two-layer network", train=train, heldout=heldout, recipe=recipe,
        class_names=tuple(str(i) for i in range(10)), columns={"digit": read_labels(train).tolist()},
    )  # fmt: skip


def _project(path: Path) -> Subject:
    from ..io.project import load_project

    project = load_project(path)
    return Subject(
        name=str(path), train=project.train, heldout=project.heldout, recipe=project.recipe, load=project.model,
        class_names=project.class_names, columns=project.columns, files={"project": path},
        ids=getattr(project.train.examples, "ids", ()),
    )  # fmt: skip


def _folder(path: Path, how: Folder) -> Subject:
    from ..io.images import load_images
    from ..io.transformers_folder import TransformersRecipe, load_model, save_model_folder

    if not how.data:
        raise InputError(f"{path} is a model folder; its images are missing. Give --data imagefolder:PATH.")
    images = load_images(how.data, path)
    recipe = TransformersRecipe(
        folder=path, epochs=how.epochs, lr=how.lr, base=how.base, init_seed=how.init_seed
    )
    return Subject(
        name=f"{path} on {how.data.partition(':')[2]}", train=images.train, heldout=images.heldout, recipe=recipe,
        load=load_model,
        save=lambda model, to, mask, structure=None: save_model_folder(
            model, to, mask=mask, structure=structure, source=path
        ),
        ids=images.ids, class_names=images.class_names, columns=images.columns, files={"checkpoint": path}, model=path,
    )  # fmt: skip
