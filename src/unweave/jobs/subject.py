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

from ..errors import InputError, UnweaveError
from ..fit import resumable
from ..io.checkpoint import load_into, save_model, structure_beside
from ..io.content import describe, fingerprint
from ..io.deleted import WITNESSES, Deleted, find, read_deleted
from ..io.identities import By, fingerprints, identities, named
from ..io.ids import checked_ids, ids_of
from ..io.runs import RunFolder
from ..io.sealed import key as read_key
from ..io.steady import require_steady
from ..io.structure import composed, composes, has_shape
from ..io.told import told_of
from ..io.weights import written_here
from ..masks.layers import copied, require_plain
from ..masks.mask import Mask
from ..parallel import single_threaded
from ..random import seeded
from ..settings import settings
from ..tasks import read_labels, require_readable
from ..types import Data, Recipe
from .kinds import Kind


@dataclass(frozen=True, kw_only=True)
class Before:
    """What earlier requests deleted from a model.

    Attributes:
        requests: how many there were.
        examples: how many they deleted.
        positions: of those that are still in the training data, ascending.
        kept_out: of the others, how many the data still hold and a ledger has left out.
    """

    requests: int = 0
    examples: int = 0
    positions: tuple[int, ...] = ()
    kept_out: int = 0

    def __str__(self) -> str:
        """In words; "" if nothing was."""
        if not self.requests:
            return ""
        left, request = len(self.positions), "request" if self.requests == 1 else "requests"
        there = [f"{left:,} are still in the data and are kept out"] if left else []
        there += [f"{self.kept_out:,} are kept out of the data by the ledger"] if self.kept_out else []
        return f"{self.requests} earlier {request} deleted {self.examples:,} examples from this model: " + (
            ", ".join(there) or "none is in the data any more"
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
        network: makes an untrained network of the model's architecture, to read weights into that a run wrote.
        save: model, folder, mask -> files; unless given, model.safetensors is written. With a fourth argument, the
            record of removed structure, shrunk models can be written too.
        ids: of the training examples; unless given, those of the data set (see `ids_of`), or positions if it has none.
        class_names: of the classes, in the order of their labels.
        columns: column name -> values, one a training example, to choose by.
        files: name -> what was read, to be hashed.
        kept_out: how many examples of the data were left out of `train` because they had been deleted before.
        key: file of the key under which deletions are recorded; UNWEAVE_KEY or the user's own unless given.
        notes: what is to be told of it, in sentences: how the data were read, what is lost.
        kind: of model: which methods serve its requests, and what judges them.
    """

    train: Data[Any]
    heldout: Data[Any]
    recipe: Recipe | None = None
    model: Path | str | Module | None = None
    name: str = "a model at hand"
    load: Callable[[Path], Module] | None = None
    network: Callable[[], Module] | None = None
    save: Callable[..., None] | None = None
    ids: Any = ()
    class_names: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    kept_out: int = 0
    key: Path | None = None
    notes: tuple[str, ...] = ()
    kind: Kind = field(default_factory=Kind)

    def __post_init__(self) -> None:
        given = self.ids is not None and (callable(self.ids) or len(self.ids))
        n = len(self.train)
        ids = checked_ids(self.ids, n, "Subject.ids") if given else ids_of(self.train.examples)
        object.__setattr__(self, "ids", tuple(ids))

    @property
    def told(self) -> tuple[str, ...]:
        """`notes`, and what had to be interpreted when the model was read, for the report."""
        return self.notes if isinstance(self.model, Module | None) else (*self.notes, *told_of(self.model))

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
        elsewhere = min(self.kept_out, len(record.gone) - len(positions))
        return Before(
            requests=record.requests,
            examples=len(record.gone),
            positions=tuple(positions),
            kept_out=elsewhere,
        )

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
        """Name -> file, or hash, of all that a run reads, for its record.

        Raises:
            InputError: if the data differ from one reading to the next.
        """
        require_steady(self.train, f"training data of {self.name}")
        require_steady(self.heldout, f"held-out data of {self.name}")
        found: dict[str, Path | str] = dict(self.files)
        if self.model is not None:
            found["model"] = hashable(self.model)
        return {
            **found, "training data": fingerprint(self.train, "training"),
            "held-out data": fingerprint(self.heldout, "held-out"),
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
        """The trained model in eval mode, a copy; None if it is to be trained by the recipe.

        Raises:
            InputError: if it cannot answer the held-out data, or what a run writes could not be read back.
        """
        if self.model is None:
            self.require_architecture()
            return None
        model = self.opened(self.model)
        require_readable(model, self.heldout)
        return model

    @property
    def architecture(self) -> Callable[[], Module] | None:
        """What makes a network to read weights into; None if none is known."""
        if self.network is not None:
            return self.network
        if isinstance(self.model, Module):
            return partial(copied, self.model)
        if self.load is not None and self.model is not None:
            return partial(self.load, Path(self.model))
        initial = getattr(self.recipe, "initial", None)
        return None if initial is None else partial(initial, seeded(0))

    def require_network(self) -> None:
        """Refuse an untrained network that cannot answer the data, before it is trained; none known passes.

        Raises:
            InputError: if so.
        """
        initial = getattr(self.recipe, "initial", None)
        make = self.network or (None if initial is None else partial(initial, seeded(0)))
        if make is not None:
            require_readable(make(), self.heldout, "the untrained network")

    def require_architecture(self) -> None:
        """Refuse a recipe of whose network nothing is known, before it trains what could not be read back.

        Raises:
            InputError: if so, or if that network cannot answer the data.
        """
        self.require_network()
        if self.architecture is None and self.save is None and self.load is None:
            raise InputError(
                f"{self.name}: the recipe trains a model, but not which network its weights are read back into. Say "
                "it as network = Net (a class or function that makes it), or give the trained model (--model)."
            )

    def opened(self, model: Path | str | Module) -> Module:
        """A model of this architecture in eval mode: read from its weights, or a copy of the one at hand."""
        return copied(model).eval() if isinstance(model, Module) else self.read(Path(model))

    def read(self, path: Path) -> Module:
        """The model with the weights at `path`, in eval mode.

        Raises:
            InputError: if its architecture is not known.
        """
        network = self.architecture
        if self.load is not None and (self.save is not None or network is None or not written_here(path)):
            return self._loaded(path)
        if network is None:
            raise InputError(
                f"cannot tell the network of {path}: the recipe has no `initial(rng)`. Say it as network = Net, or "
                "define load(path)."
            )
        return load_into(network(), path).eval()

    def _loaded(self, path: Path) -> Module:
        assert self.load is not None
        try:
            loaded = self.load(path).eval()
            require_plain(loaded)
            return loaded
        except UnweaveError as error:
            if self.save is not None or not written_here(path):
                raise
            raise InputError(
                f"{self.name}: its load(path) cannot read {path}, which unweave wrote ({error}). Say which network it "
                "is of as network = Net."
            ) from error

    def write(
        self,
        model: Module,
        folder: Path,
        structure: Mapping[str, Any] | None = None,
        *,
        packed: bool = False,
    ) -> None:
        """Write a model with its mask, and the record of what was removed from its structure, now or before.

        Args:
            model: to write.
            folder: it is written into.
            structure: record of what was removed now.
            packed: write sparse weights packed; see `save_model`.

        Raises:
            InputError: if structure was removed and `save` takes no record of it, or it cannot pack.
        """
        mask = Mask.of(model) or None
        former = None if isinstance(self.model, Module | None) else structure_beside(Path(self.model))
        if former is not None and structure is None:
            structure = former if has_shape(model, former) else None
        elif former is not None and structure is not None and composes(former) and composes(structure):
            structure = composed(former, structure)
        if self.save is None:
            save_model(model, folder, mask=mask, structure=structure, packed=packed)
        elif packed:
            try:
                signature(self.save).bind(model, folder, mask, structure, packed=True)
            except TypeError as error:
                raise InputError(
                    "Subject.save writes its own files, so they cannot be packed. Give it an argument `packed`, or "
                    "leave that out."
                ) from error
            self.save(model, folder, mask, structure, packed=True)
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
                require_readable(model, self.heldout, "the model that the recipe trained")
                self.write(model, stage.paths[0])
        return self.read(stage.paths[0])


def hashable(model: Path | str | Module) -> Path | str:
    """What a run records of a model: its file, to be hashed, or the hash of the weights at hand."""
    return describe(model.state_dict()) if isinstance(model, Module) else Path(model)
